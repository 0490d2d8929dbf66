import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { createClient } from 'redis'
import { QuotaConsumer } from 'spillway'
import { RedisQuotaStore, type RedisQuotaStoreOptions } from 'spillway/redis'
import { afterAll, describe, expect, test, vi } from 'vitest'
import { freePort } from '../../servers/free-port.ts'
import { startRedis } from '../../servers/redis.ts'
import { cleanUp, tidyUp } from '../grpc/support/tidy.ts'
import { singleClients } from './clients.ts'
import { type CuttingProxy, startCuttingProxy } from './cutting-proxy.ts'
import { batchOf, claimOf, errorOf, holdOf, keyOf, month, use, writeTo } from './usage-batches.ts'

const server = await startRedis({ own: true, appendonly: true, appendfsync: 'always' })
afterAll(() => server?.stop())
tidyUp()

const owned = <C extends { disconnect(): void }>(client: C): C => {
  cleanUp(() => client.disconnect())
  return client
}
const direct = (): Redis => {
  const client = owned(new Redis(server?.url as string))
  client.on('error', () => undefined)
  return client
}
const proxied = async (): Promise<CuttingProxy> => {
  const proxy = await startCuttingProxy(server?.port as number)
  cleanUp(() => proxy.close())
  return proxy
}
const quotas = (options: RedisQuotaStoreOptions = {}, client = direct()): RedisQuotaStore =>
  new RedisQuotaStore(client, { prefix: randomUUID(), ...options })
const usageOf = async (store: RedisQuotaStore): Promise<[used: number, held: number]> => {
  const [usage] = await store.readUsage([keyOf()])
  return [usage?.used ?? Number.NaN, usage?.held ?? Number.NaN]
}

/** Every operation that changes something. */
const changes: Record<string, (store: RedisQuotaStore) => Promise<unknown>> = {
  write: (store) => writeTo(store, batchOf([use(1)])),
  consume: (store) => store.consume(claimOf(1, 100)),
  reserve: (store) => store.reserve(holdOf(1, 100)),
  settle: (store) => store.settle('held', 1),
  release: (store) => store.release('held'),
}

