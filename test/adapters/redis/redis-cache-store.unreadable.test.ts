import { randomBytes } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { Redis } from 'ioredis'
import type { CachedValue } from 'spillway'
import {
  type CacheSerializer,
  RedisCacheStore,
  type RedisCacheStoreOptions,
  type UnreadableReason,
} from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { get, only, put, remove, somePrefix } from './cache-rig.ts'

const server = await startRedis({ own: true })
const redis = new Redis(server?.url ?? 'redis://127.0.0.1:1', { lazyConnect: true })
afterAll(async () => {
  redis.disconnect()
  await server?.stop()
})

function open(options: RedisCacheStoreOptions = {}) {
  const { prefix = somePrefix() } = options
  const store = new RedisCacheStore(redis, { ...options, prefix })
  const seen: { key: string; reason: UnreadableReason; error: unknown }[] = []
  store.on('unreadable', (event) => void seen.push(event))
  return { store, prefix, seen, nameOf: (key: string) => `{${prefix}:0}:k:${key}` }
}

const marks = [
  { name: 'c:users', mark: 'abc.0' },
  { name: 't:é', mark: 'abc.1' },
]

/** One change of some bytes. */
const mutation = fc.oneof(
  fc.record({ kind: fc.constant('flip' as const), at: fc.nat(), bit: fc.nat(7) }),
  fc.record({ kind: fc.constant('set' as const), at: fc.nat(), byte: fc.nat(255) }),
  fc.record({ kind: fc.constant('cut' as const), at: fc.nat() }),
  fc.record({ kind: fc.constant('drop' as const), at: fc.nat(), count: fc.integer({ min: 1, max: 16 }) }),
  fc.record({
    kind: fc.constant('insert' as const),
    at: fc.nat(),
    bytes: fc.uint8Array({ minLength: 1, maxLength: 16 }),
  }),
  fc.record({ kind: fc.constant('swap' as const), at: fc.nat(), other: fc.nat(), count: fc.constantFrom(1, 4, 8) }),
)

type Mutation = typeof mutation extends fc.Arbitrary<infer T> ? T : never

function mutate(raw: Buffer, change: Mutation): Buffer {
  const at = change.at % raw.length
  const copy = Buffer.from(raw)
  switch (change.kind) {
    case 'flip':
      copy[at] = (copy[at] as number) ^ (1 << change.bit)
      return copy
    case 'set':
      copy[at] = change.byte
      return copy
    case 'cut':
      return copy.subarray(0, at)
    case 'drop':
      return Buffer.concat([copy.subarray(0, at), copy.subarray(at + change.count)])
    case 'insert':
      return Buffer.concat([copy.subarray(0, at), change.bytes, copy.subarray(at)])
    case 'swap': {
      const { count } = change
      const [a, b] = [at - (at % count), (change.other % raw.length) - ((change.other % raw.length) % count)]
      raw.copy(copy, a, b, Math.min(b + count, raw.length))
      raw.copy(copy, b, a, Math.min(a + count, raw.length))
      return copy
    }
  }
}

/** What a reader may go by. */
const gist = ({ value, version, marks: with_ }: CachedValue): unknown => ({ value, version, marks: with_ })

