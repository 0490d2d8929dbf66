import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Redis } from 'ioredis'
import { StoreError } from 'spillway'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { startRedisCluster } from '../../servers/redis-cluster.ts'
import { clusterClients, type OpenClient, singleClients } from './clients.ts'
import { slotOf, slotPlaces } from './cluster-slots.ts'
import { ObedientSink, UsageRig, until, uses } from './usage-rig.ts'

const server = await startRedis({ own: true })
const cluster = await startRedisCluster()
const rig = new UsageRig(server?.url)
afterAll(async () => {
  await server?.stop()
  await cluster?.stop()
})

/** How long a worker must be gone before it is given up. */
const claimIdleMs = 300

/** What the page on the stream says that its user may do. */
const acl = (prefix: string): string[] => [
  ...['on', '>secret', `~{${prefix}:*`, `~${prefix}:layout`, '-@all'],
  ...['eval', 'evalsha', 'get', 'set', 'exists', 'xadd', 'xlen', 'xrange', 'xdel', 'xtrim', 'xinfo'].map(
    (name) => `+${name}`,
  ),
  ...['xgroup', 'xreadgroup', 'xpending', 'xclaim', 'xack'].map((name) => `+${name}`),
  // Of the client, at its connecting.
  ...['info', 'client', 'ping'].map((name) => `+${name}`),
]

describe.skipIf(server === undefined)('RedisUsageWorker on Redis', () => {
  test('as a user that may do no more than it needs', async () => {
    const prefix = `acl:${randomUUID()}`
    await rig.client().call('ACL', 'SETUSER', 'usage', ...acl(prefix))
    const { port } = new URL(server?.url as string)
    const open = singleClients['ioredis 6'] as (url: string) => Promise<OpenClient>
    await worksEndToEnd(() => open(`redis://usage:secret@127.0.0.1:${port}`), 2, prefix)
  })

  test('the snippet, on a Redis', async () => {
    const args = [
      'node_modules/tsx/dist/cli.mjs',
      '--tsconfig',
      'tsconfig.check.json',
      'examples/snippets/redis-usage-stream.ts',
    ]
    const { stdout, stderr } = await promisify(execFile)(process.execPath, args, {
      cwd: fileURLToPath(new URL('../../..', import.meta.url)),
      env: { ...process.env, REDIS_URL: server?.url },
      timeout: 60_000,
    })

    expect(stderr).toBe('')
    expect(stdout).toMatch(/^accounted 2000\n/)
    expect(stdout.match(/drained: true, abandoned: 0/g)).toHaveLength(2)
  }, 90_000)

  const asTexts = async (url: string): Promise<OpenClient> => {
    const client = new Redis(url, { stringNumbers: true })
    return { client, close: async () => client.disconnect() }
  }

  test.each([...Object.entries(singleClients), ['ioredis 6 with stringNumbers', asTexts] as const])(
    'with %s',
    async (_, open) => {
      await worksEndToEnd(() => open(server?.url as string), 1)
    },
  )
})

describe.skipIf(cluster === undefined)('RedisUsageWorker on a cluster', () => {
  test.each(Object.entries(clusterClients))('with %s, while a shard moves to another node', async (_, open) => {
    const [mine, theirs] = [await open(cluster?.nodes ?? []), await open(cluster?.nodes ?? [])]
    rig.onEnd(mine.close)
    rig.onEnd(theirs.close)
    const stream = rig.stream({ shards: 2, retry: { attempts: 100, delayMs: 20, maxDelayMs: 100 } }, mine.client)
    const sink = new ObedientSink()
    const worker = await rig.worker(rig.same(stream, theirs.client), sink)
    let published = 0
    const publish = async (): Promise<void> => {
      const outcomes = await stream.publishMany(uses(20))
      published += outcomes.filter(({ status }) => status === 'fulfilled').length
    }
    await publish()
    const slot = await slotOf(cluster, `{${stream.prefix}:1}`)
    const node = (await slotPlaces(cluster))(slot)

    let moving = true
    const moved = cluster?.moveSlot(slot, node, (node + 1) % 3).finally(() => {
      moving = false
    })
    let rounds = 1
    for (; moving || rounds < 20; rounds++) {
      await publish()
      await delay(2)
    }
    await moved

    expect(published).toBe(rounds * 20)
    await until(() => sink.events.length === published)
    await worker.flush()
    expect(sink.repeated).toBe(0)
    expect((await stream.status()).groups).toMatchObject([{ pending: 0 }])
    expect((await stream.deadLetters()).length).toBe(0)
  })

  test.each(Object.entries(clusterClients))('with %s', async (_, open) => {
    await worksEndToEnd(() => open(cluster?.nodes ?? []), 6)
  })
})

/** All that a worker asks of Redis, once: reading, claiming, refunds, dead letters, trimming, leaving. */
async function worksEndToEnd(open: () => Promise<OpenClient>, shards: number, prefix?: string): Promise<void> {
  const [mine, theirs] = [await open(), await open()]
  rig.onEnd(mine.close)
  const stream = rig.stream({ shards, prefix: prefix ?? `usage:${randomUUID()}` }, mine.client)
  const hangs = new ObedientSink()
  hangs.before = () => new Promise(() => undefined)
  const gone = await rig.worker(rig.same(stream, theirs.client), hangs, { claimIdleMs })
  await stream.publishMany(uses(200, 50).map((use, i) => ({ ...use, value: i })))
  await until(() => gone.stats().delivered === 200)
  await theirs.close()
  await gone.close({ timeoutMs: 0 })

  const sink = new ObedientSink()
  sink.before = ({ events }) => {
    if (sink.calls < 3) throw new StoreError('down', { retryable: true })
    return events.flatMap(({ value }, index) => (value === 77 ? [{ index, error: new Error('no') }] : []))
  }
  const worker = await rig.worker(stream, sink, { claimIdleMs })
  await until(() => worker.stats().applied + worker.stats().dead === 200)

  expect(sink.events.map(({ value }) => value).sort((a, b) => a - b)).toEqual(
    Array.from({ length: 200 }, (_, i) => i).filter((i) => i !== 77),
  )
  expect(worker.stats()).toMatchObject({ claimed: 200, redelivered: 200, dead: 1, redisFailures: 0 })
  const letters = await stream.deadLetters()
  expect(letters.map(({ event }) => event?.value)).toEqual([77])
  // As often as an outage didn't end it.
  expect([1, 2]).toContain(letters[0]?.deliveries)
  sink.before = () => undefined
  expect(await stream.requeue(letters.map(({ id }) => id))).toBe(1)
  await until(() => sink.events.length === 200)
  expect(await worker.close()).toEqual({ drained: true, abandoned: 0 })
  expect(await stream.status()).toMatchObject({ length: 0, dead: 0, groups: [{ pending: 0 }] })
}
