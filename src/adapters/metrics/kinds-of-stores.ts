import { type ComponentKind, recorded } from './component-kind.js'
import { counter, gauge, sum, summary } from './metric.js'
import { batchDuration, batchSize, connectionState, healthy, poolConnections, poolWaiting } from './shared-metrics.js'
import { flag, latency, leftOut, outcomes, type StatsRules, split, value } from './stats-rule.js'

const name = leftOut('the name is an attribute')
const total = (field: string) => leftOut(`it is the sum of ${field}`)

const pg = (rest: string, unit: string, description: string) =>
  value(counter(`spillway.postgres.${rest}`, unit, description))
const pgBatches = counter('spillway.postgres.batches', '{batch}', 'Batches that came to a store, by outcome.')
const pgEvents = counter('spillway.postgres.events', '{event}', 'Events of batches that were applied, by outcome.')
const pgClaims = counter('spillway.postgres.claims', '{claim}', 'Claims on quotas, by what became of them.')

const pgStore: StatsRules = {
  name,
  ...outcomes(pgBatches, ['applied', 'repeated', 'failed']),
  reads: pg('reads', '{call}', 'Reads that were answered.'),
  retries: pg('retries', '{retry}', 'Retries after a deadlock or a serialization conflict.'),
  batchesRemoved: pg('removed_batches', '{batch}', 'Old batch ids that were removed.'),
  cleanUpFailures: pg('clean_up_failures', '{failure}', 'Clean-ups in passing that failed.'),
}

const usageSink: StatsRules = {
  ...pgStore,
  ...outcomes(pgEvents, { counted: 'counted', duplicates: 'duplicate', refused: 'refused' }),
  partitionsMade: pg('made_partitions', '{partition}', 'Partitions that were made.'),
  partitionsDropped: pg('dropped_partitions', '{partition}', 'Partitions that were dropped.'),
}

const quotaStore: StatsRules = {
  ...usageSink,
  ...outcomes(pgClaims, {
    consumed: 'consumed',
    reserved: 'reserved',
    settled: 'settled',
    released: 'released',
    exceeded: 'exceeded',
    claimsFailed: 'failed',
  }),
  holdsRemoved: pg('removed_holds', '{hold}', 'Reservations that were over and were removed.'),
}

const counterStore: StatsRules = {
  ...pgStore,
  walked: pg('walked_batches', '{batch}', 'Batches that were walked, because a counter was close to its limit.'),
  refused: pg('refused_increments', '{increment}', 'Increments and sums that were refused alone.'),
}

const pages = counter('spillway.postgres.pages', '{page}', 'Pages that were asked for, by outcome.')
const paginator: StatsRules = {
  name,
  ...outcomes(pages, { pages: 'succeeded', refused: 'refused', failed: 'failed', aborted: 'aborted' }),
  rows: pg('paged_rows', '{row}', 'Rows of pages that were read.'),
  pending: value(sum('spillway.postgres.pending_pages', '{page}', "Pages that aren't read yet.")),
  catalogReads: pg('catalog_reads', '{call}', 'How often the catalog was read.'),
}

const queries = counter('spillway.postgres.queries', '{query}', 'Queries that were watched and have ended, by outcome.')
const slowQueries = counter('spillway.postgres.slow_queries', '{query}', 'Queries that were slow, told of or not.')
const explains = counter('spillway.postgres.explains', '{query}', 'Slow queries that were to be explained, by outcome.')
const slowQueryLog: StatsRules = {
  name,
  offered: total('spillway.postgres.queries and spillway.postgres.pending_queries'),
  ...outcomes(queries, ['succeeded', 'failed']),
  pending: value(sum('spillway.postgres.pending_queries', '{query}', 'Queries that wait for their answer.')),
  unmeasured: pg('unmeasured_queries', '{query}', "Cursors and streams, which aren't measured."),
  slow: total('spillway.postgres.slow_queries'),
  ...outcomes(slowQueries, ['reported', 'suppressed']),
  waits: pg('connection_waits', '{wait}', 'Waits for a connection that are over.'),
  waitsFailed: pg('failed_connection_waits', '{wait}', 'Waits that ended without a connection.'),
  starved: pg('long_connection_waits', '{wait}', 'Waits for a connection that were long.'),
  ...outcomes(explains, { explained: 'succeeded', explainsFailed: 'failed', explainsSkipped: 'skipped' }),
  statements: value(sum('spillway.postgres.statements', '{statement}', 'Statements that have numbers of their own.')),
  statementsEvicted: pg('evicted_statements', '{statement}', 'Statements whose numbers made room for others.'),
  latencyMs: latency(summary('spillway.postgres.query_latency', 's', 'How long queries took, since the start.')),
  waitMs: latency(
    summary('spillway.postgres.connection_wait', 's', 'How long connections were waited for, since the start.'),
  ),
}

