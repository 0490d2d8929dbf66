import { LoadBalancer } from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { codeOf, expectBooks, type Node, nodes, pickIds, tally, thrownBy } from './support/balancers.js'

describe('picking', () => {
  test('a static list is there at once, and each instance has its turn', () => {
    const balancer = new LoadBalancer(nodes('a', 'b', 'c'), { clock: new FakeClock() })

    expect(tally(pickIds(balancer, 9))).toEqual({ a: 3, b: 3, c: 3 })
  })

  test('an instance of weight 0 is never picked, whatever the algorithm', () => {
    for (const algorithm of ['round_robin', 'weighted', 'least_conn', 'p2c', 'peak_ewma', 'consistent_hash'] as const) {
      const list: Node[] = [{ id: 'a' }, { id: 'off', weight: 0 }, { id: 'b', weight: 2 }]
      const balancer = new LoadBalancer(list, { algorithm, random: seededRandom(1), clock: new FakeClock() })

      const ids = Array.from({ length: 60 }, (_, turn) => balancer.pick({ key: `key ${turn}` }).instance.id)

      expect(new Set(ids), algorithm).toEqual(new Set(['a', 'b']))
    }
  })

  test('what is excluded is not picked, and nothing else left is an error', () => {
    const balancer = new LoadBalancer(nodes('a', 'b'), { clock: new FakeClock() })

    const ids = Array.from({ length: 4 }, () => balancer.pick({ exclude: new Set(['a']) }).instance.id)
    const error = thrownBy(() => balancer.pick({ exclude: new Set(['a', 'b']) }))

    expect(ids).toEqual(['b', 'b', 'b', 'b'])
    expect(codeOf(error)).toBe('ERR_NO_INSTANCE')
    expect((error as Error).message).toBe('load-balancer has no instance but those excluded')
    expect(expectBooks(balancer)).toMatchObject({ offered: 5, rejected: 1, pending: 4 })
  })

  test('an empty list and one without weights have nothing to pick', () => {
    for (const list of [[], [{ id: 'a', weight: 0 }]]) {
      const balancer = new LoadBalancer<Node>(list, { name: 'api', clock: new FakeClock() })

      const error = thrownBy(() => balancer.pick())

      expect(codeOf(error)).toBe('ERR_NO_INSTANCE')
      expect(error).toMatchObject({ message: 'api has no instance that takes picks', retryable: true })
    }
  })

  test('duplicates of an id count once: the first of them', () => {
    const list: Node[] = [{ id: 'a', zone: 'one' }, { id: 'b' }, { id: 'a', zone: 'two' }]
    const balancer = new LoadBalancer(list, { clock: new FakeClock() })

    expect(balancer.instances().map(({ instance }) => instance)).toEqual([{ id: 'a', zone: 'one' }, { id: 'b' }])
    expect(tally(pickIds(balancer, 4))).toEqual({ a: 2, b: 2 })
  })

  test('equal keys go to the same instance', () => {
    const balancer = new LoadBalancer(nodes('a', 'b', 'c'), { algorithm: 'consistent_hash', clock: new FakeClock() })
    const owner = (key: string): string => balancer.pick({ key }).instance.id

    const owners = Array.from({ length: 100 }, (_, n) => owner(`user ${n}`))

    expect(owners).toEqual(Array.from({ length: 100 }, (_, n) => owner(`user ${n}`)))
    expect(new Set(owners)).toEqual(new Set(['a', 'b', 'c']))
  })

  test('the fewest in flight are what the balancer counts', () => {
    const balancer = new LoadBalancer(nodes('a', 'b'), { algorithm: 'least_conn', clock: new FakeClock() })
    const first = balancer.pick()
    const second = balancer.pick()

    second.release()

    expect(second.instance.id).not.toBe(first.instance.id)
    expect(balancer.pick().instance.id).toBe(second.instance.id)
  })

  test('a slow instance is avoided by its latency, and one that fails fast does not look fast', async () => {
    const clock = new FakeClock()
    const list = nodes('slow', 'fast', 'broken')
    const balancer = new LoadBalancer(list, { algorithm: 'peak_ewma', clock, random: seededRandom(3) })
    const latencies: Record<string, number> = { slow: 200, fast: 10, broken: 100 }
    const call = async (fail: boolean): Promise<string> => {
      const lease = balancer.pick()
      const { id } = lease.instance
      await clock.advance(fail && id === 'broken' ? 0 : (latencies[id] as number))
      lease.release(fail && id === 'broken' ? 'failure' : 'success')
      return id
    }
    for (let warmUp = 0; warmUp < 20; warmUp++) await call(false)

    const ids: string[] = []
    for (let turn = 0; turn < 60; turn++) {
      ids.push(await call(true))
      // Time enough for what is known to fade, if it did.
      await clock.advance(2000)
    }

    const { slow = 0, fast = 0, broken = 0 } = tally(ids)
    expect(fast).toBeGreaterThan(slow)
    expect(fast).toBeGreaterThan(2 * broken)
  })
})

describe('leases', () => {
  test('a lease counts once, whatever is said later', () => {
    const balancer = new LoadBalancer(nodes('a'), { clock: new FakeClock() })
    const lease = balancer.pick()

    lease.release('failure')
    lease.release('success')
    lease[Symbol.dispose]()

    expect(expectBooks(balancer)).toMatchObject({ failed: 1, succeeded: 0, ignored: 0, pending: 0 })
  })

  test('success is what release says by itself, and ignore what the end of a block says', () => {
    const balancer = new LoadBalancer(nodes('a'), { clock: new FakeClock() })

    balancer.pick().release()
    {
      using _lease = balancer.pick()
      expect(balancer.instances()[0]?.inFlight).toBe(1)
    }

    expect(expectBooks(balancer)).toMatchObject({ succeeded: 1, ignored: 1, pending: 0 })
  })

  test('an outcome that is none is an error and settles nothing', () => {
    const balancer = new LoadBalancer(nodes('a'), { clock: new FakeClock() })
    const lease = balancer.pick()

    const error = thrownBy(() => lease.release('done' as 'success'))

    expect(error).toMatchObject({ code: 'ERR_OPTION', field: 'outcome' })
    expect(expectBooks(balancer).pending).toBe(1)
    lease.release()
    expect(expectBooks(balancer)).toMatchObject({ pending: 0, succeeded: 1 })
  })

  test('what is wrong in a pick is counted as rejected', () => {
    const balancer = new LoadBalancer(nodes('a'), { clock: new FakeClock() })

    expect(thrownBy(() => balancer.pick({ key: 7 as unknown as string }))).toMatchObject({ field: 'key' })
    expect(thrownBy(() => balancer.pick({ exclude: ['a'] as unknown as Set<string> }))).toMatchObject({
      field: 'exclude',
    })
    expect(thrownBy(() => balancer.pick(null as unknown as undefined))).toMatchObject({ field: 'options' })

    expect(expectBooks(balancer)).toMatchObject({ offered: 3, rejected: 3 })
  })
})

test('making a balancer and picking from a static list start no timer', () => {
  const clock = new FakeClock()
  const balancer = new LoadBalancer(nodes('a', 'b'), { clock, ejection: {}, slowStartMs: 1000 })

  pickIds(balancer, 10)

  expect(clock.pending).toBe(0)
})
