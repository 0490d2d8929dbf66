import { randomUUID } from 'node:crypto'
import type { CounterStore } from 'spillway'
import { MemoryCacheStore, MemoryCounterStore, MemoryInvalidationBus } from 'spillway/testing'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { openSharedCache } from '../../examples/counter-billing/counter/shared-cache.ts'
import { freePort } from '../servers/free-port.ts'
import { startRedis } from '../servers/redis.ts'
import { type Answer, batches, type Client, operations, startClient } from './counter-client.ts'

const redis = await startRedis()

afterAll(() => redis?.stop())

const fresh = (name: string): string => `${name}-${randomUUID()}`
const path = (resource: string, query = ''): string => `/api/v1/counter/${resource}/like${query}`

/** Stores that count their reads, and hold them back while a test wants that. */
class WatchedStore extends MemoryCounterStore {
  reads = 0
  held: Promise<void> | undefined
  /** After the values were read, before they are told. */
  override async getMany(keys: readonly string[]): Promise<number[]> {
    this.reads++
    const values = await super.getMany(keys)
    await this.held
    return [...values]
  }
}

interface World extends Client {
  readonly live: WatchedStore
  readonly durable: WatchedStore
  /** Changes a counter behind the gateway. */
  change(resource: string, delta: number): Promise<void>
}

async function startWorld(options: Parameters<typeof startClient>[1] = {}, of?: World): Promise<World> {
  const { live, durable } = of ?? { live: new WatchedStore(), durable: new WatchedStore() }
  const client = await startClient({ live, durable }, options)
  const change = async (resource: string, delta: number): Promise<void> => {
    for (const store of [live, durable]) await add(store, `${resource}:like`, delta)
  }
  return { ...client, live, durable, change }
}

async function add(store: CounterStore, key: string, delta: number): Promise<void> {
  await store.add(new Map([[key, delta]]), { batchId: randomUUID(), attempt: 1, signal: new AbortController().signal })
}

const valueIn = ({ body }: Answer): number => body.value
const caching = ({ headers }: Answer): (string | null)[] => [headers.get('age'), headers.get('cache-control')]

describe('a counter that is read', () => {
  test('is kept for five seconds, and the answer says how old it may be', async () => {
    const { get, live, change } = await startWorld()
    await change('a', 1)

    const first = await get(path('a'))
    await change('a', 1)
    const second = await get(path('a'))

    expect([valueIn(first), valueIn(second)]).toEqual([1, 1])
    expect(caching(first)).toEqual(['0', 'max-age=5'])
    expect(second.headers.get('cache-control')).toBe('max-age=5')
    expect(live.reads).toBe(1)
    await expect
      .poll(async () => Number((await get(path('a'))).headers.get('age')), { timeout: 5_000 })
      .toBeGreaterThan(0)
    await expect.poll(async () => valueIn(await get(path('a'))), { timeout: 10_000 }).toBe(2)
    expect(live.reads).toBe(2)
  })

  test('is read once for all who ask at the same time', async () => {
    const { get, live } = await startWorld()

    await Promise.all(Array.from({ length: 50 }, () => get(path('a'))))

    expect(live.reads).toBe(1)
  })

  test('is read anew where that is asked for, by the query or by the header', async () => {
    const { get, service, live, change } = await startWorld()
    await get(path('a'))
    await change('a', 3)

    const byQuery = await get(path('a', '?fresh=true'))
    await change('a', 4)
    const byHeader = await fetch(service.url + path('a'), { headers: { 'cache-control': 'max-age=0, No-Cache' } })

    expect([valueIn(byQuery), ((await byHeader.json()) as { value: number }).value]).toEqual([3, 7])
    expect(caching(byQuery)).toEqual(['0', 'no-store'])
    expect(live.reads).toBe(3)
    // And nobody is told an older value by this gateway after that.
    expect(valueIn(await get(path('a')))).toBe(7)
  })

  test('is another one live than durable', async () => {
    const { get, live, durable } = await startWorld()
    await add(live, 'a:like', 2)
    await add(durable, 'a:like', 1)

    expect([valueIn(await get(path('a'))), valueIn(await get(path('a', '?source=durable')))]).toEqual([2, 1])
    expect([valueIn(await get(path('a'))), valueIn(await get(path('a', '?source=durable')))]).toEqual([2, 1])
  })

  test('is the durable one while the live store fails, which says so', async () => {
    const { get, live, durable } = await startWorld({ retry: { attempts: 1 } })
    await add(durable, 'a:like', 1)
    live.getMany = () => Promise.reject(new Error('down'))

    expect((await get(path('a'))).body).toMatchObject({ value: 1, source: 'durable' })
  })

  test.each([
    ['fresh', '?fresh=yes', 'fresh', "one of 'true', 'false'"],
    ['source', '?source=disk', 'source', "one of 'live', 'durable'"],
  ])('takes no %s that it does not know', async (_name, query, field, rule) => {
    const { get } = await startWorld()

    const { status, body } = await get(path('a', query))

    expect([status, body.field]).toEqual([400, field])
    expect(body.detail).toContain(rule)
  })
})

