import { type BalancedInstance, type Lease, LoadBalancer } from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'
import { expect, test } from 'vitest'
import { countsOf, instances, pickedIds } from './support/changing-list.js'

const abc: readonly BalancedInstance[] = [{ id: 'a' }, { id: 'b' }, { id: 'c' }]
const weighted = [
  { id: 'a', weight: 5 },
  { id: 'b', weight: 1 },
  { id: 'c', weight: 4 },
]

/** Picks that stay out, by id. */
function hold<I extends BalancedInstance>(balancer: LoadBalancer<I>, count: number): Map<string, Lease<I>[]> {
  const held = new Map<string, Lease<I>[]>()
  for (let i = 0; i < count; i++) {
    const lease = balancer.pick()
    const { id } = lease.instance
    held.set(id, [...(held.get(id) ?? []), lease])
  }
  return held
}

function sizes(held: ReadonlyMap<string, readonly unknown[]>): Record<string, number> {
  return Object.fromEntries([...held].map(([id, leases]): [string, number] => [id, leases.length]).sort())
}

test('least_conn picks the one with the fewest in flight', () => {
  const balancer = new LoadBalancer(abc, { algorithm: 'least_conn' })
  const held = hold(balancer, 30)

  for (const lease of held.get('b')?.slice(0, 4) ?? []) lease.release()
  const next = hold(balancer, 4)

  expect(sizes(held)).toEqual({ a: 10, b: 10, c: 10 })
  expect(sizes(next)).toEqual({ b: 4 })
})

test('least_conn gives an idle service everyone in turn, not always the first', () => {
  const balancer = new LoadBalancer(abc, { algorithm: 'least_conn' })

  expect(pickedIds(balancer, 9).join('')).toBe('abcabcabc')
})

test('least_conn breaks ties under load in turn too', () => {
  const balancer = new LoadBalancer(abc, { algorithm: 'least_conn' })
  hold(balancer, 3)

  expect(pickedIds(balancer, 9).join('')).toBe('abcabcabc')
})

test('least_conn divides what is in flight by weight', () => {
  const balancer = new LoadBalancer(weighted, { algorithm: 'least_conn' })

  expect(sizes(hold(balancer, 1000))).toEqual({ a: 500, b: 100, c: 400 })
})

test('least_conn gives an idle service to everyone by weight', () => {
  const balancer = new LoadBalancer(weighted, { algorithm: 'least_conn' })

  const counts = countsOf(pickedIds(balancer, 1000))

  expect(counts).toEqual(
    new Map([
      ['a', 500],
      ['b', 100],
      ['c', 400],
    ]),
  )
})

test.each(['least_conn', 'p2c'] as const)('%s takes fractional and huge weights', (algorithm) => {
  for (const factor of [1e-9, 0.1, 1e12, 1e290]) {
    const list = weighted.map(({ id, weight }) => ({ id, weight: weight * factor }))
    const balancer = new LoadBalancer(list, { algorithm, random: seededRandom(1) })

    const { a, b, c } = sizes(hold(balancer, 1000))

    expect(Math.abs((a as number) - 500)).toBeLessThanOrEqual(5)
    expect(Math.abs((b as number) - 100)).toBeLessThanOrEqual(5)
    expect(Math.abs((c as number) - 400)).toBeLessThanOrEqual(5)
  }
})

test.each(['least_conn', 'p2c', 'peak_ewma'] as const)(
  '%s excludes, and has none when all are excluded',
  (algorithm) => {
    const balancer = new LoadBalancer([...abc, { id: 'heavy', weight: 100 }], { algorithm, random: seededRandom(2) })
    const exclude = new Set(['a', 'c', 'heavy'])

    const ids = Array.from({ length: 50 }, () => balancer.pick({ exclude }).instance.id)

    expect(new Set(ids)).toEqual(new Set(['b']))
    expect(() => balancer.pick({ exclude: new Set([...exclude, 'b']) })).toThrow(
      expect.objectContaining({ code: 'ERR_NO_INSTANCE' }),
    )
  },
)

test('p2c keeps 100 instances within 5 of the mean over 100,000 picks that stay out', () => {
  for (let seed = 0; seed < 20; seed++) {
    const balancer = new LoadBalancer(instances(100), { algorithm: 'p2c', random: seededRandom(seed) })

    for (let i = 0; i < 100_000; i++) balancer.pick()

    const loads = balancer.instances().map(({ inFlight }) => inFlight)
    expect(Math.max(...loads)).toBeLessThanOrEqual(1005)
  }
})

test('p2c draws two different ones: of two, it always picks the one with fewer in flight', () => {
  const balancer = new LoadBalancer([{ id: 'a' }, { id: 'b' }], { algorithm: 'p2c', random: seededRandom(3) })

  for (let i = 0; i < 1000; i++) {
    balancer.pick()
    const [a, b] = balancer.instances().map(({ inFlight }) => inFlight)
    expect(Math.abs((a as number) - (b as number))).toBeLessThanOrEqual(1)
  }
})

