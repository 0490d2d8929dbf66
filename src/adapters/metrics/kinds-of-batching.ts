import { type ComponentKind, type EventRecord, recorded } from './component-kind.js'
import { counter, sum, summary } from './metric.js'
import { batchDuration, batchSize, healthy } from './shared-metrics.js'
import { flag, latency, leftOut, outcomes, type StatsRules, value } from './stats-rule.js'

// Everything that accepts, holds, lets go in batches and settles has the engine's stats, and so the same metrics. Nobody listens to `failed`
// here: it says what was lost, and some warn unless somebody takes it.

const items = counter(
  'spillway.batch.items',
  '{item}',
  'Items that were settled, by outcome; writes where they are merged.',
)
const batch: StatsRules = {
  name: leftOut('the name is an attribute'),
  offered: leftOut('it is the sum of spillway.batch.items and spillway.batch.pending_items'),
  ...outcomes(items, ['succeeded', 'failed', 'dropped', 'rejected', 'aborted']),
  pending: value(sum('spillway.batch.pending_items', '{item}', "Items that were accepted and aren't settled yet.")),
  inFlight: value(sum('spillway.batch.in_flight_items', '{item}', 'Items of batches that are being worked on.')),
  inFlightBatches: value(sum('spillway.batch.in_flight', '{batch}', 'Batches that are being worked on.')),
  batches: value(counter('spillway.batch.dispatched', '{batch}', 'Batches that were dispatched.')),
  retries: value(counter('spillway.batch.retries', '{retry}', 'Retries of batches that were decided on.')),
  timeouts: value(counter('spillway.batch.timeouts', '{attempt}', 'Attempts that took longer than they may.')),
  overruns: value(
    counter(
      'spillway.batch.overruns',
      '{attempt}',
      'Attempts that were still running when their grace had passed, too.',
    ),
  ),
  batchSize: leftOut('the histogram spillway.batch.size has it, and can be added up'),
  latencyMs: latency(
    summary(
      'spillway.batch.item_latency',
      's',
      'How long items took from acceptance until they were settled, since the start.',
    ),
  ),
}

const duration = recorded(batchDuration, 'durationMs', 1 / 1000)

/** A batch whose items had different outcomes. */
const settledSize: EventRecord = {
  metric: batchSize,
  value: ({ succeeded, failed }) =>
    typeof succeeded === 'number' && typeof failed === 'number' ? succeeded + failed : undefined,
}

const quota = (name: string, description: string) => value(counter(`spillway.quota.${name}`, '{event}', description))
const same = (field: string) => leftOut(`it is the same as ${field}`)

/** AsyncBatcher and all that looks like it, to be tried last. */
export const batcherKind: ComponentKind = {
  classes: ['AsyncBatcher', 'QueryBatcher'],
  knownBy: ['offered', 'inFlightBatches', 'batchSize', 'latencyMs'],
  rules: batch,
  events: { settled: [duration, settledSize] },
}

/** What has the engine's stats and something of its own. */
export const batchingKinds: readonly ComponentKind[] = [
  {
    classes: ['AsyncWriteBuffer'],
    knownBy: ['inFlightBatches', 'pendingKeys'],
    rules: {
      ...batch,
      pendingKeys: value(sum('spillway.batch.pending_keys', '{key}', 'Distinct keys that wait to be written.')),
    },
    events: { written: [duration, recorded(batchSize, 'keys')] },
  },
  {
    classes: ['QuotaConsumer'],
    knownBy: ['inFlightBatches', 'unjournalledEvents', 'healthy'],
    rules: {
      ...batch,
      totalEvents: leftOut(
        'it is the sum of spillway.batch.items and spillway.batch.pending_items, less what was rejected',
      ),
      processedEvents: same('succeeded'),
      failedEvents: same('failed'),
      droppedEvents: same('dropped'),
      batchCount: same('batches'),
      refusedEvents: quota('refused_events', 'Of the failed events, those that the sink refused.'),
      recoveredEvents: quota('recovered_events', 'Events that the journal brought back from an earlier process.'),
      unjournalledEvents: quota('unjournalled_events', 'Events that the journal failed to keep: only memory has them.'),
      healthy: flag(healthy),
    },
    events: { applied: [duration, recorded(batchSize, 'events')] },
  },
  {
    classes: ['AsyncLogBuffer'],
    knownBy: ['inFlightBatches', 'dropLines', 'untoldDrops'],
    rules: {
      ...batch,
      dropLines: value(
        counter('spillway.log.drop_lines', '{line}', 'Lines in the log that say how many lines were lost.'),
      ),
      untoldDrops: value(
        sum('spillway.log.untold_drops', '{line}', "Lines that were lost and of which the log doesn't tell yet."),
      ),
    },
    events: { written: [duration, recorded(batchSize, 'lines')] },
  },
  {
    classes: ['RedisUsageStream'],
    knownBy: ['inFlightBatches', 'appended', 'repeated'],
    rules: {
      ...batch,
      appended: value(counter('spillway.redis.stream.appended_events', '{event}', 'Events that Redis has from here.')),
      repeated: value(
        counter('spillway.redis.stream.repeated_events', '{event}', 'Of those, events that Redis had already.'),
      ),
    },
    events: { appended: [recorded(batchSize, 'events')] },
  },
]
