// One of several processes does a job, and what it writes to refuses one that wakes up too late, by its fencing token. With the Redis at
// REDIS_URL; without one, a lock of this process takes its place.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { Redis } from 'ioredis'
import { RedisLock } from 'spillway/redis'

const url = process.env['REDIS_URL']
const redis = url === undefined ? undefined : new Redis(url)
const name = `report:${randomUUID()}`

/** Without a Redis: the same for one process. */
class LocalLock {
  static readonly held = new Set<string>()
  static token = 0
  async acquire(what: string) {
    if (LocalLock.held.has(what)) return undefined
    LocalLock.held.add(what)
    const { signal } = new AbortController()
    return { token: ++LocalLock.token, signal, release: async () => LocalLock.held.delete(what) }
  }
}
const processes = [1, 2, 3].map(() => (redis === undefined ? new LocalLock() : new RedisLock(redis, { ttlMs: 5000 })))

/** Where the report is kept. It takes nothing from an owner older than the latest that it has seen. */
const store = { token: 0, report: '' }
function save(report: string, token: number): boolean {
  if (token < store.token) return false
  Object.assign(store, { token, report })
  return true
}

// All of them try at once, and one gets it. The lease extends itself while the work goes on.
const leases = await Promise.all(processes.map((lock) => lock.acquire(name)))
const [lease] = leases.filter((one) => one !== undefined)
assert.ok(lease)
console.log(`${leases.filter((one) => one !== undefined).length} of ${processes.length} makes the report`)
assert.equal(leases.filter((one) => one !== undefined).length, 1)
if (!lease.signal.aborted) assert.ok(save('made by the first', lease.token))

// Here the first one falls asleep for long: its lease ends, and another one takes over.
await lease.release()
const next = await processes[1]?.acquire(name)
assert.ok(next)
assert.ok(next.token > lease.token)
assert.ok(save('made by the second', next.token))

// Now the first one wakes up, and doesn't know yet that it has lost the lock.
const late = save('made by the first, late', lease.token)
console.log({ late, report: store.report })
assert.deepEqual([late, store.report], [false, 'made by the second'])

await next.release()
redis?.disconnect()
