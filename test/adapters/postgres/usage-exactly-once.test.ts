import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { type AcceptedUsage, isSpillwayError, QuotaConsumer, type UsageDedupe } from 'spillway'
import {
  createPostgresPool,
  PostgresQuotaStore,
  PostgresUsageSink,
  type PostgresUsageSinkOptions,
} from 'spillway/postgres'
import { seededRandom } from 'spillway/testing'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { readyForQuery, TcpProxy } from '../../servers/tcp-proxy.ts'
import { until } from './until.ts'
import { attemptAt, batchOf, dayMs, keyOf, use, write } from './usage-databases.ts'

const server = await startPostgres(undefined, { own: true })
const opened: { close(): Promise<unknown> }[] = []
const unhandled: unknown[] = []
const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
process.on('unhandledRejection', onUnhandled)
const dedupes: readonly UsageDedupe[] = ['batch', 'event', 'request']

afterAll(async () => {
  for (const one of opened) await one.close()
  await server?.stop()
  process.off('unhandledRejection', onUnhandled)
  expect(unhandled).toEqual([])
})

const makePool = (port?: number) => {
  const url = new URL(server?.url ?? 'postgres://localhost')
  if (port !== undefined) url.port = String(port)
  const pool = createPostgresPool(pg, { maxConnections: 4, config: { connectionString: url.href } })
  opened.push(pool)
  return pool
}
const startProxy = async (): Promise<TcpProxy> => {
  const proxy = await TcpProxy.start(Number(new URL(server?.url ?? '').port))
  onTestFinished(() => proxy.stop())
  return proxy
}
const fresh = (): PostgresUsageSinkOptions => {
  const name = randomUUID().slice(0, 8)
  return { table: `usage_${name}`, batchTable: `batches_${name}`, requestTable: `requests_${name}` }
}
const used = async (sink: PostgresUsageSink, event: AcceptedUsage): Promise<number | undefined> =>
  (await sink.readTotals([keyOf(event)]))[0]?.value

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  return items
    .map((item) => ({ item, order: random() }))
    .sort((a, b) => a.order - b.order)
    .map(({ item }) => item)
}

