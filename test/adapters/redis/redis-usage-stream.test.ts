import { randomUUID } from 'node:crypto'
import type { Redis } from 'ioredis'
import { type AcceptedUsage, type BatchContext, QuotaConsumer, type UsageBatch, type UsageEvent } from 'spillway'
import type { RedisUsageStream, RedisUsageStreamEvents } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { singleClients } from './clients.ts'
import { startCuttingProxy } from './cutting-proxy.ts'
import { clientThat, errorOf, ObedientSink, UsageRig, until, uses } from './usage-rig.ts'

const server = await startRedis({ own: true })
const rig = new UsageRig(server?.url)
afterAll(() => server?.stop())

const event = { userId: 'u1', quotaType: 'api', value: 1 }
const contextOf = (batchId: string, signal = new AbortController().signal): BatchContext => {
  return { batchId, attempt: 1, signal }
}
const batchOf = (id: string, count = 2): UsageBatch => {
  const accepted = { ...event, timestamp: Date.UTC(2026, 10, 20), period: '2026-11' }
  return { id, events: Array.from({ length: count }, () => accepted), totals: [] }
}
/** The events that Redis has, in its order. */
async function kept(client: Redis, { prefix, shards }: RedisUsageStream): Promise<Record<string, unknown>[]> {
  const events: Record<string, unknown>[] = []
  for (let shard = 0; shard < shards; shard++) {
    for (const [, fields] of await client.xrange(`{${prefix}:${shard}}:events`, '-', '+')) {
      expect(fields[0]).toBe('usage')
      events.push(JSON.parse(fields[1] as string))
    }
  }
  return events
}

