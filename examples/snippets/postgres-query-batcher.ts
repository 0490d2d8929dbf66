// Many queries, few trips, each with its own answer: here on PGlite, in a service on a pool of createPostgresPool.
import assert from 'node:assert/strict'
import { PGlite } from '@electric-sql/pglite'
import { isSpillwayError } from 'spillway'
import { QueryBatcher } from 'spillway/postgres'

const database = new PGlite()
await database.exec('CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL)')
const queries = new QueryBatcher(database)

const added = await Promise.allSettled([
  queries.query('INSERT INTO users VALUES ($1, $2)', [1, 'Ada']),
  queries.query('INSERT INTO users VALUES ($1, $2)', [1, 'Ada again']),
  queries.query('INSERT INTO users VALUES ($1, $2)', [2, 'Grace']),
])
console.log(added.map(({ status }) => status))
assert.deepEqual(
  added.map(({ status }) => status),
  ['fulfilled', 'rejected', 'fulfilled'],
)
const [, second] = added
assert.ok(second?.status === 'rejected' && isSpillwayError(second.reason, 'ERR_STORE') && !second.reason.retryable)

const nameOf = async (id: number): Promise<string | undefined> => {
  const { rows } = await queries.query<{ name: string }>('SELECT name FROM users WHERE id = $1', [id])
  return rows[0]?.name
}
const names = await Promise.all([1, 2, 3].map(nameOf))
console.log(names)
assert.deepEqual(names, ['Ada', 'Grace', undefined])

await assert.rejects(queries.query('BEGIN'), { code: 'ERR_OPTION' })

const { batches, succeeded, failed } = queries.stats()
console.log({ batches, succeeded, failed })
assert.deepEqual({ batches, succeeded, failed }, { batches: 2, succeeded: 5, failed: 1 })
await queries.close()
await database.close()
