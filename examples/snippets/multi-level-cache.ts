// A cache in two processes: one load for many callers, a delete that a slow load can't undo, and a source that fails.
import assert from 'node:assert/strict'
import { MultiLevelCache } from 'spillway'
import { FakeClock, MemoryCacheStore, MemoryInvalidationBus } from 'spillway/testing'

const clock = new FakeClock() // minutes pass in no time; leave it out in a service
const shared = { l2: new MemoryCacheStore({ clock }), bus: new MemoryInvalidationBus({ clock }) } // those of Redis in a service
const process = () =>
  new MultiLevelCache<{ price: number }>({ clock, ...shared, ttlMs: 60_000, serveStaleOnErrorMs: 3_600_000 })
const [one, other] = [process(), process()]

let price = 10
let queries = 0
let down = false
async function query(): Promise<{ price: number }> {
  queries++
  const product = { price } // read now …
  await new Promise<void>((resolve) => clock.setTimer(resolve, 50)) // … and slow to answer
  if (down) throw new Error('the database is down')
  return product
}
const read = (cache: typeof one) => cache.getOrLoad('dam', query, { tags: ['shop:north'] })

// A hundred callers at once are one query, and the other process needs none.
const callers = Promise.all(Array.from({ length: 100 }, () => read(one)))
await clock.advance(50)
assert.equal((await callers).length, 100)
assert.deepEqual(await read(other), { price: 10 })
console.log('queries:', queries)
assert.equal(queries, 1)

// The price changes while the old one is being loaded: whoever asked before gets that, and nobody after.
await one.invalidateTags(['shop:north'])
await clock.advance(0) // the other process hears of it
const early = read(other)
await clock.advance(10)
price = 12
await one.delete('dam')
await clock.advance(50)
assert.equal((await early).price, 10)
assert.equal(other.peek('dam'), undefined)
const late = read(other)
await clock.advance(50)
console.log('after the delete:', await late)
assert.equal((await late).price, 12)

// The database fails: the old price for an hour rather than none, and an attempt every thirty seconds.
down = true
await clock.advance(60_000)
const served = read(other)
await clock.advance(50)
console.log('while the database is down:', await served)
assert.deepEqual([await served, await read(other)], [await late, await late])

const { hits, stale, loaded } = other.stats().reads
console.log({ hits, stale, loaded, queries })
assert.deepEqual([hits, stale, loaded, queries], [{ l1: 0, l2: 1 }, 2, 2, 4])
for (const cache of [one, other]) await cache.close()
