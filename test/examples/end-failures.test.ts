import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, describe, expect, test } from 'vitest'
import { startPostgres } from '../servers/postgres.ts'
import { startRedis } from '../servers/redis.ts'
import { during, expectStoredOnce } from './exactly-once.ts'
import { startProcess } from './processes.ts'

const postgres = await startPostgres(undefined, { own: true })
const redis = await startRedis({ own: true, appendonly: true, appendfsync: 'always' })

afterAll(async () => {
  await redis?.stop()
  await postgres?.stop()
})

describe.skipIf(postgres === undefined || redis === undefined)('a gateway that is ended while a store restarts', () => {
  const env = { DATABASE_URL: postgres?.url ?? '', REDIS_URL: redis?.url ?? '', CONSUL_HTTP_ADDR: '', AUTH_URL: '' }
  const stores = { PostgreSQL: postgres, Redis: redis }

  test.each(['PostgreSQL', 'Redis'] as const)(
    'writes what it had accepted once %s is back',
    { timeout: 180_000 },
    async (name) => {
      const store = stores[name]
      const startCounters = () => startProcess(['--role', 'counters', '--grpc-port', '0'], env)
      const services = await Promise.all([startCounters(), startCounters()])
      const counters = services.map(({ url }) => url).join(',')
      const gateway = await startProcess(['--role', 'gateway', '--port', '0', '--counters', counters], env)

      const outcome = await during(gateway, 'accepted', async () => {
        await store?.kill()
        await delay(300)
        const ended = gateway.end('SIGTERM')
        await delay(1_000)
        await store?.restart()
        await ended
      })

      expect(gateway.log()).not.toMatch(/LOST|fell behind/)
      await expectStoredOnce(outcome, ['durable', 'live'], env)
    },
  )
})
