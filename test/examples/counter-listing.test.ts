import { randomUUID } from 'node:crypto'
import { GrpcChannelPool } from 'spillway/grpc'
import { MemoryCounterStore } from 'spillway/testing'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { counterClient } from '../../examples/counter-billing/protocol.ts'
import { startCounterService } from '../../examples/counter-billing/service.ts'
import { type Answer, batches, type Client, startClient } from './counter-client.ts'
import { openTestStores } from './stores.ts'

const all = await openTestStores()

afterAll(async () => {
  for (const { stop } of all) await stop()
})

const fresh = (name: string): string => `${name}-${randomUUID()}`

type Page = { counters: { counter_type: string; value: number }[]; next: string | null }

function list({ get }: Client, query: Record<string, string>): Promise<Answer> {
  return get(`/api/v1/counter?${new URLSearchParams(query)}`)
}

/** Commits increments of counters of a resource; each is its place. */
async function commit({ post }: Client, resource_id: string, types: readonly string[]): Promise<void> {
  const operations = types.map((counter_type, index) => ({ resource_id, counter_type, delta: index + 1 }))
  expect((await post(batches, { operations })).status).toBe(200)
}

/** All pages, one after the other. */
async function walk(
  client: Client,
  query: Record<string, string>,
  between: (page: Page) => Promise<void> = async () => undefined,
): Promise<Page['counters'][]> {
  const pages: Page['counters'][] = []
  for (let after: string | null | undefined; after !== null; ) {
    const { body } = await list(client, { ...query, ...(after !== undefined && { after }) })
    pages.push(body.counters)
    after = body.next
    await between(body)
  }
  return pages
}

const typesOf = (pages: readonly Page['counters'][]): string[] => pages.flat().map(({ counter_type }) => counter_type)

