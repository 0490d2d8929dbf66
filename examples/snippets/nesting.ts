// A read through all four: the cache around the batcher, around the breaker, around the balancer.
import assert from 'node:assert/strict'
import { AsyncBatcher, CircuitBreaker, isSpillwayError, LoadBalancer, MultiLevelCache, timeWindow } from 'spillway'
import { FakeClock } from 'spillway/testing'

const clock = new FakeClock() // minutes pass in no time; leave it out in a service
const down = new Set<string>()
const calls: string[] = []
async function ask(id: string, skus: readonly string[]): Promise<number[]> {
  calls.push(`${id}: ${skus.join(' ')}`)
  if (down.has(id)) throw new Error(`${id} is down`)
  return skus.map((sku) => sku.length)
}

const instances = [{ id: 'a' }, { id: 'b' }]
const balancer = new LoadBalancer(instances, { clock, ejection: { failureThreshold: 3 }, panicThreshold: 0 })
await balancer.start()
const breaker = new CircuitBreaker({ name: 'prices', clock, trip: timeWindow({ failureRate: 0.5, minimumCalls: 2 }) })
const batcher = new AsyncBatcher<string, number>(
  (skus) => breaker.execute(({ signal }) => balancer.run(({ id }) => ask(id, skus), { signal, attempts: 2 })),
  { name: 'prices', clock, keyOf: (sku) => sku },
)
const prices = new MultiLevelCache<number>({ clock, ttlMs: 60_000, serveStaleOnErrorMs: 3_600_000 })
const price = (sku: string) => clock.until(prices.getOrLoad(sku, () => batcher.add(sku)))

// Three keys, twenty readers each: one load a key, one batch, one breaker's call, one instance.
const readers = Array.from({ length: 60 }, (_, n) => price(['dam', 'gate', 'sluice'][n % 3] ?? ''))
await Promise.all(readers)
console.log(calls)
assert.deepEqual(calls, ['a: dam gate sluice'])

// One instance is down: the balancer tries the other one, and nobody further out notices.
down.add('b')
assert.equal(await price('weir'), 4)
console.log(calls.slice(1), breaker.state)
assert.deepEqual([calls.length, breaker.state], [3, 'closed'])

// All are: the breaker opens, further calls don't go out, and who has an old value gets it.
down.add('a')
await clock.advance(60_000)
assert.equal(await price('dam'), 3)
assert.equal(await price('gate'), 4)
console.log('the breaker is', breaker.state)
const refused = await price('lock').catch((error: unknown) => error)
assert.ok(isSpillwayError(refused, 'ERR_CIRCUIT_OPEN'))
console.log('new key:', refused.message)

for (const part of [prices, batcher, balancer]) await part.close()
