import type { ComponentOptions } from '../core/component.js'
import type { Overflow } from '../core/options.js'
import type { BatchTracer, QuotaKey, QuotaPeriod, UsageJournal } from '../core/ports.js'
import type { RetryOptions } from '../core/retry.js'
import type { UsageFailure } from './quota-consumer-events.js'

/** Options of `QuotaConsumer`. */
export interface QuotaConsumerOptions extends ComponentOptions {
  /**
   * The period over which a quota type counts, by the event's own timestamp, in UTC. Asked once for a type that is in use; one of
   * which nothing is pending may be forgotten, and asked for again. The default is `() => 'month'`.
   */
  periodOf?: ((quotaType: string) => QuotaPeriod) | undefined
  /**
   * The most events in one batch. At most `capacity`.
   * @defaultValue 10
   */
  maxBatchSize?: number | undefined
  /**
   * The longest that a batch waits for more events, in milliseconds from its first one.
   * @defaultValue 5000
   */
  maxWaitMs?: number | undefined
  /**
   * Whether what is there leaves at the end of the current turn while nothing is in flight. It makes more and smaller batches,
   * sooner.
   * @defaultValue false
   */
  eager?: boolean | undefined
  /**
   * The most batches in flight: how many workers there are.
   * @defaultValue 3
   */
  concurrency?: number | undefined
  /**
   * The most events that wait to be accounted.
   * @defaultValue 1000
   */
  capacity?: number | undefined
  /**
   * What `offer` does when there is no room: `'reject'` refuses the event, `'drop-newest'` drops it and counts it as dropped,
   * `'drop-oldest'` drops the event that has waited longest, which a journal forbids.
   * @defaultValue 'reject'
   */
  overflow?: Overflow | undefined
  /** The longest that one attempt may take, in milliseconds, at least 1. The default is no limit. */
  timeoutMs?: number | undefined
  /**
   * How long a timed-out attempt keeps its worker while it goes on, in milliseconds.
   * @defaultValue 1000
   */
  timeoutGraceMs?: number | undefined
  /**
   * How failed batches are tried again, as they were and with the same id. An outcome that is unknown is retried only when the
   * sink is idempotent.
   * @defaultValue { attempts: 3, delayMs: 100, maxDelayMs: 30_000 }
   */
  retry?: RetryOptions | undefined
  /**
   * Whether a batch that failed for good is halved until the event at fault stands alone. Never after an outcome that is unknown, as
   * that of every batch from an earlier process is, or an error that says that it is `retryable`.
   * @defaultValue true
   */
  bisect?: boolean | undefined
  /**
   * What every event must bear to be counted once: under `'request'` one without a `requestId` is refused, and the sink must tell
   * requests apart.
   * @defaultValue 'batch'
   */
  dedupe?: 'batch' | 'request' | undefined
  /**
   * After how many failed attempts in a row it is unhealthy.
   * @defaultValue 3
   */
  unhealthyAfter?: number | undefined
  /** Keeps events until they are accounted, so that a crash loses none. It is opened and closed here; the sink must be idempotent. */
  journal?: UsageJournal | undefined
  /**
   * Takes what was given up. `flush` and `close` wait for it, so it must not wait for them. If it fails, that is reported as a warning
   * of the process.
   */
  onFailed?: ((failure: UsageFailure) => void | PromiseLike<void>) | undefined
  /**
   * Takes the keys of each batch that was written, so that caches of their usage can be dropped. Nobody waits for it. If it fails,
   * that is reported as a warning of the process.
   */
  onApplied?: ((keys: readonly QuotaKey[]) => void | PromiseLike<void>) | undefined
  /** Sees each batch in the light of a trace, for instance `batchTracer` of `spillway/metrics`. The default is none. */
  tracer?: BatchTracer | undefined
}
