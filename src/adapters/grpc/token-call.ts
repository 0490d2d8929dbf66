import { systemClock } from '../../core/clock.js'
import { TokenError } from '../../core/errors.js'
import { orAbort } from '../../internal/abort.js'
import { attempt } from '../../internal/tasks.js'
import type { GrpcMetadata } from './grpc-client.js'

/** What is set on metadata of @grpc/grpc-js. */
export interface GrpcCallMetadata extends GrpcMetadata {
  /** A copy. */
  clone(): GrpcCallMetadata
  /** Sets a key to one value. */
  set(key: string, value: string): void
}

/** The end of a call, as @grpc/grpc-js tells it. */
export interface GrpcCallStatus {
  readonly code: number
  readonly details: string
  readonly metadata: GrpcMetadata
}

/** Who hears what becomes of a call. */
export interface GrpcCallListener {
  onReceiveMetadata(metadata: GrpcMetadata): void
  onReceiveMessage(message: unknown): void
  onReceiveStatus(status: GrpcCallStatus): void
}

/** A call as interceptors of @grpc/grpc-js hand it on. */
export interface GrpcInterceptedCall {
  cancelWithStatus(status: number, details: string): void
  getPeer(): string
  start(metadata: GrpcCallMetadata, listener?: Partial<GrpcCallListener>): void
  sendMessageWithContext(context: object, message: unknown): void
  sendMessage(message: unknown): void
  startRead(): void
  halfClose(): void
  getAuthContext(): unknown
}

/** The call of a server that a call is part of. */
export interface GrpcParentCall {
  /** Whether its client has given it up. */
  readonly cancelled: boolean
  /** When it ends at the latest. */
  getDeadline(): number | Date
  /** Adds a listener. */
  on(event: 'cancelled', listener: () => void): unknown
  /** Takes a listener off. */
  removeListener(event: 'cancelled', listener: () => void): unknown
}

/** What an interceptor is told of a call. */
export interface GrpcInterceptedOptions {
  /** When it ends at the latest. */
  readonly deadline?: number | Date | undefined
  /** The call of a server that it is part of. */
  readonly parent?: GrpcParentCall | undefined
  /** What it takes from its parent, as `propagate` of @grpc/grpc-js has it. The default is everything. */
  readonly propagate_flags?: number | undefined
  /** What is called. */
  readonly method_definition: {
    /** Its name on the wire, for instance `/counter.v1.Counter/Increment`. */
    readonly path: string
    /** Whether it takes a stream. */
    readonly requestStream: boolean
    /** Whether it answers with a stream. */
    readonly responseStream: boolean
  }
}

/** What a call needs to carry a token. */
export interface TokenCallPlan {
  readonly options: GrpcInterceptedOptions
  /** Makes the call that carries it. */
  readonly next: () => GrpcInterceptedCall
  readonly newMetadata: () => GrpcMetadata
  readonly header: string
  readonly prefix: string
  readonly getToken: (signal: AbortSignal) => string | PromiseLike<string>
  readonly invalidate: (token: string) => void | PromiseLike<void>
}

const cancelled = 1
const deadlineExceeded = 4
const unavailable = 14
const unauthenticated = 16

/** Of @grpc/grpc-js' `propagate`. */
const propagatesDeadline = 1
const propagatesCancellation = 8
const propagatesAll = 0xffff

/** What has been sent of a call, so that it can be sent on once there is a token, and a unary one again with another. */
class Outgoing {
  readonly messages: { readonly context: object; readonly message: unknown }[] = []
  reads = 0
  halfClosed = false

  sendTo(call: GrpcInterceptedCall): void {
    for (const { context, message } of this.messages) call.sendMessageWithContext(context, message)
    for (let read = 0; read < this.reads; read++) call.startRead()
    if (this.halfClosed) call.halfClose()
  }
}

/**
 * A call that gets its token before it is sent.
 *
 * ```text
 *   start ── token ── call ── status ──▶ listener
 *              ▲                │ UNAUTHENTICATED, unary, the first time
 *              └── invalidate ──┘
 * ```
 *
 * The call beneath is made only when there is a token: one that is made and not started loses what becomes of it.
 */
