import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, describe, expect, test } from 'vitest'
import type { Acknowledgement } from '../../examples/counter-billing/counters.ts'
import { openStores } from '../../examples/counter-billing/stores.ts'
import { startPostgres } from '../servers/postgres.ts'
import { startRedis } from '../servers/redis.ts'
import { type LoadOutcome, load } from './load-client.ts'
import { type ServiceProcess, startProcess } from './processes.ts'

const postgres = await startPostgres()
// Redis itself keeps everything that it acknowledged only so.
const redis = await startRedis({ appendonly: true, appendfsync: 'always' })
const canKill = postgres?.kill !== undefined && redis?.kill !== undefined

afterAll(async () => {
  await redis?.stop()
  await postgres?.stop()
})

const acknowledgements: Acknowledgement[] = ['accepted', 'redis', 'committed']

describe.skipIf(!canKill)('the gateway and the counter service, in processes of their own', () => {
  const env = { DATABASE_URL: postgres?.url ?? '', REDIS_URL: redis?.url ?? '' }
  const startService = (port = '0'): Promise<ServiceProcess> =>
    startProcess(['--role', 'counters', '--grpc-port', port], env)
  const startGateway = (counters: string): Promise<ServiceProcess> =>
    startProcess(['--role', 'gateway', '--port', '0', '--counters', counters], env)

  /** Drives a load, does something meanwhile, and returns what became of the increments. */
  const during = async (
    gateway: ServiceProcess,
    acknowledgement: Acknowledgement,
    meanwhile: () => Promise<unknown>,
  ): Promise<LoadOutcome> => {
    const stop = new AbortController()
    const prefix = `${acknowledgement}-${randomUUID()}-`
    const { url } = gateway
    const running = load({ url, acknowledgement, clients: 16, prefix, signal: stop.signal, maxRequests: 100_000 })
    await delay(500)
    await meanwhile()
    stop.abort()
    return running
  }

  /** Compares what was answered with what each store holds. */
  const expectExactlyOnce = async (outcome: LoadOutcome, where: ('live' | 'durable')[]): Promise<void> => {
    const stores = await openStores({ databaseUrl: env.DATABASE_URL, redisUrl: env.REDIS_URL })
    try {
      for (const store of where) {
        const values = (resources: readonly string[]): PromiseLike<readonly number[]> =>
          stores[store].getMany(resources.map((resource) => `${resource}:like`))
        const notOnce = (await values(outcome.acknowledged)).filter((value) => value !== 1).length
        const tooOften = (await values(outcome.unknown)).filter((value) => value > 1).length
        const counted = (await values(outcome.refused)).filter((value) => value !== 0).length
        expect({ store, notOnce, tooOften, counted }).toEqual({ store, notOnce: 0, tooOften: 0, counted: 0 })
      }
    } finally {
      await stores.close()
    }
    expect(outcome.acknowledged.length).toBeGreaterThan(100)
  }

  test.each(acknowledgements)(
    'SIGTERM to the gateway under load loses nothing that was %s',
    async (acknowledgement) => {
      const service = await startService()
      const gateway = await startGateway(service.url)

      const outcome = await during(gateway, acknowledgement, () => gateway.end('SIGTERM'))

      expect(gateway.child.signalCode).toBe('SIGTERM')
      await expectExactlyOnce(outcome, ['durable', 'live'])
    },
  )

  test.each(acknowledgements)(
    'SIGTERM to the counter service under load, and another one in its place, loses nothing that was %s',
    async (acknowledgement) => {
      const service = await startService()
      const gateway = await startGateway(service.url)
      const port = service.url.slice(service.url.lastIndexOf(':') + 1)

      const outcome = await during(gateway, acknowledgement, async () => {
        await service.end('SIGTERM')
        await startService(port)
        await delay(1_000)
      })
      await gateway.end('SIGTERM')

      await expectExactlyOnce(outcome, ['durable', 'live'])
    },
  )

  test('kill -9 of Postgres under load: what was committed is there exactly once', async () => {
    const gateway = await startGateway((await startService()).url)

    const outcome = await during(gateway, 'committed', async () => {
      await postgres?.kill?.()
      await delay(500)
      await postgres?.restart?.()
      await delay(2_500)
    })
    await gateway.end('SIGTERM')

    await expectExactlyOnce(outcome, ['durable'])
  })

  test.each(['committed', 'redis'] as const)(
    'kill -9 of Redis under load: what was %s is in its store exactly once',
    async (acknowledgement) => {
      const gateway = await startGateway((await startService()).url)

      const outcome = await during(gateway, acknowledgement, async () => {
        await redis?.kill?.()
        await delay(500)
        await redis?.restart?.()
        await delay(2_500)
      })
      await gateway.end('SIGTERM')

      await expectExactlyOnce(outcome, ['durable', 'live'])
    },
  )

  test('kill -9 of the counter service under load: what was committed is there exactly once', async () => {
    const service = await startService()
    const gateway = await startGateway(service.url)
    const port = service.url.slice(service.url.lastIndexOf(':') + 1)

    const outcome = await during(gateway, 'committed', async () => {
      await service.end('SIGKILL')
      await startService(port)
      await delay(1_500)
    })
    await gateway.end('SIGTERM')

    await expectExactlyOnce(outcome, ['durable', 'live'])
  })
})
