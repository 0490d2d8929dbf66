import type { PGlite } from '@electric-sql/pglite'
import type pg from 'pg'
import type { CloseReport } from 'spillway'
import {
  createPostgresPool,
  explain,
  type IndexReport,
  type IndexSuggestion,
  type PlanFinding,
  type PlanNode,
  planNodes,
  type QueryPlan,
  readPlan,
  type SlowQuery,
  SlowQueryLog,
  type StatementStats,
  suggestIndexes,
  type WatchedPool,
} from 'spillway/postgres'
import { expectTypeOf } from 'vitest'

declare const library: typeof pg
declare const pool: pg.Pool
declare const pglite: PGlite
declare const plan: QueryPlan

// The real clients are what is explained and watched.
expectTypeOf(pool).toExtend<WatchedPool>()
expectTypeOf(explain(pool, { text: 'SELECT 1' })).resolves.toEqualTypeOf<QueryPlan>()
explain(pglite, { text: 'SELECT $1', values: ['a'] as const }, { analyze: true, writes: undefined })
// @ts-expect-error a statement is an object, so that nobody writes values into its text
explain(pool, 'SELECT 1')
// @ts-expect-error an option that there isn't
explain(pool, { text: 'SELECT 1' }, { buffers: true })

expectTypeOf(plan.worst.time).toEqualTypeOf<PlanFinding | undefined>()
expectTypeOf(plan.root.ownMs).toEqualTypeOf<number | undefined>()
expectTypeOf(planNodes(plan)).toEqualTypeOf<PlanNode[]>()
expectTypeOf(readPlan('[]')).toEqualTypeOf<QueryPlan>()
// @ts-expect-error a plan is read, not written
plan.root.type = 'Sort'

expectTypeOf(suggestIndexes(pool, { plans: [plan] })).resolves.toEqualTypeOf<IndexReport>()
expectTypeOf<IndexSuggestion['statement']>().toEqualTypeOf<string | undefined>()
// @ts-expect-error no kind of suggestion
expectTypeOf<IndexSuggestion['kind']>().toEqualTypeOf<'partial'>()

const log = new SlowQueryLog(createPostgresPool(library), { explain: { analyze: true } })
new SlowQueryLog(pglite)
log.on('slow', (query) => expectTypeOf(query).toEqualTypeOf<SlowQuery>())
log.on('explained', ({ plan: found }) => expectTypeOf(found).toEqualTypeOf<QueryPlan>())
expectTypeOf(log.top({ by: 'p95' })).toEqualTypeOf<StatementStats[]>()
expectTypeOf(log.close()).resolves.toEqualTypeOf<CloseReport>()
// @ts-expect-error no such order
log.top({ by: 'median' })
// @ts-expect-error a client is no pool
new SlowQueryLog(new library.Client())