const bus = (rest: string, unit: string, description: string) =>
  value(counter(`spillway.redis.bus.${rest}`, unit, description))
const busInvalidations = counter(
  'spillway.redis.bus.invalidations',
  '{invalidation}',
  'Invalidations that were published, by outcome.',
)
const invalidationBus: StatsRules = {
  name,
  subscribed: flag(gauge('spillway.redis.bus.subscribed', '{bus}', 'Whether messages come.', 'min')),
  links: value(sum('spillway.redis.bus.links', '{link}', 'Links that are open.')),
  offered: total('spillway.redis.bus.invalidations and spillway.redis.bus.pending_invalidations'),
  ...outcomes(busInvalidations, ['published', 'merged', 'lost']),
  pending: value(sum('spillway.redis.bus.pending_invalidations', '{invalidation}', 'What waits or is under way.')),
  batches: bus('sent_messages', '{message}', 'Messages that Redis has taken.'),
  failures: bus('publish_failures', '{attempt}', 'Attempts to publish that failed.'),
  received: bus('received_messages', '{message}', 'Messages of others that came.'),
  heard: bus('heard_invalidations', '{invalidation}', 'The invalidations in them.'),
  own: bus('own_messages', '{message}', 'Messages of its own that came back.'),
  malformed: bus('malformed_messages', '{message}', 'Messages that were none.'),
  gaps: bus('gaps', '{gap}', 'How often links were told that they may have missed something.'),
  holes: bus('holes', '{gap}', 'Of these, how often since messages of a sender were missing.'),
  senders: value(sum('spillway.redis.bus.senders', '{bus}', 'Other buses that are known.')),
}

const worker = (rest: string, unit: string, description: string) =>
  value(counter(`spillway.redis.worker.${rest}`, unit, description))
const workerNow = (rest: string, description: string) =>
  value(gauge(`spillway.redis.worker.${rest}`, '{event}', description))
const workerEvents = counter(
  'spillway.redis.worker.events',
  '{event}',
  'Events that a worker is done with, by outcome.',
)
const usageWorker: StatsRules = {
  name,
  healthy: flag(healthy),
  delivered: total('spillway.redis.worker.events and spillway.redis.worker.pending_events'),
  ...outcomes(workerEvents, ['applied', 'dead', 'elsewhere', 'returned']),
  pending: value(sum('spillway.redis.worker.pending_events', '{event}', 'Events that a worker has in hand.')),
  waiting: value(
    sum('spillway.redis.worker.waiting_events', '{event}', 'Of those, events that wait for their next attempt.'),
  ),
  redelivered: worker('redelivered_events', '{event}', 'Events that had been delivered before.'),
  claimed: worker('claimed_events', '{event}', 'Events that others had let lie.'),
  vanished: worker('vanished_entries', '{entry}', 'Entries that somebody had deleted before they were done.'),
  batches: worker('attempts', '{attempt}', 'Attempts to write a batch.'),
  failedBatches: worker('failed_attempts', '{attempt}', 'Attempts to write a batch that failed.'),
  timeouts: worker('timeouts', '{attempt}', 'Attempts that took longer than they may.'),
  overruns: worker('overruns', '{attempt}', 'Attempts that were still running when their grace had passed, too.'),
  batchSize: leftOut('the histogram spillway.batch.size has it, and can be added up'),
  latencyMs: latency(
    summary(
      'spillway.redis.worker.event_latency',
      's',
      'How long events took from delivery until acknowledged, since the start.',
    ),
  ),
  redisFailures: worker('redis_failures', '{call}', 'Calls of Redis that failed.'),
  groupsLost: worker('lost_groups', '{time}', 'How often the consumer group was gone.'),
  trimmed: worker('trimmed_entries', '{entry}', 'Entries that were trimmed off.'),
  removedConsumers: worker('removed_consumers', '{consumer}', 'Consumers that were removed.'),
  streamLength: workerNow('stream_length', 'Events in the stream, those included that are done and not trimmed yet.'),
  groupPending: workerNow('group_pending_events', 'Events that the whole group has in hand.'),
  undelivered: workerNow('undelivered_events', "Events that the group wasn't delivered yet: its lag."),
}

