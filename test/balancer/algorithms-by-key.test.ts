import { LoadBalancer } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { expect, test } from 'vitest'
import { ChangingList, countsOf, instances, ownersOf, pickedIds } from './support/changing-list.js'

const hashes = ['maglev', 'ring'] as const
const keys = Array.from({ length: 20_000 }, (_, i) => `user:${i}`)
const algorithm = 'consistent_hash'

/** The share of keys that moved, and of those that moved although their owner stayed. */
function movedShares(before: readonly string[], after: readonly string[], gone: string): [number, number] {
  let moved = 0
  let needlessly = 0
  for (let i = 0; i < before.length; i++) {
    if (before[i] === after[i]) continue
    moved++
    if (before[i] !== gone) needlessly++
  }
  return [moved / before.length, needlessly / before.length]
}

test.each(hashes)('%s: a key has the same owner in every process, whatever the order of the list', (hash) => {
  const list = instances(10)
  const balancer = new LoadBalancer(list, { algorithm, hash })
  const reversed = new LoadBalancer([...list].reverse(), { algorithm, hash })

  const owners = ownersOf(balancer, keys)

  expect(ownersOf(reversed, keys)).toEqual(owners)
  // Written down: another process, platform or version must not disagree.
  expect(ownersOf(balancer, ['', 'a', 'user:1', 'user:2', 'zażółć gęślą jaźń', '🦆', 'x'.repeat(1000)])).toEqual(
    (hash === 'maglev' ? [3, 6, 1, 1, 7, 9, 7] : [3, 6, 7, 9, 0, 1, 5]).map((i) => `instance-${i}`),
  )
})

test.each(hashes)('%s: every one of ten instances owns about a tenth of the keys', (hash) => {
  const counts = countsOf(ownersOf(new LoadBalancer(instances(10), { algorithm, hash }), keys))

  expect(counts.size).toBe(10)
  for (const count of counts.values()) expect(Math.abs(count / keys.length - 0.1)).toBeLessThan(0.015)
})

test.each(hashes)('%s: keys spread by weight, fractional and huge weights too', (hash) => {
  for (const factor of [1, 0.01, 1e6, 1e300]) {
    const list = [
      { id: 'a', weight: 5 * factor },
      { id: 'b', weight: 1 * factor },
      { id: 'c', weight: 4 * factor },
    ]

    const counts = countsOf(ownersOf(new LoadBalancer(list, { algorithm, hash }), keys))

    expect(Math.abs((counts.get('a') ?? 0) / keys.length - 0.5)).toBeLessThan(0.04)
    expect(Math.abs((counts.get('b') ?? 0) / keys.length - 0.1)).toBeLessThan(0.04)
    expect(Math.abs((counts.get('c') ?? 0) / keys.length - 0.4)).toBeLessThan(0.04)
  }
})

test.each(['instance-', '10.0.0.', 'node'])(
  'ring: when one of ten %s leaves, 8 to 12 %% of keys move, and none whose owner stays',
  async (prefix) => {
    const all = instances(10, prefix)
    const list = new ChangingList(all, { algorithm, hash: 'ring' })
    await list.balancer.start()
    const before = ownersOf(list.balancer, keys)

    for (const { id } of all) {
      await list.change(all.filter((instance) => instance.id !== id))
      const [moved, needlessly] = movedShares(before, ownersOf(list.balancer, keys), id)

      expect(moved).toBeGreaterThan(0.08)
      expect(moved).toBeLessThan(0.12)
      expect(needlessly).toBe(0)
    }
    await list.change(all)
    expect(ownersOf(list.balancer, keys)).toEqual(before)
    await list.close()
  },
)

test.each(['instance-', '10.0.0.', 'node'])(
  'maglev: when one of ten %s leaves, at most 1 %% of keys move whose owner stays',
  async (prefix) => {
    const all = instances(10, prefix)
    const list = new ChangingList(all, { algorithm, hash: 'maglev' })
    await list.balancer.start()
    const before = ownersOf(list.balancer, keys)

    for (const { id } of all) {
      await list.change(all.filter((instance) => instance.id !== id))
      const [moved, needlessly] = movedShares(before, ownersOf(list.balancer, keys), id)

      expect(moved).toBeGreaterThan(0.08)
      expect(moved).toBeLessThan(0.12)
      expect(needlessly).toBeLessThanOrEqual(0.01)
    }
    await list.change(all)
    expect(ownersOf(list.balancer, keys)).toEqual(before)
    await list.close()
  },
)

test('ring: when one of several weights leaves or changes, no key moves but from or to it', async () => {
  const all = [
    { id: 'a', weight: 5 },
    { id: 'b', weight: 1 },
    { id: 'c', weight: 2.5 },
    { id: 'd', weight: 10 },
  ]
  const list = new ChangingList(all, { algorithm, hash: 'ring' })
  await list.balancer.start()
  const before = ownersOf(list.balancer, keys)

  for (const { id } of all) {
    await list.change(all.filter((instance) => instance.id !== id))
    const after = ownersOf(list.balancer, keys)
    expect(after.filter((owner, i) => owner !== before[i] && before[i] !== id)).toEqual([])

    await list.change(all.map((instance) => (instance.id === id ? { id, weight: instance.weight / 2 } : instance)))
    const lighter = ownersOf(list.balancer, keys)
    expect(lighter.filter((owner, i) => owner !== before[i] && before[i] !== id)).toEqual([])
    expect(lighter).not.toEqual(before)
  }
  await list.close()
})

