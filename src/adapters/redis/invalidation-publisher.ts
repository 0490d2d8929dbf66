import type { Clock } from '../../core/clock.js'
import type { Invalidation } from '../../core/ports.js'
import { backoffMs, type RetryPolicy } from '../../core/retry.js'
import { type ContextRunner, captureContext } from '../../internal/async-context.js'
import { type Deferred, deferred } from '../../internal/deferred.js'
import { type InvalidationMessage, writeInvalidation, writeMessage } from './invalidation-message.js'

/** What a publisher needs. */
export interface PublisherSettings {
  readonly clock: Clock
  readonly random: () => number
  /** Who tells it. */
  readonly by: string
  readonly capacity: number
  readonly maxBatchSize: number
  readonly retry: RetryPolicy
  /** Hands one message to Redis; rejects where there is no answer in time. An answer that comes after that is told by `wake`. */
  send(text: string): Promise<void>
  /** An attempt failed, whereupon so many invalidations are lost. */
  onFailed(failure: { readonly error: unknown; readonly attempt: number; readonly lost: number }): void
}

/** Books of a publisher: `offered = published + merged + lost + pending`. */
export interface PublisherBooks {
  readonly offered: number
  readonly published: number
  readonly merged: number
  readonly lost: number
  readonly pending: number
  readonly batches: number
  readonly failures: number
}

interface Waiting {
  invalidation: Invalidation
  /** Who told it; undefined where several did. */
  teller: object | undefined
  /** Its number among all that was accepted: of those that were merged into one, that of the first. */
  readonly first: number
}

interface Batch {
  readonly texts: readonly string[]
  readonly seq: number
  /** When the message before it left. */
  readonly previousMs: number | undefined
  readonly size: number
  readonly first: number
}

/**
 * About as much text as one message holds: a subscriber that is slow is cut off by how much waits for it, and Redis may be told to take
 * no more than a megabyte at once, which this never has, whatever its characters are.
 */
const maxTextLength = 300_000

/** Between attempts to tell of a gap: it must get through some day. */
const gapRetry = { delayMs: 100, maxDelayMs: 10_000 } as const

/**
 * Sends invalidations, one message at a time, in their order: what there is at the end of a turn, and what gathered while a message was under
 * way. A message is retried under its number, so that whoever got it already isn't told of a hole.
 *
 * ```
 *            add                 defer, then one at a time              no more attempts
 *   (nothing) ──▶ queue, merged ───────────────────────────▶ batch ──────────────────────▶ gap due ──▶ gap message ──▶ …
 *                      │ over capacity                                                       ▲
 *                      └─────────────────────────────────────────────────────────────────────┘
 * ```
 *
 * A gap tells others more than any invalidation before it, so nothing is held while one is due: what comes then is lost, too.
 */
export class InvalidationPublisher {
  readonly #settings: PublisherSettings
  readonly #context: ContextRunner = captureContext()
  readonly #queue = new Map<string, Waiting>()
  #batch: Batch | undefined
  /** Something was lost, and the others don't know yet. While its message is under way, it isn't due. */
  #gapDue = false
  #seq = 0
  /** When the latest message left, or was given up. */
  #leftMs: number | undefined
  /** The number that the others were last told of by a beat, or by a message since. */
  #beatenSeq = 0
  #beatDue = false
  #running = false
  #closing = false
  #stopped = false
  #cutPause: (() => void) | undefined
  #idle: Deferred<void> | undefined
  readonly #flushes: { readonly upTo: number; readonly done: Deferred<void> }[] = []
  readonly #books = { offered: 0, published: 0, merged: 0, lost: 0, batches: 0, failures: 0 }

  constructor(settings: PublisherSettings) {
    this.#settings = settings
  }

