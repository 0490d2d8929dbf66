import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { type CounterStore, StoreError } from 'spillway'
import { MemoryCounterStore } from 'spillway/testing'
import { afterAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { connectRedis } from '../../examples/counter-billing/counter/stores.ts'
import { type AnswerStore, MemoryAnswers } from '../../examples/counter-billing/idempotency/answer-stores.ts'
import { DatabaseAnswers } from '../../examples/counter-billing/idempotency/database-answers.ts'
import { BegunCounterStore, keyedBatchesIn } from '../../examples/counter-billing/idempotency/keyed-batches.ts'
import { KeyedWrites } from '../../examples/counter-billing/idempotency/keyed-writes.ts'
import { RedisAnswers } from '../../examples/counter-billing/idempotency/redis-answers.ts'
import type { GatewayServiceOptions } from '../../examples/counter-billing/service.ts'
import { type Answer, batches, type Client, increments, startClient } from './counter-client.ts'
import { openTestStores, type TestStores, wrapped } from './stores.ts'

const all = await openTestStores()

afterAll(async () => {
  for (const { stop } of all) await stop()
})

const fresh = (name: string): string => `${name}-${randomUUID()}`

/** Sends a write under a key. */
async function send({ service }: Client, key: string, path: string, body: object): Promise<Answer> {
  const headers = { 'content-type': 'application/json', 'idempotency-key': key }
  const response = await fetch(service.url + path, { method: 'POST', body: JSON.stringify(body), headers })
  return { status: response.status, headers: response.headers, body: await response.json() }
}

const like = (resource_id: string, more: object = {}) => ({ resource_id, counter_type: 'like', delta: 1, ...more })

/** Where answers are kept, beside each other on the same servers. */
async function answerStores({ stores, servers }: TestStores): Promise<[string, AnswerStore][]> {
  const database = await DatabaseAnswers.open(stores.database, () => undefined)
  if (servers.redisUrl === undefined) {
    return [
      ['memory', new MemoryAnswers()],
      ['PGlite', database],
    ]
  }
  return [
    ['PostgreSQL', database],
    ['Redis', new RedisAnswers(await connectRedis(servers.redisUrl))],
  ]
}

const places = (await Promise.all(all.map(answerStores))).flat()

describe.each(places)('answers in %s', (_name, store) => {
  const claim = (fingerprint: string, leaseMs = 60_000) => ({ fingerprint, owner: randomUUID(), leaseMs })
  const answer = { status: 200, body: { value: 7 } }

  test('a key is its first request’s: others wait, are told the answer, or are refused', async () => {
    const id = fresh('key')
    const first = claim('a')

    expect(await store.begin(id, first)).toEqual({ state: 'yours', ageMs: 0 })
    expect(await store.begin(id, claim('a'))).toEqual({ state: 'underWay', leftMs: expect.any(Number) })
    expect(await store.begin(id, claim('b'))).toEqual({ state: 'other' })
    await store.finish(id, first.owner, answer)

    expect(await store.begin(id, claim('a'))).toEqual({ state: 'answered', answer })
    expect(await store.begin(id, claim('b'))).toEqual({ state: 'other' })
  })

  test('of many who come at the same time, one has it', async () => {
    const id = fresh('key')

    const states = await Promise.all(Array.from({ length: 20 }, () => store.begin(id, claim('a'))))

    expect(states.filter(({ state }) => state === 'yours')).toHaveLength(1)
    expect(states.filter(({ state }) => state === 'underWay')).toHaveLength(19)
  })

  test('what is released is taken up at once, what is abandoned when its lease is over, and then the first one is late', async () => {
    const [released, abandoned] = [fresh('key'), fresh('key')]
    const [first, dead, next] = [claim('a'), claim('a', 1), claim('a')]
    await store.begin(released, first)
    await store.begin(abandoned, dead)

    await store.release(released, first.owner)
    expect(await store.begin(released, claim('b'))).toEqual({ state: 'other' })
    expect((await store.begin(released, claim('a'))).state).toBe('yours')
    await delay(20)
    expect(await store.begin(abandoned, next)).toMatchObject({ state: 'yours', ageMs: expect.any(Number) })

    await store.finish(abandoned, dead.owner, { status: 200, body: { value: 0 } })
    await store.release(abandoned, dead.owner)
    expect((await store.begin(abandoned, claim('a'))).state).toBe('underWay')
    await store.finish(abandoned, next.owner, answer)
    expect(await store.begin(abandoned, claim('a'))).toEqual({ state: 'answered', answer })
  })
})

test('a key in the database is forgotten after a day', async () => {
  const [{ stores }] = all as [TestStores]
  const { database } = stores
  const store = await DatabaseAnswers.open(database, () => undefined)
  const [old, young] = [fresh('old'), fresh('young')]
  for (const id of [old, young]) await store.begin(id, { fingerprint: 'a', owner: 'x', leaseMs: 60_000 })
  await database.query(`UPDATE api_answers SET since = now() - interval '24 hours 1 second' WHERE id = $1`, [old])

  // Before it is removed, it is as good as gone.
  expect((await store.begin(old, { fingerprint: 'b', owner: 'y', leaseMs: 1 })).state).toBe('yours')
  await database.query(`UPDATE api_answers SET since = now() - interval '24 hours 1 second' WHERE id = $1`, [old])
  await store.forget()

  const left = await database.query<{ id: string }>('SELECT id FROM api_answers WHERE id IN ($1, $2)', [old, young])
  expect(left).toEqual([{ id: young }])
})

test('a key in memory is forgotten after a day, and not before', async () => {
  vi.useFakeTimers({ toFake: ['Date'] })
  onTestFinished(() => void vi.useRealTimers())
  const store = new MemoryAnswers()
  const claim = { fingerprint: 'a', owner: 'x', leaseMs: 60_000 }
  await store.begin('key', claim)
  await store.finish('key', 'x', { status: 200, body: { value: 7 } })

  vi.setSystemTime(Date.now() + 86_399_999)
  expect((await store.begin('key', claim)).state).toBe('answered')
  vi.setSystemTime(Date.now() + 1)
  expect(await store.begin('key', { ...claim, fingerprint: 'b' })).toEqual({ state: 'yours', ageMs: 0 })
})

test.runIf(all.length > 1)('a key in Redis is forgotten after a day, whatever was noted under it', async () => {
  const redis = await connectRedis(all[1]?.servers.redisUrl ?? '')
  onTestFinished(() => redis.disconnect())
  const [store, id] = [new RedisAnswers(redis), fresh('key')]
  const left = () => redis.pttl(`counters:answers:${id}`)

  await store.begin(id, { fingerprint: 'a', owner: 'x', leaseMs: 60_000 })
  const noted = await left()
  await store.finish(id, 'x', { status: 200, body: {} })

  expect(noted).toBeGreaterThan(86_390_000)
  expect(await left()).toBeLessThanOrEqual(noted)
  expect(await left()).toBeGreaterThan(86_390_000)
})

test('however many keys in the database are over, all are removed', async () => {
  const [{ stores }] = all as [TestStores]
  const { database } = stores
  const store = await DatabaseAnswers.open(database, () => undefined)
  onTestFinished(() => store.close())
  await database.query(
    `INSERT INTO api_answers (id, fingerprint, owner, lease_until, since)
    SELECT 'over-' || n, 'a', 'x', now(), now() - interval '25 hours' FROM generate_series(1, 12000) AS n`,
  )

  await store.forget()

  expect(await database.query(`SELECT count(*)::int AS left FROM api_answers WHERE id LIKE 'over-%'`)).toEqual([
    { left: 0 },
  ])
})

test('keys in memory are the latest ones, as many as may be and fewer where their answers are large', async () => {
  const store = new MemoryAnswers({ maxKeys: 3, maxSize: 1_000 })
  const claim = { fingerprint: 'a', owner: 'x', leaseMs: 60_000 }
  const answer = async (id: string, size: number): Promise<void> => {
    await store.begin(id, claim)
    await store.finish(id, 'x', { status: 200, body: { value: 'y'.repeat(size) } })
  }
  const known = async (...ids: string[]): Promise<string[]> => {
    const states = await Promise.all(ids.map((id) => store.begin(id, { ...claim, fingerprint: 'other' })))
    return ids.filter((_, index) => states[index]?.state === 'other')
  }

  for (const id of ['a', 'b', 'c', 'd']) await answer(id, 1)
  expect(await known('d', 'c', 'b')).toEqual(['d', 'c', 'b'])

  await answer('large', 900)
  await answer('larger', 950)

  expect(await known('larger')).toEqual(['larger'])
  expect(await known('large')).toEqual([])
})

describe.each(all)('a write under a key, on $title', ({ stores, servers }) => {
  const start = async (counters: Partial<GatewayServiceOptions['counters']> = {}): Promise<Client> => {
    const redis = servers.redisUrl === undefined ? undefined : await connectRedis(servers.redisUrl)
    onTestFinished(() => void redis?.disconnect())
    return startClient({ ...stores, ...counters }, { database: stores.database, redis })
  }

  test.each([
    ['accepted', 202, { accepted: true }],
    ['redis', 200, { value: 3, ack: 'redis' }],
    ['committed', 200, { value: 3, ack: 'committed' }],
  ])(
    'counts once, and is answered as it was the first time, by another gateway, too: %s',
    async (ack, status, body) => {
      const [one, two] = [await start(), await start()]
      const [a, key] = [fresh('a'), fresh('key')]

      const first = await send(one, `"${key}"`, increments, like(a, { delta: 3, ack }))
      await one.increment(a, 10, 'committed')
      // Without quotes it is the same key, and the order of the fields is nothing.
      const again = [
        await send(two, key, increments, { ack, delta: 3, counter_type: 'like', resource_id: a }),
        await send(one, key, increments, like(a, { delta: 3, ack })),
      ]

      expect([first.status, first.body]).toEqual([status, body])
      expect(first.headers.get('idempotency-replayed')).toBeNull()
      for (const answer of again) {
        expect([answer.status, answer.body]).toEqual([status, body])
        expect(answer.headers.get('idempotency-replayed')).toBe('true')
      }
      await one.service.counters.flush()
      expect(await one.value(a)).toBe(13)
      await expect.poll(() => one.value(a, 'live'), { timeout: 20_000 }).toBe(13)
    },
  )

  test.each([
    ['one', 'redis', 'live'],
    ['one', 'committed', 'durable'],
    ['a batch', 'redis', 'live'],
    ['a batch', 'committed', 'durable'],
  ])('no gateway that tells the value of %s again (%s) answers a read with an older one', async (what, ack, source) => {
    const [one, two] = [await start(), await start()]
    const [a, key] = [fresh('a'), fresh('key')]
    const kept = async (): Promise<number> => {
      const response = await fetch(`${two.service.url}/api/v1/counter/${a}/like?source=${source}`)
      return ((await response.json()) as { value: number }).value
    }
    expect(await kept()).toBe(0)
    const [path, body] = what === 'one' ? [increments, like(a, { ack })] : [batches, { operations: [like(a)], ack }]

    await send(one, key, path, body)
    expect((await send(two, key, path, body)).headers.get('idempotency-replayed')).toBe('true')

    expect(await kept()).toBe(1)
  })

  test('counts once, however many send it to however many gateways at the same time', async () => {
    const clients = [await start(), await start()]
    const [a, key] = [fresh('a'), fresh('key')]
    const body = like(a, { delta: 2, ack: 'committed' })

    const answers = await Promise.all(
      Array.from({ length: 30 }, (_, index) => send(clients[index % 2] as Client, key, increments, body)),
    )

    const [made, waiting] = [
      answers.filter(({ status }) => status === 200),
      answers.filter(({ status }) => status === 409),
    ]
    expect(made.length + waiting.length).toBe(30)
    expect(made.length).toBeGreaterThanOrEqual(1)
    for (const { body } of made) expect(body).toEqual({ value: 2, ack: 'committed' })
    for (const { body, headers } of waiting) {
      expect(body.code).toBe('request_in_progress')
      expect(Number(headers.get('retry-after'))).toBeGreaterThan(0)
    }
    expect(await (clients[0] as Client).value(a)).toBe(2)
    const late = await send(clients[0] as Client, key, increments, body)
    expect([late.status, late.body]).toEqual([200, { value: 2, ack: 'committed' }])
  })

  test('stands for its first request: another one is refused, and does nothing', async () => {
    const client = await start()
    const [a, b, key] = [fresh('a'), fresh('b'), fresh('key')]
    await send(client, key, increments, like(a, { ack: 'committed' }))

    const others = [
      await send(client, key, increments, like(a, { ack: 'committed', delta: 2 })),
      await send(client, key, increments, like(b, { ack: 'committed' })),
      await send(client, key, batches, { operations: [like(a)] }),
    ]

    for (const { status, body } of others) {
      expect([status, body.code, body.applied]).toEqual([422, 'idempotency_key_reused', 'no'])
    }
    expect([await client.value(a), await client.value(b)]).toEqual([1, 0])
  })

  test('a batch is one, with each operation’s own outcome, refusals included', async () => {
    const client = await start()
    const [a, rich, key] = [fresh('a'), fresh('rich'), fresh('key')]
    await client.increment(rich, Number.MAX_SAFE_INTEGER, 'committed')
    const body = { operations: [like(a, { delta: 2 }), like(rich), like(a, { delta: 3 })] }

    const first = await send(client, key, batches, body)
    await client.increment(rich, -100, 'committed')
    const again = await send(client, key, batches, body)
    const accepted = await send(client, fresh('key'), batches, { operations: [like(a)], async: true })

    expect(first.status).toBe(207)
    expect(first.body.results.map(({ value }: { value?: number }) => value)).toEqual([2, undefined, 5])
    expect(first.body.results[1].problem).toMatchObject({ code: 'refused', applied: 'no' })
    expect([again.status, again.body]).toEqual([207, first.body])
    expect([accepted.status, accepted.body]).toEqual([202, { accepted: 1 }])
    expect(await client.value(a)).toBe(6)
    await expect.poll(() => client.value(a, 'live'), { timeout: 20_000 }).toBe(6)
  })

  test('a key that is none is refused', async () => {
    const client = await start()

    for (const key of ['', '"', 'a, b', 'x'.repeat(256), '""']) {
      const { status, body } = await send(client, key, increments, like('a'))

      expect([status, body.field]).toEqual([400, 'idempotency-key'])
    }
  })

  test('is made at once by who sends it again, where the key was noted and nobody has heard of it', async () => {
    const [a, key] = [fresh('a'), fresh('key')]
    let losses = 1
    const { query } = stores.database
    const lossy: typeof query = async (...args) => {
      const rows = await query(...args)
      if (args[0].includes('INSERT INTO api_answers') && losses-- > 0) throw new Error('the connection broke')
      return rows as never
    }
    const client = await startClient(stores, { database: { ...stores.database, query: lossy } })
    const body = like(a, { ack: 'committed' })

    const lost = await send(client, key, increments, body)
    const again = (): Promise<Answer> => send(client, key, increments, body)

    expect([lost.status, lost.body.code, lost.body.applied]).toEqual([503, 'unavailable', 'unknown'])
    await expect.poll(again, { timeout: 10_000 }).toMatchObject({ status: 200, body: { value: 1, ack: 'committed' } })
    expect(await client.value(a)).toBe(1)
  })

  test('what was applied when the gateway died counts once, though nobody has noted an answer', async () => {
    const [a, key] = [fresh('a'), fresh('key')]
    const body = like(a, { delta: 4, ack: 'redis' })
    // It is as good as dead: it never comes back from the store, which has committed.
    const { durable, wake } = deaf(stores)
    const dead = await start({ durable })
    const lost = send(dead, key, increments, body).catch(() => undefined)
    await expect.poll(() => dead.value(a), { timeout: 20_000 }).toBe(4)
    const next = await start()

    const waiting = await send(next, key, increments, body)
    await stores.database.query(`UPDATE api_answers SET lease_until = now() WHERE status IS NULL`)
    const answer = await send(next, key, increments, body)

    expect(waiting.body.code).toBe('request_in_progress')
    expect([answer.status, answer.body]).toEqual([200, { value: 4, ack: 'redis' }])
    expect(await next.value(a)).toBe(4)
    expect(await next.value(a, 'live')).toBe(4)
    wake()
    expect((await lost)?.body.applied).toBe('unknown')
    // What it does last changes nothing.
    expect((await send(next, key, increments, body)).body).toEqual({ value: 4, ack: 'redis' })
    expect(await next.value(a)).toBe(4)
  })

  test('says that it may have been applied as long as an earlier attempt may have been', async () => {
    const [a, key] = [fresh('a'), fresh('key')]
    const unknown = new StoreError('the connection broke', { retryable: false, outcomeUnknown: true })
    const nothing = new StoreError('there is no connection', { retryable: false, outcomeUnknown: false })
    const failures = [nothing, unknown, nothing]
    const durable = wrapped(stores.durable, (method) => async (...args) => {
      const failure = failures.shift()
      if (failure === undefined || failure === unknown) await method(...args)
      throw failure ?? nothing
    })
    const client = await start({ durable })
    const body = like(a, { ack: 'committed' })

    const answers = [await send(client, key, increments, body), await send(client, key, increments, body)]
    answers.push(await send(client, key, increments, body))

    expect(answers.map(({ status, body }) => [status, body.applied])).toEqual([
      [503, 'no'],
      [503, 'unknown'],
      [503, 'unknown'],
    ])
    expect(await client.value(a)).toBe(1)
  })

  test('what failed without an answer is made again under its key, and counts once', async () => {
    const [a, key] = [fresh('a'), fresh('key')]
    let failures = 1
    // The first attempt is applied, and its answer is lost.
    const durable = wrapped(stores.durable, (method) => async (...args) => {
      const answer = await method(...args)
      if (failures-- > 0) throw new StoreError('the connection broke', { retryable: false, outcomeUnknown: true })
      return answer
    })
    const client = await start({ durable })
    const body = like(a, { ack: 'committed' })

    const failed = await send(client, key, increments, body)
    const again = await send(client, key, increments, body)

    expect([failed.status, failed.body.code, failed.body.applied]).toEqual([503, 'unavailable', 'unknown'])
    expect([again.status, again.body]).toEqual([200, { value: 1, ack: 'committed' }])
    expect(await client.value(a)).toBe(1)
    await expect.poll(() => client.value(a, 'live'), { timeout: 20_000 }).toBe(1)
  })
})

test('the live values of a process count a write once that came before its restart and comes again after it', async () => {
  const [{ stores }] = all as [TestStores]
  const [before, after] = [`key:${fresh('before')}`, `key:${fresh('after')}`]
  const context = (batchId: string) => ({ batchId, attempt: 1, signal: new AbortController().signal })
  const a = { key: `${fresh('a')}:like`, delta: 5 }
  await stores.durable.increment([a], context(before))
  // As they begin after a restart: with what the durable ones are.
  const begun = new MemoryCounterStore({ initial: [[a.key, 5]] })
  const live = new BegunCounterStore(begun, await keyedBatchesIn(stores.database))

  expect(await live.increment([a], context(before))).toEqual([5])
  expect(await live.add(new Map([[a.key, 5]]), context(before))).toEqual([])
  expect(await live.increment([a], context(after))).toEqual([10])
})

describe('a write under a key that the live store has not', () => {
  const missed = () => ({ lost: 0, notLive: 0, failing: false, reason: undefined })
  const write = { batchId: 'key:1', ageMs: 0 }
  const increment = { key: 'a:like', delta: 2 }

  test.each(['redis', 'committed'] as const)(
    'as it refuses it is committed, answered so, and counted as not live: %s',
    async (ack) => {
      const full = new MemoryCounterStore({ initial: [['a:like', Number.MAX_SAFE_INTEGER]] })
      const losses = missed()
      const writes = new KeyedWrites({ live: full, durable: new MemoryCounterStore() }, losses, () => undefined)

      expect(await writes.apply(write, [increment], ack)).toEqual([2])
      for (const part of writes.parts) await part.close()

      expect(losses.notLive).toBe(1)
    },
  )

  test('as it comes too late for it is answered by the durable one alone', async () => {
    const [live, losses] = [new MemoryCounterStore(), missed()]
    const writes = new KeyedWrites({ live, durable: new MemoryCounterStore() }, losses, () => undefined)

    expect(await writes.apply({ ...write, ageMs: 300_001 }, [increment], 'redis')).toEqual([2])
    for (const part of writes.parts) await part.close()

    expect([await live.getMany(['a:like']), losses.notLive]).toEqual([[0], 1])
  })
})

/** A durable store that applies what it is told under a key, and says nothing of it until it is woken. */
function deaf({ durable }: { durable: CounterStore }): { durable: CounterStore; wake: () => void } {
  let wake = (): void => undefined
  const woken = new Promise<void>((resolve) => {
    wake = resolve
  })
  const increment: CounterStore['increment'] = async (batch, context) => {
    const answers = await durable.increment(batch, context)
    if (!context.batchId.startsWith('key:')) return answers
    await woken
    throw new StoreError('the connection broke', { retryable: false, outcomeUnknown: true })
  }
  return { durable: { ...wrapped(durable, (method) => method), increment }, wake: () => wake() }
}