describe.skipIf(server === undefined)('RedisUsageStream', () => {
  test('publish resolves once Redis has the event, as it was accepted', async () => {
    const stream = rig.stream({ periodOf: (type) => (type === 'api' ? 'day' : 'total') })
    const mutable: { userId: bigint; quotaType: string; value: number; timestamp: Date; metadata: { a: number } } = {
      ...{ userId: 12n, quotaType: 'api', value: 3, timestamp: new Date('2026-11-20T23:59:59.999Z') },
      metadata: { a: 1 },
    }

    const published = stream.publish({ ...mutable, requestId: 'r1' })
    mutable.metadata.a = 2
    await published

    const [only, ...others] = await kept(rig.client(), stream)
    expect(others).toEqual([])
    expect(only).toEqual({
      ...{ userId: { bigint: '12' }, quotaType: 'api', value: 3, requestId: 'r1', metadata: { a: 1 } },
      ...{ timestamp: Date.UTC(2026, 10, 20, 23, 59, 59, 999), period: '2026-11-20' },
      id: expect.stringMatching(/^[0-9a-f-]{36}\/0$/),
    })
  })

  test('what a turn publishes is one call, and each event has an id of its own', async () => {
    const stream = rig.stream()
    const appended: RedisUsageStreamEvents['appended'][] = []
    stream.on('appended', (one) => appended.push(one))

    await Promise.all(uses(100).map((use) => stream.publish(use)))

    expect(appended).toEqual([{ batchId: expect.any(String), shard: 0, events: 100, repeated: false }])
    const ids = (await kept(rig.client(), stream)).map(({ id }) => id)
    expect(new Set(ids).size).toBe(100)
    expect(stream.stats()).toMatchObject({ offered: 100, succeeded: 100, pending: 0, batches: 1, appended: 100 })
  })

  test('while calls are under way the next events gather, and publishers are told in their order', async () => {
    const stream = rig.stream({ concurrency: 1 })
    const told: number[] = []

    const all: Promise<unknown>[] = []
    for (let turn = 0; turn < 20; turn++) {
      all.push(stream.publish({ ...event, value: turn }).then(() => told.push(turn)))
      await new Promise((resolve) => setImmediate(resolve))
    }
    await Promise.all(all)

    expect(told).toEqual(Array.from({ length: 20 }, (_, turn) => turn))
    expect((await kept(rig.client(), stream)).map(({ value }) => value)).toEqual(told)
    expect(stream.stats().batches).toBeLessThan(20)
  })

  test.each<[string, unknown]>([
    ['userId', { ...event, userId: '' }],
    ['userId', { ...event, userId: 1.5 }],
    ['quotaType', { ...event, quotaType: 'a\0b' }],
    ['value', { ...event, value: -1 }],
    ['value', { ...event, value: Number.NaN }],
    ['timestamp', { ...event, timestamp: 1_700_000_000 }],
    ['requestId', { ...event, requestId: 7 }],
    ['metadata', { ...event, metadata: { big: 1n } }],
    ['event', null],
  ])('a wrong %s is refused at entry, and hurts nobody else', async (field, wrong) => {
    const stream = rig.stream()

    const outcomes = await stream.publishMany([event, wrong as UsageEvent, event])

    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    const { reason } = outcomes[1] as PromiseRejectedResult
    expect(reason).toMatchObject({ code: 'ERR_INVALID_EVENT', field })
    expect(reason.message).toContain(field)
    expect(await kept(rig.client(), stream)).toHaveLength(2)
    expect(stream.stats()).toMatchObject({ offered: 3, succeeded: 2, rejected: 1, pending: 0 })
  })

  test('an event over maxBatchBytes is refused alone', async () => {
    const stream = rig.stream({ maxBatchBytes: 400 })

    const outcomes = await stream.publishMany([event, { ...event, metadata: { text: 'é'.repeat(200) } }, event])

    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect((outcomes[1] as PromiseRejectedResult).reason).toMatchObject({ code: 'ERR_TOO_LARGE', maxBytes: 400 })
  })

  test('batches keep within maxBatchBytes as Redis counts them', async () => {
    const stream = rig.stream({ maxBatchBytes: 2000 })
    const sizes = new Map<string, number>()
    const total = 50

    await stream.publishMany(uses(total))

    for (const { id, ...rest } of await kept(rig.client(), stream)) {
      const batch = String(id).split('/')[0] as string
      sizes.set(batch, (sizes.get(batch) ?? 0) + Buffer.byteLength(JSON.stringify({ ...rest, id })))
    }
    expect(sizes.size).toBeGreaterThan(3)
    for (const size of sizes.values()) expect(size).toBeLessThanOrEqual(2000)
  })

  test('beyond capacity publishers wait for room, first come, first served, and one may give up', async () => {
    const stream = rig.stream({ capacity: 10, maxBatchSize: 5, concurrency: 1 })
    const giveUp = new AbortController()

    const many = stream.publishMany(uses(50).map((use, i) => ({ ...use, value: i })))
    const impatient = stream.publish({ ...event, value: 1000 }, { signal: giveUp.signal })
    giveUp.abort(new Error('too late'))
    const last = stream.publish({ ...event, value: 50 })

    expect(await errorOf(impatient)).toEqual(new Error('too late'))
    await last
    expect((await many).every(({ status }) => status === 'fulfilled')).toBe(true)
    const values = (await kept(rig.client(), stream)).map(({ value }) => value)
    expect(values).toEqual(Array.from({ length: 51 }, (_, i) => i))
    expect(stream.stats()).toMatchObject({ offered: 52, succeeded: 51, aborted: 1, pending: 0 })
  })

  test('a stream of maxLength takes no more and drops nothing, until workers have done with some', async () => {
    const stream = rig.stream({ maxLength: 20, maxBatchSize: 10 })
    await stream.publishMany(uses(20))

    const full = await errorOf(stream.publish(event))

    expect(full).toMatchObject({ code: 'ERR_FULL', capacity: 20 })
    expect(stream.stats().retries).toBe(0)
    expect(await kept(rig.client(), stream)).toHaveLength(20)
    const sink = new ObedientSink()
    const worker = await rig.worker(stream, sink, { trimEveryMs: 60_000 })
    await until(() => sink.events.length === 20)
    await worker.flush()
    await stream.publish(event)
    await until(() => sink.events.length === 21)
  })

  test('a full stream is told to the writer of a batch, who had it appended before is not refused', async () => {
    const stream = rig.stream({ maxLength: 2 })
    const id = randomUUID()
    await stream.write(batchOf(id), contextOf(id))

    await stream.write(batchOf(id), contextOf(id))
    const error = await errorOf(stream.write(batchOf('another'), contextOf('another')))

    expect(error).toMatchObject({ code: 'ERR_FULL' })
    expect(await kept(rig.client(), stream)).toHaveLength(2)
    expect(stream.stats()).toMatchObject({ appended: 4, repeated: 2 })
  })

  test('twelve attempts at one batch at once, from three processes, append it once', async () => {
    const stream = rig.stream({ shards: 3 })
    const all = [stream, rig.same(stream), rig.same(stream)]
    const id = randomUUID()
    const batch = {
      ...batchOf(id),
      events: uses(90, 30).map((use) => ({ ...batchOf(id).events[0], ...use })),
    } as UsageBatch

    await Promise.all(Array.from({ length: 12 }, (_, i) => all[i % 3]?.write(batch, contextOf(id))))

    const ids = (await kept(rig.client(), stream)).map((one) => one['id'])
    expect(ids.sort()).toEqual(Array.from({ length: 90 }, (_, i) => `${id}/${i}`).sort())
  })

  test('a batch id that comes with other events is refused', async () => {
    const stream = rig.stream()
    await stream.write(batchOf('b1', 2), contextOf('b1'))

    const error = await errorOf(stream.write(batchOf('b1', 3), contextOf('b1')))

    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: false })
    expect(await kept(rig.client(), stream)).toHaveLength(2)
    expect(await errorOf(stream.write(batchOf(''), contextOf('')))).toMatchObject({ code: 'ERR_OPTION' })
    expect(await errorOf(stream.write(batchOf('x'.repeat(201)), contextOf('')))).toMatchObject({ code: 'ERR_OPTION' })
  })

  test('a batch that is full in one shard and unknown in another one is unknown as a whole, not full', async () => {
    const client = rig.client()
    const stream = rig.stream(
      { shards: 2, maxLength: 10 },
      clientThat(client, async (answer, args) => {
        const heard = await answer
        if (args[2]?.endsWith(':1}:events')) throw new Error('Connection is closed.')
        return heard
      }),
    )
    for (let i = 0; i < 10; i++) await client.xadd(`{${stream.prefix}:0}:events`, '*', 'usage', '{}')
    const events = uses(6).map((use) => ({ ...(batchOf('b').events[0] as AcceptedUsage), ...use }))

    // Whichever shard comes first.
    for (const first of events) {
      const id = randomUUID()
      const error = await errorOf(stream.write({ id, events: [first, ...events], totals: [] }, contextOf(id)))
      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: true })
    }
  })

  test('write ends in time, whether Redis answers or not, and says that the outcome is unknown', async () => {
    const proxy = await startCuttingProxy(server?.port as number)
    rig.onEnd(() => proxy.close())
    const stream = rig.stream({ timeoutMs: 100 }, rig.client(proxy.port))
    await stream.publish(event)
    proxy.hold()

    const error = await errorOf(stream.write(batchOf('b'), contextOf('b')))

    expect(error).toMatchObject({ code: 'ERR_TIMEOUT', outcomeUnknown: true })
    expect(await stream.close()).toEqual({ drained: true, abandoned: 0 })
  })

  test('write refuses what JSON cannot carry, by its place, and keeps the ids that events have', async () => {
    const stream = rig.stream({ maxBatchBytes: 400 })
    const [one] = batchOf('b').events as [UsageBatch['events'][0]]
    const events = [
      { ...one, id: 'mine' },
      { ...one, metadata: { big: 1n } },
      { ...one, metadata: { text: 'x'.repeat(400) } },
      one,
    ]

    const refused = await stream.write({ id: 'b', events, totals: [] }, contextOf('b'))

    expect(refused.map(({ index, error }) => [index, (error as { code?: string }).code])).toEqual([
      [1, 'ERR_INVALID_EVENT'],
      [2, 'ERR_TOO_LARGE'],
    ])
    expect((await kept(rig.client(), stream)).map(({ id }) => id)).toEqual(['mine', 'b/3'])
  })

  describe.each(Object.entries(singleClients))('with %s', (_, open) => {
    test('an answer that is lost: the batch is tried again, and Redis has it once', async () => {
      const proxy = await startCuttingProxy(server?.port as number)
      rig.onEnd(() => proxy.close())
      const { client, close } = await open(`redis://127.0.0.1:${proxy.port}`)
      rig.onEnd(close)
      const stream = rig.stream({ retry: { attempts: 50, delayMs: 5, maxDelayMs: 50 } }, client)
      await stream.publish(event)

      for (let round = 1; round <= 5; round++) {
        proxy.cutNextAnswer()
        const outcomes = await stream.publishMany(uses(10))
        expect(outcomes.every(({ status }) => status === 'fulfilled')).toBe(true)
        expect(proxy.cuts).toBe(round)
      }

      expect(await kept(rig.client(), stream)).toHaveLength(51)
    })
  })

  test('answers that come late: the attempt times out, and whatever was done counts once', async () => {
    const proxy = await startCuttingProxy(server?.port as number)
    rig.onEnd(() => proxy.close())
    const stream = rig.stream(
      { timeoutMs: 100, timeoutGraceMs: 10, retry: { attempts: 3, delayMs: 1 } },
      rig.client(proxy.port),
    )
    await stream.publish(event)
    const failed: RedisUsageStreamEvents['failed'][] = []
    stream.on('failed', (one) => failed.push(one))

    proxy.hold()
    const error = await errorOf(stream.publish(event))

    // Redis has it all the same: that is what the publisher is told he doesn't know.
    expect(error).toMatchObject({ code: 'ERR_TIMEOUT' })
    expect((error as { outcomeUnknown?: boolean }).outcomeUnknown).not.toBe(false)
    expect(failed).toMatchObject([{ attempts: 3, events: [{ userId: 'u1' }], error }])
    expect(await kept(rig.client(), stream)).toHaveLength(2)
    expect(stream.stats()).toMatchObject({ offered: 2, succeeded: 1, failed: 1, timeouts: 3, pending: 0 })
  })

  test('a signal that aborts in flight: the publisher goes, the others of his batch do not', async () => {
    const proxy = await startCuttingProxy(server?.port as number)
    rig.onEnd(() => proxy.close())
    const stream = rig.stream({ timeoutMs: 500, retry: { attempts: 20, delayMs: 5 } }, rig.client(proxy.port))
    await stream.publish(event)
    const giveUp = new AbortController()

    proxy.cutNextAnswer()
    const [gone, stays] = [stream.publish(event, { signal: giveUp.signal }), stream.publish({ ...event, value: 2 })]
    await until(() => stream.stats().inFlight === 2)
    giveUp.abort(new Error('enough'))

    expect(await errorOf(gone)).toEqual(new Error('enough'))
    await stays
    expect((await kept(rig.client(), stream)).map(({ value }) => value)).toEqual([1, 1, 2])
    expect(stream.stats()).toMatchObject({ offered: 3, succeeded: 2, aborted: 1, pending: 0 })
  })

  test('close settles what was accepted, refuses more, and is told apart from a deadline', async () => {
    const stream = rig.stream()
    const published = stream.publishMany(uses(1000))

    const report = await stream.close({ timeoutMs: 30_000 })

    expect(report).toEqual({ drained: true, abandoned: 0 })
    expect((await published).every(({ status }) => status === 'fulfilled')).toBe(true)
    for (const call of [
      () => stream.publish(event),
      () => stream.write(batchOf('b'), contextOf('b')),
      () => stream.status(),
      () => stream.deadLetters(),
      () => stream.requeue([]),
      () => stream.addGroup(),
    ]) {
      expect(await errorOf(call())).toMatchObject({ code: 'ERR_CLOSED' })
    }
    expect(await kept(rig.client(), stream)).toHaveLength(1000)
  })

  test('at its deadline close gives up what Redis did not answer, and says that the outcome is unknown', async () => {
    const proxy = await startCuttingProxy(server?.port as number)
    rig.onEnd(() => proxy.close())
    const stream = rig.stream({}, rig.client(proxy.port))
    await stream.publish(event)
    proxy.hold()
    const published = stream.publish(event)
    await until(() => stream.stats().inFlight === 1)

    const report = await stream.close({ timeoutMs: 50 })

    expect(report).toEqual({ drained: false, abandoned: 1 })
    expect(await errorOf(published)).toMatchObject({ code: 'ERR_CLOSED', outcomeUnknown: true })
  })

  test('streams that were made for another number of shards fail every call', async () => {
    const stream = rig.stream({ shards: 2 })
    await stream.publish(event)
    const other = rig.stream({ prefix: stream.prefix, shards: 3, retry: { attempts: 3, delayMs: 1 } })

    for (const call of [() => other.publish(event), () => other.addGroup()]) {
      const error = await errorOf(call())
      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: false })
      expect((error as Error).message).toMatch(/has 2 shards, this was made for 3/)
    }
    expect(other.stats().retries).toBe(0)
  })

  test("a user's events are all in one shard, and the shards share the users", async () => {
    const stream = rig.stream({ shards: 4 })
    await stream.publishMany(uses(400, 100))
    const client = rig.client()
    const shardsOf = new Map<string, Set<number>>()

    for (let shard = 0; shard < 4; shard++) {
      for (const [, [, text]] of await client.xrange(`{${stream.prefix}:${shard}}:events`, '-', '+')) {
        const { userId } = JSON.parse(text as string)
        shardsOf.set(userId, (shardsOf.get(userId) ?? new Set()).add(shard))
      }
    }

    expect(shardsOf.size).toBe(100)
    expect([...shardsOf.values()].every(({ size }) => size === 1)).toBe(true)
    expect(new Set([...shardsOf.values()].flatMap((shards) => [...shards])).size).toBe(4)
  })

  test('status adds up the shards, and a group that was added gets what is there', async () => {
    const stream = rig.stream({ shards: 3 })
    await stream.publishMany(uses(30))
    expect(await stream.status()).toEqual({ length: 30, dead: 0, groups: [] })

    await stream.addGroup('audit')
    await stream.addGroup('audit')

    expect(await stream.status()).toEqual({
      length: 30,
      dead: 0,
      groups: [{ name: 'audit', consumers: 0, pending: 0, undelivered: 30 }],
    })
    const sink = new ObedientSink()
    await rig.worker(stream, sink, { group: 'audit' })
    await until(() => sink.events.length === 30)
  })

  test('a QuotaConsumer writes to it, and its retries are counted once in the end', async () => {
    const proxy = await startCuttingProxy(server?.port as number)
    rig.onEnd(() => proxy.close())
    const stream = rig.stream({ shards: 2 }, rig.client(proxy.port))
    const consumer = new QuotaConsumer(stream, { maxBatchSize: 20, maxWaitMs: 5, retry: { attempts: 10, delayMs: 5 } })
    const sink = new ObedientSink()
    await rig.worker(rig.same(stream), sink)

    for (let round = 0; round < 5; round++) {
      proxy.cutNextAnswer()
      for (const use of uses(40)) consumer.offer(use)
      await consumer.flush()
    }
    await consumer.close()

    await until(() => sink.events.length >= 200)
    expect(sink.sum).toBe(200)
    expect(sink.repeated).toBe(0)
    expect(consumer.stats()).toMatchObject({ processedEvents: 200, failedEvents: 0 })
  })

  test('a QuotaConsumer that has no room in the stream is told so, and loses nothing that it still may retry', async () => {
    const stream = rig.stream({ maxLength: 10 })
    const consumer = new QuotaConsumer(stream, { maxBatchSize: 10, maxWaitMs: 1, retry: { attempts: 500, delayMs: 5 } })
    const sink = new ObedientSink()
    for (const use of uses(50)) consumer.offer(use)
    await until(async () => (await stream.status()).length === 10)

    await rig.worker(stream, sink)
    await consumer.close()

    await until(() => sink.events.length === 50)
    expect(sink.repeated).toBe(0)
  })
})