describe.skipIf(server === undefined)('a record that was changed', () => {
  test.each<[string, RedisCacheStoreOptions, unknown]>([
    ['JSON', {}, { name: 'ann', age: 7, tags: ['a', 'é'] }],
    ['compressed JSON', { compression: { minBytes: 0 } }, 'x'.repeat(400)],
    ['brotli', { compression: { algorithm: 'brotli', minBytes: 0 } }, 'x'.repeat(400)],
  ])('is a miss or what it was, whatever was changed: %s', { timeout: 60_000 }, async (_, options, value) => {
    const { store, nameOf } = open(options)
    await put(store, 'a', value, { marks })
    const whole = await get(store, 'a')
    const raw = await redis.getBuffer(nameOf('a'))
    expect(gist(whole)).toMatchObject({ value, marks })
    let misses = 0

    await fc.assert(
      fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 3 }), async (changes) => {
        const changed = changes.reduce(
          (bytes, change) => (bytes.length === 0 ? bytes : mutate(bytes, change)),
          raw as Buffer,
        )
        await redis.set(nameOf('a'), changed)

        const read = await get(store, 'a')

        if (read.value === undefined) misses++
        else {
          expect(gist(read)).toEqual(gist(whole))
          // Times have not changed either.
          expect(Math.abs(read.freshMs + read.ageMs - 3_600_000)).toBeLessThan(1)
          expect(Math.abs(read.keptMs + read.ageMs - 3_600_000)).toBeLessThan(1)
        }
        // Whatever it is now, a load that knows its version replaces it.
        const { written } = await put(store, 'a', 'healed', { ifVersion: read.version })
        expect([written, (await get(store, 'a')).value]).toEqual([true, 'healed'])
      }),
      { numRuns: 1500 },
    )

    expect(misses).toBeGreaterThan(1000)
  })

  test('is a miss for every single bit', async () => {
    const { store, nameOf, seen } = open()
    await put(store, 'a', [1, 'two'], { marks })
    const raw = (await redis.getBuffer(nameOf('a'))) as Buffer
    const bits = raw.length * 8
    const keys = Array.from({ length: bits }, (_, bit) => `k${bit}`)
    // Under the key that it belongs to: each of them in turn.
    let readable = 0
    for (let bit = 0; bit < bits; bit++) {
      await redis.set(nameOf('a'), mutate(raw, { kind: 'flip', at: bit >> 3, bit: bit & 7 }))
      if ((await get(store, 'a')).value !== undefined) readable++
    }

    expect(readable).toBe(0)
    expect(seen.length).toBe(keys.length)
    expect(new Set(seen.map(({ reason }) => reason))).toEqual(new Set(['foreign', 'format', 'corrupt']))
  })

  test('is a miss where it is another key’s, and another serializer’s', async () => {
    const { store, prefix, nameOf, seen } = open()
    await put(store, 'a', 'of a')
    await redis.rename(nameOf('a'), nameOf('b'))
    expect((await get(store, 'b')).value).toBeUndefined()

    await put(store, 'a', 'of a')
    const text: CacheSerializer = { format: 'text', encode: (value) => String(value), decode: (payload) => payload }
    const other = open({ prefix, serializer: text })
    expect((await get(other.store, 'a')).value).toBeUndefined()

    expect([...seen, ...other.seen].map(({ key, reason }) => [key, reason])).toEqual([
      ['b', 'corrupt'],
      ['a', 'corrupt'],
    ])
  })
})

