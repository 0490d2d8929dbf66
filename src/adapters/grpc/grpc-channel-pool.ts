import type { ChannelOptions } from '@grpc/grpc-js'
import { ClosableComponent, type ComponentOptions, type FlushReport } from '../../core/component.js'
import { ClosedError, TimeoutError } from '../../core/errors.js'
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
import type { CallCounts, LatencySnapshot } from '../../core/stats.js'
import { onAbort } from '../../internal/abort.js'
import { CallBooks, type OpenEntry, type Outcome } from '../../internal/call-books.js'
import { handled, rejected } from '../../internal/deferred.js'
import { checkCallOptions, type GrpcCallOptions, type GrpcStreamOptions } from './call-options.js'
import { type GrpcKeepalive, type GrpcRetry, keepalivePresets, resolveChannelOptions } from './channel-options.js'
import type {
  BidiMethod,
  GrpcCall,
  GrpcChannelState,
  GrpcClient,
  GrpcDuplex,
  GrpcMetadata,
  RequestOf,
  ResponseOf,
  StreamOf,
  UnaryMethod,
} from './grpc-client.js'
import { GrpcCallError, isCancelledHere } from './grpc-error.js'
import { PoolChannel } from './pool-channel.js'

/** How many channels a pool has, when it grows. */
export interface ChannelGrowth {
  /** How many there are from the start, at least 1. The default is 1. */
  min?: number | undefined
  /** How many there are at the most, up to 20. The default is 20. */
  max?: number | undefined
  /**
   * A channel is added when the least busy one has this many calls in flight. The default is 100, what many servers allow:
   * beyond a server's SETTINGS_MAX_CONCURRENT_STREAMS, calls queue inside Node.
   */
  maxStreamsPerChannel?: number | undefined
}

/** Options of {@link GrpcChannelPool}. */
export interface GrpcChannelPoolOptions extends ComponentOptions {
  /**
   * How many channels there are, 1 to 20, each with a connection of its own; or how they grow under load. They never
   * become fewer: an idle channel gives its connection up after 30 minutes and costs nothing then.
   * @defaultValue 4
   */
  channels?: number | ChannelGrowth | undefined
  /**
   * When a channel pings its server, by the name of a preset or in full. `'aggressive'` (10 s, 3 s, without calls) needs a
   * server that allows it: others answer with GOAWAY (ENHANCE_YOUR_CALM). False sends no pings.
   * @defaultValue 'gentle'
   */
  keepalive?: 'gentle' | 'aggressive' | GrpcKeepalive | false | undefined
  /**
   * The most bytes of one message, sent or received; a larger one fails with RESOURCE_EXHAUSTED and isn't tried again.
   * @defaultValue 4_194_304
   */
  maxMessageBytes?: number | undefined
  /**
   * The deadline of a unary call that has none of its own, in milliseconds, at least 1.
   * @defaultValue 10_000
   */
  timeoutMs?: number | undefined
  /** How grpc-js tries calls again. The default is not at all, but for what provably never reached a server's code. */
  retry?: GrpcRetry | undefined
  /** More options of grpc-js for each channel; they win over those that the pool sets. */
  channelOptions?: ChannelOptions | undefined
}

/** Options of {@link GrpcChannelPool.warmUp}. */
export interface WarmUpOptions {
  /** How long it may take, in milliseconds. The default is 10 000. */
  deadlineMs?: number | undefined
  /** Stops waiting; the channels go on connecting. */
  signal?: AbortSignal | undefined
}

/** A channel lent out for calls that the pool doesn't make itself. */
export interface ChannelLease<Client> extends Disposable {
  /** The channel's client. */
  readonly client: Client
  /** The channel's number. */
  readonly channel: number
  /** Gives it back, and says how the call ended; only the first time counts. The default is `'success'`. */
  release(outcome?: 'success' | 'failure' | 'ignore'): void
  /** Gives it back as `'ignore'`, unless that was done. */
  [Symbol.dispose](): void
}

