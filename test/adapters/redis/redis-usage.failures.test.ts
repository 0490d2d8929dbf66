import { type RedisClient, RedisUsageStream, RedisUsageWorker } from 'spillway/redis'
import { seededRandom } from 'spillway/testing'
import { afterAll, describe, expect, test } from 'vitest'
import { freePort } from '../../servers/free-port.ts'
import { type OwnRedisServer, startRedis } from '../../servers/redis.ts'
import { TcpProxy } from '../../servers/tcp-proxy.ts'
import { singleClients } from './clients.ts'
import { clientThat, errorOf, gate, ObedientSink, UsageRig, until, uses } from './usage-rig.ts'

const server = (await startRedis({ own: true, appendonly: true, appendfsync: 'always' })) as OwnRedisServer | undefined
const rig = new UsageRig(server?.url)
afterAll(() => server?.stop())

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** Publishes one event after the other, in several lines, until it is stopped, and keeps account of what it was told. */
class Load {
  readonly told = new Set<string>()
  readonly tried = new Set<string>()
  unknown = 0
  stopped = false
  readonly done: Promise<unknown>

  constructor(streams: readonly RedisUsageStream[], seed: string) {
    const random = seededRandom(seed)
    this.done = Promise.all(
      Array.from({ length: 8 }, (_, line) => {
        return this.#publish(streams[line % streams.length] as RedisUsageStream, line, random)
      }),
    )
  }

  async #publish(stream: RedisUsageStream, line: number, random: () => number): Promise<void> {
    for (let n = 0; !this.stopped; n++) {
      const requestId = `${line}/${n}`
      this.tried.add(requestId)
      try {
        await stream.publish({ userId: `u${n % 7}`, quotaType: 'api', value: 1, requestId })
        this.told.add(requestId)
      } catch (error) {
        expect(error).toHaveProperty('outcomeUnknown')
        this.unknown++
      }
      if (random() < 0.3) await sleep(random() * 4)
    }
  }

  /** Everything that publish resolved is in the sink, and nothing that wasn't tried; each once. */
  check(sink: ObedientSink): void {
    const counted = sink.events.map(({ requestId }) => requestId as string)
    expect([...this.told].filter((requestId) => !counted.includes(requestId))).toEqual([])
    expect(new Set(counted).size).toBe(counted.length)
    expect(counted.filter((requestId) => !this.tried.has(requestId))).toEqual([])
    expect(counted.length).toBeLessThanOrEqual(this.told.size + this.unknown)
  }
}

/** Whether all is done: then it is trimmed. How much wasn't delivered yet, Redis doesn't always know after a crash. */
async function isIdle(stream: RedisUsageStream): Promise<boolean> {
  try {
    return (await stream.status()).length === 0
  } catch {
    return false
  }
}

const kinds = Object.entries(singleClients).filter(([name]) => name.endsWith('6'))