describe.skipIf(server === undefined)('what is no record', () => {
  const foreign: Record<string, (name: string) => Promise<unknown>> = {
    'a text': (name) => redis.set(name, 'text'),
    'an empty text': (name) => redis.set(name, ''),
    'a long text': (name) => redis.set(name, randomBytes(5000)),
    'a number': (name) => redis.set(name, '7'),
    'a hash': (name) => redis.hset(name, 'a', 1),
    'a list': (name) => redis.rpush(name, 'a'),
    'a set': (name) => redis.sadd(name, 'a'),
    'a stream': (name) => redis.xadd(name, '*', 'a', '1'),
    'a record of a later format': (name) => redis.set(name, Buffer.concat([Buffer.from('swc\x02'), randomBytes(80)])),
  }
  test.each(Object.entries(foreign))(
    '%s is a miss, and is replaced by a load, a write and a delete',
    async (_, make) => {
      const { store, nameOf } = open()
      for (const key of ['a', 'b', 'c']) await make(nameOf(key))

      const { value, version, marks: none, ageMs, freshMs, keptMs } = await get(store, 'a')
      expect({ value, none, ageMs, freshMs, keptMs }).toEqual({
        value: undefined,
        none: [],
        ageMs: 0,
        freshMs: 0,
        keptMs: 0,
      })
      const refused = await put(store, 'a', 1, { ifVersion: 'another' })
      const loaded = await put(store, 'a', 1, { ifVersion: version })
      const set = await put(store, 'b', 2)
      const deleted = await remove(store, 'c')

      expect(refused).toEqual({ written: false, version })
      expect([loaded.written, set.written]).toEqual([true, true])
      expect(await store.getMany(['a', 'b', 'c'])).toMatchObject([
        { value: 1, version: loaded.version },
        { value: 2, version: set.version },
        { value: undefined, version: deleted },
      ])
      // Neither is there for ever.
      for (const key of ['a', 'b', 'c']) expect(await redis.pttl(nameOf(key))).toBeGreaterThan(0)
    },
  )

  test('is counted and told, as far as MGET tells it from nothing', async () => {
    const { store, nameOf, seen } = open()
    await redis.set(nameOf('text'), 'text')
    await redis.set(nameOf('later'), 'swc\x02...')
    await redis.rpush(nameOf('list'), 'a')

    await store.getMany(['text', 'later', 'list', 'nothing', 'text'])

    expect(seen.map(({ key, reason }) => [key, reason])).toEqual([
      ['text', 'foreign'],
      ['later', 'format'],
      ['text', 'foreign'],
    ])
    expect(store.stats()).toMatchObject({ reads: 5, hits: 0, misses: 2, unreadable: 3, readsPending: 0 })
  })

  test.each<[string, (name: string) => Promise<unknown>]>([
    ['a text', (name) => redis.set(name, 'text')],
    ['a list', (name) => redis.rpush(name, 'a')],
  ])('%s in the place of a mark makes it one that was renewed', async (_, make) => {
    const { store, prefix } = open()
    await make(`{${prefix}:0}:m:tag`)

    const mark = only(await store.readMarks(['tag']))

    // It was something, so what depends on it can't be trusted: not even what is being loaded now.
    expect(mark.renewedMs).toBeLessThan(1000)
    expect(only(await store.readMarks(['tag'])).mark).toBe(mark.mark)
  })
})

describe.skipIf(server === undefined)('a value that comes out wrong', () => {
  test('is unreadable where the serializer throws, returns nothing, or answers later', async () => {
    const wrong: Record<string, () => unknown> = {
      throws: () => {
        throw new Error('no')
      },
      nothing: () => undefined,
      later: async () => 1,
    }
    for (const [what, decode] of Object.entries(wrong)) {
      const { store, seen } = open({ serializer: { encode: () => what, decode } })
      const { version } = await put(store, 'a', 1)

      expect(await get(store, 'a'), what).toMatchObject({ value: undefined, version })
      expect(seen).toMatchObject([{ key: 'a', reason: 'undecodable' }])
      expect(seen[0]?.error).toEqual(what === 'throws' ? new Error('no') : undefined)
    }
  })

  test.each(['gzip', 'brotli'] as const)(
    'is unreadable where it would be larger than maxValueBytes, by %s or not',
    async (algorithm) => {
      const bytes: CacheSerializer = { encode: (value) => value as Uint8Array, decode: (payload) => payload.length }
      const { store, prefix } = open({ serializer: bytes, compression: { algorithm } })
      const plain = open({ prefix, serializer: bytes })
      const small = open({ prefix, serializer: bytes, maxValueBytes: 1_000_000 })
      await put(store, 'bomb', Buffer.alloc(50_000_000))
      await put(plain.store, 'plain', Buffer.alloc(1_000_001))
      await put(plain.store, 'fits', Buffer.alloc(1_000_000))
      expect(await redis.strlen(`{${prefix}:0}:k:bomb`)).toBeLessThan(100_000)

      const answers = await small.store.getMany(['bomb', 'plain', 'fits'])

      expect(answers).toMatchObject([{ value: undefined }, { value: undefined }, { value: 1_000_000 }])
      expect(small.seen.map(({ key, reason }) => [key, reason]).sort()).toEqual([
        ['bomb', 'tooLarge'],
        ['plain', 'tooLarge'],
      ])
      expect(() => small.store.encode(Buffer.alloc(1_000_001))).toThrow(
        'value must have at most 1000000 bytes as it is serialized, got 1000001',
      )
    },
  )

  test('a listener that throws changes nothing', async () => {
    const { store, nameOf } = open()
    store.on('unreadable', () => {
      throw new Error('mine')
    })
    await redis.set(nameOf('a'), gzipSync('text'))

    expect((await get(store, 'a')).value).toBeUndefined()
  })
})
