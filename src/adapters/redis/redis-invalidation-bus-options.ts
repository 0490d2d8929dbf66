import type { ComponentOptions } from '../../core/component.js'
import type { RetryOptions } from '../../core/retry.js'

/** Options of {@link RedisInvalidationBus}. */
export interface RedisInvalidationBusOptions extends ComponentOptions {
  /**
   * The channel; buses on different channels know nothing of each other. It goes to all databases of a server. The `keyPrefix` of a client
   * of ioredis is put before it.
   *
   * @defaultValue 'spillway:invalidations'
   */
  channel?: string | undefined
  /**
   * How many invalidations wait to be sent at the most. When there are more, all of them are lost and the others are told of a gap, which
   * costs each of them one look at the shared store for whatever they hold.
   *
   * @defaultValue 10_000
   */
  capacity?: number | undefined
  /**
   * How many invalidations one message carries at the most; never more than about 300 000 characters, but for one that alone has
   * more.
   *
   * @defaultValue 500
   */
  maxBatchSize?: number | undefined
  /**
   * How long Redis may take to answer an attempt to publish, or a check of the subscription, in milliseconds, at least 1.
   *
   * @defaultValue 2000
   */
  timeoutMs?: number | undefined
  /**
   * How long an attempt to connect and to subscribe may take, in milliseconds, at least 1.
   *
   * @defaultValue 5000
   */
  connectTimeoutMs?: number | undefined
  /**
   * How often the subscription is asked for a sign of life, which finds connections that broke without a word, and how long after its last
   * message a bus tells that there was none since, in milliseconds, at least 1.
   *
   * @defaultValue 10_000
   */
  heartbeatMs?: number | undefined
  /**
   * How many buses of others it knows at a time, at least 1: of those it notices when a message of theirs is missing. Beyond that, the
   * one that was silent for longest is forgotten.
   *
   * @defaultValue 1000
   */
  maxSenders?: number | undefined
  /**
   * How often a message is tried before its invalidations are lost and the others are told of a gap instead, which is then tried until it
   * succeeds.
   *
   * @defaultValue { attempts: 3, delayMs: 100, maxDelayMs: 1000 }
   */
  retry?: RetryOptions | undefined
}

/** Events of {@link RedisInvalidationBus}. */
export interface RedisInvalidationBusEvents {
  /** Messages come from now on. */
  subscribed: Readonly<Record<string, never>>
  /** No messages come, or an attempt to subscribe failed; it tries again. */
  unsubscribed: { readonly error: unknown }
  /** The links were told that they may have missed something. */
  gap: {
    /** `'subscribed'`: before messages came. `'told'`: its sender lost some. `'missed'`: some of a sender's didn't arrive here. */
    readonly reason: 'subscribed' | 'told' | 'missed'
    /** The `id` of the bus whose messages they are; undefined for `'subscribed'`. */
    readonly by: string | undefined
  }
  /** An attempt to publish failed. */
  publishFailed: {
    readonly error: unknown
    /** The how manieth attempt it was, of the same message. */
    readonly attempt: number
    /** How many invalidations are lost by that; the others are told of a gap as soon as Redis takes it. */
    readonly lost: number
  }
  /** Something came over the channel that is no message: its first 200 characters. */
  ignored: { readonly text: string }
}

/** Stats of {@link RedisInvalidationBus}, of invalidations: `offered = published + merged + lost + pending`. */
export interface RedisInvalidationBusStats {
  /** Its name. */
  readonly name: string
  /** Whether messages come. */
  readonly subscribed: boolean
  /** Links that are open. */
  readonly links: number
  /** All that its links published. */
  readonly offered: number
  /** What Redis has taken. */
  readonly published: number
  /** What was told by a later one of the same name in the same message. */
  readonly merged: number
  /** What was lost, of which the others are told by a gap. */
  readonly lost: number
  /** What waits or is under way. */
  readonly pending: number
  /** Messages that Redis has taken, those of gaps and beats included. */
  readonly batches: number
  /** Attempts to publish that failed. */
  readonly failures: number
  /** Messages of others that came. */
  readonly received: number
  /** The invalidations in them. */
  readonly heard: number
  /** Messages of its own that came back. */
  readonly own: number
  /** Messages that were none. */
  readonly malformed: number
  /** How often its links were told that they may have missed something. */
  readonly gaps: number
  /** Of these, how often since messages of a sender were missing. */
  readonly holes: number
  /** Other buses that it knows. */
  readonly senders: number
}
