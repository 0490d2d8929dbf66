import { randomUUID } from 'node:crypto'
import { afterAll, describe, expect, test } from 'vitest'
import { batches, increments, operations, startClient } from './counter-client.ts'
import { openTestStores } from './stores.ts'

const maxCounter = Number.MAX_SAFE_INTEGER
const all = await openTestStores()

afterAll(async () => {
  for (const { stop } of all) await stop()
})

/** A resource that no other test counts: on a server, all tests share the tables. */
const fresh = (name: string): string => `${name}-${randomUUID()}`

describe.each(all)('the gateway on $title', ({ stores }) => {
  test('an increment is accepted, merged with others of its counter, and stored', async () => {
    const { increment, value, service } = await startClient(stores)
    const [post, other] = [fresh('post'), fresh('post')]
    // Connections are there by then: what is to be merged comes within 100 ms.
    await Promise.all(Array.from({ length: 4 }, () => value(other)))

    const answers = await Promise.all([increment(post), increment(post, 5), increment(post, -2), increment(other, 7)])
    await service.counters.flush()

    expect(answers.map(({ status, body }) => [status, body])).toEqual(Array(4).fill([202, { accepted: true }]))
    for (const part of [service.counters.durableWrites, service.counters.liveWrites]) {
      expect(part.stats()).toMatchObject({ succeeded: 4, failed: 0, batches: 1 })
    }
    expect([await value(post), await value(post, 'live')]).toEqual([4, 4])
    expect(await value(other)).toBe(7)
  })

  test('a counter that was never changed is 0, and an increment of 0 keeps it so', async () => {
    const { increment, value, service } = await startClient(stores)
    const post = fresh('post')

    expect(await value(post)).toBe(0)
    expect((await increment(post, 0)).status).toBe(202)
    await service.counters.flush()

    expect(await value(post)).toBe(0)
  })

  test('an asynchronous batch is accepted as a whole', async () => {
    const { post, value, service } = await startClient(stores)
    const [a, b] = [fresh('a'), fresh('b')]

    const answer = await post(batches, { operations: operations([a, 2], [b, 3], [a, 4]), async: true })
    await service.counters.flush()

    expect([answer.status, answer.body]).toEqual([202, { accepted: 3 }])
    expect(await value(a)).toBe(6)
    expect(await value(b)).toBe(3)
  })

  test('a synchronous batch answers each operation with its own running value', async () => {
    const { post, value } = await startClient(stores)
    const [a, b] = [fresh('a'), fresh('b')]
    await post(batches, { operations: operations([a, 10]) })

    const answer = await post(batches, { operations: operations([a, 1], [b, 5], [a, 2], [a, -4]), async: false })

    expect(answer.status).toBe(200)
    expect(answer.body.results).toEqual(
      [
        [a, 11],
        [b, 5],
        [a, 13],
        [a, 9],
      ].map(([resource_id, value]) => ({ resource_id, counter_type: 'like', value })),
    )
    expect(await value(a)).toBe(9)
  })

  test('concurrent synchronous batches on one counter get every value exactly once', async () => {
    const { post, value } = await startClient(stores)
    const a = fresh('a')

    const answers = await Promise.all(
      Array.from({ length: 50 }, () => post(batches, { operations: operations([a, 1], [a, 1]) })),
    )

    const values: number[] = answers.flatMap(({ body }) =>
      body.results.map((result: { value: number }) => result.value),
    )
    expect(values.sort((x, y) => x - y)).toEqual(Array.from({ length: 100 }, (_, index) => index + 1))
    expect(await value(a)).toBe(100)
  })

  test('what is committed or read in one turn shares a statement', async () => {
    const { counters } = (await startClient(stores)).service
    const key = fresh('a')

    const commits = await Promise.all(Array.from({ length: 40 }, () => counters.commit({ key, delta: 1 })))
    const reads = await Promise.all(Array.from({ length: 40 }, () => counters.read(key, 'durable')))

    expect(commits).toEqual(Array.from({ length: 40 }, (_, i) => i + 1))
    expect(reads).toEqual(Array(40).fill({ value: 40, source: 'durable' }))
    expect(counters.durableAnswers.stats()).toMatchObject({ batches: 1, succeeded: 40 })
    expect(counters.durableReads.stats()).toMatchObject({ batches: 1, succeeded: 40 })
  })

  test('keys with quotes, braces, colons, emoji and words of SQL are themselves', async () => {
    const { post, value } = await startClient(stores)
    const suffix = randomUUID()
    const names = ['"', "'", '\\', '{a,b}', 'NULL', 'a:b', 'a/b?c#d%', ' ', '🙂', 'é', 'ｅ'].map(
      (name) => name + suffix,
    )

    const { status } = await post(batches, {
      operations: operations(...names.map((name, i) => [name, i + 1] as const)),
    })

    expect(status).toBe(200)
    expect(await Promise.all(names.map((name) => value(name)))).toEqual(names.map((_, index) => index + 1))
  })

  test('a committed increment is answered with the durable value, and is live soon after', async () => {
    const { increment, value, service } = await startClient(stores)
    const a = fresh('a')

    const answers = [await increment(a, 5, 'committed'), await increment(a, 2, 'committed')]

    expect(answers.map(({ status, body }) => [status, body])).toEqual([
      [200, { value: 5, ack: 'committed' }],
      [200, { value: 7, ack: 'committed' }],
    ])
    expect(await value(a)).toBe(7)
    await service.counters.flush()
    expect(await value(a, 'live')).toBe(7)
  })

  test('an increment acknowledged in Redis is answered with the live value, and is durable soon after', async () => {
    const { increment, value, service } = await startClient(stores)
    const a = fresh('a')

    const answers = [await increment(a, 5, 'redis'), await increment(a, 2, 'redis')]

    expect(answers.map(({ status, body }) => [status, body])).toEqual([
      [200, { value: 5, ack: 'redis' }],
      [200, { value: 7, ack: 'redis' }],
    ])
    expect(await value(a, 'live')).toBe(7)
    await service.counters.flush()
    expect(await value(a)).toBe(7)
  })

  test('increments of all acknowledgements add up in both stores', async () => {
    const { increment, post, value, service } = await startClient(stores)
    const a = fresh('a')

    await Promise.all([
      ...['accepted', 'redis', 'committed', undefined].flatMap((ack) =>
        Array.from({ length: 25 }, () => increment(a, 1, ack)),
      ),
      post(batches, { operations: operations([a, 10]), ack: 'redis' }),
      post(batches, { operations: operations([a, 10]), ack: 'committed' }),
      post(batches, { operations: operations([a, 10]), ack: 'accepted' }),
    ])
    await service.counters.flush()

    expect([await value(a), await value(a, 'live')]).toEqual([130, 130])
  })

  test('the default acknowledgement is a choice of whoever starts the gateway', async () => {
    const { increment } = await startClient(stores, { acknowledgement: 'committed' })
    const a = fresh('a')

    expect((await increment(a, 3)).body).toEqual({ value: 3, ack: 'committed' })
    expect((await increment(a, 3, 'accepted')).body).toEqual({ accepted: true })
  })

  test('an ack that contradicts async is refused', async () => {
    const { post } = await startClient(stores)
    const batch = { operations: operations([fresh('a'), 1]) }

    const answers = [
      await post(batches, { ...batch, async: true, ack: 'redis' }),
      await post(batches, { ...batch, async: false, ack: 'accepted' }),
    ]

    expect(answers.map(({ status, body }) => [status, body.field])).toEqual(Array(2).fill([400, 'async']))
  })

  test('a counter goes to its bounds, exactly, and one increment beyond them fails alone', async () => {
    const { post, value } = await startClient(stores)
    const [rich, a, b, c] = [fresh('rich'), fresh('a'), fresh('b'), fresh('c')]
    await post(batches, { operations: operations([rich, maxCounter - 1]) })

    const answer = await post(batches, { operations: operations([a, 1], [rich, 1], [b, 2], [rich, 1], [c, 3]) })

    expect(answer.status).toBe(207)
    expect(answer.body.results.map((result: { value?: number }) => result.value)).toEqual([
      1,
      maxCounter,
      2,
      undefined,
      3,
    ])
    expect(answer.body.results[3].problem).toMatchObject({ code: 'refused', status: 409, applied: 'no' })
    expect(answer.body.results[3].problem.detail).toContain(String(maxCounter))
    expect(await value(rich)).toBe(maxCounter)
    expect(await value(c)).toBe(3)
  })

  test('accepted increments that a counter refuses are logged and counted, and cost no other counter anything', async () => {
    const { increment, post, value, service, log, get } = await startClient(stores)
    const [rich, a, b] = [fresh('rich'), fresh('a'), fresh('b')]
    await post(batches, { operations: operations([rich, maxCounter]) })

    await Promise.all([increment(a, 1), increment(rich, 2), increment(b, 3)])
    await service.counters.flush()

    expect(await value(a)).toBe(1)
    expect(await value(b)).toBe(3)
    expect(await value(rich)).toBe(maxCounter)
    expect(log.filter((line) => line.startsWith('error LOST'))).toEqual([
      expect.stringContaining(JSON.stringify({ [`${rich}:like`]: 2 })),
    ])
    expect((await get('/healthz')).body).toMatchObject({ status: 'ok', lost: 1 })
  })

  test('increments that no longer add up exactly while they wait are refused, not rounded', async () => {
    const { increment, value, service } = await startClient(stores)
    const a = fresh('a')

    const answers = await Promise.all([increment(a, maxCounter), increment(a, 1)])
    await service.counters.flush()

    expect(answers.map(({ status }) => status).sort()).toEqual([202, 503])
    const accepted = answers[0].status === 202 ? maxCounter : 1
    expect(await value(a)).toBe(accepted)
  })

  test('statistics and health are JSON', async () => {
    const { get, increment, service } = await startClient(stores)
    await increment(fresh('a'))
    await service.counters.flush()

    const [stats, health] = [await get('/stats'), await get('/healthz')]

    expect(stats.body).toMatchObject({ lost: 0, failing: false, durableWrites: { batches: 1, succeeded: 1 } })
    expect([health.status, health.body]).toEqual([200, { status: 'ok', lost: 0, notLive: 0 }])
  })

  test('what cannot be found is a 404 that says what was asked', async () => {
    const { get } = await startClient(stores)

    const { status, body } = await get('/api/v1/nothing?at=all')

    expect(status).toBe(404)
    expect(body).toMatchObject({ code: 'not_found', detail: 'there is no GET /api/v1/nothing?at=all' })
  })

  test('what is there for other methods is a 405 that says for which', async () => {
    const { get, post } = await startClient(stores)

    const [increment, counter] = [await get(increments), await post('/api/v1/counter/a/like', {})]

    expect([increment.status, increment.headers.get('allow')]).toEqual([405, 'POST'])
    expect([counter.status, counter.headers.get('allow')]).toEqual([405, 'GET, HEAD'])
    expect(counter.body).toMatchObject({ code: 'method_not_allowed', allowed: ['GET', 'HEAD'] })
  })
})
