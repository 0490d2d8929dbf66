import { randomBytes, randomUUID } from 'node:crypto'
import { GrpcChannelPool } from 'spillway/grpc'
import { explain } from 'spillway/postgres'
import { MemoryCounterStore } from 'spillway/testing'
import { afterAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { readConfig } from '../../examples/counter-billing/config/config.ts'
import { type CounterPage, DatabaseListing } from '../../examples/counter-billing/counter/listing.ts'
import { counterClient } from '../../examples/counter-billing/counter/protocol.ts'
import type { Stores } from '../../examples/counter-billing/counter/stores.ts'
import { startCounterService } from '../../examples/counter-billing/service.ts'
import { type Answer, batches, type Client, startClient } from './counter-client.ts'
import { openTestStores } from './stores.ts'

const all = await openTestStores()

afterAll(async () => {
  for (const { stop } of all) await stop()
})

const fresh = (name: string): string => `${name}-${randomUUID()}`

type Page = { counters: { counter_type: string; value: number }[]; next: string | null; previous: string | null }

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
      const pages = await walk(client, { resource_id: post, limit: '3' }, async ({ counters, next }) => {
        if (next === null) return
        // Before what was read, and behind it.
        await commit(client, post, [`a-${inserted}`, `${counters.at(-1)?.counter_type}.${inserted++}`])
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

      const pages = await Promise.all(names.map((resource_id) => walk(client, { resource_id, limit: '1' })))

      expect(pages).toEqual(
        Array(names.length).fill([[{ counter_type: 'like', value: 1 }], [{ counter_type: 'view', value: 2 }]]),
      )
    })

    test('leads back to its first page, by cursors and by links', async () => {
      const client = await start()
      const post = fresh('post &=')
      const types = Array.from({ length: 7 }, (_, index) => `type-${index}`)
      await commit(client, post, types)
      const follow = async ({ headers }: Answer, relation: string): Promise<Answer> => {
        const [, target = ''] = new RegExp(`<([^>]*)>; rel="${relation}"`).exec(headers.get('link') ?? '') ?? []
        return client.get(target)
      }

      const first = await list(client, { resource_id: post, limit: '3' })
      const last = await follow(await follow(first, 'next'), 'next')
      const middle = await follow(last, 'prev')
      const again = await list(client, { resource_id: post, limit: '3', before: middle.body.previous })

      expect([first, middle, last].map(({ body }) => typesOf([body.counters]))).toEqual([
        types.slice(0, 3),
        types.slice(3, 6),
        types.slice(6),
      ])
      expect(again.body.counters).toEqual(first.body.counters)
      expect([first.body.previous, last.body.next, again.body.previous]).toEqual([null, null, null])
      expect([first.headers.get('link'), last.headers.get('link')]).toEqual([
        expect.not.stringContaining('prev'),
        expect.not.stringContaining('next'),
      ])
    })

    test('refuses a cursor that was changed, is of another resource, or none, and is well afterwards', async () => {
      const client = await start()
      const [post, other] = [fresh('post'), fresh('post')]
      for (const resource of [post, other]) await commit(client, resource, ['like', 'share', 'view'])
      const query = { resource_id: post, limit: '1' }
      const { next } = (await list(client, query)).body as { next: string }
      const changed = [...next].map((letter, index) => (index === 20 ? (letter === 'A' ? 'B' : 'A') : letter)).join('')

      const refused = [
        await list(client, { ...query, after: changed }),
        await list(client, { ...query, resource_id: other, after: next }),
        await list(client, { ...query, after: 'like' }),
        await list(client, { ...query, before: changed }),
      ]

      for (const { status, body } of refused) expect([status, body.code]).toEqual([400, 'invalid_cursor'])
      expect(refused.map(({ body }) => body.field)).toEqual(['after', 'after', 'after', 'before'])
      expect(refused.map(({ body }) => body.detail)).toEqual([
        "after isn't signed as the cursors of this listing are",
        'after was made under another listing, order or condition',
        'after must be a cursor as a page gave it',
        "before isn't signed as the cursors of this listing are",
      ])
      expect((await list(client, { ...query, after: next })).body.counters).toEqual([
        { counter_type: 'share', value: 2 },
      ])
    })

    test('of a resource without counters is empty', async () => {
      const { body } = await list(await start(), { resource_id: fresh('nothing') })

      expect(body).toMatchObject({ counters: [], next: null, previous: null })
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
    const request = { resourceId: 'a', limit: 10 }

    for (const wrong of [{ resourceId: '' }, { resourceId: 'a\0' }, { after: 'a' }, { limit: 0 }, { limit: 1_001 }]) {
      const call = pool.call('list', { ...request, ...wrong })
      await expect(call).rejects.toMatchObject({ statusName: 'INVALID_ARGUMENT' })
    }
    expect(await pool.call('list', { ...request, resourceId: fresh('a') })).toEqual({ counters: [] })
  })
})

