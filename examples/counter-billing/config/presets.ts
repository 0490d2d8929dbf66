import type { SomeValues } from './settings.ts'

/**
 * Values that go together. Each is between the defaults and what a file says.
 *
 * - high-throughput: fewer and larger batches. A statement costs about the same for 100 increments as for 1,000, so that what waits
 *   longer costs less for each; a crash loses more of it, and a read may be older. Writers of the same counters wait for each other's
 *   locks, so that more connections or more batches at a time are no gain.
 * - low-latency: what was accepted is written, accounted and seen sooner, in more and smaller batches, over connections that are
 *   there already. More statements take more of the processors: where these are busy, everything comes later.
 */
export const presets = {
  default: {},
  'high-throughput': {
    'async.capacity': 50_000,
    'async.maxBatchSize': 2_000,
    'async.maxWaitMs': 250,
    'async.answers.maxBatchSize': 1_000,
    'async.answers.maxWaitMs': 5,
    'async.usage.capacity': 40_000,
    'async.usage.maxBatchSize': 2_000,
    'async.usage.maxWaitMs': 1_000,
    'async.usage.concurrency': 5,
    'pools.postgres.minConnections': 4,
    'pools.postgres.idleTimeoutMs': 600_000,
    'pools.postgres.maxLifetimeMs': 3_600_000,
    'cache.maxEntries': 50_000,
    'cache.ttlMs': 10_000,
    'log.level': 'info',
  },
  'low-latency': {
    'async.maxBatchSize': 250,
    'async.maxWaitMs': 10,
    'async.answers.maxBatchSize': 250,
    'async.answers.maxWaitMs': 1,
    'async.answers.concurrency': 4,
    'async.usage.maxBatchSize': 250,
    'async.usage.maxWaitMs': 50,
    'pools.postgres.minConnections': 8,
    'pools.postgres.idleTimeoutMs': 0,
    'pools.grpc.channels': 4,
    'cache.ttlMs': 1_000,
  },
} as const satisfies Readonly<Record<string, SomeValues>>

export type PresetName = keyof typeof presets

export const presetNames = Object.keys(presets) as readonly PresetName[]