const store = (rest: string, unit: string, description: string) =>
  value(counter(`spillway.redis.cache.${rest}`, unit, description))
const storeReads = counter('spillway.redis.cache.reads', '{key}', 'Keys that were read, by outcome.')
const storeWrites = counter('spillway.redis.cache.writes', '{key}', 'Writes and deletes, by outcome.')
const storeMarks = counter('spillway.redis.cache.marks', '{mark}', 'Marks of tags and namespaces, by what was done.')
const storeBytes = counter('spillway.redis.cache.io', 'By', 'How large the records are that were read and written.')
const cacheStore: StatsRules = {
  name,
  reads: total('spillway.redis.cache.reads and spillway.redis.cache.pending_reads'),
  ...outcomes(storeReads, { hits: 'hit', misses: 'miss', unreadable: 'unreadable', readsFailed: 'failed' }),
  readsPending: value(sum('spillway.redis.cache.pending_reads', '{key}', "Keys that aren't read yet.")),
  writes: total('spillway.redis.cache.writes and spillway.redis.cache.pending_writes'),
  ...outcomes(storeWrites, { written: 'written', refused: 'refused', deleted: 'deleted', writesFailed: 'failed' }),
  writesPending: value(
    sum('spillway.redis.cache.pending_writes', '{key}', "Writes and deletes that aren't answered yet."),
  ),
  ...split(storeMarks, 'operation', { marksRead: 'read', marksRenewed: 'renew' }),
  ...split(storeBytes, 'direction', { bytesRead: 'read', bytesWritten: 'write' }),
  compressed: store('compressed_values', '{value}', 'Values that got smaller by compression.'),
  bytesSaved: store('saved', 'By', 'What compression has saved.'),
}

const share = (rest: string, unit: string, description: string) =>
  value(counter(`spillway.redis.breakers.${rest}`, unit, description))
const publications = counter('spillway.redis.breakers.publications', '{attempt}', 'Attempts to publish, by outcome.')
const news = counter('spillway.redis.breakers.news', '{message}', 'Messages of others, by what was done.')
const leases = counter('spillway.redis.breakers.leases', '{lease}', 'Leases of probes that were asked for, by outcome.')
const breakerShare: StatsRules = {
  name,
  connected: flag(gauge('spillway.redis.breakers.connected', '{share}', 'Whether Redis answers.', 'min')),
  subscribed: flag(gauge('spillway.redis.breakers.subscribed', '{share}', 'Whether messages come.', 'min')),
  circuits: value(sum('spillway.redis.breakers.circuits', '{breaker}', 'Breakers that have joined.')),
  offered: total('spillway.redis.breakers.publications and spillway.redis.breakers.pending_publications'),
  ...outcomes(publications, ['succeeded', 'failed']),
  pending: value(sum('spillway.redis.breakers.pending_publications', '{attempt}', 'Attempts that are under way.')),
  joined: share('joined_openings', '{opening}', 'Trips that joined an opening.'),
  outdated: share('outdated_closings', '{closing}', 'Closings of what had been opened again.'),
  received: share('received_messages', '{message}', 'Messages that came.'),
  ...outcomes(news, ['applied', 'late', 'ignored']),
  leasesAsked: share('asked_leases', '{lease}', 'Leases of probes that were asked for.'),
  ...outcomes(leases, { leased: 'given', denied: 'denied', leasesFailed: 'failed' }),
}

