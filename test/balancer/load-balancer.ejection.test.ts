import { type EjectionOptions, type Lease, LoadBalancer, type LoadBalancerOptions } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import {
  codeOf,
  expectBooks,
  type Node,
  nodes,
  pickIds,
  recordEvents,
  statesOf,
  tally,
  thrownBy,
} from './support/balancers.js'

function guarded(
  list: readonly Node[],
  ejection: EjectionOptions = {},
  options: LoadBalancerOptions<Node> = {},
): { balancer: LoadBalancer<Node>; clock: FakeClock } {
  const clock = new FakeClock()
  const given = { failureThreshold: 2, recoveryTimeoutMs: 1000, ...ejection }
  return { balancer: new LoadBalancer(list, { clock, ejection: given, ...options }), clock }
}

/** Picks until each of these has failed so often. */
function fail(balancer: LoadBalancer<Node>, times: number, ...ids: string[]): void {
  const left = new Map(ids.map((id) => [id, times]))
  while ([...left.values()].some((count) => count > 0)) {
    const lease = balancer.pick()
    const { id } = lease.instance
    const count = left.get(id) ?? 0
    left.set(id, count - 1)
    lease.release(count > 0 ? 'failure' : 'ignore', new Error(`${id} failed`))
  }
}

describe('ejection', () => {
  test('an instance whose calls fail is not picked until its recovery is due', async () => {
    const { balancer, clock } = guarded(nodes('a', 'b', 'c'))
    const ejections: unknown[] = []
    balancer.on('ejected', ({ instance, error, retryAfterMs }) => ejections.push([instance.id, error, retryAfterMs]))
    const seen = recordEvents(balancer, 'ejected', 'readmitted')

    fail(balancer, 2, 'a')

    expect(ejections).toMatchObject([['a', { message: 'a failed' }, 1000]])
    expect(statesOf(balancer)).toEqual({ a: 'ejected', b: 'healthy', c: 'healthy' })
    await clock.advance(999)
    expect(tally(pickIds(balancer, 6))).toEqual({ b: 3, c: 3 })
    await clock.advance(1)
    expect(pickIds(balancer, 3)).toContain('a')
    expect(statesOf(balancer).a).toBe('healthy')
    expect(seen).toEqual(['ejected a', 'readmitted a'])
    expect(clock.pending).toBe(0)
  })

  test('a recovering instance gets one probe at a time, and a failed one keeps it out again', async () => {
    const { balancer, clock } = guarded(nodes('a', 'b'), { successThreshold: 2 })
    fail(balancer, 2, 'a')
    await clock.advance(1000)

    const leases = Array.from({ length: 6 }, () => balancer.pick())
    const probes = leases.filter(({ instance }) => instance.id === 'a')
    expect(probes).toHaveLength(1)
    probes[0]?.release('success')
    expect(statesOf(balancer).a).toBe('ejected')
    const second = Array.from({ length: 6 }, () => balancer.pick()).filter(({ instance }) => instance.id === 'a')
    expect(second).toHaveLength(1)
    second[0]?.release('failure')

    expect(tally(pickIds(balancer, 4))).toEqual({ b: 4 })
    await clock.advance(1000)
    expect(Array.from({ length: 4 }, () => balancer.pick().instance.id)).toContain('a')
    expectBooks(balancer)
  })

  test('halfOpenRequests probes go out at once, and an ignored one makes room for another', async () => {
    const { balancer, clock } = guarded(nodes('a', 'b'), { halfOpenRequests: 2, successThreshold: 2 })
    fail(balancer, 2, 'a')
    await clock.advance(1000)
    const toA = (count: number): Lease<Node>[] =>
      Array.from({ length: count }, () => balancer.pick()).filter(({ instance }) => instance.id === 'a')

    const [first, second, ...more] = toA(10)
    expect(more).toHaveLength(0)
    first?.release('ignore')
    const third = toA(10)

    expect(third).toHaveLength(1)
    second?.release()
    third[0]?.release()
    expect(statesOf(balancer).a).toBe('healthy')
  })

  test('a probe that never ends gives up its place, and the instance stays out for another while', async () => {
    const { balancer, clock } = guarded(nodes('a', 'b'), { probeTimeoutMs: 500 })
    fail(balancer, 2, 'a')
    await clock.advance(1000)
    const probe = Array.from({ length: 4 }, () => balancer.pick()).find(({ instance }) => instance.id === 'a')
    expect(probe).toBeDefined()

    await clock.advance(500)
    expect(tally(pickIds(balancer, 4))).toEqual({ b: 4 })
    await clock.advance(1000)

    expect(pickIds(balancer, 4)).toContain('a')
    expect(statesOf(balancer).a).toBe('healthy')
    probe?.release('failure')
    expect(statesOf(balancer).a).toBe('healthy')
  })

  test('no more than the ratio are out at a time, the new one counted', () => {
    const { balancer } = guarded(nodes('a', 'b', 'c', 'd'), { maxEjectedRatio: 0.5 }, { panicThreshold: 0 })
    const seen = recordEvents(balancer, 'ejected', 'readmitted')

    fail(balancer, 2, 'a', 'b')
    fail(balancer, 2, 'c')

    expect(seen.filter((event) => event.startsWith('ejected'))).toHaveLength(2)
    expect(statesOf(balancer)).toEqual({ a: 'ejected', b: 'ejected', c: 'healthy', d: 'healthy' })
    expect(tally(pickIds(balancer, 4))).toEqual({ c: 2, d: 2 })
  })

  test('the ratio is taken at its word, whatever its product looks like in binary', () => {
    const ids = Array.from({ length: 100 }, (_, n) => `n${n}`)
    const { balancer } = guarded(nodes(...ids), { maxEjectedRatio: 0.29, failureThreshold: 1 })

    fail(balancer, 1, ...ids.slice(0, 40))

    expect(balancer.stats().instances.ejected).toBe(29)
  })

  test('a lone instance is never ejected, one of two is', () => {
    const alone = guarded(nodes('a'))
    const two = guarded(nodes('a', 'b'))

    fail(alone.balancer, 5, 'a')
    fail(two.balancer, 2, 'a')

    expect(statesOf(alone.balancer)).toEqual({ a: 'healthy' })
    expect(pickIds(alone.balancer, 2)).toEqual(['a', 'a'])
    expect(statesOf(two.balancer)).toEqual({ a: 'ejected', b: 'healthy' })
  })

  test('one that had to stay is ejected once there is room for it, and recovers by a probe if there is none', async () => {
    const { balancer, clock } = guarded(nodes('a', 'b'))
    fail(balancer, 2, 'a')
    fail(balancer, 2, 'b')
    expect(statesOf(balancer)).toEqual({ a: 'ejected', b: 'healthy' })

    await clock.advance(1000)
    for (const lease of [balancer.pick(), balancer.pick()]) {
      lease.release(lease.instance.id === 'a' ? 'success' : 'ignore')
    }
    expect(statesOf(balancer)).toEqual({ a: 'healthy', b: 'ejected' })
    pickIds(balancer, 4)

    expect(statesOf(balancer)).toEqual({ a: 'healthy', b: 'healthy' })
  })

  test('unhealthy ones and ejected ones together may bring about a panic, in which breakers turn nobody away', async () => {
    const { balancer, clock } = guarded(nodes('a', 'b', 'c'), { maxEjectedRatio: 1 })

    fail(balancer, 2, 'a', 'b')

    expect(balancer.stats()).toMatchObject({ panicking: true, instances: { ejected: 2, healthy: 1 } })
    expect(tally(pickIds(balancer, 6))).toEqual({ a: 2, b: 2, c: 2 })
    expect(statesOf(balancer).a).toBe('ejected')
    await clock.advance(1000)
    pickIds(balancer, 3)
    expect(balancer.stats()).toMatchObject({ panicking: false, instances: { ejected: 0, healthy: 3 } })
  })

  test('with all ejected and no panic, the error says when it is worth another try', async () => {
    const { balancer, clock } = guarded(nodes('a', 'b'), { maxEjectedRatio: 1 }, { panicThreshold: 0 })
    fail(balancer, 2, 'a')
    await clock.advance(400)
    for (let turn = 0; turn < 2; turn++) balancer.pick().release('failure')

    const error = thrownBy(() => balancer.pick())

    expect(codeOf(error)).toBe('ERR_NO_INSTANCE')
    expect(error).toMatchObject({ message: 'load-balancer has no instance that is well (of 2)', retryAfterMs: 600 })
    await clock.advance(600)
    expect(balancer.pick().instance.id).toBe('a')
  })

  test('an ejection survives refreshes, and a late outcome of before it changes nothing', async () => {
    const clock = new FakeClock()
    const ejection = { failureThreshold: 2, recoveryTimeoutMs: 1000 }
    const balancer = new LoadBalancer(async () => nodes('c', 'b', 'a'), { clock, ejection })
    await balancer.start()
    const early = Array.from({ length: 3 }, () => balancer.pick()).find(({ instance }) => instance.id === 'a')
    fail(balancer, 2, 'a')

    await balancer.refresh()
    early?.release('success')

    expect(statesOf(balancer).a).toBe('ejected')
    expect(tally(pickIds(balancer, 4))).toEqual({ b: 2, c: 2 })
    expect(expectBooks(balancer).pending).toBe(2)
    const closed = balancer.close({ timeoutMs: 1 })
    await clock.advance(1)
    expect(await closed).toEqual({ drained: false, abandoned: 2 })
  })

  test('run tells the breaker what its classifiers say', async () => {
    const { balancer } = guarded(nodes('a', 'b'), {
      failureThreshold: 1,
      classifyError: (error) => ((error as Error).message === 'not found' ? 'success' : 'failure'),
      classifyResult: (result) => (result === 503 ? 'failure' : 'success'),
    })

    await balancer
      .run(() => {
        throw new Error('not found')
      })
      .catch(() => undefined)
    expect(balancer.stats()).toMatchObject({ succeeded: 1, instances: { ejected: 0 } })
    expect(await balancer.run(() => 503)).toBe(503)

    expect(balancer.stats()).toMatchObject({ succeeded: 1, failed: 1, instances: { ejected: 1 } })
  })

  test('a listener of ejected may pick and close', () => {
    const { balancer } = guarded(nodes('a', 'b', 'c'))
    const picked: string[] = []
    balancer.on('ejected', () => {
      picked.push(...pickIds(balancer, 4))
      void balancer.close()
    })

    fail(balancer, 2, 'a')

    expect(codeOf(thrownBy(() => balancer.pick()))).toBe('ERR_CLOSED')
    expect(tally(picked)).toEqual({ b: 2, c: 2 })
    expectBooks(balancer)
  })
})

