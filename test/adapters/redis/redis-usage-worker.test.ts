import type { Redis } from 'ioredis'
import { type AcceptedUsage, type BatchContext, StoreError, type UsageBatch } from 'spillway'
import { type RedisUsageStream, RedisUsageWorker, type RedisUsageWorkerEvents } from 'spillway/redis'
import { seededRandom } from 'spillway/testing'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { startRedisCluster } from '../../servers/redis-cluster.ts'
import { clusterClients, type OpenClient, singleClients } from './clients.ts'
import { errorOf, gate, ObedientSink, pendingOf, UsageRig, until, uses } from './usage-rig.ts'

const server = await startRedis({ own: true })
const cluster = await startRedisCluster()
const rig = new UsageRig(server?.url)
afterAll(async () => {
  await server?.stop()
  await cluster?.stop()
})

const event = { userId: 'u1', quotaType: 'api', value: 1 }
const keyOf = ({ prefix }: RedisUsageStream): string => `{${prefix}:0}:events`
/** How long a worker must be gone before it is given up, where a test waits for that. */
const claimIdleMs = 300

describe.skipIf(server === undefined)('RedisUsageWorker', () => {
  test('accounts each event once, in totals by user, quota type and period, and leaves nothing behind', async () => {
    const stream = rig.stream()
    const sink = new ObedientSink()
    const applied: RedisUsageWorkerEvents['applied'][] = []
    await stream.publishMany(uses(1000))

    const worker = await rig.worker(stream, sink)
    worker.on('applied', (one) => applied.push(one))
    await stream.publishMany(uses(1000))
    await until(() => sink.events.length === 2000)
    await worker.flush()

    expect(sink.repeated).toBe(0)
    const sums = new Map<string, number>()
    for (const { totals } of sink.batches) {
      expect(new Set(totals.map(({ userId }) => userId)).size).toBe(totals.length)
      for (const { userId, value } of totals) sums.set(userId, (sums.get(userId) ?? 0) + value)
    }
    expect(sums).toEqual(new Map(Array.from({ length: 10 }, (_, i) => [`u${i}`, 200])))
    expect(sink.batches.length).toBeLessThan(50)
    expect(applied.length).toBeGreaterThan(0)
    expect(worker.stats()).toMatchObject({ delivered: 2000, applied: 2000, pending: 0, redelivered: 0, healthy: true })
    expect(await worker.close()).toEqual({ drained: true, abandoned: 0 })
    expect(await stream.status()).toEqual({
      length: 0,
      dead: 0,
      groups: [{ name: 'spillway', consumers: 0, pending: 0, undelivered: 0 }],
    })
  })

  test('several workers share the work', async () => {
    const stream = rig.stream({ shards: 2 })
    const sinks = Array.from({ length: 4 }, () => new ObedientSink())
    for (const sink of sinks) sink.before = () => new Promise((resolve) => setTimeout(resolve, 5))
    const workers = await Promise.all(
      sinks.map((sink) => rig.worker(rig.same(stream), sink, { maxBatchSize: 20, capacity: 40 })),
    )

    for (let i = 0; i < 20; i++) await stream.publishMany(uses(100, 100))
    await until(() => sinks.reduce((sum, sink) => sum + sink.events.length, 0) >= 2000)
    await Promise.all(workers.map((worker) => worker.flush()))

    const ids = sinks.flatMap((sink) => [...sink.comings.keys()])
    expect(ids).toHaveLength(2000)
    expect(new Set(ids).size).toBe(2000)
    for (const sink of sinks) expect(sink.events.length).toBeGreaterThan(100)
    expect((await stream.status()).groups).toMatchObject([{ pending: 0, undelivered: 0 }])
  })

  test('a worker that comes back under its name begins with what it left, at once', async () => {
    const stream = rig.stream()
    const hangs = new ObedientSink()
    hangs.before = () => new Promise(() => undefined)
    const { die } = await rig.mortal(stream, hangs, { consumer: 'w1', maxBatchSize: 10, capacity: 20 })
    await stream.publishMany(uses(30).map((use, i) => ({ ...use, value: i })))
    await until(() => hangs.calls === 2)
    await die()

    const sink = new ObedientSink()
    // Idleness plays no part in it.
    const worker = await rig.worker(stream, sink, { consumer: 'w1', claimIdleMs: 3_600_000 })
    await until(() => sink.events.length === 30)

    expect(sink.events.map(({ value }) => value)).toEqual(Array.from({ length: 30 }, (_, i) => i))
    expect(worker.stats()).toMatchObject({ redelivered: 20, claimed: 0 })
  })

  test('what a dead worker left is taken over, what a live one still works on is not', async () => {
    const stream = rig.stream()
    const hangs = new ObedientSink()
    hangs.before = () => new Promise(() => undefined)
    const dead = await rig.mortal(stream, hangs, { consumer: 'dead', claimIdleMs })
    await stream.publishMany(uses(10))
    await until(() => hangs.calls > 0)
    await dead.die()
    const { passed, open } = gate()
    const slow = new ObedientSink()
    slow.before = () => passed
    // Its name is its own: it doesn't look for what others left for a long while yet.
    await rig.worker(stream, slow, { consumer: 'slow', claimIdleMs, capacity: 5, maxBatchSize: 5, concurrency: 1 })
    await stream.publishMany(uses(5))
    await until(() => slow.calls === 1)
    const taken = slow.calls

    const sink = new ObedientSink()
    const claimed: RedisUsageWorkerEvents['claimed'][] = []
    const worker = new RedisUsageWorker(stream, sink, { claimIdleMs, pollMs: 10 })
    rig.onEnd(() => worker.close({ timeoutMs: 0 }))
    worker.on('claimed', (one) => claimed.push(one))
    await worker.start()
    await until(() => sink.events.length >= 10)
    // Many times as long as it takes to be taken for dead.
    await new Promise((resolve) => setTimeout(resolve, claimIdleMs * 5))

    expect(sink.events).toHaveLength(10)
    expect(taken).toBe(1)
    open()
    await until(() => slow.events.length === 5)
    expect(new Set([...sink.comings.keys(), ...slow.comings.keys()]).size).toBe(15)
    for (const { from } of claimed) expect(from).not.toHaveProperty('slow')
  })

  test('an outage of the sink kills nothing, however long and through however many workers', async () => {
    const stream = rig.stream()
    await stream.publishMany(uses(50))
    const client = rig.client()
    let calls = 0
    for (let run = 0; run < 8; run++) {
      const sink = new ObedientSink()
      // Both kinds: one that says that it will pass, and one that says nothing.
      sink.before = () => {
        throw run % 2 === 0 ? new StoreError('down', { retryable: true, outcomeUnknown: true }) : new Error('no')
      }
      const { worker, die } = await rig.mortal(stream, sink, {
        ...{ consumer: 'w', maxDeliveries: 3, maxBatchSize: 10, unhealthyAfter: 3 },
        retry: { delayMs: 1, maxDelayMs: 5 },
      })
      await until(() => sink.calls > 100)
      expect(worker.isHealthy()).toBe(false)
      expect(worker.stats()).toMatchObject({ delivered: 50, pending: 50, dead: 0 })
      calls += sink.calls
      // Let the last deliveries be taken back, which is not waited for.
      await until(async () => (await pendingOf(client, stream)).every((deliveries) => deliveries <= 1))
      await die()
    }

    const sink = new ObedientSink()
    const worker = await rig.worker(stream, sink, { consumer: 'w', maxDeliveries: 3 })
    await stream.publishMany(uses(5))
    await until(() => sink.events.length === 55)
    await worker.flush()

    expect(calls).toBeGreaterThan(800)
    expect(await stream.deadLetters()).toEqual([])
    expect(sink.repeated).toBe(0)
  })

  test('a sink that says of everything that it is at fault kills nothing either, as long as nothing succeeds', async () => {
    const stream = rig.stream()
    await stream.publishMany(uses(30))
    const sink = new ObedientSink()
    sink.before = () => {
      throw new StoreError('permission denied', { retryable: false })
    }
    const worker = await rig.worker(stream, sink, { maxDeliveries: 2, retry: { delayMs: 1, maxDelayMs: 5 } })
    await until(() => sink.calls > 500)
    expect(worker.isHealthy()).toBe(false)

    sink.before = () => undefined
    await until(() => sink.events.length === 30)
    await worker.flush()

    expect(worker.stats()).toMatchObject({ applied: 30, dead: 0, healthy: true })
    expect(await stream.deadLetters()).toEqual([])
  })

  test('one failure that blames an event is not enough while the sink comes and goes', async () => {
    const stream = rig.stream()
    const sink = new ObedientSink()
    const worker = await rig.worker(stream, sink, { concurrency: 2, maxBatchSize: 1 })
    let failures = 0
    // The sink goes away under one write, right after the other one has succeeded: once for each event.
    const failed = new Set<string>()
    sink.before = async (batch) => {
      const [{ id }] = batch.events as [AcceptedUsage & { id: string }]
      if (failed.has(id)) return
      failed.add(id)
      const fails = ++failures % 2 === 0
      await new Promise((resolve) => setTimeout(resolve, 2))
      if (fails) throw new StoreError('read-only', { retryable: false })
    }

    await stream.publishMany(uses(60))
    await until(() => sink.events.length === 60)
    await worker.flush()

    expect(worker.stats()).toMatchObject({ applied: 60, dead: 0 })
    expect(worker.stats().failedBatches).toBeGreaterThan(20)
  })

  test.each<[string, () => unknown]>([
    ['says so', () => new StoreError('numeric field overflow', { retryable: false })],
    ['only fails', () => new Error('odd')],
    ['is taken for an outage', () => new StoreError('deadlock', { retryable: true })],
  ])('poison whose error %s is isolated, and the others are written', async (_, makeError) => {
    const stream = rig.stream()
    const poison = new Set([7, 8, 300])
    const sink = new ObedientSink()
    sink.before = ({ events }) => {
      if (events.some(({ value }) => poison.has(value))) throw makeError()
    }
    const dead: RedisUsageWorkerEvents['deadLettered'][] = []
    const worker = await rig.worker(stream, sink, { maxDeliveries: 4, retry: { delayMs: 1, maxDelayMs: 10 } })
    worker.on('deadLettered', (one) => dead.push(one))

    await stream.publishMany(uses(500).map((use, i) => ({ ...use, value: i })))
    // What tells a sink at fault from an event at fault is how others fare.
    while (dead.length < 3) {
      await stream.publish({ ...event, value: 1000 })
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    await worker.flush()

    expect(dead.map(({ event }) => event?.value).sort()).toEqual([300, 7, 8])
    expect(sink.events.filter(({ value }) => value < 1000)).toHaveLength(497)
    expect(sink.repeated).toBe(0)
    const letters = await stream.deadLetters()
    expect(letters.map(({ event }) => event?.value).sort()).toEqual([300, 7, 8])
    for (const { reason, group } of letters) {
      expect(reason).toMatch(/^the sink failed: .*(overflow|odd|deadlock)/)
      expect(group).toBe('spillway')
    }
    // Mended, and sent once more.
    sink.before = () => undefined
    expect(await stream.requeue(letters.map(({ id }) => id))).toBe(3)
    await until(() => [...poison].every((value) => sink.events.some((one) => one.value === value)))
    expect(await stream.deadLetters()).toEqual([])
    expect(await stream.requeue(letters.map(({ id }) => id))).toBe(0)
    expect(sink.repeated).toBe(0)
  })

  test('what the sink refuses goes to the dead letters at once, listed in pages, to be requeued or discarded', async () => {
    const stream = rig.stream({ shards: 2 })
    const sink = new ObedientSink()
    sink.before = ({ events }) =>
      events.flatMap(({ value }, index) => (value % 10 === 3 ? [{ index, error: new Error('too much\nat x') }] : []))
    const worker = await rig.worker(stream, sink)
    await stream.publishMany(uses(100, 100).map((use, i) => ({ ...use, value: i })))
    await until(() => worker.stats().applied + worker.stats().dead === 100)

    const first = await stream.deadLetters({ limit: 4 })
    const rest = await stream.deadLetters({ after: first.at(-1)?.id })

    const letters = [...first, ...rest]
    expect(first).toHaveLength(4)
    expect(letters.map(({ event }) => event?.value).sort()).toEqual([13, 23, 3, 33, 43, 53, 63, 73, 83, 93])
    for (const { reason, deliveries, at } of letters) {
      expect(reason).toMatch(/^the sink refused it: .*too much$/)
      expect(deliveries).toBe(1)
      expect(Math.abs(Date.now() - at)).toBeLessThan(60_000)
    }
    expect(await stream.discard(letters.slice(0, 3).map(({ id }) => id))).toBe(3)
    sink.before = () => undefined
    expect(await stream.requeue(letters.map(({ id }) => id))).toBe(7)
    await until(() => sink.events.length === 97)
    expect(await stream.status()).toMatchObject({ dead: 0 })
    expect(worker.stats()).toMatchObject({ dead: 10, applied: 97 })
  })

  test.each<[string, string[]]>([
    ['has no field of ours', ['x', 'y']],
    ['is no JSON', ['usage', '{']],
    ['is no event', ['usage', '[]']],
    ['has a wrong value', ['usage', JSON.stringify({ ...event, value: -1, timestamp: Date.now(), period: 'total' })]],
    ['has no period', ['usage', JSON.stringify({ ...event, timestamp: Date.now() })]],
  ])('an entry that %s goes to the dead letters as it is', async (_, fields) => {
    const stream = rig.stream()
    const sink = new ObedientSink()
    const worker = await rig.worker(stream, sink)
    const id = await rig.client().xadd(keyOf(stream), '*', ...fields)
    await stream.publish(event)
    await until(() => worker.stats().applied + worker.stats().dead === 2)

    expect(await stream.deadLetters()).toEqual([
      expect.objectContaining({
        event: undefined,
        entryId: id,
        fields,
        reason: expect.stringMatching(/^can't be read/),
      }),
    ])
    expect(sink.events).toHaveLength(1)
  })

  test('an event that ends three workers goes to the dead letters, and takes nobody along', async () => {
    const stream = rig.stream()
    await stream.publishMany(uses(40).map((use, i) => ({ ...use, value: i })))
    let crashes = 0
    const written = new Set<number>()
    const dead: RedisUsageWorkerEvents['deadLettered'][] = []
    while (dead.length === 0) {
      const sink = new ObedientSink()
      const crash = gate()
      sink.before = ({ events }) => {
        if (!events.some(({ value }) => value === 13)) return
        crash.open()
        return new Promise(() => undefined)
      }
      const { worker, die } = await rig.mortal(stream, sink, { consumer: 'w', maxDeliveries: 3 })
      worker.on('deadLettered', (one) => dead.push(one))
      await Promise.race([crash.passed, until(() => dead.length > 0)])
      if (dead.length > 0) await until(() => worker.stats().pending === 0)
      else crashes++
      for (const { value } of sink.events) written.add(value)
      await die()
    }

    expect(crashes).toBe(3)
    expect(dead.map(({ event, deliveries, reason }) => [event?.value, deliveries, reason])).toEqual([
      [13, 3, 'delivered 3 times, and never done'],
    ])
    expect(written.size).toBe(39)
    expect(await stream.deadLetters()).toHaveLength(1)
  })

  test('many innocents beside it survive, though the process dies before it comes to them', async () => {
    const stream = rig.stream()
    await stream.publishMany(uses(200).map((use, i) => ({ ...use, value: i })))
    const seen = new Set<number>()
    let runs = 0
    for (let done = false; !done; runs++) {
      const sink = new ObedientSink()
      const crash = gate()
      sink.before = ({ events }) => {
        if (!events.some(({ value }) => value === 3)) return
        crash.open()
        return new Promise(() => undefined)
      }
      const { worker, die } = await rig.mortal(stream, sink, { consumer: 'w', maxDeliveries: 6 })
      const over = until(() => worker.stats().delivered > 0 && worker.stats().pending === 0).then(() => true)
      over.catch(() => undefined)
      done = await Promise.race([crash.passed.then(() => false), over])
      for (const { value } of sink.events) seen.add(value)
      await die()
      expect(runs).toBeLessThan(20)
    }

    expect((await stream.deadLetters()).map(({ event }) => event?.value)).toEqual([3])
    expect(seen.size).toBe(199)
  })

  test('close waits for the write under way, writes what it has in hand, and reads no more', async () => {
    const stream = rig.stream()
    const { passed, open } = gate()
    const sink = new ObedientSink()
    sink.before = () => passed
    const worker = await rig.worker(stream, sink, { concurrency: 1, maxBatchSize: 10, capacity: 30 })
    await stream.publishMany(uses(100))
    await until(() => sink.calls === 1 && worker.stats().pending >= 20)
    const inHand = worker.stats().pending

    const closing = worker.close({ timeoutMs: 30_000 })
    await expect(Promise.race([closing, new Promise((resolve) => setTimeout(resolve, 50, 'waits'))])).resolves.toBe(
      'waits',
    )
    open()

    expect(await closing).toEqual({ drained: true, abandoned: 0 })
    expect(sink.events).toHaveLength(inHand)
    expect((await stream.status()).groups).toMatchObject([{ consumers: 0, pending: 0, undelivered: 100 - inHand }])
    expect(await errorOf(worker.start())).toMatchObject({ code: 'ERR_CLOSED' })
  })

  test('at its deadline close gives back what it has, and another worker takes that over at once', async () => {
    const stream = rig.stream()
    const { passed, open } = gate()
    const sink = new ObedientSink()
    const signals: AbortSignal[] = []
    sink.before = (_, { signal }) => {
      signals.push(signal)
      return passed
    }
    const worker = await rig.worker(stream, sink, { maxDeliveries: 2 })
    await stream.publishMany(uses(20))
    await until(() => worker.stats().pending === 20)

    const report = await worker.close({ timeoutMs: 30 })

    expect(report).toEqual({ drained: false, abandoned: 20 })
    expect(signals.every(({ aborted }) => aborted)).toBe(true)
    expect(worker.stats()).toMatchObject({ delivered: 20, returned: 20, pending: 0 })
    // What was given back wasn't the events' fault.
    expect(await pendingOf(rig.client(), stream)).toEqual(Array.from({ length: 20 }, () => 0))
    const other = new ObedientSink()
    // It would wait for an hour for what a dead one had left.
    await rig.worker(stream, other, { claimIdleMs: 3_600_000, maxDeliveries: 2 })
    await until(() => other.events.length === 20)
    // The write of the first one ends after all: the sink tells by the ids that it has them.
    open()
    await until(() => sink.events.length === 20)
    expect([...sink.comings.keys()].sort()).toEqual([...other.comings.keys()].sort())
    expect(await stream.deadLetters()).toEqual([])
  })

  test('close while the sink is down gives back in time, cutting waits between retries short', async () => {
    const stream = rig.stream()
    const sink = new ObedientSink()
    sink.before = () => {
      throw new StoreError('down', { retryable: true })
    }
    const worker = await rig.worker(stream, sink, { retry: { delayMs: 3_600_000, maxDelayMs: 3_600_000 } })
    await stream.publishMany(uses(20))
    await until(() => worker.stats().waiting === 20)

    expect(await worker.close()).toEqual({ drained: false, abandoned: 20 })
    expect((await stream.status()).groups).toMatchObject([{ pending: 20 }])
  })

  test('workers that are closed in turn while others go on lose nothing and count nothing twice', async () => {
    const stream = rig.stream()
    const sink = new ObedientSink()
    const random = seededRandom('rolling')
    sink.before = () => new Promise((resolve) => setTimeout(resolve, random() * 5))
    let worker = await rig.worker(stream, sink, { maxBatchSize: 10 })
    let published = 0
    for (let round = 0; round < 20; round++) {
      await stream.publishMany(uses(50))
      published += 50
      const next = await rig.worker(stream, sink, { maxBatchSize: 10 })
      expect(await worker.close()).toEqual({ drained: true, abandoned: 0 })
      worker = next
    }
    await until(() => sink.events.length === published)
    expect(sink.repeated).toBe(0)
  })

  test('a write that times out and succeeds late counts, and isn’t made again', async () => {
    const stream = rig.stream()
    const sink = new ObedientSink()
    const late: ReturnType<typeof gate<void>>[] = []
    sink.before = () => {
      const one = gate()
      late.push(one)
      return one.passed
    }
    const worker = await rig.worker(stream, sink, {
      ...{ timeoutMs: 50, timeoutGraceMs: 5, concurrency: 1 },
      retry: { delayMs: 60_000, maxDelayMs: 60_000 },
      random: () => 0.999,
    })
    await stream.publishMany(uses(10))
    await until(() => worker.stats().waiting === 10)

    late[0]?.open()
    await until(() => worker.stats().applied === 10)

    expect(worker.stats()).toMatchObject({ pending: 0, timeouts: 1, failedBatches: 1 })
    expect(sink.calls).toBe(1)
    expect((await stream.status()).groups).toMatchObject([{ pending: 0 }])
    await worker.close()
  })

  test('attempts at a batch are the same batch under the same id', async () => {
    const stream = rig.stream()
    const sink = new ObedientSink()
    const tried: { batch: UsageBatch; context: Pick<BatchContext, 'batchId' | 'attempt'> }[] = []
    sink.before = (batch, { batchId, attempt }) => {
      tried.push({ batch, context: { batchId, attempt } })
      if (attempt < 3) throw new StoreError('down', { retryable: true })
    }
    const worker = await rig.worker(stream, sink)
    await stream.publishMany(uses(10))
    await until(() => sink.events.length === 10)
    await worker.flush()

    expect(tried.map(({ context }) => context.attempt)).toEqual([1, 2, 3])
    for (const { batch, context } of tried) {
      expect(batch).toBe(tried[0]?.batch)
      expect(context.batchId).toBe(batch.id)
      expect(Object.isFrozen(batch) && Object.isFrozen(batch.events) && Object.isFrozen(batch.totals)).toBe(true)
    }
  })

  test('flush settles what is in hand and goes on', async () => {
    const stream = rig.stream()
    const sink = new ObedientSink()
    const worker = await rig.worker(stream, sink, { eager: false, maxWaitMs: 3_600_000, maxBatchSize: 1000 })
    await stream.publishMany(uses(30))
    await until(() => worker.stats().pending === 30)
    expect(sink.calls).toBe(0)

    const report = await worker.flush()

    expect(report).toEqual({ succeeded: 30, failed: 0, dropped: 0 })
    await stream.publishMany(uses(5))
    await until(() => worker.stats().pending === 5)
    expect(await worker.close()).toEqual({ drained: true, abandoned: 0 })
    expect(sink.events).toHaveLength(35)
    expect(await worker.flush()).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
  })

  test('a listener that throws, and a sink that answers nonsense, change nothing', async () => {
    const stream = rig.stream()
    const sink = new ObedientSink()
    sink.before = () => [{ rows: 3 }] as never
    const warnings: Error[] = []
    const onWarning = (warning: Error): void => void warnings.push(warning)
    process.on('warning', onWarning)
    rig.onEnd(() => process.off('warning', onWarning))
    const worker = await rig.worker(stream, sink)
    worker.on('applied', () => {
      throw new Error('listener')
    })
    for (let i = 0; i < 3; i++) {
      await stream.publishMany(uses(10))
      await until(() => worker.stats().applied === 10 * (i + 1))
    }
    await until(() => warnings.length >= 2)
    expect(warnings.filter(({ message }) => message.includes("isn't one of refused events"))).toHaveLength(1)
    expect(worker.stats()).toMatchObject({ applied: 30, dead: 0 })
  })

  test('two groups get every event, and nothing is trimmed that one of them still needs', async () => {
    const stream = rig.stream()
    const [fast, slow] = [new ObedientSink(), new ObedientSink()]
    await stream.addGroup('slow')
    const { passed, open } = gate()
    await rig.worker(stream, fast, { group: 'fast' })
    await stream.publishMany(uses(300))
    await until(() => fast.events.length === 300)
    // The second group wasn't delivered anything: the oldest entry must stay.
    await new Promise((resolve) => setTimeout(resolve, 200))
    expect(await stream.status()).toMatchObject({ length: 300 })

    slow.before = () => (slow.calls === 1 ? passed : undefined)
    const worker = await rig.worker(stream, slow, { group: 'slow', maxBatchSize: 50, capacity: 100 })
    await until(() => slow.events.length === 250)
    await new Promise((resolve) => setTimeout(resolve, 200))
    // Its oldest pending entry holds all that follow it.
    expect(await stream.status()).toMatchObject({ length: 300 })
    open()
    await until(async () => (await stream.status()).length === 0)
    await worker.flush()

    expect([fast.sum, slow.sum]).toEqual([300, 300])
    expect([fast.repeated, slow.repeated]).toEqual([0, 0])
  })

  test('a stream that nobody reads yet is not trimmed', async () => {
    const stream = rig.stream({ maxLength: 10, maxBatchSize: 5 })
    await stream.publishMany(uses(10))
    await errorOf(stream.publish(event))
    expect(await stream.status()).toMatchObject({ length: 10 })
    const sink = new ObedientSink()
    await rig.worker(stream, sink)
    await until(() => sink.events.length === 10)
  })

  test('entries that somebody deleted before they were done are let go, and told of', async () => {
    const stream = rig.stream()
    const hangs = new ObedientSink()
    hangs.before = () => new Promise(() => undefined)
    const { die } = await rig.mortal(stream, hangs, { consumer: 'w' })
    await stream.publishMany(uses(10))
    await until(() => hangs.calls > 0)
    await die()
    const client = rig.client()
    const [first] = await client.xrange(keyOf(stream), '-', '+', 'COUNT', 1)
    await client.xdel(keyOf(stream), (first as [string, string[]])[0])

    const sink = new ObedientSink()
    const worker = await rig.worker(stream, sink, { consumer: 'w' })
    await until(() => sink.events.length === 9)

    await until(() => worker.stats().vanished === 1)
    await worker.flush()
    expect(await pendingOf(client, stream)).toEqual([])
  })

  test.each<[string, (client: Redis, stream: RedisUsageStream) => Promise<unknown>]>([
    ['the stream is deleted', (client, stream) => client.del(keyOf(stream))],
    ['the group is destroyed', (client, stream) => client.xgroup('DESTROY', keyOf(stream), stream.group)],
    ['everything is', (client) => client.flushall()],
  ])('when %s the worker makes its group again and goes on', async (_, destroy) => {
    const stream = rig.stream()
    const sink = new ObedientSink()
    const worker = await rig.worker(stream, sink)
    const lost: unknown[] = []
    worker.on('groupLost', (one) => lost.push(one))
    const { passed, open } = gate()
    sink.before = () => passed
    await stream.publishMany(uses(10))
    await until(() => worker.stats().pending === 10)

    await destroy(rig.client(), stream)
    await until(() => worker.stats().groupsLost === 1)
    await stream.publishMany(uses(10))
    open()
    await until(() => sink.events.length === 20)
    await worker.flush()

    expect(lost).toEqual([{ shard: 0 }])
    expect(worker.stats()).toMatchObject({ pending: 0, healthy: true })
    expect(worker.stats().applied).toBe(worker.stats().delivered)
    expect(await worker.close()).toEqual({ drained: true, abandoned: 0 })
  })

  test('consumers that are long gone are removed, those that have something pending are not', async () => {
    const stream = rig.stream()
    await stream.addGroup()
    const client = rig.client()
    await stream.publish(event)
    await client.xgroup('CREATECONSUMER', keyOf(stream), stream.group, 'empty')
    await client.xreadgroup('GROUP', stream.group, 'full', 'COUNT', 1, 'STREAMS', keyOf(stream), '>')
    const { passed, open } = gate()
    const sink = new ObedientSink()
    sink.before = () => passed

    const worker = await rig.worker(stream, sink, { claimIdleMs: 100 })
    await until(() => worker.stats().removedConsumers >= 1)
    await until(() => worker.stats().claimed === 1)
    open()
    await until(() => worker.stats().applied === 1)

    await until(() => worker.stats().removedConsumers === 2)
    expect((await stream.status()).groups).toMatchObject([{ consumers: 1, pending: 0 }])
  })

  test('its books balance at every event, in fair weather and foul', async () => {
    const stream = rig.stream({ shards: 2 })
    const random = seededRandom('foul weather')
    const sink = new ObedientSink()
    sink.before = async ({ events }) => {
      await new Promise((resolve) => setTimeout(resolve, random() * 3))
      if (events.some(({ value }) => value === 666)) throw new StoreError('poison', { retryable: false })
      if (random() < 0.2) throw new StoreError('down', { retryable: true })
      return random() < 0.2 ? [{ index: 0, error: new Error('refused') }] : undefined
    }
    const worker = await rig.worker(stream, sink, {
      ...{ maxBatchSize: 20, capacity: 100, maxDeliveries: 3 },
      retry: { delayMs: 1, maxDelayMs: 5 },
    })
    let looks = 0
    const balance = (): void => {
      const { delivered, applied, dead, elsewhere, returned, pending, waiting } = worker.stats()
      expect(delivered).toBe(applied + dead + elsewhere + returned + pending)
      expect(waiting).toBeLessThanOrEqual(pending)
      expect(pending).toBeLessThanOrEqual(100)
      looks++
    }
    const faults: unknown[] = []
    for (const name of ['applied', 'writeFailed', 'deadLettered', 'recovered', 'unhealthy'] as const) {
      worker.on(name, () => {
        try {
          balance()
        } catch (error) {
          faults.push(error)
        }
      })
    }

    for (let i = 0; i < 30; i++) {
      await stream.publishMany(uses(40).map((use, j) => ({ ...use, value: i % 10 === 5 && j === 7 ? 666 : 1 })))
    }
    await until(() => worker.stats().applied + worker.stats().dead === 1200)

    balance()
    expect(faults).toEqual([])
    expect(looks).toBeGreaterThan(50)
    const letters = await stream.deadLetters({ limit: 1000 })
    expect(letters.filter(({ event }) => event?.value === 666)).toHaveLength(3)
    expect(sink.events).toHaveLength(1200 - letters.length)
    expect(sink.repeated).toBe(0)
  })

  test.each<[string, object]>([
    ['group', { group: '' }],
    ['consumer', { consumer: 7 }],
    ['maxBatchSize', { maxBatchSize: 0 }],
    ['maxWaitMs', { maxWaitMs: -1 }],
    ['eager', { eager: 'yes' }],
    ['concurrency', { concurrency: 0 }],
    ['capacity', { capacity: 0 }],
    ['timeoutMs', { timeoutMs: 0 }],
    ['timeoutGraceMs', { timeoutGraceMs: Number.NaN }],
    ['retry', { retry: 3 }],
    ['retry.delayMs', { retry: { delayMs: -1 } }],
    ['pollMs', { pollMs: 0 }],
    ['claimIdleMs', { claimIdleMs: 99 }],
    ['maxDeliveries', { maxDeliveries: 1 }],
    ['trimEveryMs', { trimEveryMs: 0 }],
    ['redisTimeoutMs', { redisTimeoutMs: 0 }],
    ['unhealthyAfter', { unhealthyAfter: 0 }],
  ])('a wrong %s is an OptionError that names it', (field, options) => {
    const stream = rig.stream()
    let error: unknown
    try {
      new RedisUsageWorker(stream, new ObedientSink(), options)
    } catch (caught) {
      error = caught
    }
    expect(error).toMatchObject({ code: 'ERR_OPTION', field })
  })

  test('a sink that tells only batches apart is refused, since batches are composed anew', () => {
    const stream = rig.stream()
    const make = (sink: unknown) => () => new RedisUsageWorker(stream, sink as ObedientSink)
    const write = (): undefined => undefined
    expect(make({ idempotent: true, dedupe: 'batch', write })).toThrow(/sink\.dedupe/)
    expect(make({ idempotent: true, write })).toThrow(/sink\.dedupe/)
    expect(make({ dedupe: 'event' })).toThrow(/write/)
    expect(make(undefined)).toThrow(/write/)
    expect(() => new RedisUsageWorker({} as never, new ObedientSink())).toThrow(/stream/)
    expect(make({ idempotent: true, dedupe: 'request', write })).not.toThrow()
  })
})

describe.skipIf(server === undefined)('RedisUsageWorker on Redis', () => {
  test.each(Object.entries(singleClients))('with %s', async (_, open) => {
    await worksEndToEnd(() => open(server?.url as string), 1)
  })
})

describe.skipIf(cluster === undefined)('RedisUsageWorker on a cluster', () => {
  test.each(Object.entries(clusterClients))('with %s', async (_, open) => {
    await worksEndToEnd(() => open(cluster?.nodes ?? []), 6)
  })
})

/** All that a worker asks of Redis, once: reading, claiming, refunds, dead letters, trimming, leaving. */
async function worksEndToEnd(open: () => Promise<OpenClient>, shards: number): Promise<void> {
  const [mine, theirs] = [await open(), await open()]
  rig.onEnd(mine.close)
  const stream = rig.stream({ shards }, mine.client)
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
  sink.before = () => undefined
  expect(await stream.requeue(letters.map(({ id }) => id))).toBe(1)
  await until(() => sink.events.length === 200)
  expect(await worker.close()).toEqual({ drained: true, abandoned: 0 })
  expect(await stream.status()).toMatchObject({ length: 0, dead: 0, groups: [{ pending: 0 }] })
}
