import { Redis } from 'ioredis'
import { createClient } from 'redis'
import { startRedis } from '../../test/servers/redis.ts'

let server: NonNullable<Awaited<ReturnType<typeof startRedis>>> | undefined
const opened: (() => unknown)[] = []

/** The address of the real Redis that all contenders of a contest share; started by the first one. */
export async function url(): Promise<string> {
  server ??= await startRedis()
  if (server === undefined) throw new Error('there is no Redis')
  return server.url
}

/** Does something at the end of the contest, before what was asked for earlier. */
export function atEnd(close: () => unknown): void {
  opened.push(close)
}

/** A client of ioredis. */
export async function ioredis(keyPrefix = ''): Promise<Redis> {
  const client = new Redis(await url(), { keyPrefix })
  atEnd(() => client.disconnect())
  return client
}

/** A client of node-redis. */
export async function nodeRedis() {
  const client = createClient({ url: await url() })
  await client.connect()
  atEnd(() => client.destroy())
  return client
}

/** Closes what was opened, the latest first, and stops the server. */
export async function finish(): Promise<void> {
  for (const close of opened.reverse()) await close()
  await server?.stop()
}
