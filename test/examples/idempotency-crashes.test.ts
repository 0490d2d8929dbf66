import { setTimeout as delay } from 'node:timers/promises'
import { Agent, request } from 'undici'
import { describe, expect, onTestFinished, test } from 'vitest'
import { openStores } from '../../examples/counter-billing/counter/stores.ts'
import { startPostgres } from '../servers/postgres.ts'
import { startRedis } from '../servers/redis.ts'
import { startProcess } from './processes.ts'

const [postgres, redis] = [await startPostgres(), await startRedis()]
const clients = 12
const patienceMs = 120_000

describe.runIf(postgres !== undefined && redis !== undefined)('writes under keys', { timeout: 300_000 }, () => {
  test('count once each, though the gateway that they went to is killed, and others send them again', async () => {
    const servers = { databaseUrl: postgres?.url, redisUrl: redis?.url }
    onTestFinished(async () => {
      await postgres?.stop()
      await redis?.stop()
    })
    const env = { DATABASE_URL: postgres?.url ?? '', REDIS_URL: redis?.url ?? '', CONSUL_HTTP_ADDR: '', AUTH_URL: '' }
    const flags = ['--port', '0', '--grpc-port', '0', '--billing-port', '0']
    const [victim, other] = [await startProcess(flags, env), await startProcess(flags, env)]
    const agent = new Agent({ connections: clients })
    const deadline = Date.now() + patienceMs
    const acks = ['accepted', 'redis', 'committed']
    const answered: { id: string; status: number; sent: number }[] = []
    let killed = false

    /** Sends a write until it is answered, to the other gateway once the first one has failed. */
    const write = async (id: string, ack: string): Promise<void> => {
      for (let sent = 1; Date.now() < deadline; sent++) {
        const url = killed || sent > 1 ? other.url : victim.url
        const answer = await request(`${url}/api/v1/counter/increment`, {
          ...{
            method: 'POST',
            dispatcher: agent,
            body: JSON.stringify({ resource_id: id, counter_type: 'like', ack }),
          },
          headers: { 'content-type': 'application/json', 'idempotency-key': `key-of-${id}` },
        }).catch(() => undefined)
        await answer?.body.dump()
        if (answer !== undefined && answer.statusCode < 300) {
          answered.push({ id, status: answer.statusCode, sent })
          return
        }
        await delay(100)
      }
    }
    const client = async (index: number): Promise<void> => {
      for (let n = 0; n < 25; n++) await write(`keyed-${index}-${n}`, acks[n % acks.length] as string)
    }

    const load = Promise.all(Array.from({ length: clients }, (_, index) => client(index)))
    await expect.poll(() => answered.length, { timeout: 60_000, interval: 5 }).toBeGreaterThan(clients * 3)
    await victim.end('SIGKILL')
    killed = true
    await load
    await agent.close()
    await other.end('SIGTERM')

    const stores = await openStores(servers)
    onTestFinished(() => stores.close())
    const keys = answered.map(({ id }) => `${id}:like`)
    expect(answered).toHaveLength(clients * 25)
    expect(new Set(await stores.durable.getMany(keys))).toEqual(new Set([1]))
    // The gateway that was killed may have owed some of them to the live store.
    for (const value of await stores.live.getMany(keys)) expect([0, 1]).toContain(value)
    // Some were under way when it was killed.
    expect(Math.max(...answered.map(({ sent }) => sent))).toBeGreaterThan(1)
  })
})