describe('an increment that is answered with a value', () => {
  test.each(['redis', 'committed'] as const)('is in every later read of its gateway (%s)', async (ack) => {
    const { get, increment } = await startWorld()
    const query = ack === 'redis' ? '' : '?source=durable'
    await get(path('a', query))

    for (const expected of [1, 2, 3]) {
      const { body } = await increment('a', 1, ack)
      expect(body.value).toBe(expected)
      expect(valueIn(await get(path('a', query)))).toBe(expected)
    }
  })

  test('is in a batch, too', async () => {
    const { get, post } = await startWorld()
    await Promise.all([get(path('a')), get(path('b'))])

    await post(batches, { operations: operations(['a', 1], ['b', 2]), ack: 'redis' })

    expect([valueIn(await get(path('a'))), valueIn(await get(path('b')))]).toEqual([1, 2])
  })

  test('is not undone by a read that was under way', async () => {
    const { get, increment, live } = await startWorld()
    let release = (): void => undefined
    live.held = new Promise((resolve) => {
      release = resolve
    })
    const early = get(path('a'))
    await expect.poll(() => live.reads).toBe(1)

    expect((await increment('a', 1, 'redis')).body.value).toBe(1)
    live.held = undefined
    const late = get(path('a'))
    release()

    expect(valueIn(await late)).toBe(1)
    // It began before.
    expect(valueIn(await early)).toBe(0)
    expect(valueIn(await get(path('a')))).toBe(1)
  })

  test('is not undone by what another gateway has read before and shared', async () => {
    const cache = { l2: new MemoryCacheStore() }
    const one = await startWorld({ cache })
    const other = await startWorld({ cache }, one)
    await other.get(path('a'))

    await one.increment('a', 1, 'redis')

    expect(valueIn(await one.get(path('a')))).toBe(1)
    // The other one has answered nothing, and may tell what it knows.
    expect(valueIn(await other.get(path('a')))).toBe(0)
  })

  test('makes one read, not one for each who asks after it', async () => {
    const { get, increment, live } = await startWorld()
    await get(path('a'))
    await increment('a', 1, 'redis')

    for (let n = 0; n < 5; n++) expect(valueIn(await get(path('a')))).toBe(1)

    expect(live.reads).toBe(2)
  })
})

test('what an accepted increment adds is read five seconds later at most', async () => {
  const { get, increment, service } = await startWorld()
  await get(path('a'))

  await increment('a', 1, 'accepted')
  await service.counters.flush()

  expect(valueIn(await get(path('a')))).toBe(0)
  expect(valueIn(await get(path('a', '?fresh=true')))).toBe(1)
})

/** Two gateways over one pair of stores, which share what they read. */
const shared: readonly { title: string; open(): Promise<Parameters<typeof startWorld>[0][]> }[] = [
  {
    title: 'in memory',
    open: async () => {
      const cache = { l2: new MemoryCacheStore(), bus: new MemoryInvalidationBus() }
      return [{ cache }, { cache }]
    },
  },
  ...(redis === undefined
    ? []
    : [
        {
          title: 'in Redis',
          open: () =>
            Promise.all(
              [1, 2].map(async () => {
                const cache = await openSharedCache({ redisUrl: redis.url }, () => undefined)
                onTestFinished(() => cache?.close())
                return { cache }
              }),
            ),
        },
      ]),
]

describe.each(shared)('gateways that share what they read $title', ({ open }) => {
  const startTwo = async (): Promise<[World, World]> => {
    const [one, other] = await open()
    const first = await startWorld(one)
    return [first, await startWorld(other, first)]
  }

  test('read a counter once', async () => {
    const [one, other] = await startTwo()
    const a = fresh('a')
    await one.change(a, 5)

    await one.get(path(a))
    await expect.poll(async () => (await other.service.reads.cache.get(`l:${a}:like`))?.value).toBe(5)
    await one.change(a, 1)

    expect(valueIn(await other.get(path(a)))).toBe(5)
    expect(one.live.reads).toBe(1)
  })

  test('forget what a service says is no longer so, all of them', async () => {
    const [one, other] = await startTwo()
    const [a, b] = [fresh('a'), fresh('b')]
    const known = ({ service }: World, resource: string): unknown => service.reads.cache.peek(`l:${resource}:like`)
    // Until both listen to the bus, which makes them read once more.
    for (const world of [one, other]) {
      const read = (): Promise<unknown> => Promise.all([a, b].map((resource) => world.get(path(resource))))
      await expect
        .poll(async () => (await read()) && [a, b].map((resource) => known(world, resource)))
        .not.toContain(undefined)
    }
    for (const resource of [a, b]) await one.change(resource, 1)

    const answer = await one.post('/api/v1/counter/invalidate', { resource_ids: [a] })

    expect([answer.status, answer.body]).toEqual([200, { invalidated: 1 }])
    expect([known(one, a), known(one, b)]).toEqual([undefined, expect.objectContaining({ value: 0 })])
    expect(valueIn(await one.get(path(a)))).toBe(1)
    await expect.poll(async () => valueIn(await other.get(path(a))), { timeout: 2_000, interval: 20 }).toBe(1)
  })
})

test('without the Redis that it was told of, a gateway keeps what it reads by itself', async () => {
  const cache = await openSharedCache({ redisUrl: `redis://127.0.0.1:${await freePort()}` }, () => undefined)
  onTestFinished(() => cache?.close())
  const { get, post, live, change } = await startWorld({ cache })

  const answers = [await get(path('a')), await get(path('a'))]
  await change('a', 1)
  const invalidated = await post('/api/v1/counter/invalidate', { resource_ids: ['a'] })

  expect(answers.map(({ status }) => status)).toEqual([200, 200])
  expect(live.reads).toBe(1)
  expect(invalidated.status).toBe(200)
  expect(valueIn(await get(path('a')))).toBe(1)
})

test('an invalidation names its resources', async () => {
  const { post } = await startWorld()

  const answers = await Promise.all(
    [
      {},
      { resource_ids: [] },
      { resource_ids: 'a' },
      { resource_ids: [''] },
      { resource_ids: Array(101).fill('a') },
    ].map((body) => post('/api/v1/counter/invalidate', body)),
  )

  expect(answers.map(({ status, body }) => [status, body.field])).toEqual([
    ...Array(3).fill([400, 'resource_ids']),
    [400, 'resource_ids[0]'],
    [400, 'resource_ids'],
  ])
})
