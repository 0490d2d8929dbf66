import { PGlite } from '@electric-sql/pglite'
import fc from 'fast-check'
import pg from 'pg'
import { type CursorError, isSpillwayError } from 'spillway'
import { type PageRequest, Paginator, type PaginatorOptions, paginate } from 'spillway/postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const database = new PGlite()
// Nobody listens there, so that whatever is asked of it fails otherwise.
const nowhere = new pg.Pool({ connectionString: 'postgres://127.0.0.1:1/nowhere' })
const secret = 'a secret that nobody guesses'
const base: PaginatorOptions = { from: 'posts', orderBy: [{ column: 'at', direction: 'desc' }, 'id'], limit: 2 }

beforeAll(async () => {
  await database.exec(`
    CREATE TABLE posts (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT '2024-01-01 00:00:00.123456+00', author text);
    INSERT INTO posts SELECT n, '2024-01-01 00:00:00.123456+00'::timestamptz + n * interval '1 microsecond', 'ann'
      FROM generate_series(1, 10) n;
    CREATE TABLE other_posts AS SELECT * FROM posts;
    ALTER TABLE other_posts ADD PRIMARY KEY (id);
    CREATE SCHEMA elsewhere;
    CREATE VIEW elsewhere.posts AS SELECT * FROM posts`)
})
afterAll(() => database.close())

const cursorOf = async (options: Partial<PaginatorOptions & PageRequest> = {}): Promise<string> => {
  const { next } = await paginate(database, { ...base, ...options })
  if (next === undefined) throw new Error('there is no next page')
  return next
}
const idsAfter = async (after: string, options: Partial<PaginatorOptions & PageRequest> = {}): Promise<unknown[]> =>
  (await paginate(database, { ...base, ...options, after })).rows.map(({ id }) => id)
const refusal = async (after: unknown, options: Partial<PaginatorOptions & PageRequest> = {}): Promise<CursorError> => {
  const answer = await paginate(database, { ...base, ...options, after: after as string }).catch((error) => error)
  if (!isSpillwayError(answer, 'ERR_CURSOR')) throw new Error(`it was no CursorError: ${answer}`)
  return answer as CursorError
}

