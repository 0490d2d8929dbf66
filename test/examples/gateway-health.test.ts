import { setTimeout as delay } from 'node:timers/promises'
import { MemoryCounterStore } from 'spillway/testing'
import { Agent, request } from 'undici'
import { describe, expect, onTestFinished, test } from 'vitest'
import { startClient } from './counter-client.ts'
import { startProcess } from './processes.ts'
import { incrementHead, rawConnection } from './raw-http.ts'

const newStores = () => ({ live: new MemoryCounterStore(), durable: new MemoryCounterStore() })

/** A store that fails to read while it is down. */
function switched() {
  const store = new MemoryCounterStore()
  const state = { down: false }
  const getMany = store.getMany.bind(store)
  store.getMany = (keys) => (state.down ? Promise.reject(new Error('it is down')) : getMany(keys))
  return Object.assign(state, { store })
}

describe('a gateway', () => {
  test('is ready while its stores answer, says which part doesn’t, and lives all the same', async () => {
    const [live, durable] = [switched(), switched()]
    const { get } = await startClient({ live: live.store, durable: durable.store })
    const ready = async () => (await get('/readyz')).status

    expect((await get('/readyz')).body).toEqual({
      ...{ status: 'ready', parts: { durable: 'ok', live: 'ok' } },
      ...{ lost: 0, notLive: 0 },
    })
    live.down = true
    await expect.poll(ready, { timeout: 20_000 }).toBe(503)
    const { headers, body } = await get('/readyz')
    expect(body).toMatchObject({ code: 'not_ready', parts: { durable: 'ok', live: expect.stringContaining('down') } })
    expect(headers.get('cache-control')).toBe('no-store')
    expect((await get('/healthz')).body).toMatchObject({ status: 'ok' })

    live.down = false
    await expect.poll(ready, { timeout: 20_000 }).toBe(200)
  })

  test('is asked as often as one likes, and asks its stores once a second', async () => {
    const { get, service } = await startClient(newStores())

    await Promise.all(Array.from({ length: 50 }, () => get('/readyz')))

    expect(service.counters.durableReads.stats().offered).toBeLessThanOrEqual(5)
  })

  test('says that it shuts down before it stops to listen, and answers until then', async () => {
    const { get, increment, service } = await startClient(newStores(), { api: { drainMs: 1_500 } })
    expect((await get('/readyz')).status).toBe(200)

    const closed = service.close()
    const [ready, healthy, written] = [await get('/readyz'), await get('/healthz'), await increment('a')]

    expect([ready.status, ready.body.closing]).toEqual([503, true])
    expect([healthy.status, written.status]).toEqual([200, 202])
    for (const { headers } of [ready, healthy, written]) expect(headers.get('connection')).toBe('close')
    await closed
    await expect(get('/healthz')).rejects.toThrow()
    expect(service.counters.durableWrites.stats().succeeded).toBe(1)
  })

  test('answers the request that it is reading when it stops to listen', async () => {
    const { service } = await startClient(newStores())
    const body = JSON.stringify({ resource_id: 'a', counter_type: 'like' })
    const connection = rawConnection(service.url, incrementHead(body.length))
    await delay(50)

    const closed = service.close()
    await expect
      .poll(() =>
        fetch(`${service.url}/healthz`).then(
          () => 'open',
          () => 'closed',
        ),
      )
      .toBe('closed')
    connection.socket.write(body)

    expect(await connection.closed).toMatch(/^HTTP\/1\.1 202 /)
    await closed
    expect(service.counters.durableWrites.stats().succeeded).toBe(1)
  })
})

test('SIGTERM under load loses no increment that was answered', { timeout: 120_000 }, async () => {
  const { startPostgres } = await import('../servers/postgres.ts')
  const postgres = await startPostgres()
  if (postgres === undefined) return
  onTestFinished(() => postgres.stop())
  const env = { DATABASE_URL: postgres.url, REDIS_URL: '', CONSUL_HTTP_ADDR: '', AUTH_URL: '' }
  const flags = ['--port', '0', '--grpc-port', '0', '--billing-port', '0']
  const service = await startProcess(flags, env)
  const agent = new Agent({ connections: 20 })
  const answered = new Map<string, number>()
  let ended = false
  const client = async (index: number): Promise<void> => {
    const resource_id = `sigterm-${index}`
    while (!ended) {
      const body = JSON.stringify({ resource_id, counter_type: 'like' })
      const answer = await request(`${service.url}/api/v1/counter/increment`, {
        ...{ method: 'POST', body, dispatcher: agent, headers: { 'content-type': 'application/json' } },
      }).catch(() => undefined)
      if (answer === undefined) return
      await answer.body.dump()
      if (answer.statusCode === 202) answered.set(resource_id, (answered.get(resource_id) ?? 0) + 1)
    }
  }
  const readyz = async (): Promise<number> => (await fetch(`${service.url}/readyz`)).status
  expect(await readyz()).toBe(200)
  const load = Promise.all(Array.from({ length: 20 }, (_, index) => client(index)))
  await expect.poll(() => answered.size, { timeout: 30_000 }).toBe(20)

  const end = service.end('SIGTERM')
  // Those who look whether it is ready learn it while it still answers.
  await expect.poll(readyz, { timeout: 10_000, interval: 20 }).toBe(503)
  expect(await end).toBe('SIGTERM')
  ended = true
  await load
  await agent.close()

  const again = await startProcess(flags, env)
  const stored = await Promise.all(
    [...answered.keys()].map(async (id) => {
      const response = await fetch(`${again.url}/api/v1/counter/${id}/like?source=durable`)
      return [id, ((await response.json()) as { value: number }).value] as const
    }),
  )
  for (const [id, value] of stored) expect(value).toBeGreaterThanOrEqual(answered.get(id) as number)
  const sum = (counts: Iterable<number>): number => [...counts].reduce((total, count) => total + count, 0)
  // One that broke off on each connection may have counted without an answer.
  expect(sum(stored.map(([, value]) => value)) - sum(answered.values())).toBeLessThanOrEqual(20)
})
