import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, describe, expect, test } from 'vitest'
import type { Acknowledgement } from '../../examples/counter-billing/counter/counters.ts'
import { startPostgres } from '../servers/postgres.ts'
import { startRedis } from '../servers/redis.ts'
import { during, expectStoredOnce } from './exactly-once.ts'
import type { LoadOutcome } from './load-client.ts'
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

  const expectExactlyOnce = (outcome: LoadOutcome, where: readonly ('live' | 'durable')[]): Promise<void> =>
    expectStoredOnce(outcome, where, env)

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
