export { type BatchTracerHarness, batchTracerContract } from './contracts/batch-tracer.js'
export { type CacheStoreHarness, cacheStoreContract } from './contracts/cache-store.js'
export type { ContractCase } from './contracts/contract.js'
export { type CounterStoreHarness, counterStoreContract } from './contracts/counter-store.js'
export {
  type InstanceSourceHarness,
  type InstanceSourcePlace,
  instanceSourceContract,
} from './contracts/instance-source.js'
export { type InvalidationBusHarness, invalidationBusContract } from './contracts/invalidation-bus.js'
export { type LoadLockHarness, loadLockContract } from './contracts/load-lock.js'
export { type LogSinkHarness, type LogSinkPlace, logSinkContract } from './contracts/log-sink.js'
export { type QuotaStoreHarness, quotaStoreContract } from './contracts/quota-store.js'
export { type UsageJournalHarness, type UsageJournalPlace, usageJournalContract } from './contracts/usage-journal.js'
export { type UsageSinkHarness, usageSinkContract } from './contracts/usage-sink.js'
export { FakeClock, type FakeClockOptions, StuckError, type UntilOptions, untilDefaults } from './fake-clock.js'
export { everyNth, type FaultCondition, type FaultOdds, type OutageOptions, outage } from './fault-condition.js'
export {
  FaultProxy,
  type FaultProxyOptions,
  type FaultProxyStats,
  type LoseAnswersOptions,
  type ProxyFaults,
} from './fault-proxy.js'
export { type FaultMode, FaultSwitch, type FaultSwitchOptions } from './fault-switch.js'
export {
  commitThenDrop,
  type DelayOptions,
  type Faultable,
  type FlakyOptions,
  flaky,
  type HangingOptions,
  hanging,
  late,
  slow,
} from './faults.js'
export {
  type FaultKind,
  type FaultPlan,
  type FaultyCall,
  type FaultyOptions,
  faulty,
  faultyDefaults,
  type MethodOf,
  type PlannedFault,
} from './faulty.js'
export { MemoryCacheStore, type MemoryCacheStoreOptions } from './memory-cache-store.js'
export { MemoryCounterStore, type MemoryCounterStoreOptions } from './memory-counter-store.js'
export { MemoryInstanceSource, type MemoryInstanceSourceOptions } from './memory-instance-source.js'
export { MemoryInvalidationBus, type MemoryInvalidationBusOptions } from './memory-invalidation-bus.js'
export { MemoryLoadLock, type MemoryLoadLockOptions } from './memory-load-lock.js'
export { MemoryLogSink, type MemoryLogSinkOptions } from './memory-log-sink.js'
export { type JournalOperation, MemoryUsageJournal, type MemoryUsageJournalOptions } from './memory-usage-journal.js'
export type { LinkFaults } from './proxy-lane.js'
export { seededRandom } from './seeded-random.js'
export { type Scenario, type SimulateOptions, type SimulationReport, simulate, simulateDefaults } from './simulate.js'
export { SimulationError } from './simulation-error.js'
export type { SimulationWorld } from './simulation-run.js'
