import { type AcceptedUsage, StoreError } from 'spillway'
import type { RedisUsageStream, RedisUsageWorkerEvents } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { gate, ObedientSink, pendingOf, UsageRig, until, uses } from './usage-rig.ts'

const server = await startRedis({ own: true })
const rig = new UsageRig(server?.url)
afterAll(() => server?.stop())

const event = { userId: 'u1', quotaType: 'api', value: 1 }
const keyOf = ({ prefix }: RedisUsageStream): string => `{${prefix}:0}:events`

describe.skipIf(server === undefined)('RedisUsageWorker tells an event at fault from a sink at fault', () => {
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

  test('however many dead letters are requeued, each is once', async () => {
    const stream = rig.stream()
    const sink = new ObedientSink()
    sink.before = ({ events }) => events.map((_, index) => ({ index, error: new Error('no') }))
    const worker = await rig.worker(stream, sink)
    await stream.publishMany(uses(1100))
    await until(() => worker.stats().dead === 1100)
    const letters = await stream.deadLetters({ limit: 2000 })
    sink.before = () => undefined

    const requeued = await stream.requeue([...letters, ...letters.slice(0, 20)].map(({ id }) => id))

    await until(() => sink.events.length === 1100 && worker.stats().pending === 0)
    expect(requeued).toBe(1100)
    expect(sink.repeated).toBe(0)
    expect(await stream.deadLetters()).toEqual([])
  })

  test('an event without an id of its own is known by its first entry, also as a requeued dead letter', async () => {
    const stream = rig.stream()
    const [one, two] = [new ObedientSink(), new ObedientSink()]
    two.before = () => [{ index: 0, error: new Error('no') }]
    await rig.worker(stream, one, { group: 'one' })
    const worker = await rig.worker(stream, two, { group: 'two' })
    // As something else than a RedisUsageStream may add it.
    const usage = JSON.stringify({ ...event, timestamp: Date.now(), period: 'total' })
    const entryId = await rig.client().xadd(keyOf(stream), '*', 'usage', usage)
    const id = `${stream.prefix}:0:${entryId}`

    for (let round = 1; round <= 3; round++) {
      await until(() => one.comings.get(id) === round && worker.stats().dead === round)
      const [letter] = await stream.deadLetters()
      expect(letter?.event?.id).toBe(id)
      if (round === 3) two.before = () => undefined
      await stream.requeue([letter?.id as string])
    }
    await until(() => two.events.length === 1)

    expect([...one.comings.keys(), ...two.comings.keys()]).toEqual([id, id])
  })

  test('what cannot be moved to the dead letters is not acknowledged either', async () => {
    const stream = rig.stream()
    const client = rig.client()
    const inTheWay = `{${stream.prefix}:0}:dead`
    await client.set(inTheWay, 'no stream')
    const sink = new ObedientSink()
    sink.before = () => [{ index: 0, error: new Error('no') }]
    const worker = await rig.worker(stream, sink)
    await stream.publishMany(uses(3))
    await until(() => worker.stats().redisFailures > 3)
    expect(await pendingOf(client, stream)).toHaveLength(3)

    await client.del(inTheWay)
    await until(() => worker.stats().pending === 0)

    expect(worker.stats()).toMatchObject({ applied: 2, dead: 1 })
    expect(await stream.deadLetters()).toHaveLength(1)
    // It was written once: only Redis wasn't told.
    expect(sink.calls).toBe(1)
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
})