describe('a cursor', () => {
  test('is a text for URLs, and goes in them as it is', async () => {
    for (const cursor of [await cursorOf(), await cursorOf({ secret })]) {
      expect(cursor).toMatch(/^[\w-]+$/)
      expect(new URL(`http://host/?after=${cursor}`).searchParams.get('after')).toBe(cursor)
    }
  })

  test.each<[string, unknown]>([
    ['null', null],
    ['an empty text', ''],
    ['a text', 'hello'],
    ['a number', 5],
    ['an array, as of a parameter that was given twice', ['a', 'b']],
    ['an object', { toString: () => 'x' }],
    ['a long text', 'A'.repeat(100_000)],
    ['zeros', 'A'.repeat(100)],
    ['JSON', Buffer.from('["2024-01-01","1"]').toString('base64url')],
  ])('that is none is refused before anything is asked: %s', async (_what, given) => {
    for (const options of [{}, { secret }]) {
      const error = await paginate(nowhere, { ...base, ...options, after: given as string }).catch((reason) => reason)

      expect(error).toMatchObject({ code: 'ERR_CURSOR', field: 'after', retryable: false })
      expect(['malformed', 'signature']).toContain(error.reason)
      expect(nowhere.totalCount).toBe(0)
      if (typeof given === 'string' && given.length > 1) expect(error.message).not.toContain(given)
    }
    await expect(paginate(nowhere, { ...base, before: given as string })).rejects.toMatchObject({ field: 'before' })
  })

  test.each([
    ['with a secret', secret, 'signature'],
    ['without one, for then it is damaged', undefined, 'malformed'],
  ])('in which any bit has changed is refused, %s', async (_how, given, reason) => {
    const cursor = await cursorOf({ secret: given })
    const bytes = Buffer.from(cursor, 'base64url')

    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const changed = Buffer.from(bytes)
      changed.writeUInt8(changed.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
      const error = await refusal(changed.toString('base64url'), { secret: given })
      // Another version is none that this one reads.
      expect(error.reason).toBe(bit < 8 ? 'malformed' : reason)
    }
  })

  test('in which any character has changed, come or gone is refused', async () => {
    const cursor = await cursorOf({ secret })
    const alphabet = 'ABab01-_+/=. \n%é'
    const change = fc.tuple(fc.nat(cursor.length - 1), fc.constantFrom(...alphabet), fc.constantFrom(0, 1))

    const property = fc.asyncProperty(change, async ([place, character, gone]) => {
      const changed = cursor.slice(0, place) + character + cursor.slice(place + gone)
      if (changed !== cursor) await refusal(changed, { secret })
    })
    await fc.assert(property, { numRuns: 300 })
    for (const changed of [` ${cursor}`, `${cursor}=`, `${cursor}\n`, cursor.slice(1), cursor.slice(0, -1)]) {
      await refusal(changed, { secret })
    }
  })

  test('that somebody else signed, or nobody, is refused', async () => {
    const foreign = await cursorOf({ secret: 'another secret, as long' })
    const unsigned = await cursorOf()
    const signed = await cursorOf({ secret })

    expect(await refusal(foreign, { secret })).toMatchObject({ reason: 'signature' })
    expect(await refusal(unsigned, { secret })).toMatchObject({ reason: 'signature' })
    expect(await refusal(signed)).toMatchObject({ reason: 'malformed' })
  })

  test('outlives a change of secrets as long as its own is among them', async () => {
    const old = await cursorOf({ secret: Buffer.from(secret) })
    const newer = 'a newer secret of ours'
    const both = [newer, secret]

    expect(await idsAfter(old, { secret: both })).toEqual([8, 7])
    const next = await cursorOf({ secret: both })
    expect(await idsAfter(next, { secret: newer })).toEqual([8, 7])
    expect(await refusal(next, { secret })).toMatchObject({ reason: 'signature' })
    expect(await refusal(old, { secret: newer })).toMatchObject({ reason: 'signature' })
  })

  test.each<[string, Partial<PaginatorOptions & PageRequest>]>([
    ['of another table', { from: 'other_posts' }],
    ['of another schema', { schema: 'elsewhere', assumeUnique: true }],
    ['of another direction', { orderBy: ['at', 'id'] }],
    ['of another column', { orderBy: [{ column: 'author', direction: 'desc' }, 'id'] }],
    ['of another place of NULLs', { orderBy: [{ column: 'at', direction: 'desc', nulls: 'last' }, 'id'] }],
    ['of another condition', { where: { author: 'ann' } }],
  ])('%s is refused, and says so', async (_what, options) => {
    for (const given of [undefined, secret]) {
      const cursor = await cursorOf({ ...options, secret: given })

      expect(await refusal(cursor, { secret: given })).toMatchObject({ reason: 'listing' })
    }
  })

  test('of fewer or more columns is refused', async () => {
    expect(await refusal(await cursorOf({ orderBy: ['id'] }))).toMatchObject({ reason: 'malformed' })
  })

  test('is good for other columns, limits and ways to write a condition', async () => {
    const where = { author: 'ann', id: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], at: { gte: '2024-01-01', lt: '2025-01-01' } }
    const same = {
      at: { lt: '2025-01-01', gte: '2024-01-01' },
      id: { in: [...where.id].reverse() },
      author: { eq: 'ann' },
    }
    const cursor = await cursorOf({ where })

    expect(await idsAfter(cursor, { where, columns: ['id'], limit: 3 })).toEqual([8, 7, 6])
    const array = { ...same, id: same.id.in }
    expect(await idsAfter(cursor, { where: array })).toEqual([8, 7])
  })

  test('is good under conditions that move, where the listing says so', async () => {
    const cursor = await cursorOf({ where: { id: { lt: 10 } }, bindWhere: false })

    expect(await idsAfter(cursor, { where: { id: { lt: 9 } }, bindWhere: false })).toEqual([7, 6])
    expect(await refusal(cursor, { where: { id: { lt: 10 } } })).toMatchObject({ reason: 'listing' })
  })

  test('keeps values exactly, though the rows have lost them', async () => {
    const pages = new Paginator<{ at: Date }>(database, { ...base, orderBy: ['at', 'id'], columns: ['at'], limit: 1 })

    const seen: Date[] = []
    for await (const { rows } of pages.pages()) seen.push(...rows.map(({ at }) => at))

    expect(new Set(seen.map(Number)).size).toBe(1)
    expect(seen).toHaveLength(10)
  })

  test('that would fit no URL is not made', async () => {
    await database.exec('CREATE TABLE long_texts (s text NOT NULL, id int PRIMARY KEY)')
    await database.query(`INSERT INTO long_texts SELECT repeat('long', 10000), generate_series(1, 3)`)

    const page = paginate(database, { from: 'long_texts', columns: ['id'], orderBy: ['s', 'id'], limit: 1 })

    await expect(page).rejects.toMatchObject({ code: 'ERR_TOO_LARGE', maxBytes: 16_384 })
  })
})