const acquisitions = counter('spillway.redis.lock.acquisitions', '{call}', 'Calls of `acquire`, by outcome.')
const releases = counter('spillway.redis.lock.releases', '{lease}', 'Leases that were to be given back, by outcome.')
const extensions = counter('spillway.redis.lock.extensions', '{lease}', 'Extensions of leases, by outcome.')
const lock: StatsRules = {
  name,
  offered: total('spillway.redis.lock.acquisitions and spillway.redis.lock.pending_acquisitions'),
  ...outcomes(acquisitions, ['acquired', 'busy', 'failed', 'rejected', 'aborted']),
  pending: value(sum('spillway.redis.lock.pending_acquisitions', '{call}', 'Calls of `acquire` that are under way.')),
  held: value(sum('spillway.redis.lock.held', '{lease}', "Leases that aren't given back or lost.")),
  ...outcomes(releases, { released: 'succeeded', releaseFailed: 'failed' }),
  lost: value(counter('spillway.redis.lock.lost', '{lease}', 'Leases that were lost.')),
  ...outcomes(extensions, { extended: 'succeeded', extendFailed: 'failed' }),
  waitMs: latency(summary('spillway.redis.lock.wait', 's', 'How long leases took to be granted, since the start.')),
}

const uses = counter('spillway.redis.pool.uses', '{use}', 'Uses of pooled connections, by outcome.')
const redisPool: StatsRules = {
  name,
  offered: total('spillway.redis.pool.uses and spillway.redis.pool.pending_uses'),
  ...outcomes(uses, ['succeeded', 'failed', 'rejected', 'aborted']),
  dropped: leftOut('it is always 0'),
  pending: value(sum('spillway.redis.pool.pending_uses', '{use}', "Uses that aren't settled yet.")),
  waiting: value(poolWaiting),
  size: leftOut('it is the sum of idle and used'),
  ...split(poolConnections, connectionState, { idle: 'idle', used: 'used' }),
  connected: value(counter('spillway.redis.pool.opened_connections', '{connection}', 'Connections that were made.')),
  connectFailures: value(
    counter('spillway.redis.pool.connect_failures', '{attempt}', 'Attempts to connect that failed.'),
  ),
}

/** The adapters that keep things in Redis and PostgreSQL. */
export const storeKinds: readonly ComponentKind[] = [
  { classes: ['PostgresQuotaStore'], knownBy: ['applied', 'partitionsMade', 'holdsRemoved'], rules: quotaStore },
  { classes: ['PostgresUsageSink'], knownBy: ['applied', 'counted', 'partitionsMade'], rules: usageSink },
  { classes: ['PostgresCounterStore'], knownBy: ['applied', 'walked', 'cleanUpFailures'], rules: counterStore },
  { classes: ['SlowQueryLog'], knownBy: ['slow', 'starved', 'statementsEvicted'], rules: slowQueryLog },
  { classes: ['Paginator'], knownBy: ['pages', 'rows', 'catalogReads'], rules: paginator },
  { classes: ['RedisInvalidationBus'], knownBy: ['published', 'heard', 'senders'], rules: invalidationBus },
  {
    classes: ['RedisUsageWorker'],
    knownBy: ['redelivered', 'groupsLost', 'streamLength'],
    rules: usageWorker,
    events: { applied: [recorded(batchDuration, 'durationMs', 1 / 1000), recorded(batchSize, 'events')] },
  },
  { classes: ['RedisCacheStore'], knownBy: ['unreadable', 'marksRead', 'bytesSaved'], rules: cacheStore },
  { classes: ['RedisBreakerShare'], knownBy: ['circuits', 'leasesAsked', 'outdated'], rules: breakerShare },
  { classes: ['RedisLock'], knownBy: ['acquired', 'held', 'extended'], rules: lock },
  {
    classes: ['RedisPool'],
    knownBy: ['waiting', 'connectFailures', 'idle'],
    look: (pool) => {
      const stats = (pool as { stats(): { readonly size: number; readonly idle: number } }).stats()
      return { ...stats, used: stats.size - stats.idle }
    },
    rules: redisPool,
  },
]
