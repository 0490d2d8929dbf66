import { randomUUID } from 'node:crypto'
import { AckedStream, GrpcChannelPool } from 'spillway/grpc'
import { counterStoreContract } from 'spillway/testing'
import { afterAll, describe, expect, test } from 'vitest'
import {
  counterClient,
  type StreamAcknowledgement,
  type StreamIncrement,
} from '../../examples/counter-billing/counter/protocol.ts'
import { connectToCounterServices } from '../../examples/counter-billing/counter/services.ts'
import { startCounterService } from '../../examples/counter-billing/service.ts'
import { startClient } from './counter-client.ts'
import { openTestStores } from './stores.ts'

const all = await openTestStores()

afterAll(async () => {
  for (const { stop } of all) await stop()
})

const fresh = (name: string): string => `${name}-${randomUUID()}`

describe.each(all)('the counter service on $title', async ({ stores }) => {
  const service = await startCounterService({ ...stores, port: 0, log: () => undefined })
  const pool = new GrpcChannelPool((options) => counterClient(service.address, options), { channels: 2 })
  const services = await connectToCounterServices({ at: service.address, log: () => undefined })

  afterAll(async () => {
    await pool.close()
    for (const part of services.parts) await part.close()
    await service.close()
  })

  describe.each(['live', 'durable'] as const)('by gRPC, the %s store keeps the contract of counter stores', (store) => {
    for (const { name, run } of counterStoreContract({ open: () => services[store] })) {
      test(name, run)
    }
  })

  test.each(['REDIS', 'COMMITTED'] as const)(
    'single increments share calls of the store (%s)',
    async (acknowledgement) => {
      const key = fresh('a')
      const part = acknowledgement === 'REDIS' ? service.counters.liveAnswers : service.counters.durableAnswers
      const before = part.stats().batches

      const replies = await Promise.all(
        Array.from({ length: 100 }, () => pool.call('increment', { key, delta: 1, acknowledgement })),
      )

      expect(replies.map(({ value }) => value).sort((a = 0, b = 0) => a - b)).toEqual(
        Array.from({ length: 100 }, (_, i) => i + 1),
      )
      expect(part.stats().batches - before).toBeLessThan(50)
    },
  )

  test('an accepted increment has no value to answer, and is in both stores soon', async () => {
    const key = fresh('a')

    const reply = await pool.call('increment', { key, delta: 3, acknowledgement: 'ACCEPTED' })
    await service.counters.flush()

    expect(reply.value ?? 0).toBe(0)
    expect(await stores.live.getMany([key])).toEqual([3])
    expect(await stores.durable.getMany([key])).toEqual([3])
  })

  test.each([
    ['a key that no store takes', { key: 'a\0b', delta: 1 }, /no text to store/],
    ['a delta that is not exact', { key: 'a', delta: 2 ** 60 }, /whole number that is exact/],
  ])('an increment with %s is refused, and not accepted and lost', async (_, increment, message) => {
    const call = pool.call('increment', { ...increment, acknowledgement: 'ACCEPTED' })

    await expect(call).rejects.toMatchObject({
      statusName: 'INVALID_ARGUMENT',
      retryable: false,
      message: expect.stringMatching(message),
    })
    await service.counters.flush()
    expect(service.counters.losses.lost).toBe(0)
  })

  test.each([
    ['no id', { batchId: '', keys: ['a'], deltas: [1] }, /a batch needs an id/],
    ['keys without deltas', { batchId: 'x', keys: ['a', 'b'], deltas: [1] }, /2 keys need as many deltas, got 1/],
    ['a key twice where nobody waits', { batchId: 'x', keys: ['a', 'a'], deltas: [1, 1] }, /has each key once/],
  ])('a batch with %s is refused for good', async (_, batch, message) => {
    const call = pool.call('batchIncrement', { store: 'LIVE', answers: false, ...batch })

    await expect(call).rejects.toMatchObject({
      statusName: 'INVALID_ARGUMENT',
      retryable: false,
      message: expect.stringMatching(message),
    })
  })

  test('a stream of batches is acknowledged once both stores have them, and an id that comes again counts once', async () => {
    const key = fresh('a')
    const stream = new AckedStream<number, StreamIncrement, StreamAcknowledgement>(
      () => pool.openStream('streamIncrements'),
      { message: (delta, id) => ({ id, keys: [key, `${key}-2`], deltas: [delta, 1] }), idOf: ({ id }) => id },
    )
    const again = randomUUID()

    await Promise.all(Array.from({ length: 200 }, () => stream.send(2)))
    await stream.send(100, { id: again })
    await stream.send(100, { id: again })
    const report = await stream.close()

    expect(report).toEqual({ drained: true, abandoned: 0 })
    expect(await stores.live.getMany([key, `${key}-2`])).toEqual([500, 201])
    expect(await stores.durable.getMany([key, `${key}-2`])).toEqual([500, 201])
  })

  test('a gateway in front of it answers as one that has the stores itself', async () => {
    const { increment, value, service: gateway } = await startClient({ at: service.address })
    const a = fresh('a')

    const answers = await Promise.all(
      ['accepted', 'redis', 'committed'].flatMap((ack) => Array.from({ length: 20 }, () => increment(a, 1, ack))),
    )
    await gateway.counters.flush()

    expect(answers.map(({ status }) => status)).toEqual([...Array(20).fill(202), ...Array(40).fill(200)])
    expect([await value(a), await value(a, 'live')]).toEqual([60, 60])
  })

  test('a gateway that finds no counter service says which address did not answer', async () => {
    const { url } = { url: '127.0.0.1:1' }

    await expect(startClient({ at: url, warmUpMs: 300 })).rejects.toThrow(/127\.0\.0\.1:1/)
  })
})
