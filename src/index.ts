export {
  type AlgorithmName,
  type BalancedInstance,
  type CountsFunction,
  type EjectionOptions,
  type HealthOptions,
  type InstanceState,
  type InstanceStatus,
  type Lease,
  type LeaseOutcome,
  type ListInstances,
  LoadBalancer,
  type LoadBalancerEvents,
  type LoadBalancerOptions,
  type LoadBalancerStats,
  type PickOptions,
  type RetryBudgetOptions,
  type RunContext,
  type RunOptions,
} from './balancer/load-balancer.js'
export {
  AsyncBatcher,
  type AsyncBatcherEvents,
  type AsyncBatcherOptions,
  type AsyncBatcherStats,
  type BatchFunction,
} from './batcher/async-batcher.js'
export {
  AsyncWriteBuffer,
  type AsyncWriteBufferEvents,
  type AsyncWriteBufferOptions,
  type AsyncWriteBufferStats,
  type WriteFunction,
} from './batcher/async-write-buffer.js'
export { BreakerRegistry, type BreakerRegistryOptions } from './breaker/breaker-registry.js'
export {
  type BreakerSnapshot,
  type BreakerState,
  CircuitBreaker,
  type CircuitBreakerEvents,
  type CircuitBreakerOptions,
  type CircuitBreakerStats,
  type ExecuteContext,
  type ExecuteOptions,
  type OpenReason,
  type Outcome,
  type Permit,
  type RecoveryOptions,
} from './breaker/circuit-breaker.js'
export {
  type CountWindowOptions,
  consecutive,
  countWindow,
  countWindowDefaults,
  type TimeWindowOptions,
  type TripPolicy,
  timeWindow,
  timeWindowDefaults,
} from './breaker/trip-policy.js'
export { cacheKey } from './cache/cache-key.js'
export { CacheNamespace } from './cache/cache-namespace.js'
export type { BatchLoader, Cached, CacheOperations, Loader } from './cache/cache-operations.js'
export {
  CacheWarmer,
  type CacheWarmerEvents,
  type CacheWarmerOptions,
  type CacheWarmerStats,
  type WarmerReport,
  type WarmList,
  type WarmListReport,
  type WarmRunOptions,
} from './cache/cache-warmer.js'
export type { BatchLoadContext, LoadContext, StaleValue } from './cache/load-context.js'
export { MultiLevelCache } from './cache/multi-level-cache.js'
export type {
  CacheEventKey,
  CacheReadCounts,
  MultiLevelCacheEvents,
  MultiLevelCacheStats,
} from './cache/multi-level-cache-events.js'
export type {
  EntryOptions,
  L1Options,
  LoadOptions,
  MultiLevelCacheOptions,
  NamespaceOptions,
  SetEntry,
  SetOptions,
  WrapOptions,
} from './cache/multi-level-cache-options.js'
export type { SharedTierStats } from './cache/shared-tier-settings.js'
export type { WarmPaceOptions } from './cache/warm-gate.js'
export type {
  WarmFailure,
  WarmLoadOptions,
  WarmOptions,
  WarmReport,
  WarmTarget,
  WarmTask,
  WarmTasks,
} from './cache/warm-run.js'
export { type Clock, systemClock } from './core/clock.js'
export {
  ClosableComponent,
  type CloseOptions,
  type CloseReport,
  Component,
  type ComponentOptions,
  type FlushReport,
} from './core/component.js'
export {
  BatchResultError,
  CircuitOpenError,
  ClosedError,
  CursorError,
  FullError,
  InvalidEventError,
  isSpillwayError,
  NoInstanceError,
  OptionError,
  type QuotaExceededDetails,
  QuotaExceededError,
  ReservationError,
  SpillwayError,
  type SpillwayErrorCode,
  type SpillwayErrorOptions,
  StoreError,
  TimeoutError,
  TokenError,
  TooLargeError,
} from './core/errors.js'
export { Emitter, type Listener } from './core/events.js'
export type { Overflow } from './core/options.js'
export type * from './core/ports.js'
export type { RetryOptions } from './core/retry.js'
export type * from './core/stats.js'
export { AsyncLogBuffer } from './log/async-log-buffer.js'
export type {
  AsyncLogBufferEvents,
  AsyncLogBufferOptions,
  AsyncLogBufferStats,
} from './log/async-log-buffer-options.js'
export type { HealthReason } from './quota/consumer-health.js'
export type { JournalAction } from './quota/journal-keeper.js'
export { MemoryQuotaStore, type MemoryQuotaStoreOptions } from './quota/memory-quota-store.js'
export type { QuotaBalance } from './quota/quota-balance.js'
export type { QuotaOperation, QuotaOperationKind } from './quota/quota-calls.js'
export { type PublishOptions, QuotaConsumer, type StartReport } from './quota/quota-consumer.js'
export type { QuotaConsumerEvents, QuotaConsumerStats, UsageFailure } from './quota/quota-consumer-events.js'
export type { QuotaConsumerOptions } from './quota/quota-consumer-options.js'
export {
  type ConsumedQuota,
  QuotaService,
  type QuotaServiceEvents,
  type QuotaServiceStats,
  type QuotaStatus,
} from './quota/quota-service.js'
export type {
  CheckOptions,
  ConsumeOptions,
  ConsumeSyncOptions,
  QuotaServiceOptions,
  ReserveOptions,
} from './quota/quota-service-options.js'
export type { Reservation, WaitOptions } from './quota/reservation.js'
export type { StoreRetry, StoreTimeout } from './quota/store-calls.js'
export type { AccountedUse, UsageFallback } from './quota/usage-accounting.js'
export { type TokenAudience, tokenAudienceKey } from './token/token-audience.js'
export { TokenCache } from './token/token-cache.js'
export type { TokenCacheEvents, TokenCacheStats } from './token/token-cache-events.js'
export type {
  FetchToken,
  KeyedTokenCacheOptions,
  TokenCacheOptions,
  TokenCacheSetting,
  TokenContext,
  TokenGetArguments,
  TokenGetOptions,
  TokenGrant,
  TokenRetryOptions,
  TokenSource,
} from './token/token-cache-options.js'