describe.skipIf(server === undefined)('RedisQuotaStore when things go wrong', () => {
  test.each(Object.entries(singleClients))('%s: a server that forgot its scripts gets them again', async (_, open) => {
    const { client, close } = await open(server?.url as string)
    cleanUp(close)
    const store = new RedisQuotaStore(client, { prefix: randomUUID() })
    const admin = direct()

    const seen: unknown[] = []
    for (const operation of [
      () => store.consume(claimOf(1, 9)),
      () => store.reserve(holdOf(2, 9, { id: 'a' })),
      () => store.settle('a', 3),
      () => store.reserve(holdOf(4, 9, { id: 'b' })),
      () => store.release('b'),
      () => writeTo(store, batchOf([use(5)])),
    ]) {
      await admin.script('FLUSH')
      seen.push(((await operation()) as { status?: string } | undefined)?.status)
      await admin.script('FLUSH')
      seen.push(...(await usageOf(store)))
    }

    expect(seen).toEqual(
      [
        ['applied', 1, 0],
        ['held', 1, 2],
        ['settled', 4, 0],
        ['held', 4, 4],
        [undefined, 4, 0],
        [undefined, 9, 0],
      ].flat(),
    )
  })

  describe.each(['ioredis', 'node-redis'])('%s, the answer lost', (kind) => {
    const open = async (proxy: CuttingProxy) => {
      if (kind === 'ioredis') {
        const client = owned(new Redis(proxy.port, '127.0.0.1'))
        client.on('error', () => undefined)
        return client
      }
      const client = createClient({ url: `redis://127.0.0.1:${proxy.port}` })
      client.on('error', () => undefined)
      await client.connect()
      cleanUp(() => client.destroy())
      return client
    }

    test('whatever was done is done once, when it is asked for again', async () => {
      const proxy = await proxied()
      const store = new RedisQuotaStore(await open(proxy), { prefix: randomUUID() })
      const errors: unknown[] = []
      // So that the server knows the scripts, and what is cut is no NOSCRIPT.
      for (const operation of Object.values(changes)) await operation(quotas())
      /** Makes the call until it answers; the first answer gets lost. */
      const insist = async <T>(call: () => PromiseLike<T>): Promise<T> => {
        proxy.cutNextAnswer()
        for (let attempt = 1; attempt < 50; attempt++) {
          try {
            return await call()
          } catch (error) {
            errors.push(error)
          }
        }
        throw new Error('no answer in 50 attempts')
      }

      const claim = claimOf(1, 100)
      const hold = holdOf(20, 100)
      const batch = batchOf([use(300)])
      expect(await insist(() => store.consume(claim))).toEqual({ status: 'repeated', used: 1, held: 0 })
      expect(await insist(() => store.reserve(hold))).toMatchObject({ status: 'repeated', used: 1, held: 20 })
      // Of settle and release the cut may hit the call that looks for the owner, which may be made again as it likes.
      expect(['settled', 'repeated']).toContain((await insist(() => store.settle(hold.id, 20))).status)
      expect(await insist(() => writeTo(store, batch))).toEqual([])
      await insist(() => store.release(hold.id))

      expect(await usageOf(store)).toEqual([321, 0])
      expect(proxy.cuts).toBe(5)
      // ioredis sends again by itself.
      expect(errors.length).toBe(kind === 'ioredis' ? 0 : 5)
      for (const error of errors) expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true })
      const changing = errors.slice(0, 2)
      for (const error of changing) expect(error).toMatchObject({ outcomeUnknown: true })
    })
  })

  test('kill -9 of Redis under load, appendonly: each event counts once', async () => {
    const client = owned(new Redis(server?.url as string, { maxRetriesPerRequest: 0 }))
    client.on('error', () => undefined)
    const store = quotas({}, client)
    const consumer = new QuotaConsumer(store, {
      maxBatchSize: 20,
      maxWaitMs: 5,
      capacity: 5000,
      retry: { attempts: 100, delayMs: 50, maxDelayMs: 200 },
      periodOf: () => 'total',
    })
    cleanUp(() => consumer.close({ timeoutMs: 0 }))
    for (let i = 0; i < 2000; i++) {
      await consumer.publish({ userId: `u${i % 7}`, quotaType: 'calls', value: 1 })
      if (i % 20 === 19) await delay(1)
      if (i === 700) await server?.kill()
      if (i === 1400) {
        // Long enough for attempts to connect that fail.
        await delay(300)
        await server?.restart()
      }
    }

    const report = await consumer.flush()

    const keys = Array.from({ length: 7 }, (_, i) => keyOf(`u${i}`, 'calls', 'total'))
    const used = (await store.readUsage(keys)).map((usage) => usage.used)
    expect(report).toMatchObject({ failed: 0, dropped: 0 })
    expect(used.reduce((sum, value) => sum + value, 0)).toBe(2000)
    expect(consumer.stats().retries).toBeGreaterThan(0)
  })

  test('a server that nobody reaches was sent nothing; a client that was closed will not come back', async () => {
    const refused = owned(
      new Redis(await freePort(), '127.0.0.1', { enableOfflineQueue: false, retryStrategy: null as never }),
    )
    refused.on('error', () => undefined)
    const ended = new Redis(server?.url as string)
    ended.disconnect()
    await vi.waitUntil(() => ended.status === 'end')
    const unopened = createClient({ url: server?.url as string })

    for (const operation of Object.values(changes)) {
      const errors = await Promise.all(
        [refused, ended, unopened].map((client) => errorOf(operation(new RedisQuotaStore(client)))),
      )
      for (const error of errors)
        expect(error, String(error)).toMatchObject({ code: 'ERR_STORE', outcomeUnknown: false })
      expect(errors[2]).toMatchObject({ retryable: false })
    }
  })

  test('a server that says nothing: what changes something has an unknown outcome, what reads has none', async () => {
    const proxy = await proxied()
    const client = owned(new Redis(proxy.port, '127.0.0.1', { commandTimeout: 500 }))
    client.on('error', () => undefined)
    const store = quotas({}, client)
    await usageOf(store)

    proxy.hold()
    const [write, consume, reserve, read] = await Promise.all(
      [
        writeTo(store, batchOf([use(1)])),
        store.consume(claimOf(1, 9)),
        store.reserve(holdOf(1, 9)),
        usageOf(store),
      ].map((call) => errorOf(call)),
    )

    for (const error of [write, consume, reserve]) {
      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: true })
    }
    expect(read).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
  })

  test('a replica, or a server without the replicas it wants, refuses everything whole', async () => {
    const admin = direct()
    const store = quotas({}, admin)
    await store.reserve(holdOf(5, 100, { id: 'held' }))

    const errors: unknown[] = []
    const tryAll = async (): Promise<void> => {
      for (const operation of Object.values(changes)) errors.push(await errorOf(operation(store)))
    }
    await admin.config('SET', 'min-replicas-to-write', '3')
    await tryAll()
    await admin.config('SET', 'min-replicas-to-write', '0')
    await admin.replicaof('127.0.0.1', String(await freePort()))
    await tryAll()
    await admin.replicaof('NO', 'ONE')

    const codes = errors.map((error) => /NOREPLICAS|READONLY/.exec(String(error))?.[0])
    expect(codes).toEqual([...Array(5).fill('NOREPLICAS'), ...Array(5).fill('READONLY')])
    for (const error of errors) expect(error).toMatchObject({ retryable: true, outcomeUnknown: false })
    expect(await usageOf(store)).toEqual([0, 5])
  })

  test('a full server takes nothing new, and lets what is held be settled and released', async () => {
    const admin = direct()
    const store = quotas({}, admin)
    for (const id of ['held', 'a', 'b']) await store.reserve(holdOf(5, 100, { id }))

    await admin.config('SET', 'maxmemory', '1')
    const errors = await Promise.all(
      [changes['write'], changes['consume'], changes['reserve']].map((operation) =>
        errorOf(operation?.(store) as Promise<unknown>),
      ),
    )
    const full = await usageOf(store)
    const settled = await store.settle('a', 7)
    await store.release('b')
    await admin.config('SET', 'maxmemory', '0')

    for (const error of errors) {
      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
      expect(error.message).toContain('OOM')
    }
    expect(full).toEqual([0, 15])
    expect(settled.status).toBe('settled')
    expect(await usageOf(store)).toEqual([7, 5])
  })

  test('a key of another type, or with a text that is no number, lets a call fail before it has changed anything', async () => {
    const client = direct()
    const names = (prefix: string): Record<string, string> => {
      const tag = `{${prefix}:quota:ann}`
      return {
        used: `${tag}:used:${month}`,
        ids: `${tag}:ids`,
        holds: `${tag}:holds`,
        held: `${tag}:held`,
        hold: `${tag}:hold:held`,
        owner: `${prefix}:quota:hold:held`,
      }
    }
    const snapshot = async (prefix: string): Promise<unknown> => {
      const keys = (await client.keys(`*${prefix}:quota*`)).sort()
      return Promise.all(keys.map(async (key) => [key, (await client.dumpBuffer(key)).toString('hex')]))
    }
    /** What each of them touches. A batch with a refused total is an answer, not an error: see below. */
    const touched: Record<string, readonly string[]> = {
      consume: ['used', 'ids', 'holds', 'held'],
      reserve: ['used', 'holds', 'held', 'hold', 'owner'],
      settle: ['used', 'holds', 'held', 'hold', 'owner'],
      release: ['holds', 'held', 'hold', 'owner'],
    }
    const reserve = (store: RedisQuotaStore) => store.reserve(holdOf(1, 100, { id: 'held' }))

    let tried = 0
    for (const [operation, keys] of Object.entries(touched)) {
      for (const key of keys) {
        const prefix = randomUUID()
        const store = quotas({ prefix }, client)
        await store.consume(claimOf(1, 100))
        // What expires now would be cleared away by the first call that may write.
        await store.reserve(holdOf(1, 100, { ttlMs: 1 }))
        if (operation !== 'reserve') await reserve(store)
        await delay(3)
        const name = names(prefix)[key] as string
        await client.del(name)
        await client.rpush(name, 'x')
        const before = await snapshot(prefix)

        const error = await errorOf(operation === 'reserve' ? reserve(store) : (changes[operation]?.(store) as never))

        expect(error, `${operation} with a wrong ${key}`).toMatchObject({
          code: 'ERR_STORE',
          retryable: false,
          outcomeUnknown: false,
        })
        expect(await snapshot(prefix), `${operation} with a wrong ${key}`).toEqual(before)
        tried++
      }
    }
    expect(tried).toBe(18)

    const prefix = randomUUID()
    const store = quotas({ prefix }, client)
    await client.hset(names(prefix)['used'] as string, 'calls', 'many')
    await expect(store.consume(claimOf(1, 9))).rejects.toMatchObject({ code: 'ERR_STORE', retryable: false })
    await expect(usageOf(store)).rejects.toMatchObject({ code: 'ERR_STORE', retryable: false })
    expect(await client.hgetall(names(prefix)['used'] as string)).toEqual({ calls: 'many' })
  })

  test.each(['batch', 'request'] as const)(
    'in a batch, told apart by %s, what lies on a wrong key is refused alone, and so again',
    async (dedupe) => {
      const client = direct()
      const prefix = randomUUID()
      const store = quotas({ prefix, dedupe }, client)
      await client.set(`{${prefix}:quota:list}:used:${month}`, 'x')
      await client.hset(`{${prefix}:quota:text}:used:${month}`, 'calls', 'x')
      await client.set(`{${prefix}:quota:ids}:ids`, 'x')
      const users = ['list', 'ann', 'text', 'ids', 'bob', 'list']
      const batch = batchOf(users.map((userId, i) => use(1, { userId, requestId: `r${i}` })))
      const wrong = dedupe === 'batch' ? [0, 2, 5] : [0, 2, 3, 5]

      for (const attempt of [1, 2]) {
        const refused = await writeTo(store, batch, { attempt })
        expect(refused.map(({ index }) => index)).toEqual(wrong)
        for (const { error } of refused) expect(error).toMatchObject({ code: 'ERR_STORE', retryable: false })
        expect(refused[0]?.error.message).toBe(
          `calls of user "list" in ${month} can't be counted: one of its keys in Redis holds something else`,
        )
      }

      const used = await store.readUsage([keyOf('ann'), keyOf('bob')])
      expect(used.map((usage) => usage.used)).toEqual([1, 1])
      expect(await client.get(`{${prefix}:quota:list}:used:${month}`)).toBe('x')
    },
  )

  test('an abort rejects at once with its reason, and leaves no listener behind', async () => {
    const proxy = await proxied()
    const store = quotas({}, owned(new Redis(proxy.port, '127.0.0.1')))
    await usageOf(store)
    const controller = new AbortController()
    let listeners = 0
    const { signal } = controller
    const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)]
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      listeners++
      add(...args)
    }
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      listeners--
      remove(...args)
    }

    await writeTo(store, batchOf([use(1)]), { signal })
    expect(listeners).toBe(0)
    proxy.hold()
    const pending = writeTo(store, batchOf([use(1)]), { signal })
    expect(listeners).toBe(1)
    controller.abort(new Error('enough'))

    await expect(pending).rejects.toThrow('enough')
    expect(listeners).toBe(0)
  })

  test('a batch id that comes with other events is told from a retry', async () => {
    const store = quotas()
    const batch = batchOf([use(1)])
    await writeTo(store, batch)

    const error = await errorOf(writeTo(store, batchOf([use(1), use(1, { userId: 'bob' })], batch.id)))

    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: false, outcomeUnknown: false })
    expect(error.message).toContain(`batch ${batch.id} came before with other events`)
    expect(await usageOf(store)).toEqual([1, 0])
  })
})
