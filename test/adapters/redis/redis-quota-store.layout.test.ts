import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { InvalidEventError, isSpillwayError, OptionError } from 'spillway'
import { RedisQuotaStore, type RedisQuotaStoreOptions } from 'spillway/redis'
import { afterAll, describe, expect, test, vi } from 'vitest'
import { runSnippet } from '../../repo/checks/examples.ts'
import { startRedis } from '../../servers/redis.ts'
import { scriptCalls } from './script-calls.ts'
import { batchOf, claimOf, holdOf, keyOf, month, use, writeTo } from './usage-batches.ts'

const server = await startRedis({ own: true })
const redis = new Redis(server?.url ?? 'redis://127.0.0.1:1', { lazyConnect: true })

afterAll(async () => {
  redis.disconnect()
  await server?.stop()
})

const open = (options: RedisQuotaStoreOptions = {}): { store: RedisQuotaStore; prefix: string } => {
  const { prefix = randomUUID() } = options
  return { store: new RedisQuotaStore(redis, { ...options, prefix }), prefix }
}
const serverNow = async (): Promise<number> => {
  const [seconds, micros] = (await redis.time()).map(Number) as [number, number]
  return seconds * 1000 + micros / 1000
}
const usedOf = async (store: RedisQuotaStore, key = keyOf()): Promise<number | undefined> =>
  (await store.readUsage([key]))[0]?.used
/** Waits for what Redis' clock brings. */
const until = async (happened: () => Promise<boolean>, withinMs = 10_000): Promise<void> => {
  const deadline = performance.now() + withinMs
  while (!(await happened())) {
    if (performance.now() > deadline) throw new Error('it never happened')
    await delay(10)
  }
}

describe.skipIf(server === undefined)('where quotas lie', () => {
  test('under names that never change, since the data lies there', async () => {
    const { store, prefix } = open({ dedupe: 'request' })

    await writeTo(store, batchOf([use(1, { requestId: 'r', userId: 'a:{b}%' })], 'batch'))
    await store.consume(claimOf(2.5, 10))
    await store.reserve(holdOf(3, 10, { id: 'h:{1}' }))

    expect((await redis.keys(`*${prefix}*`)).sort()).toEqual(
      [
        `${prefix}:quota:batch:batch`,
        `${prefix}:quota:hold:h%3A%7B1%7D`,
        `{${prefix}:quota:a%3A%7Bb%7D%25}:ids`,
        `{${prefix}:quota:a%3A%7Bb%7D%25}:used:${month}`,
        `{${prefix}:quota:ann}:held`,
        `{${prefix}:quota:ann}:hold:h:{1}`,
        `{${prefix}:quota:ann}:holds`,
        `{${prefix}:quota:ann}:ids`,
        `{${prefix}:quota:ann}:used:${month}`,
      ].sort(),
    )
    expect(await redis.hgetall(`{${prefix}:quota:ann}:used:${month}`)).toEqual({ calls: '2.5' })
    expect(await redis.hgetall(`{${prefix}:quota:ann}:held`)).toEqual({ [`calls\0${month}`]: '1 3' })
    expect(await redis.get(`${prefix}:quota:hold:h%3A%7B1%7D`)).toBe(`ann\0calls\0${month}`)
  })

  test('a client with a keyPrefix of its own works', async () => {
    const keyPrefix = `${randomUUID()}/`
    const client = new Redis(server?.url as string, { keyPrefix })
    const store = new RedisQuotaStore(client, { dedupe: 'request' })

    await writeTo(store, batchOf([use(1, { requestId: 'a' }), use(1, { requestId: 'a' })]))
    await store.consume(claimOf(1, 10))
    await store.reserve(holdOf(4, 10, { id: 'h' }))
    await store.settle('h', 2)

    expect(await store.readUsage([keyOf()])).toEqual([{ used: 4, held: 0 }])
    expect((await redis.keys(`*${keyPrefix}*`)).every((key) => key.startsWith(keyPrefix))).toBe(true)
    client.disconnect()
  })

  test.each(['batch', 'request'] as const)(
    'a batch of 10,000 events, told apart by %s, is one call of a script',
    async (dedupe) => {
      const { store } = open({ dedupe })
      await writeTo(store, batchOf([use(1, { userId: 'warm', requestId: 'warm' })]))
      const before = await scriptCalls(redis)

      const events = Array.from({ length: 10_000 }, (_, i) =>
        use(i, { userId: `u${i % 1000}`, quotaType: `t${i % 3}`, requestId: `r${i}` }),
      )
      const batch = batchOf(events)
      for (const attempt of [1, 2]) expect(await writeTo(store, batch, { attempt })).toEqual([])
      // Half of it again in another batch: only requests tell.
      await writeTo(store, batchOf(events.slice(0, 5000)))

      expect(await scriptCalls(redis)).toBe(before + 3)
      const keys = Array.from({ length: 3000 }, (_, i) => keyOf(`u${i % 1000}`, `t${Math.floor(i / 1000)}`))
      const sum = (await store.readUsage(keys)).reduce((total, { used }) => total + used, 0)
      const [all, half] = [(10_000 * 9999) / 2, (5000 * 4999) / 2]
      expect(sum).toBe(dedupe === 'batch' ? all + half : all)
    },
  )

  test('a store reads 10,000 keys, a thousand a call', async () => {
    const { store } = open()
    const users = Array.from({ length: 10_000 }, (_, i) => `u${i}`)
    await writeTo(store, batchOf(users.map((userId, i) => use(i, { userId }))))

    const usages = await store.readUsage(users.map((userId) => keyOf(userId)))

    expect(usages.map(({ used }) => used)).toEqual(users.map((_, i) => i))
  })
})

