import fc from 'fast-check'
import { type BalancedInstance, consecutive, LoadBalancer } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { expect, test } from 'vitest'
import { ChangingList, countsOf, instances, pickedIds } from './support/changing-list.js'

const abc: readonly BalancedInstance[] = [{ id: 'a' }, { id: 'b' }, { id: 'c' }]

test('round robin takes one after the other', () => {
  const balancer = new LoadBalancer(abc)

  expect(pickedIds(balancer, 7).join('')).toBe('abcabca')
})

test('round robin goes on where it was when a refresh brings the same list in another order', async () => {
  const list = new ChangingList(abc, {})
  await list.balancer.start()

  let order = pickedIds(list.balancer, 2).join('')
  for (const ids of ['cab', 'bca', 'cba', 'acb']) {
    await list.change([...ids].map((id) => ({ id })))
    order += pickedIds(list.balancer, 2).join('')
  }

  expect(order).toBe('abcabcabca')
  await list.close()
})

test('round robin neither skips nor doubles anyone when an instance leaves or joins', async () => {
  const list = new ChangingList(instances(5, ''), {})
  await list.balancer.start()

  let order = pickedIds(list.balancer, 2).join('')
  await list.change([{ id: '0' }, { id: '1' }, { id: '3' }, { id: '4' }])
  order += pickedIds(list.balancer, 1).join('')
  await list.change([{ id: '5' }, { id: '0' }, { id: '1' }, { id: '3' }, { id: '4' }])
  order += pickedIds(list.balancer, 9).join('')

  // 2 left when its turn was next; 5 joins behind all who wait already.
  expect(order).toBe('01' + '3' + '40135' + '4013')
  await list.close()
})

test('in round robin, whoever stays is picked once between two picks of anyone else who stays', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ ids: fc.shuffledSubarray([...'abcdefgh'], { minLength: 2 }), picks: fc.nat(12) }), {
        minLength: 1,
        maxLength: 12,
      }),
      async (steps) => {
        const stay = [{ id: 'x' }, { id: 'y' }, { id: 'z' }]
        const list = new ChangingList(stay, {})
        await list.balancer.start()

        let order = ''
        for (const { ids, picks } of steps) {
          await list.change([...ids.map((id) => ({ id })), ...stay])
          order += pickedIds(list.balancer, picks).join('')
        }
        await list.close()

        // However many come and go around them, those three keep their turns.
        expect('xyz'.repeat(order.length)).toContain(order.replace(/[^xyz]/g, ''))
      },
    ),
    { numRuns: 50 },
  )
})

test('round robin goes on where it was when an instance is ejected and comes back', async () => {
  const clock = new FakeClock()
  const balancer = new LoadBalancer(abc, {
    clock,
    ejection: { trip: consecutive(1), recoveryTimeoutMs: 1000 },
    panicThreshold: 0,
  })

  const order: string[] = pickedIds(balancer, 1)
  const failing = balancer.pick()
  failing.release('failure')
  order.push(failing.instance.id, ...pickedIds(balancer, 4))
  await clock.advance(1000)
  order.push(...pickedIds(balancer, 6))

  expect(order.join('')).toBe('ab' + 'caca' + 'cabcab')
  await balancer.close()
})

test('an excluded instance keeps its turn', () => {
  const balancer = new LoadBalancer(abc)

  const first = balancer.pick({ exclude: new Set(['a', 'b']) }).instance.id

  expect(first + pickedIds(balancer, 5).join('')).toBe('cabcab')
})

test('weights 5, 1, 1 give a a b a c a a, as nginx does', () => {
  const balancer = new LoadBalancer([{ id: 'a', weight: 5 }, { id: 'b' }, { id: 'c' }], { algorithm: 'weighted' })

  expect(pickedIds(balancer, 21).join('')).toBe('aabacaa'.repeat(3))
})

test.each([0.1, 1e-9, 1e9, 1e300])('weights %f times as large give the same order', (factor) => {
  const list = [5, 1, 1].map((weight, i) => ({ id: 'abc'.charAt(i), weight: weight * factor }))
  const balancer = new LoadBalancer(list, { algorithm: 'weighted' })

  expect(pickedIds(balancer, 700).join('')).toBe('aabacaa'.repeat(100))
})

/** The algorithm as nginx has it: everyone is looked at for each pick. */
class NginxWeighted {
  readonly #current: number[]
  readonly #weights: readonly number[]

  constructor(weights: readonly number[]) {
    this.#weights = weights
    this.#current = weights.map(() => 0)
  }

