import { ClosableComponent, type ComponentOptions, type FlushReport } from '../../core/component.js'
import { ClosedError, FullError, isSpillwayError, StoreError } from '../../core/errors.js'
import {
  checkCount,
  checkDuration,
  checkFunction,
  checkOptionalFunction,
  checkOptions,
  checkSignal,
  failOption,
  valueOr,
} from '../../core/options.js'
import { backoffMs, type RetryOptions, type RetryPolicy, resolveRetry } from '../../core/retry.js'
import type { CallCounts, LatencySnapshot } from '../../core/stats.js'
import { onAbort } from '../../internal/abort.js'
import { batchId } from '../../internal/batch-id.js'
import { CallBooks, type OpenEntry } from '../../internal/call-books.js'
import { type Deferred, handled, openPromise, rejected } from '../../internal/deferred.js'
import { LinkedList, type ListNode } from '../../internal/linked-list.js'
import { Room } from '../../internal/room.js'
import type { GrpcDuplex } from './grpc-client.js'
import { GrpcCallError } from './grpc-error.js'

/** Options of {@link AckedStream}. */
export interface AckedStreamOptions<Item, Message, Ack> extends ComponentOptions {
  /** Puts an item and its id into a message. Called once for each `send`; the same message is sent again if it must be. */
  message: (item: Item, id: string) => Message
  /** The id of the message that an answer acknowledges; undefined for an answer that acknowledges none. */
  idOf: (ack: Ack) => string | undefined
  /** Why the server refused the message, where the acknowledgement says so; that `send` alone rejects with it. */
  errorOf?: ((ack: Ack) => Error | undefined) | undefined
  /**
   * The most messages accepted and not acknowledged, sent or not.
   * @defaultValue 1000
   */
  capacity?: number | undefined
  /**
   * How a lost stream is opened again. `attempts` counts streams in a row without one acknowledgement, the first included;
   * after the last, all messages fail.
   * @defaultValue { attempts: 10, delayMs: 100, maxDelayMs: 10_000 }
   */
  retry?: RetryOptions | undefined
  /**
   * How long a stream may go without an acknowledgement while one is due, in milliseconds, at least 1; then it counts as
   * lost. Half-closed, it may take as long to end.
   * @defaultValue 30_000
   */
  ackTimeoutMs?: number | undefined
  /**
   * How long an open stream with nothing to do stays open, in milliseconds. An open stream keeps the process alive.
   * @defaultValue 5000
   */
  idleMs?: number | undefined
}

/** Events of {@link AckedStream}. */
export interface AckedStreamEvents<Item> {
  /** A stream was opened, and `resent` messages of an earlier one go first. */
  opened: { readonly attempt: number; readonly resent: number }
  /** A stream ended while messages were unacknowledged; the next one is opened after `delayMs`. */
  lost: { readonly error: unknown; readonly unacknowledged: number; readonly delayMs: number }
  /** Messages failed for good; their callers were told. */
  failed: { readonly items: readonly Item[]; readonly error: unknown }
  /** The stream was ended, because there was nothing to do or on `close`. */
  ended: { readonly reason: 'idle' | 'closed' }
}

/** Stats of {@link AckedStream}, in messages: `offered = succeeded + failed + rejected + aborted + pending`. */
export interface AckedStreamStats extends CallCounts {
  /** Its name. */
  readonly name: string
  /** Whether there is a stream, none is needed, or the next one waits for its time. */
  readonly state: 'open' | 'idle' | 'waiting'
  /** The part of `pending` that was sent. */
  readonly inFlight: number
  /** Streams that were opened. */
  readonly streams: number
  /** Streams that were lost. */
  readonly lost: number
  /** Messages that were sent again. */
  readonly resent: number
  /** Answers that acknowledged nothing that was waited for: repeated ones, and those of aborted messages. */
  readonly unmatched: number
  /** From `send` until acknowledged or failed, in milliseconds. */
  readonly latencyMs: LatencySnapshot
}