describe.skipIf(server === undefined)('as docs/adapters/redis-quota.md says', () => {
  test('a user of an ACL needs no keys and commands but these', async () => {
    const page = readFileSync('docs/adapters/redis-quota.md', 'utf8')
    const [, commands = ''] =
      /needs\s+`~PREFIX:quota:\*` and `~\{PREFIX:quota:\*`, and\s+([A-Z,\s]+)\./.exec(page) ?? []
    const [user, password, prefix] = [randomUUID(), randomUUID(), randomUUID()]
    const rules = commands.split(',').map((command) => `+${command.trim().toLowerCase()}`)
    expect(rules.length).toBeGreaterThan(15)
    const patterns = [`~${prefix}:quota:*`, `~{${prefix}:quota:*`]
    await redis.call('ACL', 'SETUSER', user, 'on', `>${password}`, 'resetkeys', ...patterns, '-@all', '+ping', ...rules)
    const client = new Redis(server?.url as string, { username: user, password, enableReadyCheck: false })
    // Clearing away, forgetting and expiring are reached, too.
    const store = new RedisQuotaStore(client, { prefix, dedupe: 'request', rememberRequests: 1 })

    for (let round = 0; round < 2; round++) {
      await writeTo(store, batchOf([use(1, { requestId: `${round}` }), use(1, { period: 'total' })]))
      await store.consume(claimOf(1, 100))
      for (const id of ['a', 'b', 'c']) await store.reserve(holdOf(1, 100, { id: `${round}${id}`, ttlMs: 600_000 }))
      await store.reserve(holdOf(1, 100, { ttlMs: 1 }))
      await delay(5)
      await store.settle(`${round}a`, 1)
      await store.release(`${round}b`)
    }

    expect(await store.readUsage([keyOf()])).toEqual([{ used: 6, held: 2 }])
    client.disconnect()
  })

  test('an id takes 150 to 200 bytes, a reservation about 700', async () => {
    const bytes = async (): Promise<number> => Number(/used_memory:(\d+)/.exec(await redis.info('memory'))?.[1])
    const each = async (body: (store: RedisQuotaStore) => PromiseLike<unknown>): Promise<number> => {
      const { store } = open()
      await body(store)
      const before = await bytes()
      for (let i = 0; i < 2000; i++) await body(store)
      return ((await bytes()) - before) / 2000
    }
    const within = (size: number, from: number, to: number): void => {
      expect(size).toBeGreaterThan(from)
      expect(size).toBeLessThan(to)
    }

    within(await each((store) => writeTo(store, batchOf([use(1)]))), 100, 300)
    within(await each((store) => store.consume(claimOf(1, 1e9))), 75, 250)
    within(await each((store) => store.reserve(holdOf(1, 1e9))), 350, 1000)
  })

  test('the snippet does on Redis what it does in memory', { timeout: 60_000 }, async () => {
    vi.stubEnv('REDIS_URL', server?.url)

    const run = await runSnippet('examples/snippets/redis-quota.ts')

    vi.unstubAllEnvs()
    expect(run).toMatchObject({ code: 0, stderr: '' })
    expect(run.stdout).toContain('10 of 100 jobs ran, 90 were refused')
  })
})

