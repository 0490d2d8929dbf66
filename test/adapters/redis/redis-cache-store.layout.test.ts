import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { createClient } from 'redis'
import { RedisCacheStore, type RedisCacheStoreOptions } from 'spillway/redis'
import { afterAll, describe, expect, test, vi } from 'vitest'
import { runSnippet } from '../../repo/checks/examples.ts'
import { startRedis } from '../../servers/redis.ts'
import { errorOf, get, only, put, remove, somePrefix, writeOf } from './cache-rig.ts'

const server = await startRedis({ own: true })
const redis = new Redis(server?.url ?? 'redis://127.0.0.1:1', { lazyConnect: true })
afterAll(async () => {
  redis.disconnect()
  await server?.stop()
})

const open = (options: RedisCacheStoreOptions = {}, client: Redis = redis) => {
  const { prefix = somePrefix() } = options
  return { store: new RedisCacheStore(client, { ...options, prefix }), prefix, tag: `{${prefix}:0}` }
}
const hour = 3_600_000
const day = 24 * hour

/** Commands that a server has got, by name. */
async function commands(): Promise<Record<string, number>> {
  const lines = [...(await redis.info('commandstats')).matchAll(/cmdstat_(\w+):calls=(\d+)/g)]
  return Object.fromEntries(lines.map(([, name, calls]) => [name, Number(calls)]))
}

/** Which commands a body costs. */
async function costOf(body: () => PromiseLike<unknown>): Promise<Record<string, number>> {
  await redis.config('RESETSTAT')
  await body()
  const { info: _, config: __, getrange: ___, set: ____, time: _____, ...rest } = await commands()
  return rest
}

