import fc from 'fast-check'
import { type AlgorithmName, type Lease, LoadBalancer } from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'
import { expect, test } from 'vitest'
import { expectBooks, type Node } from './support/balancers.js'

const ids = ['a', 'b', 'c', 'd', 'e']

/** What can happen, in any order. */
const action = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ what: fc.constant('pick' as const), key: fc.constantFrom(undefined, 'x', 'y') }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      what: fc.constant('release' as const),
      lease: fc.nat(),
      outcome: fc.constantFrom('success' as const, 'failure' as const, 'ignore' as const),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      what: fc.constant('run' as const),
      attempts: fc.integer({ min: 1, max: 3 }),
      timeoutMs: fc.constantFrom(undefined, 50),
      how: fc.constantFrom('resolve', 'reject', 'throw', 'hang', 'late'),
      abort: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ what: fc.constant('abort' as const), run: fc.nat() }) },
  { weight: 2, arbitrary: fc.record({ what: fc.constant('settle' as const), run: fc.nat() }) },
  {
    weight: 2,
    arbitrary: fc.record({
      what: fc.constant('list' as const),
      list: fc.array(fc.record({ id: fc.constantFrom(...ids), weight: fc.constantFrom(0, 1, 2.5) }), { maxLength: 7 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ what: fc.constant('drain' as const), id: fc.constantFrom(...ids) }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant('undrain' as const), id: fc.constantFrom(...ids) }) },
  {
    weight: 2,
    arbitrary: fc.record({ what: fc.constant('sick' as const), id: fc.constantFrom(...ids), sick: fc.boolean() }),
  },
  { weight: 4, arbitrary: fc.record({ what: fc.constant('wait' as const), ms: fc.integer({ min: 0, max: 400 }) }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant('flush' as const) }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant('sinkFails' as const) }) },
)

const algorithms: readonly AlgorithmName[] = [
  'round_robin',
  'weighted',
  'least_conn',
  'p2c',
  'peak_ewma',
  'consistent_hash',
]

test('books, leases in flight and counts are exact whatever happens in whatever order', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(action, { minLength: 5, maxLength: 60 }),
      fc.constantFrom(...algorithms),
      fc.nat(),
      fc.constantFrom(undefined, 0, 20),
      async (actions, algorithm, seed, closeMs) => {
        const clock = new FakeClock()
        let list: readonly Node[] = ids.slice(0, 3).map((id) => ({ id }))
        const sick = new Set<string>()
        const counted: Record<string, number> = {}
        let sinkFailures = 0
        const balancer = new LoadBalancer<Node>(async () => list, {
          clock,
          algorithm,
          random: seededRandom(seed),
          refreshMs: 300,
          health: { check: ({ id }) => !sick.has(id), intervalMs: 50, fall: 2, rise: 1 },
          ejection: { failureThreshold: 2, recoveryTimeoutMs: 100 },
          slowStartMs: 100,
          panicThreshold: seed % 2 === 0 ? 0.5 : 0,
          countsEveryMs: 200,
          onCounts: async (counts) => {
            if (sinkFailures > 0) {
              sinkFailures--
              throw new Error('the sink is down')
            }
            for (const [id, count] of counts) counted[id] = (counted[id] ?? 0) + count
          },
        })
        await balancer.start()
        const leases: Lease<Node>[] = []
        const runs: { controller: AbortController; settle: () => void; done: Promise<unknown> }[] = []
        const picked: Record<string, number> = {}
        const note = ({ id }: Node): void => {
          picked[id] = (picked[id] ?? 0) + 1
        }
        const begin = (one: { attempts: number; timeoutMs: number | undefined; how: string; abort: boolean }): void => {
          const controller = new AbortController()
          let settle: () => void = () => undefined
          const fn = (instance: Node): Promise<string> => {
            note(instance)
            if (one.how === 'throw') throw new Error('thrown')
            if (one.how === 'resolve') return Promise.resolve('done')
            if (one.how === 'reject') return Promise.reject(new Error('rejected'))
            return new Promise((resolve) => {
              if (one.how === 'late') settle = () => resolve('late')
            })
          }
          const { attempts, timeoutMs } = one
          const done = balancer.run(fn, { attempts, timeoutMs, signal: controller.signal }).catch(() => undefined)
          runs.push({ controller, settle: () => settle(), done })
          if (one.abort) controller.abort()
        }

        for (const one of actions) {
          if (one.what === 'pick') {
            try {
              const lease = balancer.pick({ key: one.key })
              leases.push(lease)
              note(lease.instance)
            } catch (error) {
              expect((error as { code: string }).code).toBe('ERR_NO_INSTANCE')
            }
          } else if (one.what === 'release') leases[one.lease % (leases.length || 1)]?.release(one.outcome)
          else if (one.what === 'run') begin(one)
          else if (one.what === 'abort') runs[one.run % (runs.length || 1)]?.controller.abort()
          else if (one.what === 'settle') runs[one.run % (runs.length || 1)]?.settle()
          else if (one.what === 'list') {
            list = one.list
            await balancer.refresh()
          } else if (one.what === 'drain') void balancer.drainInstance(one.id).catch(() => undefined)
          else if (one.what === 'undrain') {
            if (
              list.some(({ id }) => id === one.id) &&
              balancer.instances().some(({ instance, state }) => instance.id === one.id && state !== 'draining')
            )
              balancer.undrainInstance(one.id)
          } else if (one.what === 'sick') sick[one.sick ? 'add' : 'delete'](one.id)
          else if (one.what === 'wait') await clock.advance(one.ms)
          else if (one.what === 'flush') void balancer.flush()
          else sinkFailures++
          expectBooks(balancer)
          for (const { inFlight, weight, instance, state } of balancer.instances()) {
            expect(inFlight).toBeGreaterThanOrEqual(0)
            expect(weight).toBeLessThanOrEqual(instance.weight ?? 1)
            if (state === 'ejected') expect(instance.weight).not.toBe(0)
          }
        }

        sinkFailures = 0
        const closed = balancer.close(closeMs === undefined ? undefined : { timeoutMs: closeMs })
        for (const { controller } of closeMs === undefined ? runs : []) controller.abort()
        for (const lease of closeMs === undefined ? leases : []) lease.release()
        await clock.advance(100)
        const { drained, abandoned } = await closed
        for (const lease of leases) lease.release()
        await Promise.all(runs.map(({ done }) => done))
        await clock.advance(0)

        expect(expectBooks(balancer)).toMatchObject({ pending: 0, retriesInFlight: 0 })
        expect(balancer.instances().every(({ inFlight }) => inFlight === 0)).toBe(true)
        expect(drained).toBe(abandoned === 0)
        const { delivered, lost, pending } = balancer.stats().counts
        const total = Object.values(picked).reduce((sum, count) => sum + count, 0)
        expect(delivered + lost + pending).toBe(total)
        if (lost === 0) expect(counted).toEqual(picked)
        if (closeMs !== 0) expect(lost).toBe(0)
        expect(clock.pending).toBe(0)
      },
    ),
    { numRuns: 300 },
  )
})
