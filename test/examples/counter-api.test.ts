import { randomUUID } from 'node:crypto'
import { afterAll, describe, expect, test } from 'vitest'
import { maxCounter } from '../../examples/counter-billing/counter-store.ts'
import { batches, increments, operations, startClient } from './counter-client.ts'
import { openTestDatabases } from './databases.ts'

const databases = await openTestDatabases()

afterAll(async () => {
  for (const database of databases) await database.stop()
})

/** A resource that no other test counts: on a server, all tests share the tables. */
const fresh = (name: string): string => `${name}-${randomUUID()}`

describe.each(databases)('the counter service on $title', ({ database }) => {
  test('an increment is accepted, merged with others of its counter, and stored', async () => {
    const { increment, value, service } = await startClient({ database })
    const [post, other] = [fresh('post'), fresh('post')]

    const answers = await Promise.all([increment(post), increment(post, 5), increment(post, -2), increment(other, 7)])
    const report = await service.counters.buffer.flush()

    expect(answers.map(({ status, body }) => [status, body])).toEqual(Array(4).fill([202, { accepted: true }]))
    expect(report).toEqual({ succeeded: 4, failed: 0, dropped: 0 })
    expect(service.counters.statements.writes).toBe(1)
    expect(await value(post)).toBe(4)
    expect(await value(other)).toBe(7)
  })

  test('a counter that was never changed is 0, and an increment of 0 keeps it so', async () => {
    const { increment, value, service } = await startClient({ database })
    const post = fresh('post')

    expect(await value(post)).toBe(0)
    expect((await increment(post, 0)).status).toBe(202)
    await service.counters.buffer.flush()

    expect(await value(post)).toBe(0)
  })

  test('an asynchronous batch is accepted as a whole', async () => {
    const { post, value, service } = await startClient({ database })
    const [a, b] = [fresh('a'), fresh('b')]

    const answer = await post(batches, { operations: operations([a, 2], [b, 3], [a, 4]), async: true })
    await service.counters.buffer.flush()

    expect([answer.status, answer.body]).toEqual([202, { accepted: 3 }])
    expect(await value(a)).toBe(6)
    expect(await value(b)).toBe(3)
  })

  test('a synchronous batch answers each operation with its own running value', async () => {
    const { post, value } = await startClient({ database })
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
    const { post, value } = await startClient({ database })
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
    const { counters } = (await startClient({ database })).service
    const key = fresh('a')

    const commits = await Promise.all(Array.from({ length: 40 }, () => counters.commitAll([{ key, delta: 1 }])))
    const reads = await Promise.all(Array.from({ length: 40 }, () => counters.read(key)))

    expect(commits.flat()).toEqual(Array.from({ length: 40 }, (_, i) => ({ status: 'fulfilled', value: i + 1 })))
    expect(reads).toEqual(Array(40).fill(40))
    expect(counters.statements).toEqual({ writes: 1, reads: 1 })
  })

  test('keys with quotes, braces, colons, emoji and words of SQL are themselves', async () => {
    const { post, value } = await startClient({ database })
    const suffix = randomUUID()
    const names = ['"', "'", '\\', '{a,b}', 'NULL', 'a:b', 'a/b?c#d%', ' ', '🙂', 'é', 'ｅ'].map(
      (name) => name + suffix,
    )

    const { status } = await post(batches, {
      operations: operations(...names.map((name, i) => [name, i + 1] as const)),
    })

    expect(status).toBe(200)
    expect(await Promise.all(names.map(value))).toEqual(names.map((_, index) => index + 1))
  })

  test('services that start together make their tables once, and starting again changes nothing', async () => {
    await database.script('DROP TABLE IF EXISTS spillway_counters, spillway_batches')
    const a = fresh('a')

    const [first] = await Promise.all([startClient({ database }), startClient({ database }), startClient({ database })])
    await first.post(batches, { operations: operations([a, 1]) })
    const again = await startClient({ database })

    expect(await again.value(a)).toBe(1)
  })

  test('a counter goes to its bounds, exactly, and one increment beyond them fails alone', async () => {
    const { post, value } = await startClient({ database })
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
    expect(answer.body.results[3].error).toMatchObject({ error: 'refused', applied: 'no' })
    expect(answer.body.results[3].error.message).toContain(String(maxCounter))
    expect(await value(rich)).toBe(maxCounter)
    expect(await value(c)).toBe(3)
  })

  test('accepted increments that a counter refuses are logged and counted, and cost no other counter anything', async () => {
    const { increment, post, value, service, log, get } = await startClient({ database })
    const [rich, a, b] = [fresh('rich'), fresh('a'), fresh('b')]
    await post(batches, { operations: operations([rich, maxCounter]) })

    await Promise.all([increment(a, 1), increment(rich, 2), increment(b, 3)])
    await service.counters.buffer.flush()
    await service.counters.commits.flush()

    expect(await value(a)).toBe(1)
    expect(await value(b)).toBe(3)
    expect(await value(rich)).toBe(maxCounter)
    expect(log.filter((line) => line.startsWith('error LOST'))).toEqual([
      expect.stringContaining(JSON.stringify({ [`${rich}:like`]: 2 })),
    ])
    expect((await get('/healthz')).body).toEqual({ status: 'ok', lost: 1 })
  })

  test('increments that no longer add up exactly while they wait are refused, not rounded', async () => {
    const { increment, value, service } = await startClient({ database })
    const a = fresh('a')

    const answers = await Promise.all([increment(a, maxCounter), increment(a, 1)])
    await service.counters.buffer.flush()

    expect(answers.map(({ status }) => status).sort()).toEqual([202, 503])
    const accepted = answers[0].status === 202 ? maxCounter : 1
    expect(await value(a)).toBe(accepted)
  })

  test('statistics and health are JSON', async () => {
    const { get, increment, service } = await startClient({ database })
    await increment(fresh('a'))
    await service.counters.buffer.flush()

    const [stats, health] = [await get('/stats'), await get('/healthz')]

    expect(stats.body).toMatchObject({ lost: 0, failing: false, statements: { writes: 1 }, buffer: { succeeded: 1 } })
    expect([health.status, health.body]).toEqual([200, { status: 'ok', lost: 0 }])
  })

  test('what cannot be found is a 404 that says what was asked', async () => {
    const { get } = await startClient({ database })

    const { status, body } = await get(increments)

    expect([status, body]).toEqual([404, { error: 'not_found', message: `there is no GET ${increments}` }])
  })
})