  pick(excluded: (index: number) => boolean = () => false): number {
    let best = -1
    for (let i = 0; i < this.#weights.length; i++) {
      this.#current[i] = (this.#current[i] as number) + (this.#weights[i] as number)
      if (!excluded(i) && (best < 0 || (this.#current[i] as number) > (this.#current[best] as number))) best = i
    }
    const total = this.#weights.reduce((sum, weight) => sum + weight, 0)
    this.#current[best] = (this.#current[best] as number) - total
    return best
  }
}

test('any weights, up to 32 different ones, give the order of nginx, with exclusions too', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 32 }), { minLength: 1, maxLength: 80 }),
      fc.array(fc.option(fc.nat(200), { nil: undefined }), { minLength: 50, maxLength: 300 }),
      (weights, picks) => {
        const nginx = new NginxWeighted(weights)
        const balancer = new LoadBalancer(
          weights.map((weight, i) => ({ id: `${i}`, weight })),
          { algorithm: 'weighted' },
        )
        for (const excludedIndex of picks) {
          const exclude = excludedIndex !== undefined && weights.length > 1 ? `${excludedIndex % weights.length}` : ''

          const lease = balancer.pick(exclude === '' ? undefined : { exclude: new Set([exclude]) })

          expect(lease.instance.id).toBe(`${nginx.pick((i) => `${i}` === exclude)}`)
          lease.release()
        }
      },
    ),
  )
})

test('the order of nginx outlasts the sums that begin anew', () => {
  const weights = [7, 3, 3, 1, 9, 7]
  const nginx = new NginxWeighted(weights)
  const balancer = new LoadBalancer(
    weights.map((weight, i) => ({ id: `${i}`, weight })),
    { algorithm: 'weighted' },
  )

  const expected = Array.from({ length: 200_000 }, () => `${nginx.pick()}`)

  expect(pickedIds(balancer, 200_000)).toEqual(expected)
})

test('with hundreds of different weights, nobody is ever more than a pick away from its share', () => {
  const list = Array.from({ length: 300 }, (_, i) => ({ id: `${i}`, weight: 1 + ((i * 7919) % 1000) / 100 }))
  const total = list.reduce((sum, { weight }) => sum + weight, 0)
  const balancer = new LoadBalancer(list, { algorithm: 'weighted' })
  const counts = new Map(list.map(({ id }) => [id, 0]))

  let furthest = 0
  for (let pick = 1; pick <= 50_000; pick++) {
    const [id = ''] = pickedIds(balancer, 1)
    counts.set(id, (counts.get(id) as number) + 1)
    if (pick % 97 !== 0) continue
    for (const { id, weight } of list) {
      furthest = Math.max(furthest, Math.abs((counts.get(id) as number) - (pick * weight) / total))
    }
  }

  expect(furthest).toBeLessThan(1)
})

test('what a weighted instance is owed outlasts refreshes that come faster than its turns', async () => {
  const list = new ChangingList([], { algorithm: 'weighted' })
  const stay = [
    { id: 'a', weight: 50 },
    { id: 'b', weight: 10 },
    { id: 'c', weight: 1 },
  ]
  const ids: string[] = []
  for (let refresh = 0; refresh < 610; refresh++) {
    // One instance flaps, so that each refresh changes the list.
    await list.change(refresh % 2 === 0 ? stay : [{ id: 'flapping', weight: 0.001 }, ...stay].reverse())
    ids.push(...pickedIds(list.balancer, 1))
  }

  const counts = countsOf(ids)

  expect(counts.get('a')).toBeGreaterThanOrEqual(498)
  expect(counts.get('a')).toBeLessThanOrEqual(502)
  expect(counts.get('b')).toBeGreaterThanOrEqual(98)
  expect(counts.get('b')).toBeLessThanOrEqual(102)
  expect(counts.get('c')).toBeGreaterThanOrEqual(8)
  expect(counts.get('c')).toBeLessThanOrEqual(12)
  await list.close()
})

test.each(['round_robin', 'weighted'] as const)(
  '%s gives an instance in slow start its part, then all',
  async (algorithm) => {
    const list = new ChangingList([{ id: 'a' }, { id: 'b' }], { algorithm, slowStartMs: 10_000 })
    await list.balancer.start()
    pickedIds(list.balancer, 1)
    await list.change([{ id: 'a' }, { id: 'b' }, { id: 'new' }])

    const atFirst = countsOf(pickedIds(list.balancer, 2100)).get('new')
    await list.clock.advance(5000)
    const halfWay = countsOf(pickedIds(list.balancer, 2500)).get('new')
    await list.clock.advance(5000)
    const atLast = countsOf(pickedIds(list.balancer, 3000)).get('new')

    expect(atFirst).toBeGreaterThanOrEqual(99)
    expect(atFirst).toBeLessThanOrEqual(101)
    expect(halfWay).toBeGreaterThanOrEqual(499)
    expect(halfWay).toBeLessThanOrEqual(501)
    expect(atLast).toBeGreaterThanOrEqual(999)
    expect(atLast).toBeLessThanOrEqual(1001)
    await list.close()
  },
)