describe.skipIf(server === undefined)('where cached values lie', () => {
  test('under names that never change, since others look for them there', async () => {
    const { store, prefix, tag } = open()
    for (const key of ['app/users:42', '', 'é', 'a\0b', '{b}', '\ud800', '"\\ud800"']) await put(store, key, 1)
    await store.readMarks(['c:app', '\udfff'])

    expect((await redis.keys(`*${prefix}*`)).sort()).toEqual(
      [
        `${prefix}:layout`,
        ...[`${tag}:k:app/users:42`, `${tag}:k:`, `${tag}:k:é`, `${tag}:k:a\0b`, `${tag}:k:{b}`],
        // Half a surrogate pair has no bytes in UTF-8, so it is written as JSON does, apart from all other keys.
        ...[`${tag}:j:"\\ud800"`, `${tag}:k:"\\ud800"`],
        ...[`${tag}:m:c:app`, `${tag}:n:"\\udfff"`],
      ].sort(),
    )
  })

  test('over as many buckets as it is told, and one that is told another number fails', async () => {
    const { store, prefix } = open({ buckets: 16 })
    const keys = Array.from({ length: 400 }, (_, i) => `k${i}`)
    await store.setMany(keys.map((key) => writeOf(store, key, key)))
    const other = open({ prefix, buckets: 17 }).store
    await get(other, 'a').catch(() => undefined)

    const names = (await redis.keys(`{${prefix}*`)).map((name) => name.slice(0, name.indexOf('}')))
    expect(new Set(names).size).toBe(16)
    for (const call of [() => get(other, 'a'), () => put(other, 'a', 1), () => other.readMarks(['m'])]) {
      const error = await errorOf(call())
      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: false })
      expect(error.message).toBe(
        `redis-cache-store: ${JSON.stringify(`${prefix}:layout`)} says that keys lie in 16 buckets, the store was made for 17`,
      )
    }
    expect((await store.getMany(keys)).map((answer) => (answer as { value: unknown }).value)).toEqual(keys)
  })

  test('a read is one command for up to 500 keys, a write one for up to 200 or a mebibyte', async () => {
    const { store } = open()
    const keys = Array.from({ length: 500 }, (_, i) => `k${i}`)
    const write = (key: string, text = key) => writeOf(store, key, text)
    await store.setMany([write('warm')])
    await store.readMarks(['warm'])

    expect(await costOf(() => store.getMany(keys))).toEqual({ mget: 1 })
    expect(await costOf(() => store.getMany([...keys, 'one more']))).toEqual({ mget: 2 })
    expect(await costOf(() => store.setMany(keys.slice(0, 200).map((key) => write(key))))).toEqual({ evalsha: 1 })
    expect(await costOf(() => store.deleteMany(keys.slice(0, 201)))).toEqual({ evalsha: 2 })
    const large = 'x'.repeat(300_000)
    expect(await costOf(() => store.setMany(keys.slice(0, 7).map((key) => write(key, large))))).toEqual({ evalsha: 3 })
    expect((await costOf(() => store.readMarks(keys)))['evalsha']).toBe(1)
    expect((await store.getMany(keys.slice(0, 7))).every((read) => (read as { value: unknown }).value === large)).toBe(
      true,
    )
  })

  test('reads of one key each that are asked for together cost as one read of all of them', async () => {
    const { store } = open()
    const keys = Array.from({ length: 501 }, (_, i) => `k${i}`)
    await store.setMany(keys.map((key) => writeOf(store, key, key)))
    const read = async (key: string, hops: number): Promise<unknown> => {
      // Promises settle one after the other: whoever asks late in one run of them asks at the same time all the same.
      for (let i = 0; i < hops; i++) await undefined
      return (await get(store, key)).value
    }

    expect(await costOf(() => Promise.all(keys.slice(0, 500).map((key, i) => read(key, i % 20))))).toEqual({ mget: 1 })
    expect(await costOf(() => Promise.all(keys.map((key) => read(key, 0))))).toEqual({ mget: 2 })
    expect(await Promise.all(['k3', 'none', 'k3', 'k4'].map((key) => read(key, 0)))).toEqual([
      'k3',
      undefined,
      'k3',
      'k4',
    ])
    expect(store.stats()).toMatchObject({ reads: 1005, hits: 1004, misses: 1, readsPending: 0 })
  })

  test('reads that share a command fail each for itself, are counted each, and wait for no other bucket', async () => {
    const { store, prefix } = open({ buckets: 2 })
    const asked: string[][] = []
    const client = {
      isCluster: false,
      status: 'ready',
      call: (command: string, args: string[]) => redis.call(command, args),
      callBuffer: (command: string, args: string[]) => {
        if (command !== 'MGET') return redis.callBuffer(command, args)
        asked.push(args)
        return args[0]?.endsWith('k:a') ? new Promise(() => undefined) : redis.callBuffer(command, args)
      },
    }
    const split = new RedisCacheStore(client as never, { prefix, buckets: 2 })
    const keys = Array.from({ length: 20 }, (_, i) => `k${i}`)
    await store.setMany(keys.map((key) => writeOf(store, key, key)))

    void get(split, 'a')
    const answered = new Set<unknown>()
    for (const key of keys) void get(split, key).then(({ value }) => answered.add(value))
    await vi.waitFor(() => expect(answered.size).toBeGreaterThan(0))

    expect(asked.length).toBe(2)
    expect(answered.size).toBe(asked.find(([first]) => !first?.endsWith('k:a'))?.length)

    const gone = new Redis({ lazyConnect: true, enableOfflineQueue: false, retryStrategy: () => null, port: 1 })
    const failing = open({}, gone).store
    const errors = await Promise.all([errorOf(get(failing, 'a')), errorOf(get(failing, 'b'))])
    expect(errors.map(({ code }) => code)).toEqual(['ERR_STORE', 'ERR_STORE'])
    expect(failing.stats()).toMatchObject({ reads: 2, readsFailed: 2, readsPending: 0 })
    gone.disconnect()
  })

  test('the clock of Redis is looked at once a second at the most, along with what is read', async () => {
    const { store } = open()
    await store.getMany(['a'])

    const cost = await costOf(async () => {
      for (let i = 0; i < 100; i++) await store.getMany(['a'])
    })
    await delay(1010)
    const later = await costOf(() => Promise.all([store.getMany(['a']), store.getMany(['b', 'c'])]))

    expect(cost['mget']).toBe(100)
    expect(cost['evalsha'] ?? 0).toBeLessThanOrEqual(1)
    expect(later).toEqual({ mget: 2, evalsha: 1 })
  })
})