export class TokenCall implements GrpcInterceptedCall {
  readonly #plan: TokenCallPlan
  readonly #unary: boolean
  readonly #outgoing = new Outgoing()
  #metadata: GrpcCallMetadata | undefined
  #listener: Partial<GrpcCallListener> = {}
  #call: GrpcInterceptedCall | undefined
  /** The wait for a token, while there is one. */
  #wait: AbortController | undefined
  #ended = false

  constructor(plan: TokenCallPlan) {
    this.#plan = plan
    const { requestStream, responseStream } = plan.options.method_definition
    this.#unary = !requestStream && !responseStream
  }

  start(metadata: GrpcCallMetadata, listener: Partial<GrpcCallListener> = {}): void {
    this.#metadata = metadata
    this.#listener = listener
    // A token of the caller's own wins.
    if (metadata.get(this.#plan.header).length > 0) this.#send(metadata, listener)
    else void this.#begin()
  }

  sendMessageWithContext(context: object, message: unknown): void {
    if (this.#call === undefined || this.#unary) this.#outgoing.messages.push({ context, message })
    this.#call?.sendMessageWithContext(context, message)
  }

  sendMessage(message: unknown): void {
    this.sendMessageWithContext({}, message)
  }

  startRead(): void {
    if (this.#call === undefined || this.#unary) this.#outgoing.reads++
    this.#call?.startRead()
  }

  halfClose(): void {
    this.#outgoing.halfClosed = true
    this.#call?.halfClose()
  }

  cancelWithStatus(status: number, details: string): void {
    if (this.#call !== undefined) this.#call.cancelWithStatus(status, details)
    else this.#end(status, details)
  }

  /** Before there is a call, what one would say that has no connection yet: the channel's target. */
  getPeer(): string {
    if (this.#call !== undefined) return this.#call.getPeer()
    try {
      const call = this.#plan.next()
      const peer = call.getPeer()
      call.cancelWithStatus(cancelled, 'It was never to be sent')
      return peer
    } catch {
      return 'unknown'
    }
  }

  getAuthContext(): unknown {
    return this.#call?.getAuthContext() ?? null
  }

  /** Sends the call with a token, and once more with another where the server refused that one. */
  async #begin(): Promise<void> {
    const token = await this.#token()
    if (token === undefined) return
    this.#sendWith(token, {
      ...this.#plainListener(),
      ...(this.#unary ? this.#heldListener(token) : { onReceiveStatus: (status) => this.#note(status, token) }),
    })
  }

  /** A token; undefined when there is none, of which the listener has been told. */
  async #token(): Promise<string | undefined> {
    try {
      return await this.#waitFor((signal) => this.#plan.getToken(signal))
    } catch (error) {
      const { path } = this.#plan.options.method_definition
      // Neither with its message, which may quote what the token source was sent, nor as if the server had said it.
      this.#end(statusWithoutToken(error), `No token for ${path}`, error)
      return undefined
    }
  }

  /** Waits for a token source, but not beyond the deadline or a cancellation, which tell the listener themselves. */
  async #waitFor(ask: (signal: AbortSignal) => unknown): Promise<string> {
    const wait = new AbortController()
    this.#wait = wait
    const stopWatching = this.#watch()
    try {
      wait.signal.throwIfAborted()
      return checkToken(await orAbort(Promise.resolve(ask(wait.signal)), wait.signal))
    } finally {
      stopWatching()
      this.#wait = undefined
    }
  }

  /** Ends the call when its time is up, or that of what it is part of; returns what stops that. */
  #watch(): () => void {
    const { deadline, parent, propagate_flags: flags = propagatesAll } = this.#plan.options
    const inherited = (flags & propagatesDeadline) === 0 ? undefined : parent?.getDeadline()
    const endsAt = Math.min(...[deadline, inherited].map((time) => Number(time ?? Number.POSITIVE_INFINITY)))
    const expire = (): void => this.#end(deadlineExceeded, 'Deadline exceeded while waiting for a token')
    const cancelTimer =
      endsAt < Number.POSITIVE_INFINITY ? systemClock.setTimer(expire, endsAt - Date.now()) : undefined
    const cancel = (): void => this.#end(cancelled, 'Cancelled by parent call')
    const cancelling = (flags & propagatesCancellation) === 0 ? undefined : parent
    cancelling?.on('cancelled', cancel)
    if (cancelling?.cancelled) cancel()
    return () => {
      cancelTimer?.()
      cancelling?.removeListener('cancelled', cancel)
    }
  }

  /** Keeps what comes until the status says whether it counts. */
  #heldListener(token: string): GrpcCallListener {
    const held: (() => void)[] = []
    const plain = this.#plainListener()
    const flush = (status: GrpcCallStatus): void => {
      for (const deliver of held) deliver()
      plain.onReceiveStatus(status)
    }
    return {
      onReceiveMetadata: (metadata) => void held.push(() => plain.onReceiveMetadata(metadata)),
      onReceiveMessage: (message) => void held.push(() => plain.onReceiveMessage(message)),
      onReceiveStatus: (status) => {
        if (status.code !== unauthenticated) flush(status)
        else void this.#again(token, () => flush(status))
      },
    }
  }

