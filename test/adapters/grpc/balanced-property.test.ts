import { connectivityState, status } from '@grpc/grpc-js'
import fc from 'fast-check'
import { LoadBalancer } from 'spillway'
import { GrpcBalancedPool } from 'spillway/grpc'
import { describe, expect, it } from 'vitest'
import { type CounterClient, clientOf } from './support/counter-service.js'
import { ejection, type Instance, List, type Manner, startFleet } from './support/fleet.js'
import { tidyUp } from './support/tidy.js'

tidyUp()

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** Which servers stand behind which ids; an id that changes its server has moved. */
const lists = fc.uniqueArray(fc.record({ id: fc.constantFrom('a', 'b', 'c', 'd'), server: fc.nat(3) }), {
  selector: ({ id }) => id,
  maxLength: 4,
})

const steps = fc.array(
  fc.oneof(
    fc.record({
      kind: fc.constant('call' as const),
      attempts: fc.integer({ min: 1, max: 3 }),
      idempotent: fc.boolean(),
      abort: fc.constantFrom('no', 'before', 'at once', 'later'),
    }),
    fc.record({ kind: fc.constant('stream' as const), end: fc.constantFrom('end', 'cancel', 'leave') }),
    fc.record({ kind: fc.constant('lease' as const), end: fc.constantFrom('success', 'failure', 'ignore', 'leave') }),
    fc.record({ kind: fc.constant('list' as const), list: lists }),
    fc.record({
      kind: fc.constant('manner' as const),
      server: fc.nat(2),
      manner: fc.constantFrom<Manner>('answer', 'hang', status.UNAVAILABLE, status.NOT_FOUND),
    }),
    fc.record({ kind: fc.constant('wait' as const) }),
  ),
  { maxLength: 30 },
)

describe('the books of a balanced pool', () => {
  it('balance at every moment, and no pool, lease or call is left over', async () => {
    const fleet = await startFleet(3)
    // The fourth is nobody.
    const addresses = [...fleet.map(({ address }) => address), '127.0.0.1:1']
    await fc.assert(
      fc.asyncProperty(lists, steps, fc.nat(15), async (first, plan, closeMs) => {
        for (const member of fleet) member.manner = 'answer'
        const place = (list: readonly { id: string; server: number }[]): Instance[] =>
          list.map(({ id, server }) => ({ id, address: addresses[server] as string }))
        const list = new List(place(first))
        const balancer = new LoadBalancer(list.source, { ejection: { ...ejection, recoveryTimeoutMs: 5 } })
        const made: CounterClient[] = []
        const make = ({ address }: Instance, options: object): CounterClient => {
          const client = clientOf(address)(options)
          made.push(client)
          return client
        }
        const pool = new GrpcBalancedPool(balancer, make, { drainTimeoutMs: 10 })
        await balancer.start()
        let offered = 0
        let settled = 0
        let calls = 0
        const check = (): void => {
          const stats = pool.stats()
          expect(stats.offered).toBe(offered)
          expect(stats.offered).toBe(stats.succeeded + stats.failed + stats.rejected + stats.aborted + stats.pending)
          const open = stats.instances.filter(({ state }) => state === 'open')
          expect(new Set(open.map(({ instance }) => instance)).size).toBe(open.length)
          expect(stats.instances.length - open.length).toBe(stats.draining)
          expect(stats.attempts).toBeLessThanOrEqual(3 * offered)
        }
        for (const step of plan) {
          if (step.kind === 'call') {
            const controller = new AbortController()
            const { attempts, idempotent } = step
            if (step.abort === 'before') controller.abort('early')
            offered++
            calls++
            const options = { attempts, idempotent, signal: controller.signal, timeoutMs: 20 }
            void pool
              .call('get', { key: 'a' }, options)
              .catch(() => undefined)
              .then(() => settled++)
            if (step.abort === 'at once') controller.abort('now')
            if (step.abort === 'later') void turn().then(() => controller.abort('later'))
          } else if (step.kind === 'stream') {
            offered++
            try {
              const stream = pool.openStream('increments')
              stream.on('data', () => undefined)
              stream.write({ id: '1', key: 'a' })
              if (step.end === 'end') stream.end()
              if (step.end === 'cancel') stream.cancel()
            } catch (error) {
              expect(error).toMatchObject({ code: 'ERR_NO_INSTANCE' })
            }
          } else if (step.kind === 'lease') {
            offered++
            try {
              const lease = pool.lease()
              if (step.end !== 'leave') lease.release(step.end)
            } catch (error) {
              expect(error).toMatchObject({ code: 'ERR_NO_INSTANCE' })
            }
          } else if (step.kind === 'list') list.set(place(step.list))
          else if (step.kind === 'manner') (fleet[step.server] as { manner: Manner }).manner = step.manner
          else await turn()
          check()
        }
        const { abandoned } = await pool.close({ timeoutMs: closeMs })
        await turn()
        check()
        expect(abandoned).toBeLessThanOrEqual(offered)
        expect(settled).toBe(calls)
        expect(pool.stats()).toMatchObject({ pending: 0, draining: 0, instances: [] })
        for (const client of made)
          expect(client.getChannel().getConnectivityState(false)).toBe(connectivityState.SHUTDOWN)
        await turn()
        expect(balancer.stats().pending).toBe(0)
        expect(await balancer.close({ timeoutMs: 1000 })).toEqual({ drained: true, abandoned: 0 })
      }),
      { numRuns: 60 },
    )
  })
})