describe.skipIf(server === undefined)('how long what is kept', () => {
  test('a value as long as it is kept or its fence lasts, a tombstone as long as the fence', async () => {
    const { store, tag } = open({ fenceMs: 20_000 })
    const ttl = (key: string): Promise<number> => redis.pttl(`${tag}:k:${key}`)
    const near = (found: number, ms: number): void => {
      expect(found).toBeGreaterThan(ms - 5000)
      expect(found).toBeLessThanOrEqual(ms)
    }

    await put(store, 'long', 1, { freshMs: 1, keptMs: hour })
    await put(store, 'short', 1, { freshMs: 1, keptMs: 10 })
    await put(store, 'fill', 1, { freshMs: 1, keptMs: 10_000, ifVersion: '' })
    await put(store, 'ever', 1, { keptMs: Number.POSITIVE_INFINITY })
    await put(store, 'centuries', 1, { keptMs: 365_000 * day })
    await put(store, 'ages', 1, { keptMs: 1e300 })
    const version = await remove(store, 'gone')

    near(await ttl('long'), hour)
    near(await ttl('short'), 20_000)
    near(await ttl('fill'), 10_000)
    expect(await ttl('ever')).toBe(-1)
    near(await ttl('centuries'), 365_000 * day)
    expect(await ttl('ages')).toBe(-1)
    near(await ttl('gone'), 20_000)
    // A load that began after the delete: what is left of the fence goes on.
    expect((await put(store, 'gone', 1, { freshMs: 1, keptMs: 10, ifVersion: version })).written).toBe(true)
    near(await ttl('gone'), 20_000)
    await delay(20)
    expect(await get(store, 'gone')).toMatchObject({ value: undefined, ageMs: 0, freshMs: 0, keptMs: 0, marks: [] })
  })

  test('a fence ends, and with it what is remembered', async () => {
    const { store } = open({ fenceMs: 100 })
    const version = await remove(store, 'a')
    expect((await get(store, 'a')).version).toBe(version)

    await delay(130)

    expect((await get(store, 'a')).version).toBe('')
  })

  test('versions go up when the clock of Redis is set back', async () => {
    const { store, tag } = open()
    await put(store, 'a', 1)
    const raw = (await redis.getBuffer(`${tag}:k:a`)) as Buffer
    // As if it had been written a day later.
    const later = raw.readDoubleLE(4) + day * 1000
    raw.writeDoubleLE(later, 4)
    raw.writeDoubleLE(later + 2 * raw.readDoubleLE(12) - 3 * raw.readDoubleLE(20), 28)
    await redis.set(`${tag}:k:a`, raw)
    expect(await get(store, 'a')).toMatchObject({ value: 1, version: String(later) })

    const { version } = await put(store, 'a', 2)

    expect(version).toBe(String(later + 1))
    expect(await get(store, 'a')).toMatchObject({ value: 2, version })
    expect((await get(store, 'a')).freshMs).toBeLessThanOrEqual(hour)
    expect(await remove(store, 'a')).toBe(String(later + 2))
  })

  test('a mark markTtlMs, longer when it is read in the second half of that', async () => {
    const { store, prefix, tag } = open({ markTtlMs: 10_000 })
    const ttl = (): Promise<number> => redis.pttl(`${tag}:m:m`)
    const before = only(await store.renewMarks(['m']))
    expect(await ttl()).toBeGreaterThan(9000)

    await redis.pexpire(`${tag}:m:m`, 6000)
    await store.readMarks(['m'])
    expect(await ttl()).toBeLessThanOrEqual(6000)
    await redis.pexpire(`${tag}:m:m`, 4000)
    const after = only(await store.readMarks(['m']))
    expect(await ttl()).toBeGreaterThan(9000)
    expect(after.mark).toBe(before.mark)
    expect(after.renewedMs).toBeGreaterThan(0)

    await open({ prefix, markTtlMs: Number.POSITIVE_INFINITY }).store.readMarks(['m'])
    expect(await ttl()).toBe(-1)
  })
})