describe.skipIf(server === undefined)('exactly once', () => {
  test.each(dedupes)(
    'a connection cut after COMMIT: the consumer tries again, and each counts once, by %s',
    async (dedupe) => {
      const proxy = await startProxy()
      const sink = new PostgresUsageSink(makePool(proxy.port), { ...fresh(), dedupe })
      await sink.createSchema()
      const userId = randomUUID()
      const failures: unknown[] = []
      await using usage = new QuotaConsumer(sink, { periodOf: () => 'total', retry: { attempts: 5, delayMs: 1 } })
      usage.on('retried', ({ error }) => void failures.push(error))

      for (let round = 0; round < 5; round++) {
        proxy.cutOnce({ request: (chunk) => chunk.includes(userId), answer: readyForQuery })
        for (let i = 0; i < 3; i++) {
          usage.offer({ userId, quotaType: 'calls', value: 10 ** i, requestId: `${round}/${i}` })
        }
        expect(await usage.flush()).toMatchObject({ succeeded: 3, failed: 0 })
      }

      expect(proxy.cuts).toBe(5)
      expect(failures).toHaveLength(5)
      for (const error of failures) {
        expect(isSpillwayError(error, 'ERR_STORE')).toBe(true)
        expect(error).toMatchObject({ outcomeUnknown: true, retryable: true })
      }
      expect(await used(sink, use(0, { userId }))).toBe(5 * 111)
      expect(sink.stats()).toMatchObject({ applied: 0, repeated: 5, failed: 5 })
    },
  )

  test('the same where a sum is refused, and the rest is written in a transaction', async () => {
    const proxy = await startProxy()
    const sink = new PostgresUsageSink(makePool(proxy.port), { ...fresh(), dedupe: 'request' })
    await sink.createSchema()
    await write(sink, [use(Number.MAX_SAFE_INTEGER)])
    const batch = batchOf([use(1, { requestId: 'a' }), use(2, { requestId: 'b', userId: 'bob' })])
    proxy.cutOnce({ request: (chunk) => chunk.includes('COMMIT'), answer: readyForQuery })

    await expect(sink.write(batch, attemptAt(batch))).rejects.toMatchObject({ outcomeUnknown: true })
    const again = await sink.write(batch, attemptAt(batch))

    expect(again.map(({ index }) => index)).toEqual([0])
    expect(await used(sink, use(0, { userId: 'bob' }))).toBe(2)
    expect(sink.stats()).toMatchObject({ applied: 1, repeated: 1, failed: 1 })
  })

  test('what a quota store was asked is asked again under its id after a cut, and counts once', async () => {
    const proxy = await startProxy()
    const store = new PostgresQuotaStore(makePool(proxy.port), {
      ...fresh(),
      holdTable: `holds_${randomUUID().slice(0, 8)}`,
    })
    await store.createSchema()
    const key = { userId: randomUUID(), quotaType: 'calls', period: 'total' }
    const claim = { ...key, value: 3, limit: 10, id: randomUUID(), ttlMs: 60_000 }
    const hold = { ...claim, id: randomUUID() }
    const kept = { ...claim, id: randomUUID() }
    // The key has its row, so that each of these is one statement.
    await store.consume({ ...claim, value: 0, id: 'first' })
    const cut = async (id: string, call: () => Promise<unknown>): Promise<void> => {
      proxy.cutOnce({ request: (chunk) => chunk.includes(id), answer: readyForQuery })
      await expect(call()).rejects.toMatchObject({ code: 'ERR_STORE', outcomeUnknown: true })
    }

    await cut(claim.id, () => store.consume(claim))
    expect(await store.consume(claim)).toEqual({ status: 'repeated', used: 3, held: 0 })
    await cut(hold.id, () => store.reserve(hold))
    expect(await store.reserve(hold)).toMatchObject({ status: 'repeated', used: 3, held: 3 })
    await cut(hold.id, () => store.settle(hold.id, 2))
    expect(await store.settle(hold.id, 2)).toMatchObject({ status: 'repeated', usage: { used: 5, held: 0 } })
    await store.reserve(kept)
    await cut(kept.id, () => store.release(kept.id))
    await store.release(kept.id)

    expect(await store.readUsage([key])).toEqual([{ used: 5, held: 0 }])
    expect(proxy.cuts).toBe(4)
    expect(store.stats()).toMatchObject({ consumed: 1, settled: 0, claimsFailed: 4 })
  })

  test('12 redeliveries at once, shuffled, over midnight, on connections that break all the time', async () => {
    const proxy = await startProxy()
    const tables = fresh()
    const sinks = [1, 2, 3, 4].map(() => new PostgresUsageSink(makePool(proxy.port), { ...tables, dedupe: 'request' }))
    await sinks[0]?.createSchema()
    const random = seededRandom('redelivered')
    const midnight = Math.floor(Date.now() / dayMs) * dayMs
    const events = Array.from({ length: 120 }, (_, i) => {
      const timestamp = midnight + (i % 3) - 1
      return use(1 + i, { userId: `u${i % 7}`, requestId: `r${i}`, timestamp, period: `2026-0${1 + (i % 2)}` })
    })
    const cutting = setInterval(() => proxy.cutAll(), 150)
    onTestFinished(() => clearInterval(cutting))

    await Promise.all(
      Array.from({ length: 12 }, async (_, delivery) => {
        const order = shuffled([...events, ...events.slice(0, 20)], random)
        while (order.length > 0) {
          const batch = batchOf(order.splice(0, 1 + Math.floor(random() * 25)))
          for (let done = false; !done; ) {
            const outcome = await sinks[delivery % 4]?.write(batch, attemptAt(batch)).catch((error: unknown) => error)
            if (outcome instanceof Error) expect(outcome).toMatchObject({ code: 'ERR_STORE', retryable: true })
            else {
              expect(outcome).toEqual([])
              done = true
            }
          }
        }
      }),
    )
    clearInterval(cutting)

    const expected = new Map<string, { value: number; count: number }>()
    for (const event of events) {
      const name = JSON.stringify(keyOf(event))
      const { value, count } = expected.get(name) ?? { value: 0, count: 0 }
      expected.set(name, { value: value + event.value, count: count + 1 })
    }
    const direct = new PostgresUsageSink(makePool(), tables)
    const totals = await direct.readTotals([...expected.keys()].map((name) => JSON.parse(name)))
    expect(totals.map(({ value, count }) => ({ value, count }))).toEqual([...expected.values()])
  }, 60_000)

  test('PostgreSQL killed under load and started again: each request that was accepted counts once', async () => {
    const sink = new PostgresUsageSink(makePool(), { ...fresh(), dedupe: 'request' })
    await sink.createSchema()
    const usage = new QuotaConsumer(sink, {
      dedupe: 'request',
      periodOf: () => 'total',
      maxBatchSize: 20,
      maxWaitMs: 5,
      retry: { attempts: 1000, delayMs: 20, maxDelayMs: 200 },
    })
    let accepted = 0
    let stopped = false
    const publishers = Array.from({ length: 10 }, async (_, publisher) => {
      for (let i = 0; !stopped; i++) {
        // Each request twice, in batches of their own or in one.
        const event = { userId: `u${(i >> 1) % 5}`, quotaType: 'calls', value: 1, requestId: `${publisher}/${i >> 1}` }
        await usage.publish(event)
        if (i % 2 === 0) accepted++
        if (i % 50 === 49) await new Promise((resolve) => setTimeout(resolve, 5))
      }
    })

    for (let round = 0; round < 2; round++) {
      const before = usage.stats().processedEvents
      await until(() => usage.stats().processedEvents > before + 500, 30_000)
      await server?.kill()
      await server?.restart()
    }
    const before = usage.stats().processedEvents
    await until(() => usage.stats().processedEvents > before + 500, 30_000)
    stopped = true
    await Promise.all(publishers)
    await usage.close()

    const users = [0, 1, 2, 3, 4].map((n) => use(0, { userId: `u${n}` }))
    const totals = await sink.readTotals(users.map(keyOf))
    expect(totals.reduce((sum, { value }) => sum + value, 0)).toBe(accepted)
    expect(usage.stats()).toMatchObject({ failedEvents: 0, refusedEvents: 0 })
    expect(usage.stats().retries).toBeGreaterThan(0)
  }, 90_000)
})
