import { Redis } from 'ioredis'
import { OptionError } from 'spillway'
import { type CacheSerializer, RedisCacheStore, type RedisCacheStoreOptions } from 'spillway/redis'
import { describe, expect, test } from 'vitest'
import { errorOf } from './cache-rig.ts'

// Nobody listens there: whatever were sent would fail with another error.
const client = new Redis(1, '127.0.0.1', { lazyConnect: true, enableOfflineQueue: false, retryStrategy: null as never })
const nowhere = new RedisCacheStore(client)
const write = { key: 'a', value: '1', freshMs: 1, keptMs: 1, marks: [] }

describe('a wrong option throws an OptionError that names it', () => {
  test.each<[string, unknown]>([
    ['prefix', 7],
    ['prefix', 'a{b'],
    ['prefix', null],
    ['fenceMs', 0],
    ['fenceMs', '60000'],
    ['fenceMs', Number.POSITIVE_INFINITY],
    ['maxValueBytes', 0],
    ['maxValueBytes', 2 ** 30],
    ['markTtlMs', 0],
    ['markTtlMs', Number.NaN],
    ['buckets', 0],
    ['buckets', 1025],
    ['buckets', 1.5],
    ['serializer', null],
    ['serializer', JSON],
    ['serializer.decode', { encode: String }],
    ['serializer.format', { encode: String, decode: String, format: 7 }],
    ['compression', true],
    ['compression', null],
    ['compression.algorithm', { algorithm: 'zip' }],
    ['compression.level', { level: 0 }],
    ['compression.level', { level: 10 }],
    ['compression.level', { algorithm: 'brotli', level: 12 }],
    ['compression.minBytes', { minBytes: -1 }],
    ['name', 1],
    ['clock', {}],
  ])('%s: %s', (path, value) => {
    const [field = ''] = path.split('.')
    const make = (): unknown => new RedisCacheStore(client, { [field]: value })

    expect(make).toThrow(OptionError)
    expect(make).toThrow(new RegExp(`^${value === JSON ? 'serializer.encode' : path} must `))
  })

  test.each([null, undefined, {}, 'redis://127.0.0.1', { call: 1 }])('a client that is none: %s', (none) => {
    expect(() => new RedisCacheStore(none as never)).toThrow(/^client must be a client of ioredis or node-redis/)
  })

  test('a client that gives no bytes', () => {
    const wrapper = { isCluster: false, status: 'ready', call: async () => null }

    expect(() => new RedisCacheStore(wrapper)).toThrow(/^client must have a method callBuffer/)
    const pipelining = { ...wrapper, callBuffer: wrapper.call, options: { enableAutoPipelining: true } }
    expect(() => new RedisCacheStore(pipelining)).toThrow(/^client must have a method mgetBuffer/)
  })

  test('an option that is undefined takes its default', () => {
    const none = { prefix: undefined, fenceMs: undefined, buckets: undefined, serializer: undefined, clock: undefined }
    const store = new RedisCacheStore(client, { ...none, compression: undefined, maxValueBytes: undefined })

    expect(store).toMatchObject({ name: 'redis-cache-store', fenceMs: 60_000, buckets: 1 })
  })
})

describe('a wrong argument rejects, before anything is sent', () => {
  test.each<[string, unknown]>([
    ['key', 7],
    ['value', undefined],
    ['value', { a: 1 }],
    ['value', '\ud800'],
    ['freshMs', Number.NaN],
    ['freshMs', -1],
    ['keptMs', 0.5],
    ['keptMs', '1'],
    ['marks', undefined],
    ['marks', 'a'],
    ['ifVersion', 7],
  ])('%s: %s', async (field, value) => {
    const error = await errorOf(nowhere.setMany([write, { ...write, [field]: value }]))

    expect(error).toMatchObject({ code: 'ERR_OPTION', field: `writes[1].${field}` })
  })

  test.each([[undefined], [null], [{}], [{ name: 'tag' }], [{ name: 7, mark: 'a' }]])('a mark: %s', async (mark) => {
    const error = await errorOf(nowhere.setMany([{ ...write, marks: [{ name: 'tag', mark: 'a' }, mark as never] }]))

    expect(error).toMatchObject({ code: 'ERR_OPTION', field: 'writes[0].marks[1]' })
    // Nothing is waited for that was never sent.
    expect(nowhere.stats()).toMatchObject({ writes: 0, writesPending: 0 })
  })

  test('a write, key or name that is none', async () => {
    for (const none of [null, undefined]) {
      expect(await errorOf(nowhere.setMany([none as never]))).toMatchObject({ field: 'writes[0]' })
    }
    expect(await errorOf(nowhere.setMany(new Array(1)))).toMatchObject({ code: 'ERR_OPTION', field: 'writes[0]' })
    for (const list of [undefined, null, 'a', new Set(['a'])] as never[]) {
      expect(await errorOf(nowhere.setMany(list))).toMatchObject({ code: 'ERR_OPTION', field: 'writes' })
      for (const call of [() => nowhere.getMany(list), () => nowhere.deleteMany(list)]) {
        expect(await errorOf(call())).toMatchObject({ code: 'ERR_OPTION', field: 'keys' })
      }
      expect(await errorOf(nowhere.readMarks(list))).toMatchObject({ code: 'ERR_OPTION', field: 'names' })
    }
    for (const call of [
      () => nowhere.getMany(['a', 7 as never]),
      () => nowhere.deleteMany(['a', null as never]),
      () => nowhere.readMarks(['a', undefined as never]),
      () => nowhere.renewMarks(['a', {} as never]),
    ]) {
      const error = await errorOf(call())
      expect(error).toMatchObject({ code: 'ERR_OPTION' })
      expect(error.message).toMatch(/^(keys|names)\[1\] must be a string/)
    }
    expect(nowhere.stats()).toMatchObject({ reads: 0, writes: 0 })
  })
})

describe('encode', () => {
  const wrong = (encode: CacheSerializer['encode'], options: RedisCacheStoreOptions = {}) => {
    const store = new RedisCacheStore(client, { ...options, serializer: { encode, decode: String } })
    return () => store.encode({ a: 1 })
  }

  test('wraps what a serializer throws', () => {
    const cause = new Error('no such type')
    const make = wrong(() => {
      throw cause
    })

    expect(make).toThrow('value must be what the serializer takes, got {"a":1} (object): no such type')
    expect(make).toThrow(expect.objectContaining({ code: 'ERR_OPTION', field: 'value', cause }))
  })

  test.each([undefined, null, 7, {}, [1], '\ud800', new ArrayBuffer(1)])(
    'refuses what is neither text nor bytes: %s',
    (payload) => {
      expect(wrong(() => payload as never)).toThrow(/^what the serializer returns must be a Uint8Array or a text/)
    },
  )

  test('refuses what is too large, and counts bytes, not characters', () => {
    expect(wrong(() => 'éé', { maxValueBytes: 4 })()).toBe('éé')
    expect(wrong(() => 'éé', { maxValueBytes: 3 })).toThrow(
      /^value must have at most 3 bytes as it is serialized, got 4/,
    )
    expect(wrong(() => new Uint8Array(4), { maxValueBytes: 3 })).toThrow(/at most 3 bytes/)
  })
})
