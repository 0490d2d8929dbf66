import { randomUUID } from 'node:crypto'
import { connect } from 'node:net'
import { type CounterStore, StoreError } from 'spillway'
import { commitThenDrop, seededRandom } from 'spillway/testing'
import { afterAll, describe, expect, test, vi } from 'vitest'
import type { CountersOptions } from '../../examples/counter-billing/counter/counters.ts'
import { openStores } from '../../examples/counter-billing/counter/stores.ts'
import { batches, operations, startClient } from './counter-client.ts'
import { wrapped } from './stores.ts'

const maxCounter = Number.MAX_SAFE_INTEGER
const stores = await openStores()
const { live, durable } = stores

afterAll(() => stores.close())

const fresh = (name: string): string => `${name}-${randomUUID()}`
const atOnce = { attempts: 30, delayMs: 0 }

/** Both stores commit, and then lose four of ten answers on their way back. */
const lossy = (seed: string) => {
  const losses = { count: 0 }
  const error = (): Error => {
    losses.count++
    return new StoreError('the connection was lost after the commit', { outcomeUnknown: true })
  }
  const random = seededRandom(seed)
  const drop = (store: CounterStore): CounterStore =>
    wrapped(store, (method) => commitThenDrop(method, { failureRate: 0.4, random, error }))
  return { losses, stores: { live: drop(live), durable: drop(durable) } }
}

/** A durable store that can be taken down, and that can be made to wait. */
class SwitchedStore implements CounterStore {
  readonly idempotent = true
  down = false
  #held: Promise<void> = Promise.resolve()

  /** Makes flushes wait until the function that it returns is called. */
  hold(): () => void {
    let release = (): void => undefined
    this.#held = new Promise((resolve) => {
      release = resolve
    })
    return release
  }

  async increment(...batch: Parameters<CounterStore['increment']>) {
    this.#check()
    return durable.increment(...batch)
  }

  async add(...batch: Parameters<CounterStore['add']>) {
    this.#check()
    await this.#held
    return durable.add(...batch)
  }

  async getMany(keys: readonly string[]) {
    this.#check()
    return durable.getMany(keys)
  }

  #check(): void {
    if (this.down) throw new StoreError('the database is down')
  }
}

const switched = async ({ attempts }: { attempts: number }, options: CountersOptions = {}) => {
  const store = new SwitchedStore()
  const retry = { attempts, delayMs: 1 }
  return { store, ...(await startClient({ live, durable: store }, { retry, ...options })) }
}

describe('a lost answer', () => {
  test('of a flush counts nothing twice', async () => {
    const { losses, stores } = lossy('flush')
    const { increment, value, service } = await startClient(stores, { retry: atOnce })
    const keys = Array.from({ length: 5 }, () => fresh('key'))

    for (let round = 0; round < 20; round++) {
      await Promise.all(keys.map((key) => increment(key, 3)))
      await service.counters.flush()
    }

    expect(losses.count).toBeGreaterThan(5)
    expect(await Promise.all(keys.map((key) => value(key)))).toEqual(keys.map(() => 60))
    expect(await Promise.all(keys.map((key) => value(key, 'live')))).toEqual(keys.map(() => 60))
  })

  test('of a committed batch costs no caller its exact values', async () => {
    const { losses, stores } = lossy('commit')
    const { post, value, service } = await startClient(stores, { retry: atOnce })
    const a = fresh('a')

    const answers = await Promise.all(
      Array.from({ length: 60 }, () => post(batches, { operations: operations([a, 1], [a, 1]) })),
    )

    const values: number[] = answers.flatMap(({ body }) =>
      body.results.map((result: { value: number }) => result.value),
    )
    expect(values.sort((x, y) => x - y)).toEqual(Array.from({ length: 120 }, (_, index) => index + 1))
    await service.counters.flush()
    expect([await value(a), await value(a, 'live')]).toEqual([120, 120])
    expect(losses.count).toBeGreaterThan(0)
  })
})

describe('while the database is down', () => {
  test('accepted increments that were given up are logged, counted, and show in the health until a write succeeds', async () => {
    const { store, increment, service, log, get } = await switched({ attempts: 3 })
    const a = fresh('a')
    store.down = true

    await increment(a, 2)
    await increment(a, 3)
    await service.counters.flush()

    expect(log.filter((line) => line.startsWith('warn durable-writes: the database is down'))).toHaveLength(2)
    expect(log.filter((line) => line.startsWith('error'))).toEqual([
      `error LOST: accepted increments of 1 counters (the database is down): ${JSON.stringify({ [`${a}:like`]: 5 })}`,
    ])
    const sick = await get('/readyz')
    expect(sick.status).toBe(503)
    expect(sick.body).toMatchObject({
      ...{ code: 'not_ready', lost: 1, notLive: 0 },
      parts: { durable: expect.stringContaining('the database is down'), live: 'ok' },
    })
    expect((await get('/healthz')).status).toBe(200)

    store.down = false
    await increment(a, 1)
    await service.counters.flush()

    await expect.poll(() => get('/readyz').then(({ status }) => status), { timeout: 20_000 }).toBe(200)
    expect((await get('/readyz')).body).toMatchObject({ status: 'ready', lost: 1, notLive: 0 })
  })

  test('a short outage costs nothing', async () => {
    const { store, increment, service, value, log } = await switched({ attempts: 1_000 })
    const a = fresh('a')
    store.down = true
    await increment(a, 2)
    const flushed = service.counters.flush()
    await vi.waitUntil(() => log.length > 0)

    store.down = false
    await flushed

    expect(await value(a)).toBe(2)
    expect(service.counters.losses).toMatchObject({ lost: 0, failing: false })
  })

  test('who waits for an answer gets a 503 that says when to come back', async () => {
    const { store, post, get } = await switched({ attempts: 2 })
    store.down = true

    const answers = [
      await post(batches, { operations: operations([fresh('a'), 1]) }),
      await get('/api/v1/counter/a/like?source=durable'),
      await get('/readyz'),
    ]

    expect(answers.map(({ status }) => status)).toEqual([503, 503, 503])
    expect(answers.slice(0, 2).map(({ headers }) => headers.get('retry-after'))).toEqual(['1', '1'])
    expect(answers[0]?.body.results[0].problem).toMatchObject({
      code: 'unavailable',
      detail: 'the database is down',
      applied: 'no',
    })
  })
})