describe.each(all)('a listing on $title', async ({ stores }) => {
  const service = await startCounterService({ ...stores, port: 0, log: () => undefined })
  afterAll(() => service.close())

  describe.each([
    ['of this process', () => startClient(stores)],
    ['of a counter service', () => startClient({ at: service.address })],
  ] as const)('%s', (_title, start) => {
    test('has the counters of a resource, in the order of their types, and says where it ends', async () => {
      const client = await start()
      const post = fresh('post')
      await commit(client, post, ['view', 'like', 'share', 'Zap', '_x', 'like.2'])

      const { status, body, headers } = await list(client, { resource_id: post })

      expect([status, headers.get('cache-control'), body.next]).toEqual([200, 'max-age=5', null])
      expect(body.resource_id).toBe(post)
      expect(body.counters).toEqual([
        { counter_type: 'Zap', value: 4 },
        { counter_type: '_x', value: 5 },
        { counter_type: 'like', value: 2 },
        { counter_type: 'like.2', value: 6 },
        { counter_type: 'share', value: 3 },
        { counter_type: 'view', value: 1 },
      ])
    })

    test('comes in pages, none of which is empty where the counters end with one', async () => {
      const client = await start()
      const post = fresh('post')
      const types = Array.from({ length: 10 }, (_, index) => `type-${index}`)
      await commit(client, post, types)

      const pages = await walk(client, { resource_id: post, limit: '5' })

      expect(pages.map(({ length }) => length)).toEqual([5, 5])
      expect(typesOf(pages)).toEqual(types)
    })

    test('has each counter once that was there throughout, whatever is inserted between pages', async () => {
      const client = await start()
      const post = fresh('post')
      const types = Array.from({ length: 12 }, (_, index) => `t-${String(index).padStart(2, '0')}`)
      await commit(client, post, types)

      let inserted = 0
      const pages = await walk(client, { resource_id: post, limit: '3' }, async ({ next }) => {
        if (next === null) return
        // Before what was read, and behind it.
        await commit(client, post, [`a-${inserted}`, `${next}.${inserted++}`])
      })

      const read = typesOf(pages)
      expect(read.filter((type) => types.includes(type))).toEqual(types)
      expect(new Set(read).size).toBe(read.length)
      expect([...read].sort()).toEqual(read)
    })

    test('has nothing of other resources, whatever their names', async () => {
      const client = await start()
      const post = fresh('post')
      const others = [
        `${post}:like`,
        `${post}:`,
        `${post};`,
        `${post}:a:b`,
        post.slice(0, -1),
        `${post}x`,
        `%`,
        `${post}_`,
      ]
      await commit(client, post, ['like'])
      for (const other of others) await commit(client, other, ['like', 'view'])

      const { body } = await list(client, { resource_id: post })

      expect(body.counters).toEqual([{ counter_type: 'like', value: 1 }])
    })

    test('takes names of any characters', async () => {
      const client = await start()
      const names = ['🙂', 'é', "'; DROP TABLE spillway_counters; --", '%_\\', 'a b'].map(fresh)
      for (const name of names) await commit(client, name, ['like', 'view'])

      const answers = await Promise.all(names.map((resource_id) => list(client, { resource_id, after: 'like' })))

      expect(answers.map(({ body }) => body.counters)).toEqual(
        Array(names.length).fill([{ counter_type: 'view', value: 2 }]),
      )
    })

    test('of a resource without counters is empty', async () => {
      const { body } = await list(await start(), { resource_id: fresh('nothing') })

      expect(body).toMatchObject({ counters: [], next: null })
    })

    test('has what was committed by its gateway before, and what others committed after five seconds, or when asked for', async () => {
      const [client, other] = [await start(), await start()]
      const post = fresh('post')
      await commit(client, post, ['like'])
      await list(client, { resource_id: post })

      await commit(client, post, ['share'])
      const own = await list(client, { resource_id: post })
      await commit(other, post, ['view'])
      const kept = await list(client, { resource_id: post })
      const anew = await list(client, { resource_id: post, fresh: 'true' })

      expect(typesOf([own.body.counters])).toEqual(['like', 'share'])
      expect(kept.body.counters).toEqual(own.body.counters)
      expect(typesOf([anew.body.counters])).toEqual(['like', 'share', 'view'])
      expect(anew.headers.get('cache-control')).toBe('no-store')
    })
  })

  test('asks for text and numbers that make sense, by gRPC too', async () => {
    const pool = new GrpcChannelPool((options) => counterClient(service.address, options))
    onTestFinished(async () => void (await pool.close()))
    const request = { resourceId: 'a', after: '', limit: 10 }

    for (const wrong of [{ resourceId: '' }, { resourceId: 'a\0' }, { after: '\0' }, { limit: 0 }, { limit: 1_001 }]) {
      const call = pool.call('list', { ...request, ...wrong })
      await expect(call).rejects.toMatchObject({ statusName: 'INVALID_ARGUMENT' })
    }
    expect(await pool.call('list', { ...request, resourceId: fresh('a') })).toEqual({ counters: [], more: false })
  })
})

describe('a listing is refused with the field and the rule', async () => {
  const [{ stores } = {}] = all
  test.each<[string, Record<string, string>, string, string]>([
    ['no resource', {}, 'resource_id', 'is missing'],
    ['an empty one', { resource_id: '' }, 'resource_id', 'must be a string of 1 to 256 characters'],
    ['a type with a colon', { resource_id: 'a', after: 'a:b' }, 'after', 'must be a string of 1 to 64 letters'],
    ['no counters', { resource_id: 'a', limit: '0' }, 'limit', 'must be a whole number from 1 to 1000, got "0"'],
    ['too many', { resource_id: 'a', limit: '1001' }, 'limit', 'must be a whole number from 1 to 1000'],
    ['a fraction', { resource_id: 'a', limit: '1.5' }, 'limit', 'must be a whole number from 1 to 1000'],
    ['what is not known', { resource_id: 'a', before: 'b' }, 'before', 'is not a known field'],
  ])('%s', async (_name, query, field, problem) => {
    const client = await startClient(stores as NonNullable<typeof stores>)

    const { status, body } = await list(client, query)

    expect([status, body.error, body.field]).toEqual([400, 'invalid_request', field])
    expect(body.message).toContain(`${field} ${problem}`)
  })

  test('and where the counters have none, it is not there', async () => {
    const client = await startClient({ live: new MemoryCounterStore(), durable: new MemoryCounterStore() })

    expect((await list(client, { resource_id: 'a' })).status).toBe(501)
  })
})
