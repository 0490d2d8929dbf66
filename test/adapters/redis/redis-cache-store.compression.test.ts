import { randomBytes } from 'node:crypto'
import { Redis } from 'ioredis'
import { RedisCacheStore, type RedisCacheStoreOptions } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { get, put, somePrefix, writeOf } from './cache-rig.ts'

const server = await startRedis({ own: true })
const redis = new Redis(server?.url ?? 'redis://127.0.0.1:1', { lazyConnect: true })
afterAll(async () => {
  redis.disconnect()
  await server?.stop()
})

const open = (options: RedisCacheStoreOptions = {}, client = redis) => {
  const { prefix = somePrefix() } = options
  return { store: new RedisCacheStore(client, { ...options, prefix }), prefix }
}
const lengthOf = (prefix: string, key: string): Promise<number> => redis.strlen(`{${prefix}:0}:k:${key}`)
const headerBytes = 64

describe.skipIf(server === undefined)('compression', () => {
  test('is of values from minBytes on, where it makes them smaller', async () => {
    const { store, prefix } = open({ compression: { minBytes: 1000 } })
    // As JSON they have two bytes more.
    await put(store, 'below', 'x'.repeat(997))
    await put(store, 'above', 'x'.repeat(998))
    await put(store, 'bytes count', 'é'.repeat(499))
    await put(store, 'noise', randomBytes(2000).toString('base64url'))

    expect(await lengthOf(prefix, 'below')).toBe(headerBytes + 999)
    expect(await lengthOf(prefix, 'above')).toBeLessThan(headerBytes + 100)
    expect(await lengthOf(prefix, 'bytes count')).toBeLessThan(headerBytes + 100)
    const { compressed, bytesSaved, bytesWritten } = store.stats()
    expect(compressed).toBe(3)
    expect(bytesSaved).toBeGreaterThan(1700)
    const lengths = await Promise.all(['below', 'above', 'bytes count', 'noise'].map((key) => lengthOf(prefix, key)))
    expect(bytesWritten).toBe(lengths.reduce((sum, length) => sum + length))
  })

  test('leaves alone what it would make larger', async () => {
    const bytes = { encode: (value: unknown) => value as Uint8Array, decode: (payload: string | Uint8Array) => payload }
    const { store, prefix } = open({ serializer: bytes, compression: { minBytes: 0 } })
    const noise = randomBytes(5000)

    await put(store, 'noise', noise)

    expect(await lengthOf(prefix, 'noise')).toBe(headerBytes + 5000)
    expect(store.stats()).toMatchObject({ compressed: 0, bytesSaved: 0 })
    expect(Buffer.from((await get(store, 'noise')).value as Uint8Array).equals(noise)).toBe(true)
  })

  test('whoever reads needs not compress, nor in the same way', async () => {
    const gzip = open({ compression: { minBytes: 0, level: 1 } })
    const { prefix } = gzip
    const brotli = open({ prefix, compression: { algorithm: 'brotli', minBytes: 0, level: 9 } })
    const plain = open({ prefix })
    const value = { text: 'é'.repeat(500) }
    const stores = [gzip.store, brotli.store, plain.store]
    for (const [i, store] of stores.entries()) await put(store, `k${i}`, value)

    for (const store of stores) {
      const read = await store.getMany(['k0', 'k1', 'k2'])
      expect(read.map((answer) => (answer as { value: unknown }).value)).toEqual([value, value, value])
    }
    const [a, b, c] = await Promise.all(['k0', 'k1', 'k2'].map((key) => lengthOf(prefix, key)))
    expect(Math.max(a as number, b as number)).toBeLessThan((c as number) / 5)
  })

  test('large and small values of one call are answered in their order', async () => {
    const { store } = open({ compression: { minBytes: 100 } })
    const values = Array.from({ length: 100 }, (_, i) => String(i).repeat(i % 3 === 0 ? 10_000 : 1))

    await store.setMany(values.map((value, i) => writeOf(store, `k${i}`, value)))
    const read = await store.getMany(values.map((_, i) => `k${i}`))

    expect(read.map((answer) => (answer as { value: unknown }).value)).toEqual(values)
  })
})

describe.skipIf(server === undefined)('a keyPrefix of ioredis', () => {
  test('goes before all names, of values, marks and the layout', async () => {
    const client = new Redis(server?.url as string, { keyPrefix: 'app:' })
    const { store, prefix } = open({}, client)
    await put(store, 'a', 1)
    await store.readMarks(['m'])

    expect((await get(store, 'a')).value).toBe(1)
    expect((await redis.keys(`*${prefix}*`)).sort()).toEqual(
      [`app:${prefix}:layout`, `app:{${prefix}:0}:k:a`, `app:{${prefix}:0}:m:m`].sort(),
    )
    client.disconnect()
  })
})