test.each(hashes)(
  '%s: an unhealthy instance gives away its own keys, and has them back once it is well',
  async (hash) => {
    const clock = new FakeClock()
    let ill = false
    const balancer = new LoadBalancer(instances(10), {
      algorithm,
      hash,
      clock,
      health: { check: ({ id }) => !(ill && id === 'instance-3'), intervalMs: 1000, rise: 1, fall: 1 },
    })
    await balancer.start()
    await clock.advance(1000)
    const before = ownersOf(balancer, keys)

    ill = true
    await clock.advance(2000)
    const without = ownersOf(balancer, keys)
    ill = false
    await clock.advance(2000)
    const after = ownersOf(balancer, keys)

    const [moved, needlessly] = movedShares(before, without, 'instance-3')
    expect(without).not.toContain('instance-3')
    expect(moved).toBeLessThan(0.12)
    expect(needlessly).toBeLessThanOrEqual(hash === 'ring' ? 0 : 0.01)
    expect(after).toEqual(before)
    await balancer.close()
  },
)

test.each(hashes)('%s: slow start moves no keys', async (hash) => {
  const all = instances(5)
  const list = new ChangingList(all.slice(1), { algorithm, hash, slowStartMs: 10_000 })
  await list.balancer.start()
  ownersOf(list.balancer, keys)

  await list.change(all)
  const atFirst = ownersOf(list.balancer, keys)
  await list.clock.advance(10_000)
  const atLast = ownersOf(list.balancer, keys)

  expect(atFirst).toEqual(ownersOf(new LoadBalancer(all, { algorithm, hash }), keys))
  expect(atLast).toEqual(atFirst)
  await list.close()
})

test.each(hashes)(
  '%s: an excluded owner is stood in for by the same other one each time, and not by one alone',
  (hash) => {
    const balancer = new LoadBalancer(instances(10), { algorithm, hash })
    const again = new LoadBalancer(instances(10).reverse(), { algorithm, hash })
    const standIns = new Set<string>()

    for (const [i, owner] of ownersOf(balancer, keys.slice(0, 2000)).entries()) {
      const options = { key: keys[i] as string, exclude: new Set([owner]) }
      const { id } = balancer.pick(options).instance

      expect(id).not.toBe(owner)
      expect(again.pick(options).instance.id).toBe(id)
      if (owner === 'instance-0') standIns.add(id)
      // And with that one excluded too, there is a third.
      expect([owner, id]).not.toContain(balancer.pick({ ...options, exclude: new Set([owner, id]) }).instance.id)
    }

    expect(standIns.size).toBe(9)
  },
)

test('ring: who stands in for an excluded owner is who owns the key once that one is gone', () => {
  const all = instances(10)
  const balancer = new LoadBalancer(all, { algorithm, hash: 'ring' })
  const without = new LoadBalancer(all.slice(1), { algorithm, hash: 'ring' })
  const exclude = new Set(['instance-0'])

  const standIns = keys.map((key) => balancer.pick({ key, exclude }).instance.id)

  expect(standIns).toEqual(ownersOf(without, keys))
})

test.each(hashes)('%s: with all but one excluded it is that one, with all excluded there is none', (hash) => {
  const balancer = new LoadBalancer([...instances(10), { id: 'light', weight: 1e-9 }], { algorithm, hash })
  const exclude = new Set(instances(10).map(({ id }) => id))

  expect(balancer.pick({ key: 'k', exclude }).instance.id).toBe('light')
  expect(() => balancer.pick({ key: 'k', exclude: new Set([...exclude, 'light']) })).toThrow(
    expect.objectContaining({ code: 'ERR_NO_INSTANCE' }),
  )
})

test.each(hashes)('%s: picks without a key go round robin', (hash) => {
  const balancer = new LoadBalancer(instances(3, ''), { algorithm, hash })

  expect(pickedIds(balancer, 6).join('')).toBe('012012')
  expect(balancer.pick({ exclude: new Set(['0', '1']) }).instance.id).toBe('2')
  expect(pickedIds(balancer, 3).join('')).toBe('012')
})

test.each(hashes)('%s: keys follow a list that empties and fills again', async (hash) => {
  const list = new ChangingList(instances(3), { algorithm, hash })
  await list.balancer.start()
  const before = ownersOf(list.balancer, keys.slice(0, 100))

  await list.change([])
  await list.change([])
  expect(() => list.balancer.pick({ key: 'k' })).toThrow(expect.objectContaining({ code: 'ERR_NO_INSTANCE' }))
  await list.change(instances(3))

  expect(ownersOf(list.balancer, keys.slice(0, 100))).toEqual(before)
  await list.close()
})
