export {
  type ClosablePool,
  type CreatePostgresPoolOptions,
  createPostgresPool,
  createPostgresPoolDefaults,
  type ManagedPool,
  type PoolClass,
  postgresPoolPresets,
} from './create-postgres-pool.js'
export type {
  PGliteLike,
  PGliteQueryable,
  PostgresClientLike,
  PostgresDatabase,
  PostgresPoolLike,
  PostgresQuery,
  PostgresResult,
} from './database.js'
export { type ExplainedStatement, type ExplainOptions, explain, explainDefaults } from './explain.js'
export type { PlanBuffers, PlanConditions, PlanNode, PlanSort } from './explain-node.js'
export type { PlanFinding, WorstNodes } from './explain-worst.js'
export type { OrderColumn } from './keyset-order.js'
export type { CursorSecret } from './page-cursor.js'
export type { PageCondition, PageOperators, PageValue, PageWhere } from './page-where.js'
export { type PaginateOptions, paginate } from './paginate.js'
export { Paginator } from './paginator.js'
export type { Page, PageRequest, PaginatorEvents, PaginatorOptions, PaginatorStats } from './paginator-options.js'
export {
  PostgresCounterStore,
  type PostgresCounterStoreEvents,
  type PostgresCounterStoreOptions,
  type PostgresCounterStoreStats,
} from './postgres-counter-store.js'
export { PostgresQuotaStore } from './postgres-quota-store.js'
export { PostgresUsageSink } from './postgres-usage-sink.js'
export {
  type BatchedQuery,
  type QueryAnswer,
  QueryBatcher,
  type QueryBatcherEvents,
  type QueryBatcherOptions,
  type QueryBatcherStats,
} from './query-batcher.js'
export { type PlanTrigger, planNodes, type QueryPlan, readPlan } from './query-plan.js'
export type {
  PostgresQuotaStoreEvents,
  PostgresQuotaStoreOptions,
  PostgresQuotaStoreStats,
} from './quota-store-options.js'
export { SlowQueryLog } from './slow-query-log.js'
export {
  type SlowQuery,
  type SlowQueryExplainOptions,
  type SlowQueryLogEvents,
  type SlowQueryLogOptions,
  type SlowQueryLogStats,
  type StatementOrder,
  type StatementStats,
  slowQueryExplainDefaults,
} from './slow-query-log-options.js'
export type { WatchedPool } from './slow-query-log-watch.js'
export {
  type IndexReport,
  type SkippedQuery,
  type StaleTable,
  type SuggestIndexesOptions,
  suggestIndexes,
  suggestIndexesDefaults,
} from './suggest-indexes.js'
export type { IndexSuggestion, IndexSuggestionKind } from './suggest-indexes-suggestion.js'
export type {
  PostgresUsageSinkEvents,
  PostgresUsageSinkOptions,
  PostgresUsageSinkStats,
  UsageCleanUp,
} from './usage-sink-options.js'