describe.skipIf(server === undefined)('the clock is that of Redis', () => {
  test('however wrong that of a process is, a hold ends when Redis says so', async () => {
    const { store } = open()
    const skews = [-86_400_000 * 365, 86_400_000 * 365]
    for (const skew of skews) {
      const id = randomUUID()
      const before = await serverNow()
      vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + skew })
      const { expiresAt } = await store.reserve(holdOf(1, 10, { id, ttlMs: 300 }))
      const again = await store.reserve(holdOf(1, 10, { id, ttlMs: 300 }))
      vi.useRealTimers()
      const after = await serverNow()

      expect(expiresAt).toBeGreaterThanOrEqual(Math.floor(before) + 300)
      expect(expiresAt).toBeLessThanOrEqual(after + 300)
      // Not by the clock of this process, which is a year off.
      if (after < expiresAt - 50) expect(again.status).toBe('repeated')
    }
    await until(async () => (await store.readUsage([keyOf()]))[0]?.held === 0)
    expect((await store.consume(claimOf(10, 10))).status).toBe('applied')
  })

  test('an expired hold is gone for all that look, before anybody clears it away', async () => {
    const { store, prefix } = open()
    await store.reserve(holdOf(2, 10))
    await store.reserve(holdOf(7, 10, { ttlMs: 1 }))
    await delay(5)

    expect(await store.readUsage([keyOf()])).toEqual([{ used: 0, held: 2 }])
    expect(await redis.zcard(`{${prefix}:quota:ann}:holds`)).toBe(2)

    expect((await store.consume(claimOf(8, 10))).status).toBe('applied')
    expect(await redis.zcard(`{${prefix}:quota:ann}:holds`)).toBe(1)
    expect(await redis.hgetall(`{${prefix}:quota:ann}:held`)).toEqual({ [`calls\0${month}`]: '1 2' })
  })
})