describe('a listing is refused with the field and the rule', async () => {
  const [{ stores } = {}] = all
  test.each<[string, Record<string, string>, string, string]>([
    ['no resource', {}, 'resource_id', 'is missing'],
    ['an empty one', { resource_id: '' }, 'resource_id', 'must be a string of 1 to 256 characters'],
    ['no cursor', { resource_id: 'a', after: 'a:b' }, 'after', 'must be a cursor as a page gave it, got "a:b"'],
    ['two cursors', { resource_id: 'a', after: 'a', before: 'b' }, 'before', 'must not stand beside after'],
    ['no counters', { resource_id: 'a', limit: '0' }, 'limit', 'must be a whole number from 1 to 1000, got "0"'],
    ['too many', { resource_id: 'a', limit: '1001' }, 'limit', 'must be a whole number from 1 to 1000'],
    ['a fraction', { resource_id: 'a', limit: '1.5' }, 'limit', 'must be a whole number from 1 to 1000'],
    ['what is not known', { resource_id: 'a', offset: '5' }, 'offset', 'is not a known field'],
  ])('%s', async (_name, query, field, problem) => {
    const client = await startClient(stores as NonNullable<typeof stores>)

    const { status, body } = await list(client, query)

    expect([status, body.code, body.field]).toEqual([400, 'invalid_request', field])
    expect(body.detail).toContain(`${field} ${problem}`)
  })

  test('and where the counters have none, it is not there', async () => {
    const client = await startClient({ live: new MemoryCounterStore(), durable: new MemoryCounterStore() })

    expect((await list(client, { resource_id: 'a' })).status).toBe(501)
  })
})

describe('cursors', () => {
  const secret = 'a secret of many characters'

  test('are good at every counter service with the secret, after a change of secrets, and nowhere else', async () => {
    const pages = async (cursorSecrets?: readonly string[], after?: string): Promise<CounterPage> => {
      const listing = new DatabaseListing(database, cursorSecrets ?? [randomBytes(32)])
      return listing.list({ resourceId: post, limit: 1, after })
    }
    const [{ stores } = {}] = all
    const { database } = stores as Stores
    const client = await startClient(stores as Stores)
    const post = fresh('post')
    await commit(client, post, ['like', 'view'])

    const { next } = await pages([secret])

    expect((await pages([secret], next)).counters).toEqual([{ counterType: 'view', value: 2 }])
    expect((await pages(['the secret that follows it', secret], next)).counters).toHaveLength(1)
    for (const other of [['the secret that follows it'], undefined])
      await expect(pages(other, next)).rejects.toMatchObject({ code: 'ERR_CURSOR', reason: 'signature' })
  })

  test('have their secrets from the environment, which is refused without being repeated', () => {
    onTestFinished(() => void vi.unstubAllEnvs())
    vi.stubEnv('CURSOR_SECRET', `${secret},another secret of many characters`)
    expect(readConfig().values['query.cursorSecrets']).toEqual([secret, 'another secret of many characters'])

    vi.stubEnv('CURSOR_SECRET', 'hush')
    expect(() => readConfig()).toThrow(/must be a secret of at least 16 characters.*CURSOR_SECRET/)
    expect(() => readConfig()).not.toThrow(/hush/)
  })
})

test.each(all)('a page far behind is found by the index on $title', async ({ stores }) => {
  const { database } = stores
  const post = fresh('post')
  const key = (n: string): string => `'${post}:t-' || lpad((${n})::text, 6, '0')`
  await database.script(
    `INSERT INTO spillway_counters (key, value) SELECT ${key('n')}, n FROM generate_series(1, 20000) AS n; ANALYZE spillway_counters`,
  )
  const { root } = await explain(database.client, {
    text: `SELECT counter_type, value FROM counter_listing
      WHERE key > $1 AND key < $2 AND resource_id = $3 AND key > $4 ORDER BY key LIMIT 11`,
    values: [`${post}:`, `${post};`, post, `${post}:t-015000`],
  })
  const [scan] = root.children

  expect([root.type, scan?.type]).toEqual(['Limit', 'Index Scan'])
  expect(scan?.conditions.index).toMatch(/key > .*key > /)
})