describe.skipIf(server === undefined)('whatever the clocks of processes say', () => {
  test('ages and remaining lives are those of the clock of Redis', async () => {
    const { store, prefix } = open()
    await put(store, 'a', 1, { freshMs: 500, keptMs: hour })
    for (const skew of [-400 * day, 400 * day]) {
      vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + skew })
      const read = await get(open({ prefix }).store, 'a')
      vi.useRealTimers()

      expect(read.ageMs).toBeGreaterThanOrEqual(0)
      expect(read.ageMs).toBeLessThan(5000)
      expect(read.keptMs + read.ageMs).toBeCloseTo(hour, 3)
    }
  })

  test('a look that took long is not gone by any more', async () => {
    let now = 1000
    let lateMs = 0
    const clock = {
      // So much has passed whenever it is asked.
      now: () => {
        now += lateMs
        return now
      },
      ...{ wallNow: () => now, setTimer: () => () => undefined, defer: () => undefined },
    }
    const { store } = open({ clock })
    lateMs = 300
    await store.getMany(['a'])
    lateMs = 0
    expect(await costOf(() => store.getMany(['a']))).toEqual({ mget: 1, evalsha: 1 })
    expect(await costOf(() => store.getMany(['a']))).toEqual({ mget: 1 })
  })

  test('a machine that slept looks again, since only its wall clock has moved', async () => {
    let [now, wall] = [1000, 1_000_000]
    const clock = {
      ...{ now: () => now, wallNow: () => wall, setTimer: () => () => undefined, defer: () => undefined },
    }
    const { store } = open({ clock })
    await put(store, 'a', 1)
    expect(await costOf(() => store.getMany(['a']))).toEqual({ mget: 1 })

    wall += 60_000
    expect(await costOf(() => store.getMany(['a']))).toEqual({ mget: 1, evalsha: 1 })
    now += 900
    wall += 900
    expect(await costOf(() => store.getMany(['a']))).toEqual({ mget: 1 })
    now += 101
    wall += 101
    expect(await costOf(() => store.getMany(['a']))).toEqual({ mget: 1, evalsha: 1 })
  })
})

describe.skipIf(server === undefined)('an answer that came while the machine slept', () => {
  test.each<[string, (store: RedisCacheStore) => Promise<unknown>]>([
    ['of a read', (store) => store.getMany(['a'])],
    ['of a write', (store) => put(store, 'a', 1)],
    ['of a delete', (store) => remove(store, 'a')],
  ])('is not gone by any more: %s', async (_, call) => {
    let [now, wall] = [1000, 1_000_000]
    const { store } = open({
      clock: { now: () => now, wallNow: () => wall, setTimer: () => () => undefined, defer: () => undefined },
    })
    now += 5000
    wall += 5000

    const answer = call(store)
    // It leaves in this turn, when those who ask at the same time have asked.
    await new Promise<void>((resolve) => process.nextTick(resolve))
    // The monotonic clock of Linux doesn't count this.
    wall += 3_600_000
    await answer

    expect(await costOf(() => store.getMany(['a']))).toEqual({ mget: 1, evalsha: 1 })
    expect(await costOf(() => store.getMany(['a']))).toEqual({ mget: 1 })
  })
})