describe('slow start', () => {
  test('an instance that recovers gets more and more, those that were there from the beginning all at once', async () => {
    const { balancer, clock } = guarded(nodes('a', 'b'), {}, { algorithm: 'weighted', slowStartMs: 10_000 })
    expect(tally(pickIds(balancer, 10))).toEqual({ a: 5, b: 5 })
    const weightOfA = (): number | undefined => balancer.instances().find(({ instance }) => instance.id === 'a')?.weight
    fail(balancer, 2, 'a')
    await clock.advance(1000)
    for (let turn = 0; turn < 10 && statesOf(balancer).a === 'ejected'; turn++) balancer.pick().release()

    expect(weightOfA()).toBe(0.1)
    expect(tally(pickIds(balancer, 110))).toEqual({ a: 10, b: 100 })
    await clock.advance(5000)
    expect(weightOfA()).toBe(0.5)
    expect(tally(pickIds(balancer, 30))).toEqual({ a: 10, b: 20 })
    await clock.advance(5000)
    expect(weightOfA()).toBe(1)
    expect(tally(pickIds(balancer, 10))).toEqual({ a: 5, b: 5 })
    expect(clock.pending).toBe(0)
  })

  test('an instance that joins begins slowly, in all algorithms but the hash', async () => {
    for (const algorithm of ['round_robin', 'weighted', 'consistent_hash'] as const) {
      const clock = new FakeClock()
      let list = nodes('a', 'b')
      const balancer = new LoadBalancer<Node>(async () => list, { clock, algorithm, slowStartMs: 10_000 })
      await balancer.start()
      const owners = (): string[] => {
        return Array.from({ length: 200 }, (_, n) => {
          const lease = balancer.pick({ key: `key ${n}` })
          lease.release()
          return lease.instance.id
        })
      }

      list = nodes('a', 'b', 'c')
      await balancer.refresh()
      const early = tally(owners()).c ?? 0
      await clock.advance(10_000)
      const late = tally(owners()).c ?? 0

      if (algorithm === 'consistent_hash') expect(early).toBe(late)
      else expect(early, algorithm).toBeLessThan(late / 2)
      expect(late).toBeGreaterThan(40)
      await balancer.close()
    }
  })
})

test('a probe gate that says no keeps an instance out, without a look for each pick', async () => {
  let allowed = false
  let asked = 0
  const { balancer, clock } = guarded(nodes('a', 'b'), {
    probeGate: () => {
      asked++
      return allowed
    },
  })
  fail(balancer, 2, 'a')
  await clock.advance(1000)

  expect(tally(pickIds(balancer, 20))).toEqual({ b: 20 })
  expect(asked).toBe(1)
  allowed = true
  await clock.advance(10)
  pickIds(balancer, 2)

  expect(statesOf(balancer).a).toBe('healthy')
})
