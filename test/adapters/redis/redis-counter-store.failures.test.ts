import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { createClient } from 'redis'
import { AsyncBatcher, type BatchContext, type CounterIncrement, isSpillwayError, type StoreError } from 'spillway'
import { RedisCounterStore } from 'spillway/redis'
import { afterAll, describe, expect, test, vi } from 'vitest'
import { freePort } from '../../servers/free-port.ts'
import { startRedis } from '../../servers/redis.ts'
import { cleanUp, tidyUp } from '../grpc/support/tidy.ts'
import { singleClients } from './clients.ts'
import { type CuttingProxy, startCuttingProxy } from './cutting-proxy.ts'

const server = await startRedis({ own: true, appendonly: true, appendfsync: 'always' })
afterAll(() => server?.stop())
tidyUp()

const never = new AbortController().signal
const batch = (signal = never): BatchContext => ({ batchId: randomUUID(), attempt: 1, signal })
const one = [{ key: 'a', delta: 1 }]
const owned = <C extends { disconnect(): void }>(client: C): C => {
  cleanUp(() => client.disconnect())
  return client
}
const direct = (): Redis => owned(new Redis(server?.url as string))
const errorOf = (promise: PromiseLike<unknown>): Promise<StoreError> =>
  Promise.resolve(promise).then(
    () => {
      throw new Error('it succeeded')
    },
    (error) => error,
  )