describe.skipIf(server === undefined)('what is forgotten, and when', () => {
  test('a batch after batchMemoryMs', async () => {
    const { store, prefix } = open({ batchMemoryMs: 200 })
    const batch = batchOf([use(1)])
    await writeTo(store, batch)

    expect(await redis.pttl(`${prefix}:quota:batch:${batch.id}`)).toBeLessThanOrEqual(200)
    await until(async () => (await redis.exists(`${prefix}:quota:batch:${batch.id}`)) === 0)
    await writeTo(store, batch)

    expect(await usedOf(store)).toBe(2)
  })

  test('a request after requestMemoryMs, even where its id still lies there', async () => {
    const { store, prefix } = open({ requestMemoryMs: 1000, dedupe: 'request' })
    const longer = open({ prefix, requestMemoryMs: 600_000, dedupe: 'request' }).store
    const claim = claimOf(1, 100)
    await store.consume(claim)
    expect((await store.consume(claim)).status).toBe('repeated')
    // Keeps the set of ids in Redis.
    await longer.consume(claimOf(1, 100))

    await until(async () => (await store.consume(claim)).status === 'applied')
    await writeTo(store, batchOf([use(10, { requestId: 'w' })]))
    await writeTo(store, batchOf([use(10, { requestId: 'w' })]))
    await delay(1050)
    await writeTo(store, batchOf([use(10, { requestId: 'w' })]))

    expect(await usedOf(store)).toBe(1 + 1 + 1 + 10 + 10)
  })

  test('ids of requests beyond rememberRequests, the oldest first; what has passed its time goes as others come', async () => {
    const { store, prefix } = open({ rememberRequests: 20, requestMemoryMs: 600_000, dedupe: 'request' })
    const ids = `{${prefix}:quota:ann}:ids`
    const claims = Array.from({ length: 60 }, () => claimOf(1, 1000))
    for (const claim of claims) {
      await store.consume(claim)
      expect(await redis.zcard(ids)).toBeLessThanOrEqual(20)
      // The order is that of their times: no two in one millisecond here.
      await delay(1)
    }

    expect((await store.consume(claims[59] as never)).status).toBe('repeated')
    expect((await store.consume(claims[45] as never)).status).toBe('repeated')
    expect((await store.consume(claims[0] as never)).status).toBe('applied')

    const many = open({ rememberRequests: 1000, requestMemoryMs: 1, dedupe: 'request' })
    for (let round = 0; round < 5; round++) {
      const events = Array.from({ length: 100 }, (_, i) => use(1, { requestId: `${round}/${i}` }))
      await writeTo(many.store, batchOf(events))
      expect(await redis.zcard(`{${many.prefix}:quota:ann}:ids`)).toBeLessThanOrEqual(100)
      await delay(3)
    }
    await until(async () => (await redis.exists(`{${many.prefix}:quota:ann}:ids`)) === 0)
  })

  test('a reservation holdMemoryMs after its end', async () => {
    const { store } = open({ holdMemoryMs: 1500 })
    await store.reserve(holdOf(1, 10, { id: 'a', ttlMs: 1 }))
    await store.reserve(holdOf(2, 10, { id: 'b', ttlMs: 1 }))
    await delay(5)
    expect((await store.settle('a', 1)).status).toBe('settled')

    await until(async () => (await store.settle('b', 0)).status === 'unknown')
    expect((await store.settle('a', 1)).status).toBe('unknown')
    // Its id is free then, for whomever.
    expect((await store.reserve(holdOf(3, 10, { id: 'a', userId: 'bob' }))).status).toBe('held')
  })

  test('a period keepPeriodsMs after its end, or after its latest change', async () => {
    const { store, prefix } = open({ keepPeriodsMs: 60_000 })
    const day = '2199-11-20'
    const keyName = (period: string): string => `{${prefix}:quota:ann}:used:${period}`
    for (const period of [month, day, '2024-02', '2024-02-29', 'total', 'fiscal-7']) {
      await store.consume(claimOf(1, 10, { period }))
    }

    for (const [period, ends] of [
      [month, Date.UTC(2199, 11, 1)],
      [day, Date.UTC(2199, 10, 21)],
    ] as const) {
      const goes = (await serverNow()) + (await redis.pttl(keyName(period)))
      expect(Math.abs(goes - (ends + 60_000))).toBeLessThan(5000)
    }
    for (const period of ['2024-02', '2024-02-29']) {
      const left = await redis.pttl(keyName(period))
      expect(left).toBeGreaterThan(0)
      expect(left).toBeLessThanOrEqual(60_000)
    }
    for (const period of ['total', 'fiscal-7']) expect(await redis.pttl(keyName(period))).toBe(-1)

    await open({ prefix, keepPeriodsMs: Number.POSITIVE_INFINITY }).store.consume(claimOf(1, 10))
    expect(await redis.pttl(keyName(month))).toBe(-1)
  })

  test('nothing stays of users who come once, but what they used in total', async () => {
    const { store, prefix } = open({
      ...{ batchMemoryMs: 100, requestMemoryMs: 100, holdMemoryMs: 100, keepPeriodsMs: 100, dedupe: 'request' },
    })
    for (let i = 0; i < 30; i++) {
      const mine = { userId: `u${i}`, period: '2024-02' }
      await writeTo(store, batchOf([use(1, { ...mine, requestId: 'r' })]))
      await store.consume(claimOf(1, 100, mine))
      for (const id of ['a', 'b', 'c']) await store.reserve(holdOf(1, 100, { ...mine, id: `${i}${id}`, ttlMs: 50 }))
      await store.settle(`${i}a`, 1)
      await store.release(`${i}b`)
      if (i === 0) await store.consume(claimOf(1, 100, { userId: 'u0', period: 'total' }))
    }

    await until(async () => (await redis.keys(`*${prefix}*`)).length === 1)
    expect(await redis.keys(`*${prefix}*`)).toEqual([`{${prefix}:quota:u0}:used:total`])
  })
})

