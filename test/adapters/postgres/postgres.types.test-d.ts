import type { PGlite } from '@electric-sql/pglite'
import type pg from 'pg'
import type { CloseReport, CounterStore } from 'spillway'
import {
  createPostgresPool,
  type PGliteLike,
  PostgresCounterStore,
  type PostgresDatabase,
  type PostgresPoolLike,
  type QueryAnswer,
  QueryBatcher,
} from 'spillway/postgres'
import { expectTypeOf } from 'vitest'

declare const library: typeof pg
declare const pool: pg.Pool
declare const pglite: PGlite

// The real clients are what the adapter takes.
expectTypeOf(pool).toExtend<PostgresPoolLike>()
expectTypeOf(pool).toExtend<PostgresDatabase>()
expectTypeOf(pglite).toExtend<PGliteLike>()
expectTypeOf(pglite).toExtend<PostgresDatabase>()

const store = new PostgresCounterStore(pool)
expectTypeOf(store).toExtend<CounterStore>()
new PostgresCounterStore(pglite, { table: undefined, retry: { attempts: 3 } })
// @ts-expect-error what is retried inside is not a matter of taste
new PostgresCounterStore(pool, { retry: { retryable: () => true } })
// @ts-expect-error a connection string is no pool
new PostgresCounterStore('postgres://localhost')

// The pool stays what it is, with a close in addition; from the module or from the class.
const made = createPostgresPool(library, { config: { connectionString: 'x' } })
expectTypeOf(made).toExtend<pg.Pool>()
expectTypeOf(made.close({ timeoutMs: 1 })).resolves.toEqualTypeOf<CloseReport>()
expectTypeOf(made).toExtend<AsyncDisposable>()
expectTypeOf(createPostgresPool(library.Pool)).toExtend<pg.Pool>()
// @ts-expect-error a preset that there isn't
createPostgresPool(library, { preset: 'huge' })
// @ts-expect-error config is the class's own
createPostgresPool(library, { config: { connectionString: 1 } })

const queries = new QueryBatcher(made)
expectTypeOf(queries.query<{ id: number }>('SELECT 1')).resolves.toEqualTypeOf<QueryAnswer<{ id: number }>>()
expectTypeOf(queries.query('SELECT 1')).resolves.toEqualTypeOf<QueryAnswer<Record<string, unknown>>>()
// @ts-expect-error queries are never sent twice
new QueryBatcher(made, { retry: { attempts: 2 } })