  get books(): PublisherBooks {
    return { ...this.#books, pending: this.#pending }
  }

  /** Takes invalidations of one who tells them in the order in which they became true. Never throws, never sends at once. */
  add(invalidations: readonly Invalidation[], teller: object): void {
    for (const invalidation of invalidations) this.#accept(invalidation, teller)
    this.#start()
  }

  /** Redis may be back: what waits for its next attempt is tried now. */
  wake(): void {
    this.#cutPause?.()
  }

  /** Tells the others which message was the latest, so that they notice when it was lost and none comes after it. */
  beat(): void {
    if (this.#running || this.#seq === this.#beatenSeq) return
    this.#beatDue = true
    this.#start()
  }

  /** Resolves once all that was accepted before is published or lost. Never rejects. */
  flush(): Promise<void> {
    if (this.#pending === 0) return Promise.resolve()
    const done = deferred<void>()
    this.#flushes.push({ upTo: this.#books.offered, done })
    return done.promise
  }

  /** Makes the attempts that are left, without pauses, and resolves once there is nothing more to do. Never rejects. */
  close(): Promise<void> {
    this.#closing = true
    this.wake()
    if (!this.#running) return Promise.resolve()
    this.#idle ??= deferred()
    return this.#idle.promise
  }

  /** Gives up what is left, and says how much that was. */
  stop(): number {
    const left = this.#pending
    this.#stopped = true
    this.#lose(true)
    this.#wakeStopped()
    return left
  }

  get #pending(): number {
    return this.#queue.size + (this.#batch?.size ?? 0)
  }

  get #hasWork(): boolean {
    return this.#gapDue || this.#queue.size > 0 || this.#beatDue
  }

  #accept(invalidation: Invalidation, teller: object): void {
    const books = this.#books
    books.offered++
    if (this.#gapDue || this.#stopped) {
      books.lost++
      return
    }
    const id = idOf(invalidation)
    const waiting = this.#queue.get(id)
    if (waiting !== undefined) {
      merge(waiting, invalidation, teller)
      books.merged++
      return
    }
    this.#queue.set(id, { invalidation, teller, first: books.offered })
    if (this.#queue.size <= this.#settings.capacity) return
    this.#lose(false)
    this.#gapDue = true
    this.#settle()
  }

  #start(): void {
    if (this.#running || this.#stopped || !this.#hasWork) return
    this.#running = true
    this.#settings.clock.defer(() => this.#context(() => void this.#run()))
  }

  async #run(): Promise<void> {
    while (!this.#stopped && this.#hasWork) {
      if (this.#gapDue) {
        if (!(await this.#publishGap())) break
      } else if (this.#queue.size > 0) await this.#publishBatch()
      else await this.#publishBeat()
    }
    this.#running = false
    this.#idle?.resolve()
  }

  async #publishBatch(): Promise<void> {
    const batch = this.#takeBatch()
    this.#batch = batch
    const { attempts } = this.#settings.retry
    for (let attempt = 1; ; attempt++) {
      const failure = await this.#attempt(this.#message('news', batch.seq, batch.previousMs, batch.texts))
      if (this.#stopped) return
      this.#leftMs = this.#settings.clock.now()
      if (failure === undefined) {
        this.#batch = undefined
        this.#books.published += batch.size
        break
      }
      // Where more was lost meanwhile, the gap says all that this one would.
      const again = attempt < attempts && !this.#gapDue && this.#isRetryable(failure.error)
      const lost = again ? 0 : this.#pending
      if (!again) this.#loseAll()
      this.#settings.onFailed({ error: failure.error, attempt, lost })
      if (!again) break
      await this.#pause(attempt, this.#settings.retry)
      if (this.#stopped) return
    }
    this.#settle()
  }

  /** A caller's function that throws says no. */
  #isRetryable(error: unknown): boolean {
    try {
      return Boolean(this.#settings.retry.retryable(error))
    } catch {
      return false
    }
  }

  /** Tells of a gap, and goes on trying; returns false where it gives that up, since it is closed. */
  async #publishGap(): Promise<boolean> {
    for (let attempt = 1; !this.#stopped; attempt++) {
      const closing = this.#closing
      this.#gapDue = false
      // Another number each time: it tells of what was lost since, too, to those who got the one before.
      const failure = await this.#attempt(this.#message('gap', ++this.#seq, this.#leftMs))
      this.#leftMs = this.#settings.clock.now()
      if (failure === undefined) return true
      if (this.#stopped) break
      const lost = this.#queue.size
      this.#loseAll()
      this.#settle()
      this.#settings.onFailed({ error: failure.error, attempt, lost })
      if (closing) return false
      await this.#pause(attempt, gapRetry)
    }
    return false
  }

  /** One attempt: the next beat says the same. */
  async #publishBeat(): Promise<void> {
    const seq = this.#seq
    this.#beatDue = false
    const failure = await this.#attempt(this.#message('beat', seq, this.#leftMs))
    if (failure === undefined) this.#beatenSeq = seq
    else if (!this.#stopped) this.#settings.onFailed({ error: failure.error, attempt: 1, lost: 0 })
  }

  /** One attempt; what it failed with is in an object, since anything can be thrown. */
  async #attempt(text: string): Promise<{ readonly error: unknown } | undefined> {
    try {
      await this.#settings.send(text)
      this.#books.batches++
      return undefined
    } catch (error) {
      this.#books.failures++
      return { error }
    }
  }

  #takeBatch(): Batch {
    const texts: string[] = []
    let length = 0
    let first = 0
    for (const [id, waiting] of this.#queue) {
      if (texts.length === this.#settings.maxBatchSize) break
      const text = writeInvalidation(waiting.invalidation)
      if (texts.length > 0 && length + text.length > maxTextLength) break
      if (texts.length === 0) first = waiting.first
      length += text.length
      texts.push(text)
      this.#queue.delete(id)
    }
    return { texts, seq: ++this.#seq, previousMs: this.#leftMs, size: texts.length, first }
  }

  /** The text of one attempt: when the message before it left is told as of now. */
  #message(
    kind: InvalidationMessage['kind'],
    seq: number,
    previousMs: number | undefined,
    texts?: readonly string[],
  ): string {
    const { by, clock } = this.#settings
    const agoMs = previousMs === undefined ? undefined : clock.now() - previousMs
    return writeMessage({ by, seq, kind, agoMs }, texts)
  }

  #loseAll(): void {
    this.#lose(true)
    this.#gapDue = true
  }

  #lose(batchToo: boolean): void {
    this.#books.lost += this.#queue.size
    this.#queue.clear()
    if (!batchToo) return
    this.#books.lost += this.#batch?.size ?? 0
    this.#batch = undefined
  }

  /** Ends the flushes that have nothing left to wait for. */
  #settle(): void {
    if (this.#flushes.length === 0) return
    const [waiting] = this.#queue.values()
    const oldest = this.#batch?.first ?? waiting?.first ?? Number.POSITIVE_INFINITY
    while ((this.#flushes[0]?.upTo ?? Number.POSITIVE_INFINITY) < oldest) this.#flushes.shift()?.done.resolve()
  }

  #wakeStopped(): void {
    this.#cutPause?.()
    this.#settle()
    this.#idle?.resolve()
  }

  #pause(attempt: number, policy: { readonly delayMs: number; readonly maxDelayMs: number }): Promise<void> {
    if (this.#closing) return Promise.resolve()
    const { clock, random } = this.#settings
    return new Promise((resolve) => {
      const end = (): void => {
        cancelTimer()
        this.#cutPause = undefined
        resolve()
      }
      const cancelTimer = clock.setTimer(end, backoffMs(attempt, policy, random), { keepAlive: false })
      this.#cutPause = end
    })
  }
}

/** Of two who tell of one key, nobody knows which of their versions came last: whoever has either must drop it. */
function merge(waiting: Waiting, invalidation: Invalidation, teller: object): void {
  if (waiting.teller !== teller) waiting.teller = undefined
  const isUnordered = invalidation.kind === 'key' && waiting.teller === undefined
  waiting.invalidation = isUnordered ? { kind: 'key', key: invalidation.key } : invalidation
}

function idOf(invalidation: Invalidation): string {
  switch (invalidation.kind) {
    case 'key':
      return `k${invalidation.key}`
    case 'tag':
      return `t${invalidation.tag}`
    case 'clear':
      return `c${invalidation.namespace}`
  }
}