describe('a wrong option throws an OptionError that names it', () => {
  test.each<[keyof RedisQuotaStoreOptions, unknown]>([
    ['prefix', 7],
    ['prefix', 'a{b'],
    ['prefix', null],
    ['dedupe', 'requests'],
    ['dedupe', null],
    ['batchMemoryMs', 0],
    ['batchMemoryMs', '10'],
    ['batchMemoryMs', Number.POSITIVE_INFINITY],
    ['requestMemoryMs', 0],
    ['requestMemoryMs', Number.NaN],
    ['rememberRequests', 0],
    ['rememberRequests', 1.5],
    ['holdMemoryMs', 0],
    ['holdMemoryMs', null],
    ['keepPeriodsMs', -1],
    ['keepPeriodsMs', Number.NaN],
    ['name', 1],
  ])('%s: %s', (field, value) => {
    const make = (): unknown => new RedisQuotaStore(redis, { [field]: value })

    expect(make).toThrow(OptionError)
    expect(make).toThrow(new RegExp(`^${field} must be `))
  })

  test.each([null, undefined, {}, 'redis://127.0.0.1', { call: 1 }])('a client that is none: %s', (client) => {
    let error: unknown
    try {
      new RedisQuotaStore(client as never)
    } catch (thrown) {
      error = thrown
    }

    expect(isSpillwayError(error, 'ERR_OPTION')).toBe(true)
  })

  test('an option that is undefined takes its default', () => {
    const store = new RedisQuotaStore(redis, { prefix: undefined, dedupe: undefined, keepPeriodsMs: undefined })

    expect(store).toMatchObject({ dedupe: 'batch', idempotent: true, name: 'redis-quota-store' })
  })
})

describe('a wrong claim is refused before anything is sent', () => {
  // Nobody listens there: whatever were sent would fail with another error.
  const nowhere = new RedisQuotaStore(
    new Redis(1, '127.0.0.1', { lazyConnect: true, enableOfflineQueue: false, retryStrategy: null as never }),
  )
  const wrong: readonly [string, unknown, typeof OptionError | typeof InvalidEventError][] = [
    ['userId', '', InvalidEventError],
    ['userId', 'a\0b', InvalidEventError],
    ['userId', 7, InvalidEventError],
    ['quotaType', 'x'.repeat(257), InvalidEventError],
    ['period', '', InvalidEventError],
    ['id', '\ud800', InvalidEventError],
    ['value', -1, InvalidEventError],
    ['value', Number.NaN, InvalidEventError],
    ['value', 2 ** 53, InvalidEventError],
    ['value', '1', InvalidEventError],
    ['limit', Number.NaN, OptionError],
    ['limit', undefined, OptionError],
  ]

  test.each(wrong)('%s: %s', async (field, value, kind) => {
    const claim = { ...holdOf(1, 10), [field]: value }

    for (const call of [nowhere.consume(claim), nowhere.reserve(claim)]) {
      const error = await call.then(
        () => undefined,
        (reason) => reason,
      )
      expect(error).toBeInstanceOf(kind)
      expect(error).toMatchObject({ field })
    }
  })

  test.each<[string, unknown]>([
    ['ttlMs', 0],
    ['ttlMs', Number.POSITIVE_INFINITY],
    ['ttlMs', undefined],
    ['settleLimit', Number.NaN],
    ['settleLimit', '7'],
  ])('%s: %s', async (field, value) => {
    await expect(nowhere.reserve({ ...holdOf(1, 10), [field]: value })).rejects.toMatchObject({
      code: 'ERR_OPTION',
      field,
    })
  })

  test('ids and values of settle and release', async () => {
    for (const id of ['', 'a\0', 7 as never]) {
      await expect(nowhere.settle(id, 1)).rejects.toMatchObject({ code: 'ERR_INVALID_EVENT', field: 'id' })
      await expect(nowhere.release(id)).rejects.toMatchObject({ code: 'ERR_INVALID_EVENT', field: 'id' })
    }
    await expect(nowhere.settle('a', -1)).rejects.toMatchObject({ code: 'ERR_INVALID_EVENT', field: 'actual' })
  })
})