/** Options of {@link AckedStream.send}. */
export interface SendOptions {
  /** Gives the message up: unsent, it is never sent; sent, it isn't sent again, and whether it was applied is unknown. */
  signal?: AbortSignal | undefined
  /**
   * The message's id, where it must outlive the process: a message that may have been sent before goes out under its old
   * id. By default an id of a UUID and a running number, unique across processes.
   */
  id?: string | undefined
}

/** One message on its way. */
interface Entry<Item, Message, Ack> extends OpenEntry, Deferred<Ack> {
  readonly item: Item
  readonly id: string
  readonly message: Message
  /** How often it was written to a stream. */
  writes: number
  /** Whether the present stream has it. */
  sent: boolean
  /** Where it is: in the list of the unsent, or of the sent. */
  place: ListNode<Entry<Item, Message, Ack>>
  stopListening: (() => void) | undefined
}

/**
 * Sends messages over one bidirectional stream and gives each caller its own acknowledgement.
 *
 * A lost stream is opened again, and what was not acknowledged is sent again, in order and under the same ids. So every
 * message arrives at least once; **the server applies it once by remembering the ids** it has applied.
 *
 * @example
 * ```ts
 * import { AckedStream, type GrpcDuplex } from 'spillway/grpc'
 *
 * declare const open: () => GrpcDuplex<{ id: string; key: string }, { id: string; value: number }>
 *
 * const likes = new AckedStream(open, {
 *   message: (key: string, id) => ({ id, key }),
 *   idOf: (ack) => ack.id,
 * })
 * const { value } = await likes.send('post:1')
 * ```
 */
export class AckedStream<Item, Message, Ack> extends ClosableComponent<AckedStreamEvents<Item>, AckedStreamStats> {
  /** The options' defaults. */
  static readonly defaults = {
    capacity: 1000,
    retry: { attempts: 10, delayMs: 100, maxDelayMs: 10_000 },
    ackTimeoutMs: 30_000,
    idleMs: 5000,
  } as const

  readonly #openStream: () => GrpcDuplex<Message, Ack>
  readonly #message: (item: Item, id: string) => Message
  readonly #idOf: (ack: Ack) => string | undefined
  readonly #errorOf: ((ack: Ack) => Error | undefined) | undefined
  readonly #capacity: number
  readonly #retry: RetryPolicy
  readonly #ackTimeoutMs: number
  readonly #idleMs: number
  readonly #room: Room
  readonly #books: CallBooks<Entry<Item, Message, Ack>>
  readonly #idPrefix: string
  #lastId = 0

  /** Accepted, unacknowledged messages by id; of the aborted ones, those that the stream still owes an answer. */
  readonly #byId = new Map<string, Entry<Item, Message, Ack>>()
  /** Written to the stream, oldest first. */
  #sent = new LinkedList<Entry<Item, Message, Ack>>()
  /** Not written to this stream yet, oldest first. */
  #unsent = new LinkedList<Entry<Item, Message, Ack>>()

  #stream: GrpcDuplex<Message, Ack> | undefined
  /** Whether the stream asked to wait for its `drain`. */
  #blocked = false
  #pumping = false
  /** Streams in a row that brought no acknowledgement. */
  #fruitless = 0
  #cancelRetry: (() => void) | undefined
  #cancelAckTimer: (() => void) | undefined
  #cancelIdleTimer: (() => void) | undefined
  #closed = false
  /** Resolves `drain` once the half-closed stream has ended. */
  #streamEnded: (() => void) | undefined
  #inFlight = 0
  #streams = 0
  #lost = 0
  #resent = 0
  #unmatched = 0