/** Events of {@link GrpcChannelPool}. */
export interface GrpcChannelPoolEvents {
  /** A channel's state changed. */
  stateChanged: {
    readonly channel: number
    readonly address: string
    readonly from: GrpcChannelState
    readonly to: GrpcChannelState
  }
  /** A channel was added because all others were busy. */
  added: { readonly channel: number; readonly address: string; readonly channels: number }
  /** A new channel took the place of one that was shut down or that `replace` named; the old one drains. */
  replaced: { readonly channel: number; readonly address: string; readonly reason: 'shutdown' | 'requested' }
  /** A replaced channel had its last call settled, and was closed. */
  drained: { readonly channel: number; readonly address: string }
  /** A call failed; its caller was told. */
  failed: {
    readonly method: string
    readonly channel: number
    readonly address: string
    readonly error: unknown
    readonly durationMs: number
  }
}

/** One channel in the stats of a {@link GrpcChannelPool}. */
export interface ChannelStats {
  /** Its number, from 0. */
  readonly channel: number
  /** Where it leads. */
  readonly address: string
  /** Its state. */
  readonly state: GrpcChannelState
  /** How many calls it has in flight. */
  readonly inFlight: number
  /** How many calls it was given in all. */
  readonly calls: number
}

/** Stats of {@link GrpcChannelPool}, in calls: `offered = succeeded + failed + rejected + aborted + pending`. */
export interface GrpcChannelPoolStats extends CallCounts {
  /** The pool's name. */
  readonly name: string
  /** Its channels. */
  readonly channels: readonly ChannelStats[]
  /** Replaced channels that still have calls in flight. */
  readonly draining: number
  /** How many channels were replaced. */
  readonly replaced: number
  /** From the call until it was answered or had failed, in milliseconds. */
  readonly latencyMs: LatencySnapshot
}

/** A call in flight. */
interface OpenCall<Client extends GrpcClient> extends OpenEntry {
  readonly channel: PoolChannel<Client>
  readonly method: string
  /** Gives it up at the deadline of `close`. */
  giveUp(error: ClosedError): void
}

type Growth = Required<{ [K in keyof ChannelGrowth]: number }>

/** The options of a pool, checked and with their defaults. */
interface ResolvedPoolOptions extends Growth {
  readonly timeoutMs: number
  readonly channelOptions: ChannelOptions
}

const maxChannels = 20
/** What a client of grpc-js has beside the service's methods. */
const ownMethods = {
  close: 1,
  getChannel: 1,
  waitForReady: 1,
  makeUnaryRequest: 1,
  makeClientStreamRequest: 1,
  makeServerStreamRequest: 1,
  makeBidiStreamRequest: 1,
}
/** What makeGenericClientConstructor says of a method; other generated clients say nothing. */
interface MethodKind {
  readonly requestStream?: boolean
  readonly responseStream?: boolean
}
const defaultWarmUpMs = 10_000
/**
 * Calls a gRPC service over several connections.
 *
 * grpc-js lets channels of equal arguments share one connection, and one connection is one TCP stream, one server process
 * behind a connection-level balancer, and at most as many concurrent calls as the server grants. The pool's channels have a
 * connection each; a call takes the least busy channel that isn't failing.
 *
 * @example
 * ```ts
 * import { GrpcChannelPool, type GrpcClient } from 'spillway/grpc'
 *
 * declare const makeClient: (channelOptions: object) => GrpcClient // new CounterClient(address, credentials, channelOptions)
 *
 * const pool = new GrpcChannelPool(makeClient, { channels: 4 })
 * await pool.warmUp({ deadlineMs: 5000 })
 * ```
 */
export class GrpcChannelPool<Client extends GrpcClient> extends ClosableComponent<
  GrpcChannelPoolEvents,
  GrpcChannelPoolStats
