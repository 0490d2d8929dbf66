import { setTimeout as delay } from 'node:timers/promises'
import { MemoryCounterStore } from 'spillway/testing'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { startCounterService, startGateway } from '../../examples/counter-billing/service.ts'
import { startConsul } from '../servers/consul.ts'
import { startPostgres } from '../servers/postgres.ts'
import { startRedis } from '../servers/redis.ts'
import { during, expectStoredOnce } from './exactly-once.ts'
import { type ServiceProcess, startProcess } from './processes.ts'

const postgres = await startPostgres()
const redis = await startRedis()
const consul = await startConsul()

afterAll(async () => {
  await consul?.stop()
  await redis?.stop()
  await postgres?.stop()
})

const servers = { DATABASE_URL: postgres?.url ?? '', REDIS_URL: redis?.url ?? '' }
// Without a Consul, whatever the environment of the tests names.
const withoutConsul = { ...servers, CONSUL_HTTP_ADDR: '' }

const startServices = (count: number, env: Readonly<Record<string, string>>): Promise<ServiceProcess[]> =>
  Promise.all(Array.from({ length: count }, () => startProcess(['--role', 'counters', '--grpc-port', '0'], env)))

/** Calls that each counter service of a gateway was given. */
async function callsOf(gateway: ServiceProcess): Promise<Map<string, number>> {
  const response = await fetch(`${gateway.url}/stats`)
  const { services } = (await response.json()) as { services: { instances: { id: string; calls: number }[] } }
  return new Map(services.instances.map(({ id, calls }) => [id, calls]))
}

describe.skipIf(consul === undefined)('a gateway that asks Consul', () => {
  test('before there is any counter service waits for the first one', async () => {
    const at = { consul: consul?.address ?? '' }
    const log = (): void => undefined
    const starting = startGateway({ counters: { at, warmUpMs: 60_000 }, ports: [0], log })
    const failure = starting.then(() => undefined, String)
    await Promise.race([failure, delay(300)])

    const stores = { live: new MemoryCounterStore(), durable: new MemoryCounterStore() }
    const service = await startCounterService({ ...stores, port: 0, consul: at.consul, log })
    onTestFinished(() => service.close())

    expect(await failure).toBeUndefined()
    const gateway = await starting
    onTestFinished(() => gateway.close())
    expect(await gateway.counters.commit({ key: 'a', delta: 1 })).toBe(1)
  })
})

describe.skipIf(postgres === undefined || redis === undefined)('a gateway over three counter services', () => {
  test('kill -9 of one under load: every increment is answered, and counted exactly once', async () => {
    const services = await startServices(3, withoutConsul)
    const list = services.map(({ url }) => url).join(',')
    const gateway = await startProcess(['--role', 'gateway', '--port', '0', '--counters', list], withoutConsul)

    const outcome = await during(gateway, 'committed', async () => {
      await services[0]?.end('SIGKILL')
      await delay(1_500)
    })
    const calls = await callsOf(gateway)
    await gateway.end('SIGTERM')

    expect(outcome.unknown).toEqual([])
    expect(outcome.refused).toEqual([])
    expect([...calls.keys()].sort()).toEqual(services.map(({ url }) => url).sort())
    expect(Math.min(...calls.values())).toBeGreaterThan(0)
    await expectStoredOnce(outcome, ['durable', 'live'], servers)
  })

  test('a counter service without stores of its own uses those of another one', async () => {
    const [owner] = await startServices(1, withoutConsul)
    const flags = ['--role', 'counters', '--grpc-port', '0', '--stores', owner?.url ?? '']
    const front = await startProcess(flags, withoutConsul)
    const gateway = await startProcess(['--role', 'gateway', '--port', '0', '--counters', front.url], withoutConsul)

    const outcome = await during(gateway, 'committed', () => delay(200))
    await gateway.end('SIGTERM')

    await expectStoredOnce(outcome, ['durable', 'live'], servers)
  })

  test.skipIf(consul === undefined)('Consul tells of those that come and of those that are gone', async () => {
    const env = { ...servers, CONSUL_HTTP_ADDR: consul?.address ?? '' }
    const [first] = await startServices(1, env)
    const gateway = await startProcess(['--role', 'gateway', '--port', '0'], env)

    const outcome = await during(gateway, 'committed', async () => {
      await startServices(2, env)
      await expect.poll(async () => (await callsOf(gateway)).size, { timeout: 10_000, interval: 100 }).toBe(3)
      await first?.end('SIGTERM')
      await expect.poll(async () => (await callsOf(gateway)).size, { timeout: 10_000, interval: 100 }).toBe(2)
    })
    await gateway.end('SIGTERM')

    expect(outcome.unknown).toEqual([])
    expect(outcome.refused).toEqual([])
    await expectStoredOnce(outcome, ['durable', 'live'], servers)
  })
})