test('p2c gives an idle service to everyone by weight, by chance', () => {
  const balancer = new LoadBalancer(weighted, { algorithm: 'p2c', random: seededRandom(4) })

  const counts = countsOf(pickedIds(balancer, 100_000))

  expect(Math.abs((counts.get('a') ?? 0) - 50_000)).toBeLessThan(1000)
  expect(Math.abs((counts.get('b') ?? 0) - 10_000)).toBeLessThan(1000)
  expect(Math.abs((counts.get('c') ?? 0) - 40_000)).toBeLessThan(1000)
})

test('p2c retries elsewhere evenly: the neighbour of an excluded instance gets no more than others', () => {
  const balancer = new LoadBalancer(instances(20), { algorithm: 'p2c', random: seededRandom(5) })
  const exclude = new Set(['instance-7'])

  const ids = Array.from({ length: 38_000 }, () => {
    const lease = balancer.pick({ exclude })
    lease.release()
    return lease.instance.id
  })

  const counts = countsOf(ids)
  expect(counts.size).toBe(19)
  for (const count of counts.values()) expect(Math.abs(count - 2000)).toBeLessThan(200)
})

/** One call after another to instances of these latencies, in virtual time. */
async function callEach(
  balancer: LoadBalancer<BalancedInstance>,
  clock: FakeClock,
  latencyOf: (id: string) => number,
  calls: number,
): Promise<Map<string, number>> {
  const ids: string[] = []
  for (let call = 0; call < calls; call++) {
    const lease = balancer.pick()
    ids.push(lease.instance.id)
    await clock.advance(latencyOf(lease.instance.id))
    lease.release()
  }
  return countsOf(ids)
}

test('peak_ewma prefers the faster ones', async () => {
  const clock = new FakeClock()
  const balancer = new LoadBalancer(abc, { algorithm: 'peak_ewma', clock, random: seededRandom(6) })
  const latencyOf = (id: string): number => (id === 'b' ? 50 : 5)

  await callEach(balancer, clock, latencyOf, 10)
  const counts = await callEach(balancer, clock, latencyOf, 200)

  expect(counts.get('b') ?? 0).toBeLessThanOrEqual(2)
  await clock.advance(0)
  expect(clock.pending).toBe(0)
})

test('peak_ewma counts one slow answer in full at once, and forgets it with time', async () => {
  const clock = new FakeClock()
  const balancer = new LoadBalancer([{ id: 'a' }, { id: 'b' }], {
    algorithm: 'peak_ewma',
    clock,
    random: seededRandom(7),
  })
  let slow = 5
  const latencyOf = (id: string): number => (id === 'a' ? 4 : slow)
  await callEach(balancer, clock, latencyOf, 2)

  // b is idle and decays below a, is tried once, and is slow.
  await clock.advance(0)
  slow = 400
  const untilSlow = await callEach(balancer, clock, (id) => (id === 'a' ? 40 : slow), 50)
  slow = 5
  const rightAfter = await callEach(balancer, clock, latencyOf, 200)
  await clock.advance(60_000)
  const later = await callEach(balancer, clock, () => 5, 20_000)

  expect(untilSlow.get('b')).toBeGreaterThanOrEqual(1)
  expect(rightAfter.get('b') ?? 0).toBe(0)
  expect(later.get('b') ?? 0).toBeGreaterThan(100)
  await clock.advance(0)
  expect(clock.pending).toBe(0)
})

test('peak_ewma tries a new instance at once, by one call at a time until it has answered', async () => {
  const clock = new FakeClock()
  const balancer = new LoadBalancer([{ id: 'a' }, { id: 'b' }], {
    algorithm: 'peak_ewma',
    clock,
    random: seededRandom(8),
  })
  const known = balancer.pick({ exclude: new Set(['b']) })
  await clock.advance(20)
  known.release()

  const held = hold(balancer, 30)

  // The first goes to b, which is idle; all others to a, which is known, however many it has.
  expect(sizes(held)).toEqual({ a: 29, b: 1 })

  await clock.advance(5)
  held.get('b')?.[0]?.release()
  expect(hold(balancer, 30).get('b')).toHaveLength(30)
  await clock.advance(0)
  expect(clock.pending).toBe(0)
})

test('peak_ewma weighs cost by weight', async () => {
  const clock = new FakeClock()
  const balancer = new LoadBalancer(
    [
      { id: 'a', weight: 3 },
      { id: 'b', weight: 1 },
    ],
    { algorithm: 'peak_ewma', clock, random: seededRandom(9) },
  )
  const first = hold(balancer, 2)
  await clock.advance(10)
  for (const lease of [...first.values()].flat()) lease.release()

  const { a, b } = sizes(hold(balancer, 400))

  expect(Math.abs((a as number) - 300)).toBeLessThanOrEqual(2)
  expect((a as number) + (b as number)).toBe(400)
  await clock.advance(0)
  expect(clock.pending).toBe(0)
})
