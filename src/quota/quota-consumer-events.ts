import type { AcceptedUsage, QuotaKey, UsageEvent } from '../core/ports.js'
import type { BatchStats } from '../core/stats.js'
import type { HealthReason } from './consumer-health.js'
import type { JournalAction } from './journal-keeper.js'

/** Usage that was given up. */
export interface UsageFailure {
  /**
   * The batch in which it was given up. What the journal failed to keep of a batch that comes back from it has an id of its own, as it
   * must if it is sent again.
   */
  readonly batchId: string
  /** The events. They are in nobody's hands now, unless the journal kept them. */
  readonly events: readonly AcceptedUsage[]
  /** How many attempts there were. */
  readonly attempts: number
  /** Why. Where it is a `SpillwayError`, its `outcomeUnknown` says whether they may have been counted in spite of it. */
  readonly error: unknown
  /**
   * Whether the journal keeps them, so that they are written again after the next start: where `close` ran out of time or cut retries
   * short, or the journal failed to note the batch.
   */
  readonly kept: boolean
  /** True where the sink refused just these, and applied the rest of their batch: sent again, they need another batch id. */
  readonly refused?: boolean | undefined
}

/** Events of `QuotaConsumer`. */
export interface QuotaConsumerEvents {
  /** A batch was written, less what the sink refused of it. */
  applied: {
    readonly batchId: string
    readonly keys: readonly QuotaKey[]
    readonly events: number
    readonly attempts: number
    readonly durationMs: number
  }
  /** An attempt failed and another one will be made after `delayMs`. */
  retried: { readonly batchId: string; readonly attempt: number; readonly delayMs: number; readonly error: unknown }
  /** Events were given up: their batch failed for good, the sink refused them, or `close` ran out of time. */
  failed: UsageFailure
  /** An event was dropped, because there was no room. */
  dropped: { readonly event: AcceptedUsage; readonly reason: 'drop-newest' | 'drop-oldest' }
  /** An event was refused: it is wrong, or the consumer is full or closed. */
  rejected: { readonly event: UsageEvent; readonly error: unknown }
  /** The journal failed at something: an event that was published and so refused, or one that was offered and is only in memory. */
  journalFailed: { readonly action: JournalAction; readonly error: unknown }
  /** The sink fails again and again, or an event was refused or dropped for want of room. */
  unhealthy: { readonly reason: HealthReason; readonly error: unknown }
  /** The sink took a batch again, or half of the room is free again. */
  recovered: { readonly reason: HealthReason }
}

/** Stats of `QuotaConsumer`, in events. `aborted` are those whose publisher gave up, or whose journal failed. */
export interface QuotaConsumerStats extends BatchStats {
  /** All that was accepted or dropped: `processedEvents + failedEvents + droppedEvents + pending`. */
  readonly totalEvents: number
  /** What was written: the same as `succeeded`. */
  readonly processedEvents: number
  /** What was given up: the same as `failed`. */
  readonly failedEvents: number
  /** What was dropped: the same as `dropped`. */
  readonly droppedEvents: number
  /** How many batches there were: the same as `batches`. */
  readonly batchCount: number
  /** Of `failedEvents`, those that the sink refused. */
  readonly refusedEvents: number
  /** Of `totalEvents`, those that the journal brought back from an earlier process. */
  readonly recoveredEvents: number
  /** Events that were offered and that the journal failed to keep: they are only in memory. */
  readonly unjournalledEvents: number
  /** Whether it is open, its sink takes batches, and there is room. */
  readonly healthy: boolean
}