describe.skipIf(server === undefined)('as docs/adapters/redis-cache.md says', () => {
  const page = (): string => readFileSync('docs/adapters/redis-cache.md', 'utf8')

  test('a user of an ACL needs no keys and commands but these', async () => {
    const [, listed = ''] = /needs\s+`~PREFIX:layout` and `~\{PREFIX:\*`, and\s+([A-Z0-9,\s]+)\./.exec(page()) ?? []
    const [user, prefix] = [somePrefix(), somePrefix()]
    const rules = listed.split(',').map((command) => `+${command.trim().toLowerCase()}`)
    expect(rules.length).toBeGreaterThan(8)
    const keys = [`~${prefix}:layout`, `~{${prefix}:*`]
    await redis.call('ACL', 'SETUSER', user, 'on', '>secret', 'resetkeys', ...keys, '-@all', '+ping', ...rules)
    const client = new Redis(server?.url as string, { username: user, password: 'secret', enableReadyCheck: false })
    const { store } = open({ prefix, markTtlMs: 1000 }, client)

    await store.readMarks(['m'])
    await redis.pexpire(`{${prefix}:0}:m:m`, 100)
    await store.readMarks(['m'])
    await open({ prefix, markTtlMs: Number.POSITIVE_INFINITY }, client).store.readMarks(['m'])
    await store.renewMarks(['m'])
    await redis.set(`{${prefix}:0}:k:b`, 'foreign')
    const { version } = await get(store, 'b')
    expect((await put(store, 'b', 1, { ifVersion: version })).written).toBe(true)
    const { version: tombstone } = await get(store, 'a').then(() => put(store, 'a', 1))
    await remove(store, 'a')

    expect((await put(store, 'a', 1, { ifVersion: tombstone })).written).toBe(false)
    client.disconnect()
  })

  test('a user that may not write down the number of buckets is served all the same', async () => {
    const [user, prefix] = [somePrefix(), somePrefix()]
    await redis.call('ACL', 'SETUSER', user, 'on', '>secret', 'resetkeys', `~{${prefix}:*`, '+@all')
    const client = new Redis(server?.url as string, { username: user, password: 'secret' })
    const { store } = open({ prefix }, client)

    await put(store, 'a', 1)

    expect((await get(store, 'a')).value).toBe(1)
    expect(await redis.exists(`${prefix}:layout`)).toBe(0)
    client.disconnect()
  })

  test('a record has 64 bytes beside its marks and its payload, and a tombstone takes about 150 in Redis', async () => {
    const { store, tag } = open()
    await put(store, 'a', 'text')
    await put(store, 'b', 'text', { marks: [{ name: 'm', mark: 's' }] })
    expect(await redis.strlen(`${tag}:k:a`)).toBe(64 + '"text"'.length)
    expect(await redis.strlen(`${tag}:k:b`)).toBe(64 + '[["m","s"]]'.length + '"text"'.length)
    const bytes = async (): Promise<number> => Number(/used_memory:(\d+)/.exec(await redis.info('memory'))?.[1])

    const before = await bytes()
    for (let i = 0; i < 50; i++) await store.deleteMany(Array.from({ length: 200 }, (_, j) => `gone:${i}:${j}`))
    const each = ((await bytes()) - before) / 10_000

    expect(each).toBeGreaterThan(120)
    expect(each).toBeLessThan(300)
  })

  test('the snippet does on Redis what it does in memory', { timeout: 60_000 }, async () => {
    vi.stubEnv('REDIS_URL', server?.url)

    const run = await runSnippet('examples/snippets/redis-cache.ts')

    vi.unstubAllEnvs()
    expect(run).toMatchObject({ code: 0, stderr: '' })
  })

  test('node-redis maps types as it likes, and answers are bytes all the same', async () => {
    const client = createClient({
      url: server?.url as string,
      RESP: 3,
      commandOptions: { typeMapping: { 36: String } },
    })
    await client.connect()
    const store = new RedisCacheStore(client, { prefix: somePrefix() })

    await put(store, 'a', { text: 'é' })

    expect((await get(store, 'a')).value).toEqual({ text: 'é' })
    expect(only(await store.readMarks(['m'])).renewedMs).toBe(Number.POSITIVE_INFINITY)
    client.destroy()
  })
})
