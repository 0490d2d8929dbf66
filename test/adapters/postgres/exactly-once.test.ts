import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { AsyncBatcher, AsyncWriteBuffer, type CounterIncrement } from 'spillway'
import { createPostgresPool, PostgresCounterStore } from 'spillway/postgres'
import { seededRandom } from 'spillway/testing'
import { afterAll, describe, expect, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { readyForQuery, TcpProxy } from '../../servers/tcp-proxy.ts'
import { until } from './until.ts'

const server = await startPostgres(undefined, { own: true })
const opened: { close(): Promise<unknown> }[] = []
const unhandled: unknown[] = []
const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
process.on('unhandledRejection', onUnhandled)

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
const fresh = (): string => randomUUID()

describe.skipIf(server === undefined)('exactly once', () => {
  test('eight writers on keys that overlap: no deadlock reaches anyone, and the sums are exact', async () => {
    const prefix = fresh()
    const key = (n: number): string => `${prefix}:${n}`
    const stores = Array.from({ length: 8 }, () => new PostgresCounterStore(makePool()))
    await stores[0]?.createSchema()
    const until = performance.now() + 3000
    const expected = new Map<string, number>()

    await Promise.all(
      stores.map(async (store, writer) => {
        const random = seededRandom(`writer ${writer}`)
        while (performance.now() < until) {
          const increments = Array.from({ length: 60 }, () => ({
            key: key(Math.floor(random() * 100)),
            delta: Math.floor(random() * 9) - 4,
          }))
          const context = { batchId: randomUUID(), attempt: 1, signal: new AbortController().signal }
          if (random() < 0.5) await store.increment(increments, context)
          else await store.add(summed(increments), context)
          for (const { key, delta } of increments) expected.set(key, (expected.get(key) ?? 0) + delta)
        }
      }),
    )

    const keys = [...expected.keys()]
    expect(await stores[0]?.getMany(keys)).toEqual([...expected.values()])
    for (const store of stores) expect(store.stats()).toMatchObject({ failed: 0, repeated: 0 })
  })

  test('a connection cut after COMMIT: AsyncBatcher tries again under the id, and each counts once', async () => {
    const proxy = await TcpProxy.start(Number(new URL(server?.url ?? '').port))
    const store = new PostgresCounterStore(makePool(proxy.port))
    await store.createSchema()
    const key = fresh()
    await using batcher = new AsyncBatcher<CounterIncrement, number>(
      (items, context) => store.increment(items, context),
      {
        idempotent: store.idempotent,
        retry: { attempts: 5, delayMs: 1 },
      },
    )

    const answers: number[] = []
    for (let round = 0; round < 5; round++) {
      proxy.cutOnce({ request: (chunk) => chunk.includes(key), answer: readyForQuery })
      answers.push(...(await Promise.all([1, 2, 3].map(() => batcher.add({ key, delta: 1 })))))
    }

    expect(proxy.cuts).toBe(5)
    expect(answers).toEqual(Array.from({ length: 15 }, (_, i) => i + 1))
    expect(await store.getMany([key])).toEqual([15])
    expect(store.stats()).toMatchObject({ repeated: 5, failed: 5 })
    await proxy.stop()
  })

  test('the same for AsyncWriteBuffer, and for batches near the limit', async () => {
    const proxy = await TcpProxy.start(Number(new URL(server?.url ?? '').port))
    const store = new PostgresCounterStore(makePool(proxy.port))
    const key = fresh()
    const refused: unknown[] = []
    await using buffer = new AsyncWriteBuffer<string, number>(
      async (sums, context) => {
        refused.push(...(await store.add(sums, context)))
      },
      { merge: (a, b) => a + b, idempotent: store.idempotent, retry: { attempts: 5, delayMs: 1 } },
    )
    proxy.cutOnce({ request: (chunk) => chunk.includes(key), answer: readyForQuery })

    for (let i = 0; i < 10; i++) buffer.put(key, 1)
    expect(await buffer.flush()).toMatchObject({ succeeded: 10, failed: 0 })

    expect([proxy.cuts, refused]).toEqual([1, []])
    expect(await store.getMany([key])).toEqual([10])

    const full = fresh()
    const context = { batchId: randomUUID(), attempt: 1, signal: new AbortController().signal }
    const increments = [Number.MAX_SAFE_INTEGER, 1, -1].map((delta) => ({ key: full, delta }))
    proxy.cutOnce({ request: (chunk) => chunk.includes('COMMIT'), answer: readyForQuery })
    await expect(store.increment(increments, context)).rejects.toMatchObject({ outcomeUnknown: true })
    const again = await store.increment(increments, { ...context, attempt: 2 })
    expect([again[0], again[1] instanceof Error, again[2]]).toEqual([
      Number.MAX_SAFE_INTEGER,
      true,
      Number.MAX_SAFE_INTEGER - 1,
    ])
    expect(store.stats()).toMatchObject({ repeated: 2 })
    await proxy.stop()
  })

  test('PostgreSQL killed under load and started again: what was acknowledged is there exactly once', async () => {
    const store = new PostgresCounterStore(makePool())
    const prefix = fresh()
    const keys = Array.from({ length: 50 }, (_, n) => `${prefix}:${n}`)
    const retry = { attempts: 1000, delayMs: 20, maxDelayMs: 200 }
    const batcher = new AsyncBatcher<CounterIncrement, number>((items, context) => store.increment(items, context), {
      idempotent: store.idempotent,
      retry,
      concurrency: 3,
      maxBatchSize: 20,
    })
    const buffer = new AsyncWriteBuffer<string, number>(
      async (sums, context) => void (await store.add(sums, context)),
      {
        merge: (a, b) => a + b,
        idempotent: store.idempotent,
        retry,
        maxWaitMs: 5,
      },
    )
    let stopped = false
    let acknowledged = 0
    let put = 0
    const callers = Array.from({ length: 40 }, async (_, caller) => {
      for (let i = 0; !stopped; i++) {
        await batcher.add({ key: keys[(caller + i) % keys.length] as string, delta: 1 })
        acknowledged++
        if (buffer.put(`${prefix}:buffered`, 1)) put++
      }
    })

    for (let round = 0; round < 2; round++) {
      const before = acknowledged
      await until(() => acknowledged > before + 500)
      await server?.kill()
      await server?.restart()
    }
    const before = acknowledged
    await until(() => acknowledged > before + 500)
    stopped = true
    await Promise.all(callers)
    await batcher.close()
    await buffer.close()

    const values = await store.getMany([...keys, `${prefix}:buffered`])
    expect(values.slice(0, -1).reduce((sum, value) => sum + value, 0)).toBe(acknowledged)
    expect(values.at(-1)).toBe(put)
    expect(batcher.stats()).toMatchObject({ failed: 0 })
    expect(batcher.stats().retries).toBeGreaterThan(0)
  }, 60_000)
})

function summed(increments: readonly CounterIncrement[]): Map<string, number> {
  const sums = new Map<string, number>()
  for (const { key, delta } of increments) sums.set(key, (sums.get(key) ?? 0) + delta)
  return sums
}