  /** What a server refused is sent once more with another token; where there is none, the server's word stands. */
  async #again(refused: string, giveUp: () => void): Promise<void> {
    // Whoever cancels from now on cancels the wait.
    this.#call = undefined
    let next: string | undefined
    try {
      next = await this.#waitFor(async (signal) => {
        await this.#plan.invalidate(refused)
        return this.#plan.getToken(signal)
      })
    } catch {
      // There is none.
    }
    if (this.#ended) return
    if (next !== undefined && next !== refused) {
      this.#sendWith(next, this.#plainListener())
      return
    }
    // Nothing else may end it until then.
    this.#ended = true
    // Not within this function: what a listener throws is no rejection of ours.
    queueMicrotask(giveUp)
  }

  /** The end of a stream: it can't be sent again, but its token needn't be used for another one. */
  #note(status: GrpcCallStatus, token: string): void {
    if (status.code === unauthenticated) attempt(() => this.#plan.invalidate(token)).catch(() => undefined)
    this.#listener.onReceiveStatus?.(status)
  }

  #plainListener(): GrpcCallListener {
    const listener = this.#listener
    return {
      onReceiveMetadata: (metadata) => listener.onReceiveMetadata?.(metadata),
      onReceiveMessage: (message) => listener.onReceiveMessage?.(message),
      onReceiveStatus: (status) => listener.onReceiveStatus?.(status),
    }
  }

  #sendWith(token: string, listener: GrpcCallListener): void {
    if (this.#ended) return
    const { header, prefix } = this.#plan
    const metadata = (this.#metadata as GrpcCallMetadata).clone()
    metadata.set(header, prefix + token)
    this.#send(metadata, listener)
  }

  #send(metadata: GrpcCallMetadata, listener: Partial<GrpcCallListener>): void {
    try {
      const call = this.#plan.next()
      this.#call = call
      call.start(metadata, listener)
      this.#outgoing.sendTo(call)
      if (!this.#unary) this.#outgoing.messages.length = 0
    } catch (error) {
      // The channel was closed meanwhile.
      this.#end(unavailable, (error as Error).message, error)
    }
  }

  /** Ends a call that was not sent. */
  #end(code: number, details: string, cause?: unknown): void {
    if (this.#ended) return
    this.#ended = true
    this.#wait?.abort(new Error(details))
    const status = { code, details, metadata: this.#plan.newMetadata(), ...(cause === undefined ? {} : { cause }) }
    // Never within the call that brought it about: a caller that starts a call has its handle before it hears of its end.
    queueMicrotask(() => this.#listener.onReceiveStatus?.(status))
  }
}

/**
 * A token that metadata can carry. @grpc/grpc-js would throw at others, with an error that quotes them.
 *
 * @throws TypeError without a token; TokenError, which doesn't hold it, where metadata can't carry it.
 */
export function checkToken(token: unknown): string {
  if (typeof token !== 'string' || token === '') throw new TypeError('the token source gave no token')
  if (!/^[\x20-\x7e]*$/.test(token)) {
    throw new TokenError('token', 'the token must be printable ASCII without a line break')
  }
  return token
}

/** The status of a call for which there is no token: UNAUTHENTICATED where trying again is no use, else UNAVAILABLE. */
export function statusWithoutToken(error: unknown): 14 | 16 {
  return (error as { retryable?: unknown } | null | undefined)?.retryable === false ? unauthenticated : unavailable
}
