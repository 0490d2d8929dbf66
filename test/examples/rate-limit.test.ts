import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { get, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Fastify from 'fastify'
import type { Redis } from 'ioredis'
import { MemoryCounterStore } from 'spillway/testing'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { newKey } from '../../examples/counter-billing/auth/api-key.ts'
import { connectRedis } from '../../examples/counter-billing/counter/stores.ts'
import type { ApiOptions } from '../../examples/counter-billing/http/api-options.ts'
import { answerErrors } from '../../examples/counter-billing/http/error-answers.ts'
import { limitRates } from '../../examples/counter-billing/http/rate-limit.ts'
import { RequestCounts } from '../../examples/counter-billing/http/request-counts.ts'
import { startRedis } from '../servers/redis.ts'
import { startAuth } from './auth-client.ts'
import { type Client, startClient } from './counter-client.ts'

const redis = await startRedis()

afterAll(async () => redis?.stop())

const newStores = () => ({ live: new MemoryCounterStore(), durable: new MemoryCounterStore() })
// A window that no test sees the end of.
const windowMs = 86_400_000
const counter = '/api/v1/counter/a/like'
const start = (api: ApiOptions): Promise<Client> => startClient(newStores(), { api })

describe('a gateway', () => {
  test('refuses what a caller sends too much, and says when there is more', async () => {
    const client = await start({ rateLimit: { maxRequests: 3, windowMs } })

    // An increment tells what is left once half of it is used.
    const answers = [await client.increment('a'), await client.get(counter), await client.get('/api/v1/nothing')]
    const last = await client.increment('a')
    const refused = await client.increment('a')

    expect(answers.map(({ status }) => status)).toEqual([202, 200, 404])
    expect(answers.map(({ headers }) => headers.get('ratelimit-remaining'))).toEqual([null, '1', null])
    expect([last.status, last.headers.get('ratelimit-remaining')]).toEqual([202, '0'])
    expect([refused.status, refused.body.code, refused.body.applied]).toEqual([429, 'rate_limited', 'no'])
    expect(refused.body.limit).toBe(3)
    const reset = Number(refused.headers.get('ratelimit-reset'))
    expect([refused.headers.get('retry-after'), refused.body.retry_after]).toEqual([String(reset), reset])
    expect(reset).toBeGreaterThan(0)
    await client.service.counters.flush()
    expect(client.service.counters.durableWrites.stats().offered).toBe(2)
  })

  test('always answers whether it lives and is ready', async () => {
    const client = await start({ rateLimit: { maxRequests: 1, windowMs } })
    await client.get(counter)
    expect((await client.get(counter)).status).toBe(429)

    const open = ['/healthz', '/readyz', '/openapi.json']

    expect(await Promise.all(open.map(async (path) => (await client.get(path)).status))).toEqual([200, 200, 200])
  })

  test('counts each key and each service by itself, a key by its own limit', async () => {
    const auth = await startAuth()
    const [few, many, second] = [newKey(), newKey(), newKey()]
    const keyOf = ({ id, sha256 }: typeof few, userId: string, maxRequests?: number) => {
      return { id, sha256, userId, scopes: ['counters:read'], maxRequests }
    }
    const api = {
      rateLimit: { maxRequests: 2, windowMs },
      apiKeys: { keys: [keyOf(few, 'ann', 1), keyOf(many, 'bob'), keyOf(second, 'ann')] },
    }
    const { service } = await startClient(newStores(), { api, auth: auth.client('gateway') })
    const statuses = async (headers: Record<string, string>): Promise<number[]> => {
      const all: number[] = []
      for (let n = 0; n < 3; n++) all.push((await fetch(service.url + counter, { headers })).status)
      return all
    }

    expect(await statuses({ 'x-api-key': few.key })).toEqual([200, 429, 429])
    expect(await statuses({ 'x-api-key': many.key })).toEqual([200, 200, 429])
    // What one of a user's keys has used up, another one hasn't.
    expect(await statuses({ 'x-api-key': second.key })).toEqual([200, 200, 429])
    const token = await auth.token('load-generator', 'gateway')
    expect(await statuses({ authorization: `Bearer ${token}` })).toEqual([200, 200, 429])
    expect(await statuses({})).toEqual([200, 200, 429])
  })

  test('takes the address from a proxy that it trusts, and from nobody else', async () => {
    const rateLimit = { maxRequests: 1, windowMs }
    const [trusting, doubting] = [await start({ rateLimit, trustedProxies: ['127.0.0.1'] }), await start({ rateLimit })]
    const ask = async ({ service }: Client, from: string): Promise<number> =>
      (await fetch(service.url + counter, { headers: { 'x-forwarded-for': from } })).status

    expect([await ask(trusting, '192.0.2.1'), await ask(trusting, '192.0.2.2')]).toEqual([200, 200])
    expect([await ask(doubting, '192.0.2.1'), await ask(doubting, '192.0.2.2')]).toEqual([200, 429])
  })

  test('has who tries many credentials wait', async () => {
    const auth = await startAuth()
    const api = { rateLimit: { maxRequests: 300, windowMs } }
    const { service } = await startClient(newStores(), { api, auth: auth.client('gateway') })
    const statuses: number[] = []

    for (let n = 0; n < 5; n++) {
      const headers = { authorization: `Bearer wrong-${n}` }
      statuses.push((await fetch(service.url + counter, { headers })).status)
    }

    expect(statuses).toEqual([401, 401, 401, 429, 429])
  })

  test('counts who has no address, too, as one whose connection has gone', async () => {
    const app = Fastify()
    onTestFinished(() => app.close())
    answerErrors(app, () => undefined)
    await limitRates(app, { maxRequests: 2, windowMs }, new RequestCounts(windowMs, undefined, () => undefined))
    app.get('/hot', { config: { isHot: true } }, () => 'hot')
    app.get('/cold', () => 'cold')
    const folder = mkdtempSync(join(tmpdir(), 'rate-limit-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const socketPath = join(folder, 'socket')
    await app.listen({ path: socketPath })

    const ask = async (path: string): Promise<number | undefined> => {
      const [response] = (await once(get({ socketPath, path }), 'response')) as [IncomingMessage]
      response.resume()
      return response.statusCode
    }

    expect([await ask('/hot'), await ask('/cold'), await ask('/hot')]).toEqual([200, 200, 429])
  })

  test('limits nobody where that is said', async () => {
    const client = await start({ rateLimit: false })

    expect((await client.get(counter)).headers.get('ratelimit-limit')).toBeNull()
  })
})

describe.runIf(redis !== undefined)('gateways with a Redis', () => {
  test('count together, and each for itself while it is away', { timeout: 60_000 }, async () => {
    const { url } = redis as NonNullable<typeof redis>
    const log: string[] = []
    const connections = [await connectRedis(url), await connectRedis(url)]
    const counts = connections.map(
      (connection) => new RequestCounts(windowMs, connection, (level, message) => log.push(`${level} ${message}`)),
    )
    onTestFinished(async () => {
      for (const one of counts) await one.telling?.close()
      for (const connection of connections) connection.disconnect()
    })
    const [one, two] = counts as [RequestCounts, RequestCounts]

    for (let n = 0; n < 5; n++) one.count('ann')
    for (let n = 0; n < 7; n++) two.count('ann')
    two.count('bob')
    await one.telling?.flush()
    await two.telling?.flush()
    await expect.poll(() => two.count('ann').current, { timeout: 20_000 }).toBeGreaterThanOrEqual(13)
    await two.telling?.flush()
    one.count('ann')
    await one.telling?.flush()

    expect(one.count('ann').current).toBeGreaterThanOrEqual(14)
    expect(one.count('bob').current).toBe(1)
    connections[0]?.disconnect()
    const before = one.count('ann').current
    await one.telling?.flush().catch(() => undefined)

    expect(one.count('ann').current).toBe(before + 1)
    await expect.poll(() => one.stats().failures, { timeout: 20_000 }).toBeGreaterThan(0)
    expect(log.filter((line) => line.startsWith('warn gateways count requests each for itself'))).toHaveLength(1)
  })

  test('count nothing twice that Redis took without saying so in time', { timeout: 60_000 }, async () => {
    const { url } = redis as NonNullable<typeof redis>
    const impatient = { redis: { commandTimeoutMs: 200 } }
    const connections = [await connectRedis(url, impatient), await connectRedis(url), await connectRedis(url)]
    const [mine, others, operator] = connections as [Redis, Redis, Redis]
    const [one, two] = [mine, others].map((connection) => new RequestCounts(windowMs, connection, () => undefined)) as [
      RequestCounts,
      RequestCounts,
    ]
    onTestFinished(async () => {
      for (const counts of [one, two]) await counts.telling?.close()
      for (const connection of connections) connection.disconnect()
    })
    const sum = async (): Promise<number> => {
      two.count('carl')
      await two.telling?.flush()
      return two.count('carl').current
    }
    await operator.call('CLIENT', 'PAUSE', '1000', 'WRITE')

    for (let n = 0; n < 10; n++) one.count('carl')
    await one.telling?.flush()
    expect(one.stats().failures).toBe(1)
    // Redis is back, and has been told by now.
    await operator.set('carl', '')
    for (let n = 0; n < 10; n++) one.count('carl')
    await one.telling?.flush()

    expect(one.count('carl').current).toBe(21)
    await one.telling?.flush()
    expect(await sum()).toBe(23)
  })
})
