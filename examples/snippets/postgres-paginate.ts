// Pages that hold while the table changes: here on PGlite, in a service on a pool of createPostgresPool.
import assert from 'node:assert/strict'
import { PGlite } from '@electric-sql/pglite'
import { isSpillwayError } from 'spillway'
import { Paginator } from 'spillway/postgres'

const database = new PGlite()
await database.exec(`
  CREATE TABLE posts (id int PRIMARY KEY, author text NOT NULL, likes int);
  INSERT INTO posts VALUES (1, 'ann', 5), (2, 'ann', 9), (3, 'bob', 7), (4, 'ann', NULL), (5, 'ann', 5), (6, 'ann', 2)`)

const posts = new Paginator<{ id: number; likes: number | null }>(database, {
  from: 'posts',
  columns: ['id', 'likes'],
  orderBy: [{ column: 'likes', direction: 'desc', nulls: 'last' }, 'id'],
  limit: 2,
  secret: 'read from where secrets are kept',
})
const where = { author: 'ann' }

const first = await posts.page({ where })
console.log(first.rows)
assert.deepEqual(first.rows, [
  { id: 2, likes: 9 },
  { id: 1, likes: 5 },
])

// By now somebody has written a post that belongs to the first page, and taken away the last one of it.
await database.exec(`INSERT INTO posts VALUES (7, 'ann', 8); DELETE FROM posts WHERE id = 1`)

const ids: number[] = []
for await (const { rows } of posts.pages({ where, after: first.next })) ids.push(...rows.map(({ id }) => id))
console.log(ids)
assert.deepEqual(ids, [5, 6, 4])

// Bob's posts are no page of Ann's, and a cursor that was changed is none.
const bytes = Buffer.from(first.next ?? '', 'base64url').toString('latin1')
const forged = Buffer.from(bytes.replace('"5"', '"9"'), 'latin1').toString('base64url')
for (const request of [
  { where: { author: 'bob' }, after: first.next },
  { where, after: forged },
]) {
  const error = await posts.page(request).catch((reason: unknown) => reason)
  console.log(String(error))
  assert.ok(isSpillwayError(error, 'ERR_CURSOR'))
}

await database.close()
