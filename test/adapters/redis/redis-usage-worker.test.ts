import { type BatchContext, StoreError, type UsageBatch } from 'spillway'
import { RedisUsageWorker, type RedisUsageWorkerEvents } from 'spillway/redis'
import { seededRandom } from 'spillway/testing'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { clientThat, errorOf, gate, ObedientSink, pendingOf, UsageRig, until, uses } from './usage-rig.ts'

const server = await startRedis({ own: true })
const rig = new UsageRig(server?.url)
afterAll(() => server?.stop())

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

  test('a worker that is taken for dead and comes back: both write, the sink counts once, and neither holds on to it', async () => {
    const stream = rig.stream()
    const client = rig.client()
    let cut = false
    const cutOff = clientThat(client, async (answer) => {
      const heard = await answer
      if (cut) throw new Error('Connection is closed.')
      return heard
    })
    const { passed, open } = gate()
    const sink = new ObedientSink()
    sink.before = () => (sink.calls === 1 ? passed : undefined)
    const slow = await rig.worker(rig.same(stream, cutOff), sink, { consumer: 'slow', claimIdleMs: 3_600_000 })
    await stream.publishMany(uses(10))
    await until(() => sink.calls === 1)
    cut = true

    // It says nothing for long enough, as one whose event loop is blocked.
    const other = await rig.worker(rig.same(stream), sink, { consumer: 'other', claimIdleMs: 100 })
    await until(() => other.stats().applied === 10)
    open()
    await until(() => slow.stats().redisFailures > 3)
    cut = false
    await until(() => slow.stats().pending === 0)

    expect(sink.events).toHaveLength(10)
    expect([...sink.comings.values()]).toEqual(Array.from({ length: 10 }, () => 2))
    expect(slow.stats()).toMatchObject({ applied: 10, dead: 0 })
    expect(other.stats()).toMatchObject({ applied: 10, claimed: 10, dead: 0 })
    expect(await pendingOf(client, stream)).toEqual([])
    await until(async () => (await stream.status()).length === 0)
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

  test('of two attempts at a batch that both succeed, one counts', async () => {
    const stream = rig.stream()
    const sink = new ObedientSink()
    const attempts: ReturnType<typeof gate<void>>[] = []
    sink.before = () => {
      const one = gate()
      attempts.push(one)
      return one.passed
    }
    const worker = await rig.worker(stream, sink, { timeoutMs: 200, timeoutGraceMs: 1, retry: { delayMs: 1 } })
    const applied: RedisUsageWorkerEvents['applied'][] = []
    worker.on('applied', (one) => applied.push(one))
    await stream.publishMany(uses(10))
    await until(() => attempts.length === 2)

    for (const { open } of attempts) open()
    await until(() => sink.batches.length === 2)
    await worker.flush()

    expect(applied).toMatchObject([{ events: 10 }])
    expect(worker.stats()).toMatchObject({ delivered: 10, applied: 10, pending: 0, failedBatches: 1 })
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
})
