import { Redis } from 'ioredis'
import pg from 'pg'
import { PostgresCounterStore } from 'spillway/postgres'
import { RedisCounterStore } from 'spillway/redis'
import type { Running } from '../processes.ts'
import type { Section, SectionTarget } from './section.ts'

const keys = 1_000
/** How many values are compared after each run. */
const compared = 20

export interface ReadPlaces {
  readonly naivePostgres: Running
  readonly naiveRedis: Running
  readonly gateway: Running
  readonly databaseUrl: string
  readonly redisUrl: string
}

/** Counters that are there, read: in each request, and from what a gateway keeps. */
export async function readSection(places: ReadPlaces): Promise<Section> {
  const { naivePostgres, naiveRedis, gateway, databaseUrl, redisUrl } = places
  const prefix = `reads-${Date.now().toString(36)}-`
  await fill(databaseUrl, redisUrl, prefix)
  const path = '/api/v1/counter/KEY/view'
  const target = (name: string, { url }: Running, get: string): SectionTarget => ({
    name,
    url,
    get,
    settle: async () => {
      const wrong = await differing(url, get, prefix)
      return wrong === undefined ? {} : { wrong }
    },
  })
  return {
    title: 'Reads',
    about: [
      `${keys.toLocaleString('en-US')} counters that are there are read in turns over the same connections.`,
      'The gateway keeps what it has read for five seconds at most; a fresh read goes to the store, with all that come at the time.',
      'After each run some values are compared with what is stored.',
    ],
    keys,
    prefix,
    targets: [
      target('naive, a SELECT a request', naivePostgres, path),
      target('a GET of Redis a request', naiveRedis, path),
      target('spillway, durable, kept', gateway, `${path}?source=durable`),
      target('spillway, live, kept', gateway, path),
      target('spillway, durable, fresh', gateway, `${path}?source=durable&fresh=true`),
    ],
  }
}

function storedValueOf(key: number): number {
  return key * 7
}

async function fill(databaseUrl: string, redisUrl: string, prefix: string): Promise<void> {
  const pool = new pg.Pool({ connectionString: databaseUrl, max: 1 })
  const redis = new Redis(redisUrl)
  try {
    const names = Array.from({ length: keys }, (_, index) => `${prefix}${index + 1}:view`)
    const values = names.map((_, index) => storedValueOf(index + 1))
    await pool.query('CREATE TABLE IF NOT EXISTS load_reads (key text PRIMARY KEY, value bigint NOT NULL)')
    await pool.query('INSERT INTO load_reads SELECT * FROM unnest($1::text[], $2::bigint[])', [names, values])
    await redis.mset(names.flatMap((name, index) => [`load-reads:${name}`, String(values[index])]))
    const sums = new Map(names.map((name, index) => [name, values[index] as number]))
    const context = { batchId: crypto.randomUUID(), attempt: 1, signal: new AbortController().signal }
    await new PostgresCounterStore(pool).add(sums, context)
    await new RedisCounterStore(redis).add(sums, context)
  } finally {
    await pool.end()
    redis.disconnect()
  }
}

async function differing(url: string, get: string, prefix: string): Promise<string | undefined> {
  for (let i = 0; i < compared; i++) {
    const key = 1 + Math.floor((i * keys) / compared)
    const response = await fetch(url + get.replace('KEY', `${prefix}${key}`))
    const { value } = (await response.json()) as { value?: number }
    if (value !== storedValueOf(key)) return `${prefix}${key} is ${storedValueOf(key)}, and was answered ${value}`
  }
  return undefined
}