describe.skipIf(server === undefined)('usage through Redis when things go wrong', () => {
  test.each(kinds)(
    '%s: Redis is killed and started again under load, appendfsync always: nothing is lost',
    async (_, open) => {
      const clients = await Promise.all([0, 1, 2, 3].map(() => open(server?.url as string)))
      for (const { close } of clients) rig.onEnd(close)
      const [one, two, three, four] = clients.map(({ client }) => client) as [
        RedisClient,
        RedisClient,
        RedisClient,
        RedisClient,
      ]
      const options = { shards: 2, timeoutMs: 500, retry: { attempts: 10, delayMs: 20, maxDelayMs: 200 } }
      const stream = rig.stream(options, one)
      const streams = [stream, rig.stream({ ...options, prefix: stream.prefix }, two)]
      const sink = new ObedientSink()
      const workers: RedisUsageWorker[] = []
      for (const client of [three, four]) {
        workers.push(await rig.worker(rig.same(stream, client), sink, { redisTimeoutMs: 500, claimIdleMs: 1000 }))
      }

      const load = new Load(streams, `restart ${_}`)
      for (let round = 0; round < 3; round++) {
        const before = load.told.size
        await until(() => load.told.size > before + 300, 60_000)
        await server?.kill()
        await sleep(150)
        await server?.restart()
      }
      const before = load.told.size
      await until(() => load.told.size > before + 300, 60_000)
      load.stopped = true
      await load.done
      await until(() => isIdle(stream), 60_000)
      for (const worker of workers) await worker.flush()

      load.check(sink)
      expect(await stream.deadLetters()).toEqual([])
      for (const worker of workers) {
        await until(() => worker.isHealthy())
        const { delivered, applied, pending } = worker.stats()
        expect({ applied, pending }).toEqual({ applied: delivered, pending: 0 })
      }
    },
    120_000,
  )

  test.each(kinds)(
    '%s: connections drop at random moments, of publishers and workers alike',
    async (_, open) => {
      const random = seededRandom(`drops ${_}`)
      const proxy = await TcpProxy.start(server?.port as number)
      rig.onEnd(() => proxy.stop())
      const clients = await Promise.all([0, 1, 2, 3].map(() => open(`redis://127.0.0.1:${proxy.port}`)))
      for (const { close } of clients) rig.onEnd(close)
      const [one, two, three, four] = clients.map(({ client }) => client) as [
        RedisClient,
        RedisClient,
        RedisClient,
        RedisClient,
      ]
      const options = { timeoutMs: 1000, retry: { attempts: 20, delayMs: 5, maxDelayMs: 50 } }
      const stream = rig.stream(options, one)
      const sink = new ObedientSink()
      for (const client of [two, three]) {
        await rig.worker(rig.same(stream, client), sink, { redisTimeoutMs: 500, claimIdleMs: 1000 })
      }

      const load = new Load([stream, rig.stream({ ...options, prefix: stream.prefix }, four)], `drops ${_}`)
      for (let drop = 0; drop < 40; drop++) {
        await sleep(random() * 60)
        proxy.cutAll()
        if (drop % 5 === 0) {
          // The answer to some append, or read, or acknowledgement, and not merely the connection.
          proxy.cutOnce({ request: (chunk) => /EVAL/i.test(chunk.toString('latin1')), answer: () => true })
          await until(() => proxy.cuts > drop / 5, 30_000)
        }
      }
      load.stopped = true
      await load.done
      await until(() => isIdle(rig.same(stream)), 60_000)

      load.check(sink)
      expect(load.told.size).toBeGreaterThan(100)
      expect(await rig.same(stream).deadLetters()).toEqual([])
    },
    120_000,
  )

  test('answers that come when nobody waits any more: nothing is lost, and nobody blamed for it', async () => {
    const random = seededRandom('late')
    const real = rig.client()
    const late = clientThat(real, async (answer) => {
      answer.catch(() => undefined)
      if (random() < 0.3) await sleep(100 + random() * 100)
      return answer
    })
    const stream = rig.stream(
      { timeoutMs: 60, timeoutGraceMs: 5, retry: { attempts: 50, delayMs: 1, maxDelayMs: 5 } },
      late,
    )
    const sink = new ObedientSink()
    const worker = await rig.worker(stream, sink, {
      redisTimeoutMs: 60,
      capacity: 50,
      maxBatchSize: 20,
      maxDeliveries: 4,
    })
    const ticking = setInterval(() => undefined, 1000)
    rig.onEnd(() => clearInterval(ticking))

    for (let i = 0; i < 12; i++) {
      const outcomes = await stream.publishMany(uses(20))
      expect(outcomes.every(({ status }) => status === 'fulfilled')).toBe(true)
    }
    await until(() => sink.events.length === 240 && worker.stats().pending === 0, 60_000)

    expect(sink.repeated).toBe(0)
    expect(stream.stats().timeouts).toBeGreaterThan(0)
    expect(worker.stats().redisFailures).toBeGreaterThan(0)
    expect(worker.stats()).toMatchObject({ dead: 0 })
    await until(() => isIdle(rig.same(stream)))
  }, 60_000)

  test('what a lost answer had delivered is found at once, also where the client made the call anew and got another one', async () => {
    const proxy = await TcpProxy.start(server?.port as number)
    rig.onEnd(() => proxy.stop())
    const stream = rig.stream()
    const { passed, open } = gate()
    const sink = new ObedientSink()
    sink.before = () => passed
    // For an hour nobody takes over what lies there.
    const options = { consumer: 'w1', claimIdleMs: 3_600_000, capacity: 10, maxBatchSize: 10 }
    const worker = await rig.worker(rig.same(stream, rig.client(proxy.port)), sink, options)
    await stream.publishMany(uses(40))
    await until(() => worker.stats().pending === 10)

    const reads = (chunk: Buffer): boolean =>
      chunk.includes('EVALSHA') && chunk.includes('w1') && !chunk.includes(':trim')
    proxy.cutOnce({ request: reads, answer: (answer) => answer.includes('userId') })
    open()
    await until(() => sink.events.length === 40)

    expect(proxy.cuts).toBe(1)
    expect(worker.stats()).toMatchObject({ redisFailures: 0, redelivered: 10, claimed: 0 })
  })

  test('a Redis without memory refuses what is published, and loses nothing of what it has', async () => {
    const stream = rig.stream({ retry: { attempts: 2, delayMs: 1 } })
    const sink = new ObedientSink()
    sink.before = ({ events }) =>
      events.flatMap(({ value }, index) => (value === 2 ? [{ index, error: new Error('no') }] : []))
    await stream.addGroup()
    await stream.publishMany(uses(20).map((use, i) => ({ ...use, value: 1 + (i % 2) })))
    const client = rig.client()
    rig.onEnd(() => client.config('SET', 'maxmemory', '0'))
    await client.config('SET', 'maxmemory', '1')

    const error = await errorOf(
      stream.publishMany(uses(10)).then(([first]) => Promise.reject((first as PromiseRejectedResult).reason)),
    )
    const worker = await rig.worker(stream, sink)
    await until(() => worker.stats().applied + worker.stats().dead === 20)
    // What is done goes, and makes room.
    await until(async () => (await stream.status()).length === 0)
    const requeued = await errorOf(stream.requeue((await stream.deadLetters()).map(({ id }) => id)))
    await client.config('SET', 'maxmemory', '0')

    for (const refusal of [error, requeued]) {
      expect(refusal).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
    }
    expect(worker.stats()).toMatchObject({ applied: 10, dead: 10 })
    expect(await stream.status()).toMatchObject({ dead: 10 })
    await stream.publishMany(uses(10))
    await until(() => sink.events.length === 20)
  })

  test('a worker starts before there is a Redis, says that it is unwell, and works once there is one', async () => {
    const port = await freePort()
    const proxyless = rig.client(port)
    const stream = new RedisUsageStream(proxyless, { prefix: rig.stream().prefix })
    const sink = new ObedientSink()
    const worker = new RedisUsageWorker(stream, sink, {
      ...{ redisTimeoutMs: 50, unhealthyAfter: 2, pollMs: 10, retry: { delayMs: 10, maxDelayMs: 50 } },
    })
    rig.onEnd(() => worker.close({ timeoutMs: 0 }))
    const told: unknown[] = []
    worker.on('unhealthy', ({ reason }) => told.push(reason))
    worker.on('recovered', () => told.push('recovered'))
    const starting = worker.start()
    await until(() => !worker.isHealthy())

    const proxy = await forward(port, server?.port as number)
    rig.onEnd(() => proxy.stop())
    await starting
    await rig.same(stream).publishMany(uses(10))
    await until(() => sink.events.length === 10 && told.length > 1)

    expect(told).toEqual(['redis', 'recovered'])
    expect(worker.isHealthy()).toBe(true)
  }, 60_000)

  test('a worker that is closed before it could start ends its start, and has nothing to give back', async () => {
    const stream = new RedisUsageStream(rig.client(await freePort()), {})
    const worker = new RedisUsageWorker(stream, new ObedientSink(), { redisTimeoutMs: 50 })
    const starting = worker.start()
    await until(() => worker.stats().redisFailures > 0)

    expect(await worker.close()).toEqual({ drained: true, abandoned: 0 })
    expect(await errorOf(starting)).toMatchObject({ code: 'ERR_CLOSED' })
  })

  test('a worker for another number of shards says so at start, and may try again', async () => {
    const stream = rig.stream({ shards: 2 })
    await stream.addGroup()
    const worker = new RedisUsageWorker(rig.stream({ prefix: stream.prefix, shards: 3 }), new ObedientSink())
    rig.onEnd(() => worker.close({ timeoutMs: 0 }))

    expect(await errorOf(worker.start())).toMatchObject({ code: 'ERR_STORE', retryable: false })
    expect(await errorOf(worker.start())).toMatchObject({ code: 'ERR_STORE', retryable: false })
  })
})

/** A proxy on a port that is known beforehand. */
async function forward(port: number, target: number): Promise<{ stop(): Promise<void> }> {
  const { connect, createServer } = await import('node:net')
  const open = new Set<{ destroy(): void }>()
  const proxy = createServer((near) => {
    const far = connect(target, '127.0.0.1')
    for (const socket of [near, far]) {
      open.add(socket)
      socket.on('error', () => undefined)
      socket.once('close', () => open.delete(socket))
    }
    near.pipe(far).pipe(near)
  })
  await new Promise<void>((resolve) => proxy.listen(port, '127.0.0.1', resolve))
  return {
    stop: () => {
      for (const socket of open) socket.destroy()
      return new Promise((resolve) => proxy.close(() => resolve()))
    },
  }
}
