import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Redis } from 'ioredis'
import pg from 'pg'
import { createPostgresPool, PostgresUsageSink } from 'spillway/postgres'
import { RedisUsageStream } from 'spillway/redis'
import { seededRandom } from 'spillway/testing'
import { afterAll, describe, expect, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { startRedis } from '../../servers/redis.ts'
import { until } from './usage-rig.ts'

const redis = await startRedis({ own: true, appendonly: true, appendfsync: 'always' })
const postgres = await startPostgres(undefined, { own: true })
const folder = mkdtempSync(join(tmpdir(), 'spillway-usage-kill-'))
const root = fileURLToPath(new URL('../../..', import.meta.url))
const running = new Set<ChildProcess>()

afterAll(async () => {
  for (const child of running) child.kill('SIGKILL')
  await redis?.stop()
  await postgres?.stop()
  rmSync(folder, { recursive: true, force: true })
})

/** A process that runs one of the scripts, again and again. */
class Runner {
  readonly #script: string
  readonly #args: (life: number) => string[]
  lives = 0
  /** Whether the process that runs now has said that it does. */
  ready = false
  #child: ChildProcess | undefined
  #output = ''

  constructor(script: string, args: (life: number) => string[]) {
    this.#script = fileURLToPath(new URL(`./scripts/${script}.ts`, import.meta.url))
    this.#args = args
  }

  start(): void {
    const child = spawn(process.execPath, ['--import', 'tsx', this.#script, ...this.#args(this.lives++)], {
      cwd: root,
      env: { ...process.env, TSX_TSCONFIG_PATH: 'tsconfig.check.json' },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    this.#output = ''
    this.ready = false
    child.stdout.on('data', (chunk) => {
      this.#output += chunk
      this.ready = true
    })
    running.add(child)
    child.once('close', () => running.delete(child))
    this.#child = child
  }

  async end(signal: 'SIGKILL' | 'SIGTERM'): Promise<string> {
    const child = this.#child as ChildProcess
    expect([child.exitCode, child.signalCode], `${this.#script} ended by itself: ${this.#output}`).toEqual([null, null])
    const closed = once(child, 'close')
    child.kill(signal)
    await closed
    return this.#output
  }
}

describe.skipIf(redis === undefined || postgres === undefined)('usage through Redis, processes killed', () => {
  test('SIGKILL of publishers and workers: what publish resolved is counted, and nothing twice', async () => {
    const seed = 'kill-1'
    const random = seededRandom(seed)
    const prefix = `kill:${randomUUID()}`
    const shards = 2
    const { url } = redis as { url: string }
    const client = new Redis(url)
    const pool = createPostgresPool(pg, { config: { connectionString: postgres?.url ?? '' } })
    const sink = new PostgresUsageSink(pool, { dedupe: 'event' })
    await sink.createSchema()
    const stream = new RedisUsageStream(client, { prefix, shards })
    // A group that reads nothing: so nothing is trimmed, and all that Redis ever got can be looked up.
    await stream.addGroup('witness')
    const notes = (i: number, life: number): string => join(folder, `publisher-${i}-${life}`)
    const publishers = [0, 1].map(
      (i) =>
        new Runner('usage-publisher', (life) => {
          return [url, prefix, String(shards), `${seed}/${i}/${life}`, notes(i, life)]
        }),
    )
    const workers = [0, 1].map(
      () => new Runner('usage-worker', () => [url, prefix, String(shards), postgres?.url as string]),
    )
    const all = [...publishers, ...workers]
    const length = async (): Promise<number> => (await stream.status()).length
    const pending = async (): Promise<number> => {
      const group = (await stream.status()).groups.find(({ name }) => name === 'spillway')
      return group === undefined ? Number.POSITIVE_INFINITY : group.pending + (group.undelivered ?? Number.NaN)
    }

    for (const runner of all) runner.start()
    let before = 0
    for (let kills = 0; kills < 18; kills++) {
      // Not before there is something to lose: processes take their time to start.
      await until(async () => (await length()) > before + 100, 60_000)
      before = await length()
      await new Promise((resolve) => setTimeout(resolve, random() * 300))
      // One after the other, and sometimes all that do the same at once.
      const victims = kills % 6 < 4 ? [all[kills % 6] as Runner] : kills % 6 === 4 ? workers : publishers
      await Promise.all(victims.map((victim) => victim.end('SIGKILL')))
      for (const victim of victims) victim.start()
    }
    for (const publisher of publishers) await publisher.end('SIGKILL')
    await until(async () => (await pending()) === 0, 90_000)
    // One of them may have done all of it while the other was still starting.
    await until(async () => workers.every((worker) => worker.ready), 60_000)
    const reports = await Promise.all(workers.map((worker) => worker.end('SIGTERM')))

    const [tried, told] = [new Set<string>(), new Set<string>()]
    for (const [i, publisher] of publishers.entries()) {
      for (let life = 0; life < publisher.lives; life++) {
        let text = ''
        // One that was killed before it began has none.
        try {
          text = readFileSync(notes(i, life), 'utf8')
        } catch {}
        for (const line of text.split('\n')) {
          const [what, requestId] = line.split(' ')
          if (requestId !== undefined) (what === 'kept' ? told : tried).add(requestId)
        }
      }
    }
    const kept = new Set<string>()
    const sums = new Map<string, number>()
    for (let shard = 0; shard < shards; shard++) {
      for (const [, [, text]] of await client.xrange(`{${prefix}:${shard}}:events`, '-', '+')) {
        const { requestId, userId, quotaType, period, value } = JSON.parse(text as string)
        expect(kept.has(requestId), `${requestId} was appended twice`).toBe(false)
        kept.add(requestId)
        const key = JSON.stringify({ userId, quotaType, period })
        sums.set(key, (sums.get(key) ?? 0) + value)
      }
    }
    // Redis has all that publish resolved, and else only what was under way when its publisher was killed.
    expect([...told].filter((requestId) => !kept.has(requestId))).toEqual([])
    expect([...kept].filter((requestId) => !tried.has(requestId))).toEqual([])
    const keys = [...sums.keys()].map((key) => JSON.parse(key))
    const counted = await sink.readTotals(keys)
    expect(counted.map(({ value }) => value)).toEqual([...sums.values()])
    expect(counted.reduce((sum, { count }) => sum + count, 0)).toBe(kept.size)
    expect(await stream.status()).toMatchObject({ dead: 0 })
    expect(told.size).toBeGreaterThan(1000)
    for (const report of reports) {
      expect(JSON.parse(report.split('\n')[1] as string)).toMatchObject({
        report: { drained: true, abandoned: 0 },
        stats: { pending: 0, failedBatches: 0, redisFailures: 0 },
      })
    }
    await stream.close()
    await pool.close()
    client.disconnect()
  }, 400_000)
})
