import { expect, test } from 'vitest'
import type { AddEntry } from './evidence.ts'
import type { FaultKind } from './faults.ts'
import { type Happened, lossesOf } from './losses.ts'

const happened = (kind: FaultKind, target: string, from: number, to: number): Happened => {
  return { fault: { kind, target, atMs: 0, lastsMs: 0 }, from, healedFrom: to, to }
}
const usage = { 'gateway-1': 'journal', 'gateway-2': 'memory' } as const
/** The gateway's answers took 300 ms at the most before it was killed. */
const answer = (endedAt: number, tookMs: number, gateway = 'gateway-2'): AddEntry => ({
  ...{
    type: 'add',
    sentAt: endedAt - tookMs,
    endedAt,
    gateway,
    ack: 'redis',
    user: 'ann',
    status: 200,
    operations: [],
  },
})
const answers = [answer(99_500, 300), answer(99_800, 20), answer(90_000, 4_000), answer(99_900, 5_000, 'gateway-1')]
const windowOf = (all: Happened[], path: string, gateway = 'gateway-2') =>
  lossesOf(all, usage, answers).find((loss) => loss.path === path && loss.gateway === gateway)

test('a kill may cost a gateway what came in the time of two flushes, and less where there is a journal', () => {
  const kill = happened('kill', 'gateway-2', 100_000, 101_000)
  const other = happened('kill', 'gateway-1', 100_000, 101_000)

  expect(windowOf([kill], 'durable')).toMatchObject({ from: 99_000, to: 101_000 })
  expect(windowOf([kill], 'usage')).toMatchObject({ from: 98_800 })
  expect(windowOf([other], 'usage', 'gateway-1')).toMatchObject({ from: 99_600 })
  expect(windowOf([happened('kill', 'counters-1', 100_000, 101_000)], 'durable')).toBeUndefined()
})

test('what stood in the way of a write before the kill has made more of them wait', () => {
  const kill = happened('kill', 'gateway-2', 100_000, 101_000)
  const lock = happened('lock', 'spillway_counters', 80_000, 86_000)
  const earlier = happened('kill-postgres', 'postgres', 60_000, 66_000)

  expect(windowOf([kill, lock], 'durable')).toMatchObject({ from: 79_000 })
  expect(windowOf([kill, lock, earlier], 'durable')).toMatchObject({ from: 59_000 })
  expect(windowOf([kill, lock], 'live')).toMatchObject({ from: 99_000 })
  const long = happened('lock', 'spillway_counters', 50_000, 60_000)
  expect(windowOf([kill, long], 'durable')).toMatchObject({ from: 99_000 })
})

test('a SIGTERM costs nothing, unless something stood in the way for as long as it waits', () => {
  const end = happened('terminate', 'gateway-2', 100_000, 101_000)

  expect(lossesOf([end], usage, answers)).toEqual([])
  expect(windowOf([end, happened('kill-postgres', 'postgres', 103_000, 106_000)], 'durable')).toBeDefined()
  // It waits for five seconds: what is back before that has cost nothing, and what comes after it comes too late.
  expect(lossesOf([end, happened('kill-postgres', 'postgres', 99_000, 102_000)], usage, answers)).toEqual([])
  expect(lossesOf([end, happened('kill-postgres', 'postgres', 115_000, 116_000)], usage, answers)).toEqual([])
})