> {
  /** The options' defaults. */
  static readonly defaults = {
    channels: 4,
    keepalive: 'gentle',
    maxMessageBytes: 4_194_304,
    timeoutMs: 10_000,
  } as const

  /** The keepalives that have names. */
  static readonly keepalivePresets: Readonly<Record<'gentle' | 'aggressive', Readonly<GrpcKeepalive>>> =
    keepalivePresets

  readonly #makeClient: (channelOptions: ChannelOptions) => Client
  readonly #channelOptions: ChannelOptions
  readonly #timeoutMs: number
  readonly #max: number
  readonly #maxStreamsPerChannel: number
  readonly #channels: PoolChannel<Client>[] = []
  readonly #draining = new Set<PoolChannel<Client>>()
  readonly #books: CallBooks<OpenCall<Client>>
  /** Those who wait in `warmUp`. */
  readonly #warming = new Set<() => void>()
  #next = 0
  #replaced = 0
  #closed = false

  /**
   * @param makeClient - makes a client with the given channel options: `(options) => new CounterClient(address, credentials,
   * options)`. Called for each channel; the pool closes what it made.
   * @throws OptionError when an option is wrong, or when `makeClient` gives no client of its own each time.
   */
  constructor(makeClient: (channelOptions: ChannelOptions) => Client, options: GrpcChannelPoolOptions = {}) {
    super('grpc-channel-pool', options)
    this.#makeClient = checkFunction('makeClient', makeClient)
    const { min, max, maxStreamsPerChannel, timeoutMs, channelOptions } = resolvePoolOptions(options)
    this.#max = max
    this.#maxStreamsPerChannel = maxStreamsPerChannel
    this.#timeoutMs = timeoutMs
    this.#channelOptions = channelOptions
    this.#books = new CallBooks(this.clock)
    try {
      while (this.#channels.length < min) this.#channels.push(this.#makeChannel(this.#channels.length))
    } catch (error) {
      for (const channel of this.#channels) channel.close()
      throw error
    }
  }

  /**
   * Connects all channels.
   *
   * @returns once every one is ready. Rejects with a `TimeoutError` that names each channel which isn't, with its address and
   * state, with `ClosedError`, or with the signal's reason.
   */
  warmUp(options?: WarmUpOptions): Promise<void> {
    let deadlineMs: number
    let signal: AbortSignal | undefined
    try {
      checkOptions('options', options)
      deadlineMs = checkDuration('deadlineMs', valueOr(options?.deadlineMs, defaultWarmUpMs))
      signal = checkSignal(options?.signal)
    } catch (error) {
      return rejected(error)
    }
    if (this.#closed) return rejected(this.#closedError())
    if (signal?.aborted) return rejected(signal.reason)
    return handled(
      new Promise((resolve, reject) => {
        let stopListening: (() => void) | undefined
        const end = (): void => {
          cancelTimer()
          stopListening?.()
          this.#warming.delete(look)
        }
        const look = (): void => {
          const late = this.#closed ? [] : this.#channels.filter((channel) => channel.connect() !== 'ready')
          if (late.length > 0) return
          end()
          if (this.#closed) reject(this.#closedError())
          else resolve()
        }
        const cancelTimer = this.clock.setTimer(() => {
          end()
          reject(this.#notReadyError(deadlineMs))
        }, deadlineMs)
        if (signal !== undefined) {
          stopListening = onAbort(signal, () => {
            end()
            reject(signal.reason)
          })
        }
        this.#warming.add(look)
        look()
      }),
    )
  }

  /**
   * Makes a unary call on the least busy channel.
   *
   * @param method - the name of a unary method of the client.
   * @returns the response. Rejects with `GrpcCallError`, `ClosedError`, `OptionError`, or with the signal's reason. A
   * rejection that nobody looks at is no `unhandledRejection`; it is in the stats and events.
   */
  call<Method extends UnaryMethod<Client>>(
    method: Method,
    request: RequestOf<Client, Method>,
    options?: GrpcCallOptions,
  ): Promise<ResponseOf<Client, Method>> {
    try {
      const channel = this.#admit(method, options, false)
      const deadline = deadlineIn(valueOr(options?.timeoutMs, this.#timeoutMs))
      return handled(this.#callOn(channel, method, request, deadline, options))
    } catch (error) {
      this.#books.reject()
      return rejected(error)
    }
  }

  /**
   * Opens a bidirectional stream on the least busy channel, where it counts as a call in flight until it ends. Its errors
   * are events of the stream and of the pool; no listener is needed to survive them.
   *
   * @param method - the name of a bidirectional method of the client.
   * @throws ClosedError, OptionError, or the signal's reason.
   */
  openStream<Method extends BidiMethod<Client>>(method: Method, options?: GrpcStreamOptions): StreamOf<Client, Method> {
    let channel: PoolChannel<Client>
    let stream: GrpcDuplex<never, unknown>
    try {
      channel = this.#admit(method, options, true)
      const callOptions = options?.timeoutMs === undefined ? {} : { deadline: deadlineIn(options.timeoutMs) }
      const parameters = options?.metadata === undefined ? [callOptions] : [options.metadata, callOptions]
      stream = methodOf(channel.client, method)(...parameters) as GrpcDuplex<never, unknown>
    } catch (error) {
      this.#books.reject()
      throw error
    }
    const signal = options?.signal
    const open = this.#open(channel, method, () => stream.cancel())
    let stopListening: (() => void) | undefined
    let failure: unknown
    stream.on('error', (error) => {
      failure = error
    })
    stream.on('status', ({ code, details }) => {
      stopListening?.()
      const cancelled = isCancelledHere(code, details)
      const settled = this.#settle(open, code === 0 ? 'succeeded' : cancelled ? 'aborted' : 'failed')
      if (settled && code !== 0 && !cancelled) this.#recordFailed(open, this.#callError(open, stream, failure, true))
    })
    if (signal !== undefined) {
      stopListening = onAbort(signal, () => {
        this.#settle(open, 'aborted')
        stream.cancel()
      })
    }
    return stream as unknown as StreamOf<Client, Method>
  }

  /**
   * Lends the least busy channel for a call of any other kind; it counts as in flight until it is given back.
   *
   * @param options - `cancel` is called when the deadline of `close` passes first.
   * @throws ClosedError or OptionError.
   */
  lease(options?: { cancel?: (() => void) | undefined }): ChannelLease<Client> {
    let channel: PoolChannel<Client>
    let cancel: (() => void) | undefined
    try {
      checkOptions('options', options)
      cancel = checkOptionalFunction('cancel', options?.cancel)
      if (this.#closed) throw this.#closedError()
      channel = this.#pick()
    } catch (error) {
      this.#books.reject()
      throw error
    }
    const open = this.#open(channel, 'lease', () => handled(Promise.resolve(cancel?.())))
    const outcomes = { success: 'succeeded', failure: 'failed', ignore: 'aborted' } as const
    const release = (outcome: keyof typeof outcomes): void => void this.#settle(open, outcomes[outcome])
    return {
      client: channel.client,
      channel: channel.index,
      release: (outcome = 'success') => {
        if (!Object.hasOwn(outcomes, outcome))
          failOption('outcome', "must be 'success', 'failure' or 'ignore'", outcome)
        release(outcome)
      },
      [Symbol.dispose]: () => release('ignore'),
    }
  }

  /** Whether all of its channels have failed to connect and wait for their next try: a call would fail at once. */
  get failing(): boolean {
    return this.#channels.every((channel) => channel.state() === 'transient-failure')
  }

  /**
   * Puts a new channel in the place of one, for instance to take up new credentials; the old one takes no more calls.
   *
   * @param channel - its number.
   * @returns once the old one has settled its calls and is closed. Rejects with `OptionError`, `ClosedError`, or with what
   * `makeClient` threw.
   */
  replace(channel: number): Promise<void> {
    try {
      checkCount('channel', channel, 0, this.#channels.length - 1)
      if (this.#closed) throw this.#closedError()
      return this.#replace(this.#channels[channel] as PoolChannel<Client>, 'requested')
    } catch (error) {
      return rejected(error)
    }
  }

  /** Settles all calls that are in flight now. Never rejects. */
  override flush(): Promise<FlushReport> {
    return this.#books.flush()
  }

  override stats(): GrpcChannelPoolStats {
    return {
      name: this.name,
      ...this.#books.counts(),
      channels: this.#channels.map((channel) => channel.stats()),
      draining: this.#draining.size,
      replaced: this.#replaced,
      latencyMs: this.#books.latencyMs(),
    }
  }

  protected override drain(): Promise<void> {
    this.#closed = true
    for (const look of this.#warming) look()
    return this.#books.empty()
  }

  protected override abandon(): number {
    const left = [...this.#books.open]
    for (const open of left) {
      const message = `${this.name}: closed before ${open.method} to ${open.channel.address} was answered`
      this.#settle(open, 'failed')
      try {
        open.giveUp(new ClosedError(message, { outcomeUnknown: true }))
      } catch {
        // A callback of the caller's that throws must not keep the others from being given up.
      }
    }
    return left.length
  }

  protected override release(): void {
    for (const channel of [...this.#channels, ...this.#draining]) channel.close()
    this.#draining.clear()
  }

  /** The channel for a new call. Throws what the caller is to be told. */
  #admit(method: string, options: GrpcCallOptions | undefined, streams: boolean): PoolChannel<Client> {
    const signal = checkCallOptions(options)
    if (this.#closed) throw this.#closedError()
    if (signal?.aborted) throw signal.reason
    const channel = this.#pick()
    if (method in Object.prototype || method in ownMethods)
      failOption('method', 'must be a method of the service', method)
    const { requestStream, responseStream } = ((channel.client as Record<string, unknown>)[method] ?? {}) as MethodKind
    if ((requestStream ?? streams) !== streams || (responseStream ?? streams) !== streams) {
      failOption('method', `must be a ${streams ? 'bidirectional' : 'unary'} method`, method)
    }
    if (typeof (channel.client as Record<string, unknown>)[method] !== 'function') {
      failOption('method', 'must be the name of a method of the client', method)
    }
    return channel
  }

  #callOn<Method extends UnaryMethod<Client>>(
    channel: PoolChannel<Client>,
    method: Method,
    request: RequestOf<Client, Method>,
    deadline: number,
    options: GrpcCallOptions | undefined,
  ): Promise<ResponseOf<Client, Method>> {
    return new Promise((resolve, reject) => {
      const signal = options?.signal
      let call: GrpcCall | undefined
      let stopListening: (() => void) | undefined
      const open = this.#open(channel, method, (error) => {
        stopListening?.()
        reject(error)
        call?.cancel()
      })
      const answer = (error: unknown, response?: unknown): void => {
        const failed = error !== null && error !== undefined
        if (!this.#settle(open, failed ? 'failed' : 'succeeded')) return
        stopListening?.()
        if (!failed) {
          resolve(response as ResponseOf<Client, Method>)
          return
        }
        const wrapped = this.#callError(open, call, error)
        reject(wrapped)
        this.#recordFailed(open, wrapped)
      }
      try {
        const parameters = options?.metadata === undefined ? [{ deadline }] : [options.metadata, { deadline }]
        call = methodOf(channel.client, method)(request, ...parameters, answer) as GrpcCall
      } catch (error) {
        answer(error)
        return
      }
      if (signal === undefined || !this.#books.open.has(open)) return
      stopListening = onAbort(signal, () => {
        if (!this.#settle(open, 'aborted')) return
        reject(signal.reason)
        call?.cancel()
      })
    })
  }

  #open(channel: PoolChannel<Client>, method: string, giveUp: (error: ClosedError) => void): OpenCall<Client> {
    const open: OpenCall<Client> = { at: this.clock.now(), channel, method, giveUp }
    this.#books.accept(open)
    channel.inFlight++
    channel.calls++
    return open
  }

  /** Settles a call once, and closes its channel where that had only waited for it. */
  #settle(open: OpenCall<Client>, outcome: Outcome): boolean {
    const { channel } = open
    if (!this.#books.open.has(open)) return false
    channel.inFlight--
    this.#books.settle(open, outcome)
    if (channel.inFlight === 0 && this.#draining.has(channel)) this.#finishDraining(channel)
    return true
  }

  #recordFailed(open: OpenCall<Client>, error: unknown): void {
    if (!this.events.has('failed')) return
    const { method, channel, at } = open
    const durationMs = this.clock.now() - at
    this.events.emit('failed', { method, channel: channel.index, address: channel.address, error, durationMs })
  }

  /**
   * The least busy channel; of equals, the next in turn. One that is failing answers at once and so would always be the
   * least busy: it is taken only when all are failing. Where all are full, another one is made.
   */
  #pick(): PoolChannel<Client> {
    const channels = this.#channels
    let best: PoolChannel<Client> | undefined
    let bestFails = true
    for (let step = 0; step < channels.length; step++) {
      const at = (this.#next + step) % channels.length
      let channel = channels[at] as PoolChannel<Client>
      if (channel.state() === 'shutdown') {
        void this.#replace(channel, 'shutdown')
        channel = channels[at] as PoolChannel<Client>
      }
      const fails = channel.state() === 'transient-failure'
      if (best !== undefined && (fails !== bestFails ? fails : channel.inFlight >= best.inFlight)) continue
      best = channel
      bestFails = fails
    }
    if (best === undefined || (best.inFlight >= this.#maxStreamsPerChannel && channels.length < this.#max)) {
      best = this.#grow()
    }
    this.#next = (best.index + 1) % channels.length
    return best
  }

  #grow(): PoolChannel<Client> {
    const channel = this.#makeChannel(this.#channels.length)
    this.#channels.push(channel)
    const { index, address } = channel
    this.events.emit('added', { channel: index, address, channels: this.#channels.length })
    return channel
  }

  #replace(old: PoolChannel<Client>, reason: 'shutdown' | 'requested'): Promise<void> {
    const { index } = old
    const channel = this.#makeChannel(index)
    this.#channels[index] = channel
    this.#replaced++
    this.#draining.add(old)
    this.events.emit('replaced', { channel: index, address: channel.address, reason })
    if (old.inFlight === 0) this.#finishDraining(old)
    for (const look of this.#warming) look()
    return old.closed
  }

  #finishDraining(channel: PoolChannel<Client>): void {
    this.#draining.delete(channel)
    channel.close()
    this.events.emit('drained', { channel: channel.index, address: channel.address })
  }

  #makeChannel(index: number): PoolChannel<Client> {
    const client = this.#makeClient({ ...this.#channelOptions })
    if (typeof client?.close !== 'function' || typeof client.getChannel !== 'function') {
      failOption('makeClient', 'must make a client of @grpc/grpc-js', client)
    }
    if ([...this.#channels, ...this.#draining].some((other) => other.client.getChannel() === client.getChannel())) {
      failOption('makeClient', 'must make a client with a channel of its own each time', client)
    }
    return new PoolChannel(index, client, ({ address }, from, to) => {
      for (const look of this.#warming) look()
      if (this.events.has('stateChanged')) this.events.emit('stateChanged', { channel: index, address, from, to })
    })
  }

  #callError(open: OpenCall<Client>, call: GrpcCall | undefined, error: unknown, stream = false): GrpcCallError {
    const { method, channel } = open
    // Until an attempt has a connection, its peer is the channel's target; one that was made before counts as sent.
    const earlier = (error as { metadata?: GrpcMetadata } | null)?.metadata?.get?.('grpc-previous-rpc-attempts') ?? []
    // At a deadline the metadata doesn't tell of earlier attempts, but grpc-js's words do.
    const retried = /previous attempts: \d/.test(String((error as { details?: unknown } | null)?.details))
    const sent =
      call !== undefined &&
      (earlier.length > 0 || retried || call.getPeer() !== channel.client.getChannel().getTarget())
    return new GrpcCallError(error, { name: this.name, method, address: channel.address, sent, stream })
  }

  #closedError(): ClosedError {
    return new ClosedError(`${this.name} is closed`)
  }

  #notReadyError(deadlineMs: number): TimeoutError {
    const late = this.#channels
      .filter((channel) => channel.state() !== 'ready')
      .map((channel) => `channel ${channel.index} to ${channel.address} is ${channel.state()}`)
    const message = `${this.name} isn't ready after ${deadlineMs} ms: ${late.join(', ')}`
    return new TimeoutError(message, deadlineMs, { outcomeUnknown: false })
  }
}

/** grpc-js takes deadlines as wall time and measures them with Date.now, whatever clock the pool has. */
function deadlineIn(timeoutMs: number): number {
  return Date.now() + timeoutMs
}

function methodOf(client: GrpcClient, method: string): (...parameters: unknown[]) => unknown {
  const found = (client as unknown as Record<string, (...parameters: unknown[]) => unknown>)[method]
  return (...parameters) => found?.apply(client, parameters)
}

/** What a pool is made with: checks all of its options but those that every component has. @throws OptionError */
export function resolvePoolOptions(options: GrpcChannelPoolOptions): ResolvedPoolOptions {
  const { defaults } = GrpcChannelPool
  return {
    ...resolveGrowth(valueOr(options.channels, defaults.channels)),
    timeoutMs: checkDuration('timeoutMs', valueOr(options.timeoutMs, defaults.timeoutMs), 1),
    channelOptions: resolveChannelOptions({
      keepalive: valueOr(options.keepalive, defaults.keepalive),
      maxMessageBytes: valueOr(options.maxMessageBytes, defaults.maxMessageBytes),
      retry: options.retry,
      channelOptions: options.channelOptions,
    }),
  }
}

function resolveGrowth(channels: number | ChannelGrowth): Growth {
  if (typeof channels !== 'object') {
    const count = checkCount('channels', channels, 1, maxChannels)
    return { min: count, max: count, maxStreamsPerChannel: Number.POSITIVE_INFINITY }
  }
  checkOptions('channels', channels)
  const max = checkCount('channels.max', valueOr(channels.max, maxChannels), 1, maxChannels)
  return {
    max,
    min: checkCount('channels.min', valueOr(channels.min, 1), 1, max),
    maxStreamsPerChannel: checkCount('channels.maxStreamsPerChannel', valueOr(channels.maxStreamsPerChannel, 100)),
  }
}