describe('when no more counters fit', () => {
  /** A service with room for two counters, whose only writer waits with two others. */
  const full = async () => {
    const { store, ...client } = await switched({ attempts: 1 }, { capacity: 2 })
    const [a, b] = [fresh('a'), fresh('b')]
    const release = store.hold()
    for (const resource of [fresh('x'), fresh('y'), a, b]) await client.increment(resource)
    return { a, b, release, ...client }
  }

  test('a new one gets a 503 that says when to come back, and those that wait still count', async () => {
    const { a, increment, release, service, value } = await full()
    const c = fresh('c')

    const answers = [await increment(c), await increment(a, 5)]
    release()
    await service.counters.flush()

    expect(answers.map(({ status }) => status)).toEqual([503, 202])
    expect(answers[0]?.headers.get('retry-after')).toBe('1')
    expect(answers[0]?.body).toMatchObject({ code: 'overloaded', accepted: false })
    expect([await value(c), await value(a)]).toEqual([0, 6])
  })

  test('an asynchronous batch is refused as a whole', async () => {
    const { a, post, release, service, value } = await full()
    const c = fresh('c')

    const { status, headers, body } = await post(batches, { operations: operations([a, 5], [c, 5]), async: true })
    release()
    await service.counters.flush()

    expect([status, headers.get('retry-after')]).toEqual([503, '1'])
    expect(body).toMatchObject({ code: 'overloaded', accepted: 0, refused: 2 })
    expect([await value(a), await value(c)]).toEqual([1, 0])
  })
})

test('where the oldest are given up, every way in has room, and the log names those that had to go', async () => {
  const { store, increment, post, value, service, log } = await switched(
    { attempts: 1 },
    { capacity: 2, overflow: 'drop-oldest' },
  )
  const [c, d] = [fresh('c'), fresh('d')]
  const earlier = ['first', 'second', 'a', 'b'].map(fresh)
  const release = store.hold()
  // Two are on their way, and two wait.
  for (const resource of earlier) await increment(resource)

  const answers = [
    await post(batches, { operations: operations([c, 5], [d, 5]), async: true }),
    await increment(c, 1, 'redis'),
  ]
  release()
  await service.counters.flush()

  expect(answers.map(({ status }) => status)).toEqual([202, 200])
  expect(await Promise.all([...earlier, c, d].map((key) => value(key)))).toEqual([1, 1, 0, 0, 6, 5])
  expect(log.filter((line) => line.startsWith('error LOST'))).toHaveLength(2)
})

test('an asynchronous batch whose sums no longer stay exact says how far it was accepted', async () => {
  const { post, service, value } = await switched({ attempts: 1 })
  const [a, b, c] = [fresh('a'), fresh('b'), fresh('c')]
  const some = operations([a, 1], [b, maxCounter], [b, 1], [c, 1])

  const { status, body } = await post(batches, { operations: some, async: true })
  await service.counters.flush()

  expect(status).toBe(503)
  expect(body).toMatchObject({ code: 'overloaded', accepted: 2, refused: 2 })
  expect([await value(a), await value(b), await value(c)]).toEqual([1, maxCounter, 0])
})

describe('closing with a deadline', () => {
  test('a client that never finishes its request leaves time for the writes', async () => {
    const { increment, service } = await switched({ attempts: 1 })
    const a = fresh('a')
    await increment(a, 4)
    const { hostname, port } = new URL(service.url)
    const slow = connect(Number(port), hostname, () => slow.write('POST /api/v1/counter/increment HTTP/1.1\r\nhost: x'))
    slow.on('error', () => undefined)
    await vi.waitUntil(() => slow.bytesWritten > 0)

    for (const part of service.parts) await part.close({ timeoutMs: 300 })

    expect(await durable.getMany([`${a}:like`])).toEqual([4])
  })

  test('what could not be written in time is logged', async () => {
    const { store, increment, service, log } = await switched({ attempts: 1 })
    const release = store.hold()
    const [a, b] = [fresh('a'), fresh('b')]
    await increment(a, 4)
    await increment(b)

    for (const part of service.parts) await part.close({ timeoutMs: 20 })
    release()

    const why = 'durable-writes was closed before this could finish'
    const sums = JSON.stringify({ [`${a}:like`]: 4, [`${b}:like`]: 1 })
    expect(log).toEqual([`error MAY BE LOST: accepted increments of 2 counters (${why}): ${sums}`])
  })
})
