import { describe, expect, test } from 'vitest'
import { faultKinds, faults, pathsOf } from './faults.ts'
import { scheduleOf } from './schedule.ts'

describe('a schedule', () => {
  test('is the same for the same seed, and another one for another', () => {
    expect(scheduleOf({ seed: 7, seconds: 60 })).toEqual(scheduleOf({ seed: 7, seconds: 60 }))
    expect(scheduleOf({ seed: 7, seconds: 60 })).not.toEqual(scheduleOf({ seed: 8, seconds: 60 }))
  })

  test('has every kind of fault within a few seeds, each at what it is for and as long as it may last', () => {
    const all = Array.from({ length: 10 }, (_, seed) => scheduleOf({ seed, seconds: 60 }).faults).flat()

    expect(new Set(all.map(({ kind }) => kind))).toEqual(new Set(faultKinds))
    for (const { kind, target, lastsMs } of all) {
      const { to, lastsMs: bounds } = faults[kind]
      expect(to as readonly string[]).toContain(target)
      expect(lastsMs).toBeGreaterThanOrEqual(bounds[0])
      expect(lastsMs).toBeLessThanOrEqual(bounds[1])
    }
  })

  test('breaks at most two things at once, leaves what it broke some rest, and is over before the load', () => {
    for (let seed = 0; seed < 50; seed++) {
      const { faults: planned } = scheduleOf({ seed, seconds: 60 })

      expect(planned.length).toBeGreaterThan(10)
      for (const { atMs, target, lastsMs } of planned) {
        const meanwhile = planned.filter((other) => other.atMs <= atMs && atMs < other.atMs + other.lastsMs)
        expect(meanwhile.length).toBeLessThanOrEqual(2)
        const again = planned.filter((other) => other.target === target && Math.abs(other.atMs - atMs) < 1_500)
        expect(again).toHaveLength(1)
        expect(atMs + lastsMs).toBeLessThanOrEqual(58_000)
      }
    }
  })

  test('has only the kinds that are asked for', () => {
    const { faults: planned } = scheduleOf({ seed: 1, seconds: 60, kinds: ['cut', 'lock'] })

    expect(new Set(planned.map(({ kind }) => kind))).toEqual(new Set(['cut', 'lock']))
  })

  test('begins with a gateway that is killed while all is well', () => {
    for (let seed = 0; seed < 20; seed++) {
      const [first, second] = scheduleOf({ seed, seconds: 60 }).faults

      expect(first).toMatchObject({ kind: 'kill', target: expect.stringMatching(/^gateway-[12]$/) })
      expect(second?.atMs).toBeGreaterThan((first?.atMs ?? 0) + 2_000)
    }
  })

  test('kills a gateway while its uses wait in the journal, for longer than any flush takes', () => {
    for (const seconds of [20, 60]) {
      for (let seed = 0; seed < 20; seed++) {
        const { faults: planned, usage } = scheduleOf({ seed, seconds })
        const isInTheWay = (atMs: number): boolean =>
          planned.some((other) => {
            const lasts = other.atMs <= atMs - 1_000 && other.atMs + other.lastsMs > atMs
            return lasts && other.kind !== 'disk' && pathsOf(other, 'gateway-1').includes('usage')
          })
        const kills = planned.filter(({ kind, target }) => kind === 'kill' && target === 'gateway-1')

        expect(usage['gateway-1']).toMatch(/journal$/)
        expect(kills.filter(({ atMs }) => isInTheWay(atMs)).length).toBeGreaterThan(0)
      }
    }
    expect(scheduleOf({ seed: 1, seconds: 20, kinds: ['kill', 'cut'] }).faults.map(({ kind }) => kind)).not.toContain(
      'lock',
    )
  })
})

describe('what a fault lies on the way of', () => {
  test.each([
    ['lock', 'spillway_counters', ['durable']],
    ['lock', 'billing_requests', []],
    ['kill-redis', 'redis', ['live', 'usage']],
    ['kill-postgres', 'postgres', ['durable', 'usage']],
    ['cut', 'gateway-1>counters-2', ['durable', 'live']],
    ['cut', 'gateway-2>counters-2', []],
    ['cut', 'counters-1>redis', ['live']],
    ['cut', 'counters-1>auth', ['durable', 'live']],
    ['freeze', 'auth', ['durable', 'live', 'usage']],
    ['kill', 'worker-1', []],
    ['cut', 'load>gateway-1', []],
  ] as const)('%s of %s: %j', (kind, target, paths) => {
    expect(pathsOf({ kind, target }, 'gateway-1')).toEqual(paths)
  })
})
