import Opossum from 'opossum'
import { CircuitBreaker, isSpillwayError, timeWindow } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

// What docs/coming-from/opossum.md says, held against both libraries.

const down = (): Promise<string> => Promise.reject(new Error('down'))
const settled = (answers: Promise<unknown>[]) => Promise.allSettled(answers)
const ignored = (answer: Promise<unknown>) => answer.catch((error: unknown) => error)

beforeEach(() => {
  vi.useFakeTimers()
})

afterEach(() => {
  vi.useRealTimers()
})

/** Calls of which every second one fails, beginning with a success. */
async function halfFailing(call: (fails: boolean) => Promise<unknown>, times: number): Promise<void> {
  for (let i = 0; i < times; i++) await ignored(call(i % 2 === 1))
}

describe('the threshold', () => {
  test('opossum opens beyond the percentage, spillway at the rate', async () => {
    const theirs = new Opossum((fails: boolean) => (fails ? down() : Promise.resolve('fine')), {
      errorThresholdPercentage: 50,
      volumeThreshold: 10,
      timeout: false,
    })
    const ours = new CircuitBreaker({
      trip: timeWindow({ failureRate: 0.5, minimumCalls: 10 }),
      clock: new FakeClock(),
    })

    await halfFailing((fails) => theirs.fire(fails), 10)
    await halfFailing((fails) => ours.execute(() => (fails ? down() : 'fine')), 10)

    expect(theirs.opened).toBe(false)
    expect(ours.state).toBe('open')
    theirs.shutdown()
  })

  test('opossum opens at its first failure by default, spillway after five in a row', async () => {
    const theirs = new Opossum(down, { timeout: false })
    const ours = new CircuitBreaker({ clock: new FakeClock() })

    await ignored(theirs.fire())
    for (let i = 0; i < 4; i++) await ignored(ours.execute(down))

    expect(theirs.opened).toBe(true)
    expect(ours.state).toBe('closed')
    await ignored(ours.execute(down))
    expect(ours.state).toBe('open')
    theirs.shutdown()
  })
})

describe('time-outs', () => {
  test('opossum has one of 10 s by default, spillway none', async () => {
    const clock = new FakeClock()
    const theirs = new Opossum(() => new Promise<string>(() => undefined))
    const ours = new CircuitBreaker({ clock })

    const timedOut = ignored(theirs.fire())
    void ours.execute(() => new Promise(() => undefined))
    await vi.advanceTimersByTimeAsync(10_000)
    await clock.advance(10_000)

    expect(await timedOut).toMatchObject({ code: 'ETIMEDOUT' })
    expect(ours.stats()).toMatchObject({ pending: 1, failed: 0 })
    theirs.shutdown()
  })

  test('one call that takes too long aborts the one signal of opossum, and its own signal alone in spillway', async () => {
    const clock = new FakeClock()
    const abortController = new AbortController()
    const theirs = new Opossum((ms: number) => new Promise((done) => setTimeout(done, ms, 'fine')), {
      timeout: 100,
      abortController,
    })
    const ours = new CircuitBreaker({ timeoutMs: 100, clock })
    const signals: AbortSignal[] = []
    const wait = () => ours.execute(({ signal }) => new Promise((_done) => void signals.push(signal)))

    const late = ignored(theirs.fire(1000))
    await vi.advanceTimersByTimeAsync(50)
    const next = theirs.fire(60)
    await vi.advanceTimersByTimeAsync(50)
    const slow = ignored(wait())
    await clock.advance(50)
    ignored(wait())
    await clock.advance(50)

    expect(abortController.signal.aborted).toBe(true)
    expect(signals.map((signal) => signal.aborted)).toEqual([true, false])
    expect(await late).toMatchObject({ code: 'ETIMEDOUT' })
    expect(await slow).toMatchObject({ code: 'ERR_TIMEOUT' })
    await vi.advanceTimersByTimeAsync(10)
    expect(await next).toBe('fine')
    theirs.shutdown()
  })
})

test('a listener that throws fails the call of opossum, and nothing of spillway', async () => {
  const theirs = new Opossum(() => Promise.resolve('fine'), { timeout: false })
  const ours = new CircuitBreaker({ clock: new FakeClock() })
  theirs.on('success', () => {
    throw new Error('of the listener')
  })
  ours.on('succeeded', () => {
    throw new Error('of the listener')
  })

  expect(await ignored(theirs.fire())).toMatchObject({ message: 'of the listener' })
  expect(await ours.execute(() => 'fine')).toBe('fine')
  theirs.shutdown()
})

test('open: both turn calls away at once, spillway says when to come back', async () => {
  const theirs = new Opossum(down, { timeout: false, resetTimeout: 30_000 })
  const ours = new CircuitBreaker({ failureThreshold: 1, recoveryTimeoutMs: 30_000, clock: new FakeClock() })
  await settled([theirs.fire(), ours.execute(down)])

  expect(await ignored(theirs.fire())).toMatchObject({ code: 'EOPENBREAKER' })
  const refusal = await ignored(ours.execute(down))
  expect(isSpillwayError(refusal, 'ERR_CIRCUIT_OPEN')).toBe(true)
  expect(refusal).toMatchObject({ retryAfterMs: 30_000 })
  theirs.shutdown()
})
