import { Cluster, Redis } from 'ioredis'
import { Cluster as Cluster5, Redis as Redis5 } from 'ioredis5'
import { createClient, createCluster } from 'redis'
import { createClient as createClient5, createCluster as createCluster5 } from 'redis5'
import type { RedisClient } from 'spillway/redis'

/** A client of one of the libraries, and how to end it. */
export interface OpenClient {
  readonly client: RedisClient
  close(): Promise<void>
}

type Nodes = readonly { readonly host: string; readonly port: number }[]

const ignore = (): void => undefined

async function opened<
  C extends { on(event: 'error', listener: () => void): unknown; connect(): Promise<unknown>; destroy(): void },
>(client: C): Promise<{ client: C; close: () => Promise<void> }> {
  client.on('error', ignore)
  await client.connect()
  return { client, close: async () => client.destroy() }
}

async function ready<C extends { on(event: 'error', listener: () => void): unknown; disconnect(): void }>(
  client: C,
): Promise<{ client: C; close: () => Promise<void> }> {
  client.on('error', ignore)
  return { client, close: async () => client.disconnect() }
}

/** Each library's client for one server. */
export const singleClients: Readonly<Record<string, (url: string) => Promise<OpenClient>>> = {
  'ioredis 6': (url) => ready(new Redis(url)),
  'ioredis 5': (url) => ready(new Redis5(url)),
  'node-redis 6': (url) => opened(createClient({ url })),
  'node-redis 5': (url) => opened(createClient5({ url })),
}

/** Each library's client for a cluster. */
export const clusterClients: Readonly<Record<string, (nodes: Nodes) => Promise<OpenClient>>> = {
  'ioredis 6': (nodes) => ready(new Cluster([...nodes])),
  'ioredis 5': (nodes) => ready(new Cluster5([...nodes])),
  'node-redis 6': (nodes) => opened(createCluster({ rootNodes: urls(nodes) })),
  'node-redis 5': (nodes) => opened(createCluster5({ rootNodes: urls(nodes) })),
}

function urls(nodes: Nodes): { url: string }[] {
  return nodes.map(({ host, port }) => ({ url: `redis://${host}:${port}` }))
}
