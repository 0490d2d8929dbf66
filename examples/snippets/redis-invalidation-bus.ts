// Caches of several processes tell each other what is no longer true, over the Redis at REDIS_URL. Without one, a bus in memory takes its
// place.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { RedisInvalidationBus } from 'spillway/redis'
import { MemoryInvalidationBus } from 'spillway/testing'

const url = process.env['REDIS_URL']
const redis = url === undefined ? undefined : new Redis(url)
const channel = `invalidations:${randomUUID()}`
const memory = new MemoryInvalidationBus()

/** What each process does: it keeps what it has read, until it hears that it is no longer true. */
function start() {
  const bus = redis === undefined ? memory : new RedisInvalidationBus(redis, { channel })
  const kept = new Map<string, string>()
  let gaps = 0
  const link = bus.connect({
    onInvalidations: (all) => {
      for (const one of all) if (one.kind === 'key') kept.delete(one.key)
    },
    // Something may have been missed, so nothing that is kept can be relied on. The first one says that it hears.
    onGap: () => {
      gaps++
      kept.clear()
    },
  })
  return { bus, link, kept, hears: () => gaps > 0 }
}
const [one, other] = [start(), start()]
while (!(one.hears() && other.hears())) await delay(5)

for (const { kept } of [one, other]) kept.set('users:42', 'Ann').set('users:43', 'Bob')

// Whoever writes tells the others. Nobody waits for it.
one.kept.set('users:42', 'Anne')
one.link.publish([{ kind: 'key', key: 'users:42' }])
await one.link.flush()
while (other.kept.has('users:42')) await delay(5)

console.log({ one: [...one.kept.values()], other: [...other.kept.values()] })
assert.deepEqual([...one.kept.values()], ['Anne', 'Bob'])
assert.deepEqual([...other.kept.values()], ['Bob'])

for (const { link, bus } of [one, other]) {
  link.close()
  if (bus instanceof RedisInvalidationBus) await bus.close()
}
redis?.disconnect()