describe.skipIf(server === undefined)('RedisCounterStore when things go wrong', () => {
  test.each(Object.entries(singleClients))('%s: a server that forgot its scripts gets them again', async (_, open) => {
    const { client, close } = await open(server?.url as string)
    cleanUp(close)
    const store = new RedisCounterStore(client, { prefix: randomUUID() })
    await store.increment(one, batch())

    await direct().script('FLUSH')

    expect(await store.increment(one, batch())).toEqual([2])
  })

  const kinds = ['ioredis', 'ioredis without resending', 'ioredis that gives up at once', 'node-redis'] as const
  describe.each(kinds)('%s, the answer lost', (kind) => {
    const open = async (proxy: CuttingProxy) => {
      if (kind !== 'node-redis') {
        const options = {
          ioredis: {},
          // It forgets what was in flight then: only a time-out ends that.
          'ioredis without resending': { autoResendUnfulfilledCommands: false, commandTimeout: 300 },
          'ioredis that gives up at once': { maxRetriesPerRequest: 0 },
        }[kind]
        const client = owned(new Redis(proxy.port, '127.0.0.1', options))
        client.on('error', () => undefined)
        return client
      }
      const client = createClient({ url: `redis://127.0.0.1:${proxy.port}` })
      client.on('error', () => undefined)
      await client.connect()
      cleanUp(() => client.destroy())
      return client
    }

    test('a connection cut after the script ran: the batch sent again counts once', async () => {
      const proxy = await startCuttingProxy(server?.port as number)
      cleanUp(() => proxy.close())
      const store = new RedisCounterStore(await open(proxy), { prefix: randomUUID() })
      await store.increment(one, batch())
      const context = batch()
      const errors: StoreError[] = []

      proxy.cutNextAnswer()
      let answers: readonly (number | Error)[] | undefined
      for (let attempt = 1; answers === undefined && attempt < 20; attempt++) {
        try {
          answers = await store.increment(one, { ...context, attempt })
        } catch (error) {
          errors.push(error as StoreError)
        }
      }

      expect(answers).toEqual([2])
      expect(await store.getMany(['a'])).toEqual([2])
      expect(proxy.cuts).toBe(1)
      // A client that sends again by itself hides the loss: the id alone keeps it from counting twice.
      expect(errors.length).toBe(kind === 'ioredis' ? 0 : 1)
      for (const error of errors)
        expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: true })
    })
  })

  test('kill -9 of Redis under load, appendonly: each increment counts once', async () => {
    const client = direct()
    client.on('error', () => undefined)
    const store = new RedisCounterStore(client, { prefix: randomUUID() })
    const batcher = new AsyncBatcher<CounterIncrement, number>(
      (increments, context) => store.increment(increments, context),
      { idempotent: store.idempotent, maxBatchSize: 20, retry: { attempts: 50, delayMs: 50, maxDelayMs: 200 } },
    )
    cleanUp(() => batcher.close({ timeoutMs: 0 }))
    const adds: Promise<number>[] = []
    for (let i = 0; i < 2000; i++) {
      adds.push(batcher.add({ key: `k${i % 7}`, delta: 1 }))
      if (i % 20 === 19) await delay(1)
      if (i === 700) await server?.kill()
      if (i === 1400) await server?.restart()
    }

    const values = await Promise.all(adds)

    const totals = await store.getMany([0, 1, 2, 3, 4, 5, 6].map((i) => `k${i}`))
    expect(totals.reduce((sum, value) => sum + value, 0)).toBe(2000)
    // Each counter's answers are 1, 2, 3 … once each: nothing was counted twice in between.
    for (let k = 0; k < 7; k++) {
      const mine = values.filter((_, i) => i % 7 === k).sort((a, b) => a - b)
      expect(mine).toEqual(mine.map((_, i) => i + 1))
    }
  })

  test('a server that nobody reaches was sent nothing; a client that was closed will not come back', async () => {
    const refused = owned(
      new Redis(await freePort(), '127.0.0.1', { enableOfflineQueue: false, retryStrategy: null as never }),
    )
    refused.on('error', () => undefined)
    const ended = new Redis(server?.url as string)
    ended.disconnect()
    const unopened = createClient({ url: server?.url as string })

    const errors = await Promise.all(
      [refused, ended, unopened].map((client) => errorOf(new RedisCounterStore(client).increment(one, batch()))),
    )

    expect(errors.map(({ code, outcomeUnknown }) => [code, outcomeUnknown])).toEqual(
      Array(3).fill(['ERR_STORE', false]),
    )
    expect(errors[2]).toMatchObject({ retryable: false })
  })

  test('a replica or a full server refuses the batch whole, and says that nothing was done', async () => {
    const admin = direct()
    const store = new RedisCounterStore(admin, { prefix: randomUUID() })
    await store.increment(one, batch())

    await admin.config('SET', 'maxmemory', '1')
    const full = await errorOf(store.increment(one, batch()))
    await admin.config('SET', 'maxmemory', '0')
    await admin.replicaof('127.0.0.1', String(await freePort()))
    const readonly = await errorOf(store.increment(one, batch()))
    await admin.replicaof('NO', 'ONE')

    expect([full, readonly].map(({ message }) => /OOM|READONLY/.exec(message)?.[0])).toEqual(['OOM', 'READONLY'])
    for (const error of [full, readonly]) expect(error).toMatchObject({ retryable: true, outcomeUnknown: false })
    expect(await store.getMany(['a'])).toEqual([1])
  })

  test('a key that holds something else is refused alone, and the refusal is remembered', async () => {
    const client = direct()
    const prefix = randomUUID()
    const store = new RedisCounterStore(client, { prefix })
    await client.rpush(`{${prefix}:0}:c:list`, 'x')
    await client.set(`{${prefix}:0}:c:text`, 'x')
    await client.set(`{${prefix}:0}:c:huge`, '9223372036854775807')
    const increments = ['list', 'a', 'text', 'huge', 'a'].map((key) => ({ key, delta: 1 }))
    const context = batch()

    for (const attempt of [1, 2]) {
      const answers = await store.increment(increments, { ...context, attempt })
      expect([answers[1], answers[4]]).toEqual([1, 2])
      for (const i of [0, 2, 3]) expect(answers[i]).toMatchObject({ code: 'ERR_STORE', retryable: false })
    }

    const refused = await store.add(new Map(increments.map(({ key, delta }) => [key, delta])), batch())
    expect(refused.map(({ key }) => key)).toEqual(['list', 'text', 'huge'])
    expect(String(refused[0]?.error)).toContain('holds something that is no whole number')
    expect(await client.get(`{${prefix}:0}:c:huge`)).toBe('9223372036854775807')
    await expect(store.getMany(['text'])).rejects.toMatchObject({ code: 'ERR_STORE', retryable: false })
  })

  test('an abort rejects at once with its reason, and leaves no listener behind', async () => {
    const proxy = await startCuttingProxy(server?.port as number)
    cleanUp(() => proxy.close())
    const store = new RedisCounterStore(owned(new Redis(proxy.port, '127.0.0.1')), { prefix: randomUUID() })
    await store.increment(one, batch())
    const controller = new AbortController()
    const { signal } = controller
    const add = vi.spyOn(signal, 'addEventListener')
    const remove = vi.spyOn(signal, 'removeEventListener')
    const listeners = (): number => add.mock.calls.length - remove.mock.calls.length
    await store.increment(one, batch(signal))
    expect(listeners()).toBe(0)

    proxy.hold()
    const pending = store.increment(one, batch(signal))
    expect(listeners()).toBe(1)
    controller.abort(new Error('enough'))

    await expect(pending).rejects.toThrow('enough')
    expect(listeners()).toBe(0)
  })

  test('ids are remembered up to rememberBatches, the oldest goes first, and all go after batchMemoryMs', async () => {
    const client = direct()
    const prefix = randomUUID()
    const store = new RedisCounterStore(client, { prefix, rememberBatches: 10, batchMemoryMs: 300 })
    const contexts = Array.from({ length: 50 }, () => batch())
    for (const context of contexts) await store.increment(one, context)

    const kept = (await client.keys(`{${prefix}:0}:b:*`)).map((key) => key.split(':').at(-1))
    expect(kept.sort()).toEqual(
      contexts
        .slice(-10)
        .map(({ batchId }) => batchId)
        .sort(),
    )
    expect(await client.llen(`{${prefix}:0}:ids`)).toBe(10)
    // Without its id, a batch is a new one.
    expect(await store.increment(one, contexts[49] as BatchContext)).toEqual([50])
    expect(await store.increment(one, contexts[0] as BatchContext)).toEqual([51])

    const smaller = new RedisCounterStore(client, { prefix, rememberBatches: 4, batchMemoryMs: 300 })
    for (let i = 0; i < 4; i++) await smaller.increment(one, batch())
    expect(await client.llen(`{${prefix}:0}:ids`)).toBe(4)

    const deadline = performance.now() + 5000
    const left = async (): Promise<number> => (await client.keys(`{${prefix}:0}:[bi]*`)).length
    while ((await left()) > 0 && performance.now() < deadline) await delay(20)
    expect(await left()).toBe(0)
  })

  test('an id that comes with other increments is told from a retry', async () => {
    const store = new RedisCounterStore(direct(), { prefix: randomUUID() })
    const context = batch()
    await store.increment(one, context)

    const error = await errorOf(store.increment([...one, ...one], context))

    expect(isSpillwayError(error, 'ERR_STORE')).toBe(true)
    expect(error).toMatchObject({ retryable: false, outcomeUnknown: false })
    expect(await store.getMany(['a'])).toEqual([1])
  })

  test('a client with a keyPrefix of its own works', async () => {
    const keyPrefix = `${randomUUID()}/`
    const store = new RedisCounterStore(owned(new Redis(server?.url as string, { keyPrefix })), { rememberBatches: 2 })
    for (let i = 0; i < 5; i++) await store.increment(one, batch())

    expect(await store.getMany(['a'])).toEqual([5])
    expect((await direct().keys(`${keyPrefix}*`)).length).toBe(5) // layout, ids, a, two batches
  })

  test('eight writers on overlapping keys lose nothing', async () => {
    const prefix = randomUUID()
    const stores = Array.from({ length: 8 }, () => new RedisCounterStore(direct(), { prefix }))

    await Promise.all(
      stores.map(async (store, writer) => {
        for (let round = 0; round < 50; round++) {
          await store.add(new Map(Array.from({ length: 20 }, (_, i) => [`k${(i * 3 + writer) % 40}`, i + 1])), batch())
        }
      }),
    )

    const values = await stores[0]?.getMany(Array.from({ length: 40 }, (_, i) => `k${i}`))
    expect(values?.reduce((sum, value) => sum + value, 0)).toBe(8 * 50 * 210)
  })
})
