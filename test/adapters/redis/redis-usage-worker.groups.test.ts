import type { Redis } from 'ioredis'
import type { RedisUsageStream } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { errorOf, gate, ObedientSink, pendingOf, UsageRig, until, uses } from './usage-rig.ts'

const server = await startRedis({ own: true })
const rig = new UsageRig(server?.url)
afterAll(() => server?.stop())

const event = { userId: 'u1', quotaType: 'api', value: 1 }
const keyOf = ({ prefix }: RedisUsageStream): string => `{${prefix}:0}:events`

describe.skipIf(server === undefined)('RedisUsageWorker and its group', () => {
  test('each group gets every event, and nothing is trimmed that one of them still needs', async () => {
    const stream = rig.stream()
    // Redis lists groups by their names: the slow one is neither the first nor the last.
    const [one, slow, two] = [new ObedientSink(), new ObedientSink(), new ObedientSink()]
    await stream.addGroup('b')
    await rig.worker(stream, one, { group: 'a' })
    await rig.worker(stream, two, { group: 'c' })
    await stream.publishMany(uses(300))
    await until(() => one.events.length === 300 && two.events.length === 300)
    // The slow one wasn't delivered anything: the oldest entry must stay.
    await new Promise((resolve) => setTimeout(resolve, 200))
    expect(await stream.status()).toMatchObject({ length: 300 })

    const { passed, open } = gate()
    slow.before = () => (slow.calls === 1 ? passed : undefined)
    const worker = await rig.worker(stream, slow, { group: 'b', maxBatchSize: 50, capacity: 100 })
    await until(() => slow.events.length === 250)
    await new Promise((resolve) => setTimeout(resolve, 200))
    // Its oldest pending entry holds all that follow it.
    expect(await stream.status()).toMatchObject({ length: 300 })
    open()
    await until(async () => (await stream.status()).length === 0)
    await worker.flush()

    expect([one.sum, slow.sum, two.sum]).toEqual([300, 300, 300])
    expect([one.repeated, slow.repeated, two.repeated]).toEqual([0, 0, 0])
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
})
