import { counter, gauge, histogram, type Metric, sum } from './metric.js'

// What components of several kinds tell.

/** 1 ms to 10 s: what OpenTelemetry's conventions advise for calls of databases, with their finer steps for those of HTTP. */
const durationBuckets = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
] as const
const sizeBuckets = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000] as const

/** How long batches took. */
export const batchDuration: Metric = histogram(
  'spillway.batch.duration',
  's',
  'How long batches took that were written or answered, from their first attempt on, retries included.',
  durationBuckets,
)

/** How large batches were. */
export const batchSize: Metric = histogram(
  'spillway.batch.size',
  '{item}',
  'How many items batches had that were written or answered: keys where writes are merged by key.',
  sizeBuckets,
)

/** Whether a component says that it is well. */
export const healthy: Metric = gauge(
  'spillway.component.healthy',
  '{component}',
  'Whether the component says that it is well.',
  'min',
)

/** Connections of a pool. */
export const poolConnections: Metric = sum(
  'db.client.connection.count',
  '{connection}',
  'Connections of a pool, idle or used.',
)

/** Who waits for a connection of a pool. */
export const poolWaiting: Metric = sum(
  'db.client.connection.pending_requests',
  '{request}',
  'Who waits for a connection of a pool.',
)

/** The most connections of a pool. */
export const poolMax: Metric = sum('db.client.connection.max', '{connection}', 'How many connections a pool may have.')

/** The attribute that OpenTelemetry's conventions have for a connection's state. */
export const connectionState = 'db.client.connection.state'

/** Collections that a component spoilt. */
export const collectionFailures: Metric = counter(
  'spillway.collection.failures',
  '{collection}',
  "Collections in which a component's stats couldn't be read, so that it has no other series.",
)
