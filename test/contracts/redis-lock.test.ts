import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { type RedisClient, RedisLock } from 'spillway/redis'
import { loadLockContract } from 'spillway/testing'
import { afterAll, describe, test } from 'vitest'
import { type OpenClient, singleClients } from '../adapters/redis/clients.ts'
import { startRedis } from '../servers/redis.ts'

const server = await startRedis()

afterAll(() => server?.stop())

for (const [name, open] of Object.entries(singleClients)) {
  describe.skipIf(server === undefined)(`RedisLock keeps the contract of load locks, with ${name}`, () => {
    const prefix = `test:${randomUUID()}`
    const leaseMs = 300
    let opened: Promise<OpenClient> | undefined
    const client = async (): Promise<RedisClient> => {
      opened ??= open(server?.url ?? '')
      return (await opened).client
    }
    afterAll(async () => (await opened)?.close())

    const options = { prefix, pollMs: 2, maxPollMs: 20 }
    const harness = {
      open: async () => new RedisLock(await client(), options),
      // Nothing extends its leases, as nothing does those of a process that has died.
      openLeasing: async () => new RedisLock(await client(), { ...options, extend: false, ttlMs: leaseMs }),
      elapse: (ms: number) => delay(ms),
      leaseMs,
    }
    for (const { name: sentence, run } of loadLockContract(harness)) test(sentence, { timeout: 40_000 }, run)
  })
}
