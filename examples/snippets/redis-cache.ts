// A cache whose second tier is Redis: at REDIS_URL if that is set, else in memory, where it behaves the same.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { Redis } from 'ioredis'
import { isSpillwayError, MultiLevelCache } from 'spillway'
import { jsonSerializer, RedisCacheStore } from 'spillway/redis'
import { MemoryCacheStore } from 'spillway/testing'

interface User {
  readonly name: string
  readonly visits: number
}
const url = process.env['REDIS_URL']
const redis = url === undefined ? undefined : new Redis(url)
const memory = new MemoryCacheStore()
const prefix = `example:${randomUUID()}`

/** What each process of a fleet does. Without a bus, what one deletes is in the others' memory for `l1.ttlMs` at the most: here not at all. */
function join() {
  const l2 = redis === undefined ? memory : new RedisCacheStore(redis, { prefix, compression: { minBytes: 4096 } })
  return new MultiLevelCache<User>({ l2, namespace: 'users', ttlMs: 60_000, l1: { ttlMs: 1 } })
}
const [one, other] = [join(), join()]
let loads = 0
const load = async (key: string): Promise<User> => ({ name: key, visits: ++loads })

// What one process has loaded, the others read, once it is written: callers don't wait for that.
const ann = await one.getOrLoad('ann', load)
await one.flush()
const same = await other.getOrLoad('ann', load)
console.log(`loaded ${loads} time: ${JSON.stringify(same)}`)
assert.deepEqual([loads, same], [1, ann])

// A write wins over a load that began before it, in whichever process.
await one.getOrLoad('bob', async (key) => {
  await other.set('bob', { name: 'written meanwhile', visits: 0 })
  return load(key)
})
await one.flush()
const stored = await join().get('bob')
console.log(`stored: ${stored?.name}`)
assert.equal(stored?.name, 'written meanwhile')

// What JSON would change is refused, with the way to it, before anything is written.
try {
  jsonSerializer.encode({ user: { seen: [new Date(0)] } })
  assert.fail('it must be refused')
} catch (error) {
  assert(isSpillwayError(error, 'ERR_OPTION'))
  console.log(error.message)
}

await Promise.all([one.close(), other.close()])
redis?.disconnect()
