import { systemClock } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { expect, test } from 'vitest'
import { TurnClock } from '../../src/internal/turn-clock.js'

/** A clock that counts how often it is read. */
class CountingClock extends FakeClock {
  reads = 0
  override now(): number {
    this.reads++
    return super.now()
  }
}

test('a clock is read once a turn, however many ask', async () => {
  const clock = new CountingClock()
  const turnClock = TurnClock.of(clock)

  for (let i = 0; i < 1000; i++) turnClock.now()
  await Promise.resolve()
  turnClock.now()
  const inOneTurn = clock.reads
  await clock.advance(0)
  turnClock.now()

  expect(inOneTurn).toBe(1)
  expect(clock.reads).toBe(2)
  await clock.advance(0)
})

test('one clock has one turn clock, whoever asks', () => {
  const clock = new FakeClock()

  expect(TurnClock.of(clock)).toBe(TurnClock.of(clock))
  expect(TurnClock.of(clock)).not.toBe(TurnClock.of(new FakeClock()))
})

test('virtual time that advances is seen at once, also inside timers', async () => {
  const clock = new FakeClock()
  const turnClock = TurnClock.of(clock)
  const seen = [turnClock.now()]
  clock.setTimer(() => seen.push(turnClock.now()), 10)
  clock.setTimer(() => seen.push(turnClock.now()), 20)

  await clock.advance(25)
  seen.push(turnClock.now())
  await clock.advance(5)
  seen.push(turnClock.now())

  expect(seen).toEqual([0, 10, 20, 25, 30])
  await clock.advance(0)
  expect(clock.pending).toBe(0)
})

test('with the system clock, the time stands still within a turn and goes on in the next', async () => {
  const turnClock = TurnClock.of(systemClock)
  const first = turnClock.now()
  const until = performance.now() + 5
  while (performance.now() < until);
  const stillFirst = turnClock.now()
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)))
  const later = turnClock.now()

  expect(stillFirst).toBe(first)
  expect(later).toBeGreaterThanOrEqual(first + 5)
})
