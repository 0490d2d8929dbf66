import pg from 'pg'
import { createPostgresPool, type PostgresClientLike, type PostgresPoolLike, QueryBatcher } from 'spillway/postgres'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { startRelay } from '../adapters/grpc/support/relay.ts'
import { startPostgres } from '../servers/postgres.ts'

const server = await startPostgres()
afterAll(() => server?.stop())

const messageOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error) => error.message,
  )

describe.skipIf(server === undefined)('closing a pool', () => {
  test('ends though one who waited for a connection gave up meanwhile', async () => {
    const config = { connectionString: server?.url }
    const pool = createPostgresPool(pg, { maxConnections: 1, connectTimeoutMs: 100, config })
    const held = await pool.connect()
    const waiter = messageOf(pool.connect())

    const closing = pool.close()
    const reason = await waiter
    held.release()

    expect(reason).toMatch(/timeout/)
    expect(await closing).toEqual({ drained: true, abandoned: 0 })
  })
})

test('closing a pool ends though the connection that somebody waited for was never made', async () => {
  const hole = await startRelay()
  onTestFinished(() => hole.stop())
  const config = { connectionString: `postgres://nobody@${hole.address}/nothing` }
  const pool = createPostgresPool(pg, { maxConnections: 1, connectTimeoutMs: 100, config })
  const waiters = [messageOf(pool.connect()), messageOf(pool.connect())]

  const closing = pool.close()

  expect(await Promise.all(waiters)).toEqual([expect.stringMatching(/timeout/), expect.stringMatching(/timeout/)])
  expect(await closing).toEqual({ drained: true, abandoned: 0 })
})

describe.skipIf(server === undefined)('QueryBatcher', () => {
  test('does not give back a connection that query_timeout has destroyed', async () => {
    const config = { connectionString: server?.url, query_timeout: 200 }
    const pool = createPostgresPool(pg, { maxConnections: 1, config })
    onTestFinished(async () => void (await pool.close()))
    await using queries = new QueryBatcher(pool)

    const [slow] = await Promise.allSettled([queries.query('SELECT pg_sleep(0.4)')])
    const answers = await Promise.all([queries.query('SELECT 1 AS n'), queries.query('SELECT 2 AS n')])

    expect(slow).toMatchObject({ status: 'rejected', reason: { code: 'ERR_STORE', outcomeUnknown: true } })
    expect(answers.map(({ rows }) => rows)).toEqual([[{ n: 1 }], [{ n: 2 }]])
  })
})

// A double, for there is no PgBouncer here: what is asked is how its words are read.
describe('an answer of SQLSTATE 08P01', () => {
  const answering = (severity: string): PostgresPoolLike => {
    const client: PostgresClientLike & { readonly pipeline: boolean } = {
      pipeline: true,
      query: () => Promise.reject(Object.assign(new Error('server conn crashed?'), { code: '08P01', severity })),
      on: () => undefined,
      removeListener: () => undefined,
      release: () => undefined,
    }
    return { connect: async () => client, totalCount: 1, waitingCount: 0 }
  }

  test('that is fatal, as from PgBouncer, tells nothing of the statement and is worth another attempt', async () => {
    await using queries = new QueryBatcher(answering('FATAL'))

    const answer = queries.query('SELECT 1')

    await expect(answer).rejects.toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: true })
  })

  test('that is not fatal, as from the server, refuses the statement for good', async () => {
    await using queries = new QueryBatcher(answering('ERROR'))

    const answer = queries.query('SELECT 1')

    await expect(answer).rejects.toMatchObject({ code: 'ERR_STORE', retryable: false, outcomeUnknown: false })
  })
})