  /**
   * @param open - opens a stream, for instance `() => pool.openStream('increments')`. Called when there is something to send.
   * @throws OptionError when an option is wrong.
   */
  constructor(open: () => GrpcDuplex<Message, Ack>, options: AckedStreamOptions<Item, Message, Ack>) {
    super('acked-stream', options)
    const { defaults } = AckedStream
    this.#openStream = checkFunction('open', open)
    this.#message = checkFunction('message', options?.message)
    this.#idOf = checkFunction('idOf', options.idOf)
    this.#errorOf = checkOptionalFunction('errorOf', options.errorOf)
    this.#capacity = checkCount('capacity', valueOr(options.capacity, defaults.capacity))
    this.#retry = resolveRetry(options.retry, defaults.retry)
    this.#ackTimeoutMs = checkDuration('ackTimeoutMs', valueOr(options.ackTimeoutMs, defaults.ackTimeoutMs), 1)
    this.#idleMs = checkDuration('idleMs', valueOr(options.idleMs, defaults.idleMs))
    this.#books = new CallBooks(this.clock)
    this.#idPrefix = batchId(this.clock.wallNow(), options.random)
    this.#room = new Room(
      () => this.#capacity - this.#byId.size,
      (callback) => this.clock.defer(callback),
    )
  }

  /**
   * Sends a message.
   *
   * @returns the acknowledgement. Rejects with `FullError`, `ClosedError`, `OptionError`, with `GrpcCallError` when the
   * stream failed for good, with what `errorOf` or `message` gave, or with the signal's reason. A rejection that nobody
   * looks at is no `unhandledRejection`; it is in the stats and events.
   */
  send(item: Item, options?: SendOptions): Promise<Ack> {
    let entry: Entry<Item, Message, Ack>
    try {
      entry = this.#accept(item, options)
    } catch (error) {
      this.#books.reject()
      return rejected(error)
    }
    handled(entry.promise)
    const signal = options?.signal
    if (signal !== undefined) entry.stopListening = onAbort(signal, () => this.#abort(entry, signal.reason))
    this.#pump()
    return entry.promise
  }

  /**
   * Waits until there is room for one message, first come, first served. The room is kept until the end of the turn.
   *
   * @returns rejects with `ClosedError`, or with the signal's reason.
   */
  ready(options?: { signal?: AbortSignal | undefined }): Promise<void> {
    try {
      checkOptions('options', options)
      const signal = checkSignal(options?.signal)
      return this.#closed ? rejected(this.#closedError()) : this.#room.ready(signal)
    } catch (error) {
      return rejected(error)
    }
  }

  /** Settles all messages that were accepted before the call. Never rejects. */
  override flush(): Promise<FlushReport> {
    return this.#books.flush()
  }

  override stats(): AckedStreamStats {
    return {
      name: this.name,
      ...this.#books.counts(),
      state: this.#stream !== undefined ? 'open' : this.#cancelRetry !== undefined ? 'waiting' : 'idle',
      inFlight: this.#inFlight,
      streams: this.#streams,
      lost: this.#lost,
      resent: this.#resent,
      unmatched: this.#unmatched,
      latencyMs: this.#books.latencyMs(),
    }
  }

  protected override async drain(): Promise<void> {
    this.#closed = true
    this.#room.refuseAll(() => this.#closedError())
    // A wait between two streams is cut short once; further ones are as long as ever.
    if (this.#cancelRetry !== undefined) this.#connect()
    await this.#books.empty()
    if (this.#stream === undefined) return
    const ended = new Promise<void>((resolve) => {
      this.#streamEnded = resolve
    })
    this.#end('closed')
    await ended
  }

  protected override abandon(): number {
    const left = [...this.#books.open]
    for (const entry of left) {
      const message = `${this.name}: closed before message ${entry.id} was acknowledged`
      this.#settle(entry, 'failed')
      entry.reject(new ClosedError(message, { outcomeUnknown: entry.writes > 0 }))
    }
    return left.length
  }

  protected override release(): void {
    this.#cancelRetry?.()
    this.#cancelRetry = undefined
    this.#stopTimers()
    this.#stream?.cancel()
    this.#stream = undefined
    this.#byId.clear()
  }

  // ── accept ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #accept(item: Item, options: SendOptions | undefined): Entry<Item, Message, Ack> {
    checkOptions('options', options)
    const signal = checkSignal(options?.signal)
    const given = options?.id
    if (given !== undefined && (typeof given !== 'string' || given === '')) {
      failOption('id', 'must be a string that is not empty', given)
    }
    if (this.#closed) throw this.#closedError()
    if (signal?.aborted) throw signal.reason
    if (given !== undefined && this.#byId.has(given)) failOption('id', 'must not be in flight already', given)
    if (this.#byId.size >= this.#capacity) {
      throw new FullError(`${this.name} is full (capacity ${this.#capacity})`, this.#capacity)
    }
    const id = given ?? `${this.#idPrefix}:${++this.#lastId}`
    const message = this.#message(item, id)
    if (message === null || message === undefined) failOption('message', 'must make a message', message)
    // The callback may have done anything, closing this included.
    if (this.#closed) throw this.#closedError()
    if (signal?.aborted) throw signal.reason
    const at = this.clock.now()
    const entry = { item, id, message, at, writes: 0, sent: false } as Entry<Item, Message, Ack>
    openPromise(entry)
    entry.place = this.#unsent.push(entry)
    this.#byId.set(id, entry)
    this.#books.accept(entry)
    if (this.#room.promised > 0) this.#room.taken()
    return entry
  }

  #abort(entry: Entry<Item, Message, Ack>, reason: unknown): void {
    if (!this.#settle(entry, 'aborted')) return
    entry.reject(reason)
  }

  /**
   * Settles an entry once. Sent and aborted, it keeps its place in `#byId` and so its share of the capacity until it is
   * acknowledged or the stream is lost: the bound is on what the server still holds.
   */
  #settle(entry: Entry<Item, Message, Ack>, outcome: 'succeeded' | 'failed' | 'aborted'): boolean {
    if (!this.#books.open.has(entry)) return false
    entry.stopListening?.()
    if (entry.sent) {
      this.#inFlight--
      if (outcome !== 'aborted') this.#forget(entry)
    } else {
      this.#unsent.remove(entry.place)
      this.#byId.delete(entry.id)
    }
    this.#books.settle(entry, outcome)
    this.#room.admit()
    this.#watchIdle()
    return true
  }

  /** Takes a sent entry out. */
  #forget(entry: Entry<Item, Message, Ack>): void {
    this.#sent.remove(entry.place)
    this.#byId.delete(entry.id)
  }

  // ── the stream ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** Writes what is unsent, as far as the stream takes it; opens one where there is none. */
  #pump(): void {
    if (this.#pumping || this.#cancelRetry !== undefined || this.#unsent.empty) return
    if (this.#stream === undefined) {
      this.#connect()
      return
    }
    this.#pumping = true
    const stream = this.#stream
    for (let entry = this.#unsent.first; entry !== undefined && !this.#blocked; entry = this.#unsent.first) {
      this.#unsent.remove(entry.place)
      entry.place = this.#sent.push(entry)
      entry.sent = true
      this.#inFlight++
      if (entry.writes++ > 0) this.#resent++
      this.#blocked = !stream.write(entry.message)
      if (this.#stream !== stream) break
    }
    this.#pumping = false
    this.#cancelIdleTimer?.()
    this.#cancelIdleTimer = undefined
    if (!this.#sent.empty) this.#watchAcks(false)
  }

  #connect(): void {
    this.#cancelRetry?.()
    this.#cancelRetry = undefined
    if (this.#books.open.size === 0) return
    let stream: GrpcDuplex<Message, Ack>
    try {
      stream = this.#openStream()
      if (typeof stream?.on !== 'function') failOption('open', 'must open a stream', stream)
    } catch (error) {
      this.#fruitless++
      this.#recordLost(error, 'unopened')
      return
    }
    this.#stream = stream
    this.#blocked = false
    this.#streams++
    const attempt = ++this.#fruitless
    stream.on('data', (ack) => this.#onAck(ack))
    stream.on('drain', () => {
      if (this.#stream !== stream) return
      this.#blocked = false
      this.#pump()
    })
    stream.on('error', (error) => this.#onEnd(stream, error))
    // A good end, or the echo of a bad one: every answer was read by then.
    stream.on('end', () => this.#onEnd(stream, endedEarly()))
    if (this.events.has('opened')) {
      let resent = 0
      for (const entry of this.#unsent) if (entry.writes > 0) resent++
      this.events.emit('opened', { attempt, resent })
    }
    this.#pump()
  }

  /** Acknowledgements count from whichever stream they come: an id is an id. */
  #onAck(ack: Ack): void {
    let id: string | undefined
    let refusal: Error | undefined
    try {
      id = this.#idOf(ack)
      refusal = this.#errorOf?.(ack)
    } catch (error) {
      const stream = this.#stream
      stream?.cancel()
      if (stream !== undefined) this.#onEnd(stream, error, true)
      return
    }
    if (id === undefined) return
    const entry = this.#byId.get(id)
    if (entry === undefined || entry.writes === 0) {
      this.#unmatched++
      return
    }
    this.#fruitless = 0
    if (!this.#books.open.has(entry)) {
      // Its caller gave it up; now the server has done with it too.
      this.#unmatched++
      this.#forget(entry)
      this.#room.admit()
      this.#watchIdle()
    } else if (refusal === undefined) {
      this.#settle(entry, 'succeeded')
      entry.resolve(ack)
    } else {
      this.#settle(entry, 'failed')
      entry.reject(refusal)
      this.#recordFailed([entry], refusal)
    }
    if (this.#stream === undefined) return
    this.#watchAcks(true)
  }

  /** A stream has ended, one way or the other. */
  #onEnd(stream: GrpcDuplex<Message, Ack>, error: unknown, final = false): void {
    if (this.#stream !== stream) return
    this.#stream = undefined
    this.#stopTimers()
    this.#takeBack()
    if (this.#books.open.size > 0) this.#recordLost(error, stream.getPeer(), final)
    this.#streamEnded?.()
  }

  /** What was sent and not acknowledged is unsent again, before the rest; what its callers gave up is let go. */
  #takeBack(): void {
    const again = new LinkedList<Entry<Item, Message, Ack>>()
    for (const entry of this.#sent) {
      entry.sent = false
      if (this.#books.open.has(entry)) entry.place = again.push(entry)
      else this.#byId.delete(entry.id)
    }
    for (const entry of this.#unsent) entry.place = again.push(entry)
    this.#sent = new LinkedList()
    this.#unsent = again
    this.#inFlight = 0
    this.#room.admit()
  }

  /** Opens the next stream after a while, or fails everything. */
  #recordLost(error: unknown, peer: string, final = false): void {
    this.#lost++
    const wrapped = isSpillwayError(error) ? error : this.#wrap(error, peer, true)
    if (final || !this.#isRetryable(wrapped) || this.#fruitless >= this.#retry.attempts) {
      this.#fruitless = 0
      this.#failAll(error, peer)
      return
    }
    const delayMs = Math.max(backoffMs(Math.max(1, this.#fruitless), this.#retry, this.random), retryAfterOf(wrapped))
    this.#cancelRetry = this.clock.setTimer(() => this.#connect(), delayMs)
    this.events.emit('lost', { error: wrapped, unacknowledged: this.#books.open.size, delayMs })
  }

  /** A predicate of the caller's that throws answers no. */
  #isRetryable(error: unknown): boolean {
    try {
      return this.#retry.retryable(error)
    } catch {
      return false
    }
  }

  #failAll(error: unknown, peer: string): void {
    const entries = [...this.#books.open]
    for (const entry of entries) {
      this.#settle(entry, 'failed')
      entry.reject(this.#wrap(error, peer, entry.writes > 0))
    }
    this.#recordFailed(entries, isSpillwayError(error) ? error : this.#wrap(error, peer, true))
  }

  #recordFailed(entries: readonly Entry<Item, Message, Ack>[], error: unknown): void {
    if (this.events.has('failed')) this.events.emit('failed', { items: entries.map(({ item }) => item), error })
  }

  /** An error of our own stays what it is; any other is wrapped once. */
  #wrap(error: unknown, address: string, sent: boolean): unknown {
    if (!isSpillwayError(error)) {
      return new GrpcCallError(error, { name: this.name, method: 'the stream', address, sent, stream: true })
    }
    if (!sent || error.outcomeUnknown) return error
    // It says why there is no other stream, not what became of the message on an earlier one.
    const { message, retryable, retryAfterMs } = error
    return new StoreError(`${this.name}: the stream was lost: ${message}`, {
      cause: error,
      retryable,
      outcomeUnknown: true,
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    })
  }

  // ── timers ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** An acknowledgement is due while anything is sent; each one starts the wait anew. */
  #watchAcks(anew: boolean): void {
    if (anew || this.#sent.empty) {
      this.#cancelAckTimer?.()
      this.#cancelAckTimer = undefined
    }
    if (this.#sent.empty || this.#cancelAckTimer !== undefined) return
    this.#cancelAckTimer = this.clock.setTimer(() => {
      this.#cancelAckTimer = undefined
      const stream = this.#stream
      if (stream === undefined) return
      const details = `no acknowledgement for ${this.#ackTimeoutMs} ms`
      this.#onEnd(stream, statusError(4, details))
      // As what it is, so that whoever keeps books on streams or instances doesn't take it for the caller's own wish.
      if (typeof stream.call?.cancelWithStatus === 'function') stream.call.cancelWithStatus(4, details)
      else stream.cancel()
    }, this.#ackTimeoutMs)
  }

  /** Nothing to do and nothing owed: the stream is ended after a while, for it keeps the process alive. */
  #watchIdle(): void {
    if (this.#stream === undefined || this.#byId.size > 0 || this.#cancelIdleTimer !== undefined || this.#closed) return
    this.#cancelAckTimer?.()
    this.#cancelAckTimer = undefined
    const onIdle = (): void => {
      this.#cancelIdleTimer = undefined
      if (this.#byId.size === 0) this.#end('idle')
    }
    this.#cancelIdleTimer = this.clock.setTimer(onIdle, this.#idleMs, { keepAlive: false })
  }

  /** Half-closes the stream; the server's end follows, or after `ackTimeoutMs` ours. */
  #end(reason: 'idle' | 'closed'): void {
    const stream = this.#stream
    if (stream === undefined) return
    this.#stopTimers()
    // On close the stream stays ours until it has ended; an idle one is left to end by itself.
    if (reason === 'idle') this.#stream = undefined
    stream.end()
    const cancelTimer = this.clock.setTimer(() => stream.cancel(), this.#ackTimeoutMs, { keepAlive: false })
    stream.on('status', cancelTimer)
    if (reason === 'closed') this.#cancelAckTimer = cancelTimer
    this.events.emit('ended', { reason })
  }

  #stopTimers(): void {
    this.#cancelAckTimer?.()
    this.#cancelIdleTimer?.()
    this.#cancelAckTimer = undefined
    this.#cancelIdleTimer = undefined
  }

  #closedError(): ClosedError {
    return new ClosedError(`${this.name} is closed`)
  }
}

/** An error as grpc-js would give it. */
function statusError(code: number, details: string): Error {
  return Object.assign(new Error(details), { code, details })
}

function endedEarly(): Error {
  return statusError(14, 'the server ended the stream before it had acknowledged everything')
}

function retryAfterOf(error: unknown): number {
  return (error as { retryAfterMs?: number } | undefined)?.retryAfterMs ?? 0
}
