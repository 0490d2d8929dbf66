// Usage published in some processes and accounted in others, through a stream in the Redis at REDIS_URL. Without one, consumers in this
// process take the stream's place.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { Redis } from 'ioredis'
import { isSpillwayError, MemoryQuotaStore, QuotaConsumer } from 'spillway'
import { RedisUsageStream, RedisUsageWorker } from 'spillway/redis'

const url = process.env['REDIS_URL']
const redis = url === undefined ? undefined : new Redis(url)
const prefix = `usage:${randomUUID()}`
const store = new MemoryQuotaStore({ dedupe: 'event' }) // in a service: a PostgresUsageSink

// Two processes that serve requests. Each only publishes.
const publishers = [1, 2].map(() => {
  return redis === undefined ? new QuotaConsumer(store, { maxWaitMs: 5 }) : new RedisUsageStream(redis, { prefix })
})

// Two processes that account. They share the events, and what one of them leaves the other takes over.
const workers: RedisUsageWorker[] = []
if (redis !== undefined) {
  for (const consumer of ['w1', 'w2']) {
    const worker = new RedisUsageWorker(new RedisUsageStream(redis, { prefix }), store, { consumer })
    worker.on('writeFailed', ({ next, error }) => console.error(next, error))
    await worker.start()
    workers.push(worker)
  }
}

// A request counts once publish has resolved: from then on Redis has it.
const requests = Array.from({ length: 1000 }, (_, i) =>
  publishers[i % 2]?.publish({ userId: 'ann', quotaType: 'api', value: 2 }),
)
await Promise.all(requests)

// What is wrong is refused at once, and names the field.
const wrong = publishers[0]?.publish({ userId: 'ann', quotaType: 'api', value: -1 })
await assert.rejects(wrong as Promise<void>, (error) => isSpillwayError(error, 'ERR_INVALID_EVENT'))

for (const publisher of publishers) await publisher.close()
const period = new Date().toISOString().slice(0, 7)
const read = async () => (await store.readUsage([{ userId: 'ann', quotaType: 'api', period }]))[0]?.used
for (const until = Date.now() + 20_000; (await read()) !== 2000 && Date.now() < until; ) {
  await new Promise((resolve) => setTimeout(resolve, 10))
}
console.log('accounted', await read())
assert.equal(await read(), 2000)

for (const worker of workers) {
  console.log(await worker.close({ timeoutMs: 10_000 }), worker.stats().applied)
}
redis?.disconnect()
