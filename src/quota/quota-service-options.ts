import type { ComponentOptions } from '../core/component.js'
import type { QuotaPeriod, QuotaStore, UserId } from '../core/ports.js'
import type { RetryOptions } from '../core/retry.js'
import type { QuotaConsumer } from './quota-consumer.js'
import type { WaitOptions } from './reservation.js'

/** Options of `QuotaService`. */
export interface QuotaServiceOptions extends ComponentOptions {
  /** Where quotas are counted. It stays the caller's. */
  store: QuotaStore
  /**
   * Accounts what `consumeQuota` counts. It must write to `store`, and stays the caller's. Without it, `consumeQuota` writes at once.
   */
  consumer?: QuotaConsumer | undefined
  /**
   * What a user may use of a quota type in a period: a number from 0, or `Infinity`. Asked at every call that has a limit to mind, so
   * keep at hand what takes long to find.
   */
  limitFor: (userId: UserId, quotaType: string) => number | PromiseLike<number>
  /**
   * The period over which a quota type counts, in UTC. Where there is a consumer, its own counts, and this must be left out. The
   * default is `() => 'month'`.
   */
  periodOf?: ((quotaType: string) => QuotaPeriod) | undefined
  /**
   * How long `checkQuota` may use again what it read, in milliseconds; 0 for not at all. What changes through this service or its
   * consumer is read anew; of what other processes do, a check then knows this much later.
   * @defaultValue 0
   */
  usageTtlMs?: number | undefined
  /**
   * How many users' quotas `usageTtlMs` keeps, the latest read ones.
   * @defaultValue 10_000
   */
  usageCacheSize?: number | undefined
  /**
   * How long a reservation holds that doesn't say it, in milliseconds.
   * @defaultValue 60_000
   */
  holdTtlMs?: number | undefined
  /** The longest that one attempt at the store may take, in milliseconds, at least 1. The default is no limit. */
  timeoutMs?: number | undefined
  /**
   * How failed calls of the store are made again, with the same id. An unchecked write whose outcome is unknown is retried only when
   * the store is idempotent.
   * @defaultValue { attempts: 3, delayMs: 50, maxDelayMs: 1000 }
   */
  retry?: RetryOptions | undefined
}

/** What `checkQuota` takes. */
export interface CheckOptions extends WaitOptions {
  /** A time within the period that is asked for. The default is now. */
  at?: number | Date | undefined
}

/** What `consumeQuotaSync` takes. */
export interface ConsumeSyncOptions extends WaitOptions {
  /** What makes it count once for this user and quota type, as long as the store remembers it: 1 to 256 characters. */
  requestId?: string | undefined
  /** When it was used: it decides to which period it belongs. The default is now. */
  timestamp?: number | Date | undefined
}

/** What `consumeQuota` takes. */
export interface ConsumeOptions extends ConsumeSyncOptions {
  /** Anything else that is worth keeping with the event. */
  metadata?: Readonly<Record<string, unknown>> | undefined
}

/** What `reserve` takes. */
export interface ReserveOptions extends WaitOptions {
  /**
   * What makes it one reservation, however often it is asked for: 1 to 256 characters, unique among all users. The default is a fresh
   * id.
   */
  id?: string | undefined
  /** How long it holds, in milliseconds, at least 1. The default is the service's `holdTtlMs`. */
  ttlMs?: number | undefined
}
