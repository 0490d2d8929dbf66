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
export type {
  PostgresQuotaStoreEvents,
  PostgresQuotaStoreOptions,
  PostgresQuotaStoreStats,
} from './quota-store-options.js'
export type {
  PostgresUsageSinkEvents,
  PostgresUsageSinkOptions,
  PostgresUsageSinkStats,
  UsageCleanUp,
} from './usage-sink-options.js'
