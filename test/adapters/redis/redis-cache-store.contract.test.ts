import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { deserialize, serialize } from 'node:v8'
import { Cluster, Redis } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import { RedisCacheStore, type RedisCacheStoreOptions } from 'spillway/redis'
import { cacheStoreContract } from 'spillway/testing'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { startRedisCluster } from '../../servers/redis-cluster.ts'
import { clusterClients, type OpenClient, singleClients } from './clients.ts'

const server = await startRedis({ own: true })
const cluster = await startRedisCluster()

afterAll(async () => {
  await server?.stop()
  await cluster?.stop()
})

interface Way {
  readonly options: RedisCacheStoreOptions
  readonly values?: readonly unknown[]
  readonly refused: readonly unknown[]
}

const json = { refused: [undefined, -0, Number.NaN, 1n, new Date(0), new Map(), [undefined]] }
/** The structured clone, as bytes. */
const serializer = {
  format: 'v8',
  encode: (value: unknown) => serialize(value),
  decode: (bytes: string | Uint8Array) => deserialize(bytes as Uint8Array),
}
const clone = { values: [new Date(7), new Map([[1, new Set(['a'])]]), -0, 1n], refused: [() => 1] }

/** Clients that gather the commands of a turn by themselves, which takes ways of its own through ioredis. */
const pipelining = { enableAutoPipelining: true }
const opened = async (client: Redis | Redis5 | Cluster): Promise<OpenClient> => ({
  client,
  close: async () => client.disconnect(),
})
const pipeliningClients: Readonly<Record<string, (url: string) => Promise<OpenClient>>> = {
  'ioredis 6, pipelining': (url) => opened(new Redis(url, pipelining)),
  'ioredis 5, pipelining': (url) => opened(new Redis5(url, pipelining)),
}
const pipeliningClusters: typeof clusterClients = {
  'ioredis 6, pipelining': (nodes) => opened(new Cluster([...nodes], pipelining)),
  'ioredis 6, pipelining and asking replicas': (nodes) =>
    opened(new Cluster([...nodes], { ...pipelining, scaleReads: 'slave' })),
}

/** All of them with one client: what differs lies above the clients. */
const waysOf = (client: string): Record<string, Way> => ({
  JSON: { options: {}, ...json },
  ...(client === 'ioredis 6' && {
    'JSON, compressed by gzip': { options: { compression: { minBytes: 0 } }, ...json },
    'bytes, compressed by brotli': {
      options: { serializer, compression: { algorithm: 'brotli', minBytes: 0 } },
      ...clone,
    },
    'bytes in many buckets': { options: { serializer, buckets: 256 }, ...clone },
  }),
})

describe.skipIf(server === undefined)('RedisCacheStore keeps the contract of cache stores on Redis', () => {
  describe.each(Object.entries({ ...singleClients, ...pipeliningClients }))('with %s', (client, open) => {
    holdsContract(client, () => open(server?.url as string))
  })
})

describe.skipIf(cluster === undefined)('RedisCacheStore keeps the contract of cache stores on a cluster', () => {
  describe.each(Object.entries({ ...clusterClients, ...pipeliningClusters }))('with %s', (client, open) => {
    holdsContract(client, () => open(cluster?.nodes ?? []))
  })
})

function holdsContract(client: string, open: () => Promise<OpenClient>): void {
  let connection: OpenClient
  beforeAll(async () => {
    connection = await open()
  })
  afterAll(() => connection.close())
  describe.each(Object.entries(waysOf(client)))('%s', (_, { options, values = [], refused }) => {
    const prefix = `contract:${randomUUID()}`
    const harness = {
      open: () => new RedisCacheStore(connection.client, { prefix, ...options }),
      elapse: async (ms: number) => void (await delay(ms)),
      values,
      refused,
    }
    for (const { name, run } of cacheStoreContract(harness)) test(name, run)
  })
}
