import type { ChannelOptions } from '@grpc/grpc-js'
import { ClosableComponent, type FlushReport } from '../../core/component.js'
import { ClosedError, isSpillwayError } from '../../core/errors.js'
import {
  checkBoolean,
  checkCount,
  checkDuration,
  checkFunction,
  checkOptionalFunction,
  checkOptions,
  failOption,
  valueOr,
} from '../../core/options.js'
import type { CallCounts, LatencySnapshot } from '../../core/stats.js'
import { onAbort } from '../../internal/abort.js'
import { CallBooks, type Outcome } from '../../internal/call-books.js'
import { handled, rejected } from '../../internal/deferred.js'
import { BalancedCall, type OpenUse } from './balanced-call.js'
import { checkCallOptions, type GrpcCallOptions } from './call-options.js'
import { classifyStatus } from './classify-grpc-error.js'
import type { GrpcBalancer, GrpcBalancerLease } from './grpc-balancer.js'
import {
  type ChannelLease,
  GrpcChannelPool,
  type GrpcChannelPoolOptions,
  type GrpcChannelPoolStats,
  resolvePoolOptions,
} from './grpc-channel-pool.js'
import type { BidiMethod, GrpcClient, GrpcDuplex, RequestOf, ResponseOf, StreamOf, UnaryMethod } from './grpc-client.js'
import { GrpcCallError, isCancelledHere } from './grpc-error.js'
import { addressFieldsOf, checkAddress, type InstancePool, InstancePools, type RetireReason } from './instance-pools.js'
import { type InstancesWarmUpOptions, resolveWarmUp, warmUpInstances } from './instances-warm-up.js'

/** Options of {@link GrpcBalancedPool}: those of each instance's {@link GrpcChannelPool}, and some of its own. */
export interface GrpcBalancedPoolOptions<Instance> extends Omit<GrpcChannelPoolOptions, 'channels'> {
  /**
   * How many channels each instance has, 1 to 20, or how they grow under load. One is enough for most: the calls are spread
   * over the instances already.
   * @defaultValue { min: 1, max: 20, maxStreamsPerChannel: 100 }
   */
  channels?: GrpcChannelPoolOptions['channels']
  /**
   * Where an instance is. When that changes under an id, the old pool drains and a new one is made. The default is the first
   * that the instance has of `url`, `address`, `host` and `id`, with its `port` where it has one.
   */
  addressOf?: ((instance: Instance) => string) | undefined
  /**
   * How long an instance that left the list, or moved, may go on with the calls that it has, in milliseconds; what is left
   * then is cancelled. An `AckedStream` opens its next stream elsewhere.
   * @defaultValue 30_000
   */
  drainTimeoutMs?: number | undefined
}

/** What chooses the instance for a call, a stream or a lease. */
export interface GrpcBalancedPick {
  /** What the balancer's `consistent_hash` goes by. */
  key?: string | undefined
}

/** Options of {@link GrpcBalancedPool.call}; `timeoutMs` is the deadline of each attempt. */
export interface GrpcBalancedCallOptions extends GrpcCallOptions, GrpcBalancedPick {
  /** How many attempts there are in all, each on another instance while there is one; at least 1. The default is 1. */
  attempts?: number | undefined
  /**
   * Whether the call may be made twice. Otherwise only what is known not to have been done is tried again. The default is false.
   */
  idempotent?: boolean | undefined
  /** Which errors are tried again, within what `idempotent` allows. The default is all but those that say `retryable: false`. */
  retryable?: ((error: unknown) => boolean) | undefined
}

/** Options of {@link GrpcBalancedPool.openStream}: without a deadline unless one is given. */
export interface GrpcBalancedStreamOptions extends GrpcCallOptions, GrpcBalancedPick {}

/** Options of {@link GrpcBalancedPool.lease}. */
export interface GrpcBalancedLeaseOptions extends GrpcBalancedPick {
  /** Called when the deadline of `close`, or of a drain, passes first. */
  cancel?: (() => void) | undefined
}

/** A channel of an instance, lent out for calls that the pool doesn't make itself. */
export interface GrpcBalancedLease<Instance, Client> extends ChannelLease<Client> {
  /** The instance. */
  readonly instance: Instance
}

/** Events of {@link GrpcBalancedPool}. */
export interface GrpcBalancedPoolEvents<Instance> {
  /** An instance was used for the first time, and got a pool. */
  opened: { readonly instance: Instance; readonly address: string }
  /** An instance left the list, or its id leads to another address; its pool drains. */
  retired: { readonly instance: Instance; readonly address: string; readonly reason: RetireReason }
  /** A pool that had been retired is closed; `abandoned` calls were cancelled at `drainTimeoutMs`. */
  closed: { readonly instance: Instance; readonly address: string; readonly abandoned: number }
  /** A call or a stream failed; its caller was told. The instance is that of the last attempt. */
  failed: {
    readonly method: string
    readonly instance: Instance
    readonly attempts: number
    readonly error: unknown
    readonly durationMs: number
  }
}

/** One instance's pool in the stats of a {@link GrpcBalancedPool}. */
export interface InstancePoolStats extends GrpcChannelPoolStats {
  /** The instance's id. */
  readonly instance: string
  /** Where it is. */
  readonly address: string
  /** Whether it takes calls, or only settles those that it has. */
  readonly state: 'open' | 'draining'
}

/**
 * Stats of {@link GrpcBalancedPool}, in calls, streams and leases, however many attempts they took: `offered = succeeded +
 * failed + rejected + aborted + pending`.
 */
export interface GrpcBalancedPoolStats extends CallCounts {
  /** Its name. */
  readonly name: string
  /** Attempts at instances, first ones included. */
  readonly attempts: number
  /** The pools, by instance. An instance that was never used has none. */
  readonly instances: readonly InstancePoolStats[]
  /** Pools of instances that left or moved and still have calls in flight. */
  readonly draining: number
  /** From the call until it was answered or had failed for good, in milliseconds. */
  readonly latencyMs: LatencySnapshot
}

/**
 * Calls a gRPC service that runs on many instances, over a pool of channels for each.
 *
 * The balancer chooses: its algorithm, health checks and circuit breakers decide which instance a call goes to, and its retry
 * budget how many calls are tried again. This class keeps the connections: an instance's pool is made at its first use, and
 * closed when the instance has left the list and its calls are settled.
 *
 * @example
 * ```ts
 * import { GrpcBalancedPool, type GrpcBalancer, type GrpcClient } from 'spillway/grpc'
 *
 * type Instance = { id: string; address: string }
 * declare const balancer: GrpcBalancer<Instance> // new LoadBalancer(…, { ejection: { classifyError: classifyGrpcError } })
 * declare const makeClient: (address: string, channelOptions: object) => GrpcClient // new CounterClient(…)
 *
 * const pool = new GrpcBalancedPool(balancer, ({ address }, channelOptions) => makeClient(address, channelOptions))
 * await pool.warmUp({ deadlineMs: 5000 })
 * ```
 */
export class GrpcBalancedPool<
  Instance extends { readonly id: string },
  Client extends GrpcClient,
> extends ClosableComponent<GrpcBalancedPoolEvents<Instance>, GrpcBalancedPoolStats> {
  /** The options' defaults. */
  static readonly defaults = {
    channels: { min: 1, max: 20, maxStreamsPerChannel: 100 },
    drainTimeoutMs: 30_000,
  } as const

  readonly #balancer: GrpcBalancer<Instance>
  readonly #pools: InstancePools<Instance, Client>
  readonly #books: CallBooks<OpenUse<Instance>>
  readonly #stopWatching: () => void
  #attempts = 0
  /** Ends what waits for `close`: warm-ups. */
  readonly #closing = new AbortController()

  /**
   * @param balancer - a `LoadBalancer`, which stays the caller's: it isn't closed. Give its `ejection` `classifyError:
   * classifyGrpcError`, so that a caller's own mistakes count against no instance.
   * @param makeClient - makes a client for an instance: `({ address }, options) => new CounterClient(address, credentials,
   * options)`. Called for each channel; the pool closes what it made.
   * @throws OptionError when an option is wrong.
   */
  constructor(
    balancer: GrpcBalancer<Instance>,
    makeClient: (instance: Instance, channelOptions: ChannelOptions) => Client,
    options: GrpcBalancedPoolOptions<Instance> = {},
  ) {
    super('grpc-balanced-pool', options)
    this.#balancer = checkBalancer(balancer)
    checkFunction('makeClient', makeClient)
    const { defaults } = GrpcBalancedPool
    const addressOf = checkOptionalFunction('addressOf', options.addressOf) ?? addressFieldsOf
    const drainTimeoutMs = checkDuration('drainTimeoutMs', valueOr(options.drainTimeoutMs, defaults.drainTimeoutMs))
    const poolOptions: GrpcChannelPoolOptions = { ...options, channels: valueOr(options.channels, defaults.channels) }
    resolvePoolOptions(poolOptions)
    this.#books = new CallBooks(this.clock)
    this.#pools = new InstancePools({
      listed: () => this.#listed(),
      addressOf: (instance) => checkAddress(addressOf(instance)),
      makeClient,
      makePool: (make, id) => new GrpcChannelPool(make, { ...poolOptions, name: `${this.name}/${id}` }),
      drainTimeoutMs,
      onOpened: ({ instance, address }) => this.events.emit('opened', { instance, address }),
      onRetired: ({ instance, address }, reason) => this.events.emit('retired', { instance, address, reason }),
      onClosed: ({ instance, address }, { abandoned }) => this.events.emit('closed', { instance, address, abandoned }),
    })
    this.#stopWatching = balancer.on('updated', () => this.#pools.update())
  }

  /**
   * Waits for the list, and connects all channels of all its instances; of those that come meanwhile too.
   *
   * @returns once every one is ready, or `minInstances` have all of theirs. Rejects with a `TimeoutError` that names each
   * instance and channel which isn't ready, with its address and state, with `NoInstanceError` when the list is empty and no
   * `minInstances` says how many are to come, with `ClosedError`, with the signal's reason, or with what the balancer's `start`
   * gave.
   */
  warmUp(options?: InstancesWarmUpOptions): Promise<void> {
    try {
      const { deadlineMs, signal, minInstances } = resolveWarmUp(options)
      if (this.#closing.signal.aborted) throw this.#closedError()
      if (signal?.aborted) throw signal.reason
      return handled(
        warmUpInstances({
          name: this.name,
          clock: this.clock,
          start: () => this.#balancer.start(),
          instances: () => this.#listed(),
          poolOf: (instance) => this.#use(instance).pool,
          onUpdated: (listener) => this.#balancer.on('updated', listener),
          closing: this.#closing.signal,
          deadlineMs,
          signal,
          minInstances,
        }),
      )
    } catch (error) {
      return rejected(error)
    }
  }

  /**
   * Makes a unary call on the instance that the balancer chooses, and on others if it fails and may be tried again.
   *
   * @param method - the name of a unary method of the client.
   * @returns the response. Rejects with the last attempt's `GrpcCallError`, whose `outcomeUnknown` speaks for all attempts,
   * with `NoInstanceError`, `ClosedError`, `OptionError`, or with the signal's reason. A rejection that nobody looks at is no
   * `unhandledRejection`; it is in the stats and events.
   */
  call<Method extends UnaryMethod<Client>>(
    method: Method,
    request: RequestOf<Client, Method>,
    options?: GrpcBalancedCallOptions,
  ): Promise<ResponseOf<Client, Method>> {
    try {
      this.#admit(options)
      if (options?.attempts !== undefined) checkCount('attempts', options.attempts)
      if (options?.idempotent !== undefined) checkBoolean('idempotent', options.idempotent)
      checkOptionalFunction('retryable', options?.retryable)
    } catch (error) {
      this.#books.reject()
      return rejected(error)
    }
    return this.#run(method, request, options) as Promise<ResponseOf<Client, Method>>
  }

  /**
   * Opens a bidirectional stream on the instance that the balancer chooses, but for those whose connections are failing while
   * there are others. For the balancer it is in flight until the server has begun to answer: by then the instance has shown
   * that it works, and how long the stream goes on says nothing about it. Its errors are events of the stream and of the pool.
   *
   * @param method - the name of a bidirectional method of the client.
   * @throws NoInstanceError, ClosedError, OptionError, or the signal's reason.
   */
  openStream<Method extends BidiMethod<Client>>(
    method: Method,
    options?: GrpcBalancedStreamOptions,
  ): StreamOf<Client, Method> {
    let lease: GrpcBalancerLease<Instance> | undefined
    let stream: StreamOf<Client, Method>
    try {
      this.#admit(options)
      lease = this.#pick(options?.key)
      stream = this.#onPoolOf(lease.instance, (pool) => pool.openStream(method, options))
    } catch (error) {
      lease?.release('ignore')
      this.#books.reject()
      throw error
    }
    this.#follow(lease, method, stream as unknown as GrpcDuplex<never, unknown>, options?.signal)
    return stream
  }

  /**
   * Lends a channel of the instance that the balancer chooses, for a call of any other kind; it counts as in flight until it is
   * given back, and then the instance is judged by the outcome that is told.
   *
   * @throws NoInstanceError, ClosedError or OptionError.
   */
  lease(options?: GrpcBalancedLeaseOptions): GrpcBalancedLease<Instance, Client> {
    let lease: GrpcBalancerLease<Instance> | undefined
    try {
      checkOptions('options', options)
      const cancel = checkOptionalFunction('cancel', options?.cancel)
      checkKey(options?.key)
      if (this.#closing.signal.aborted) throw this.#closedError()
      lease = this.#pick(options?.key)
      return this.#lend(lease, cancel)
    } catch (error) {
      lease?.release('ignore')
      this.#books.reject()
      throw error
    }
  }

  /**
   * The pool of an instance, made if it has none: to look at it, listen to it, replace a channel. It is closed when the
   * instance leaves the list, and calls made through it directly are in its books alone.
   *
   * @throws ClosedError, or OptionError when `makeClient` makes no client.
   */
  poolOf(instance: Instance): GrpcChannelPool<Client> {
    if (typeof instance?.id !== 'string') failOption('instance', 'must have an id', instance)
    if (this.#closing.signal.aborted) throw this.#closedError()
    return this.#use(instance).pool
  }

  /** Settles all calls that are in flight now. Never rejects. */
  override flush(): Promise<FlushReport> {
    return this.#books.flush()
  }

  override stats(): GrpcBalancedPoolStats {
    const statsOf = ({ id, address, pool }: InstancePool<Instance, Client>, state: 'open' | 'draining') => {
      return { instance: id, address, state, ...pool.stats() }
    }
    return {
      name: this.name,
      ...this.#books.counts(),
      attempts: this.#attempts,
      instances: [
        ...[...this.#pools.open].map((open) => statsOf(open, 'open')),
        ...[...this.#pools.draining].map((draining) => statsOf(draining, 'draining')),
      ],
      draining: this.#pools.draining.size,
      latencyMs: this.#books.latencyMs(),
    }
  }

  protected override async drain(): Promise<void> {
    this.#closing.abort(this.#closedError())
    this.#stopWatching()
    await this.#books.empty()
    await this.#pools.close()
  }

  protected override abandon(): number {
    const left = [...this.#books.open]
    for (const open of left) {
      this.#books.settle(open, 'failed')
      open.giveUp()
    }
    return left.length
  }

  protected override release(): Promise<void> {
    return this.#pools.close({ timeoutMs: 0 })
  }

  /** The instances that take calls. */
  #listed(): Instance[] {
    return this.#balancer.instances().flatMap(({ instance, state }) => (state === 'draining' ? [] : [instance]))
  }

  /** Throws what the caller is to be told. */
  #admit(options: (GrpcCallOptions & GrpcBalancedPick) | undefined): void {
    const signal = checkCallOptions(options)
    checkKey(options?.key)
    if (this.#closing.signal.aborted) throw this.#closedError()
    if (signal?.aborted) throw signal.reason
  }

  // ── unary calls ─────────────────────────────────────────────────────────────────────────────────────────────────

  #run(method: string, request: unknown, options: GrpcBalancedCallOptions | undefined): Promise<unknown> {
    const { key, signal, attempts, timeoutMs, metadata } = options ?? {}
    const call = new BalancedCall<Instance>(this.name, method, this.clock.now())
    this.#books.accept(call)
    if (signal !== undefined) {
      call.stopListening = onAbort(signal, () => {
        if (this.#books.settle(call, 'aborted')) call.reject(signal.reason)
      })
    }
    const attempt = async (instance: Instance, context: { readonly signal: AbortSignal }): Promise<unknown> => {
      // The balancer may have been between two attempts when the call was given up.
      if (!this.#books.open.has(call)) throw this.#closedError()
      this.#attempts++
      const callOptions = { signal: context.signal, timeoutMs, metadata }
      return call.attempt(instance, async () =>
        this.#onPoolOf(instance, (pool) => pool.call(method as never, request as never, callOptions)),
      )
    }
    const mayRetry = (error: unknown): boolean => this.#books.open.has(call) && call.mayRetry(error, options ?? {})
    let running: PromiseLike<unknown>
    try {
      running = this.#balancer.run(attempt, { key, signal, attempts, retryable: mayRetry })
    } catch (error) {
      running = rejected(error)
    }
    running.then(
      (response) => {
        if (this.#settle(call, 'succeeded')) call.resolve(response)
      },
      (error: unknown) => {
        // What reached no instance was turned away.
        if (!this.#settle(call, call.attempts === 0 ? 'rejected' : 'failed')) return
        const told = call.errorFor(error)
        call.reject(told)
        if (call.attempts > 0) this.#recordFailed(call, told)
      },
    )
    return call.promise
  }

  #settle(call: BalancedCall<Instance>, outcome: Outcome): boolean {
    call.stopListening?.()
    return this.#books.settle(call, outcome)
  }

  // ── streams and leases ──────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Chooses an instance whose channels aren't all failing, if there is one. A dead instance answers at once: without this, an
   * algorithm that looks for the least busy one, or goes by a key, would lead every new stream to it until it is ejected.
   */
  #pick(key: string | undefined): GrpcBalancerLease<Instance> {
    const failing = new Set<string>()
    for (const { id, pool } of this.#pools.open) if (pool.failing) failing.add(id)
    if (failing.size > 0) {
      try {
        return this.#balancer.pick({ key, exclude: failing })
      } catch (error) {
        if (!isSpillwayError(error, 'ERR_NO_INSTANCE')) throw error
      }
    }
    return this.#balancer.pick({ key })
  }

  /** Tells books and balancer how a stream goes. */
  #follow(
    lease: GrpcBalancerLease<Instance>,
    method: string,
    stream: GrpcDuplex<never, unknown>,
    signal: AbortSignal | undefined,
  ): void {
    const { instance } = lease
    this.#attempts++
    const open: OpenUse<Instance> = {
      at: this.clock.now(),
      method,
      instance,
      attempts: 1,
      giveUp: () => lease.release('ignore'),
    }
    this.#books.accept(open)
    let failure: unknown
    stream.on('error', (error) => {
      failure = error
    })
    stream.on('metadata', () => lease.release('success'))
    stream.on('status', ({ code, details }) => {
      const given = signal?.aborted === true || isCancelledHere(code, details)
      lease.release(given ? 'ignore' : classifyStatus(code, details), failure)
      const settled = this.#books.settle(open, code === 0 ? 'succeeded' : given ? 'aborted' : 'failed')
      if (!settled || code === 0 || given) return
      const address = stream.getPeer()
      const error = new GrpcCallError(failure, { name: this.name, method, address, sent: true, stream: true })
      this.#recordFailed(open, error)
    })
  }

  #lend(lease: GrpcBalancerLease<Instance>, cancel: (() => void) | undefined): GrpcBalancedLease<Instance, Client> {
    const { instance } = lease
    const end = (outcome: 'success' | 'failure' | 'ignore', booked: Outcome): void => {
      lease.release(outcome)
      this.#books.settle(open, booked)
    }
    const channel = this.#onPoolOf(instance, (pool) =>
      pool.lease({
        cancel: () => {
          end('ignore', 'failed')
          return cancel?.()
        },
      }),
    )
    this.#attempts++
    const open: OpenUse<Instance> = {
      at: this.clock.now(),
      method: 'lease',
      instance,
      attempts: 1,
      giveUp: () => lease.release('ignore'),
    }
    this.#books.accept(open)
    return {
      client: channel.client,
      channel: channel.channel,
      instance,
      release: (outcome = 'success') => {
        channel.release(outcome)
        end(outcome, outcome === 'success' ? 'succeeded' : outcome === 'failure' ? 'failed' : 'aborted')
      },
      [Symbol.dispose]: () => {
        channel[Symbol.dispose]()
        end('ignore', 'aborted')
      },
    }
  }

  // ── pools ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Starts something on an instance's pool, so that one which has left the list by now closes when that is settled. */
  #onPoolOf<T>(instance: Instance, start: (pool: GrpcChannelPool<Client>) => T): T {
    const of = this.#pools.of(instance)
    try {
      return start(of.pool)
    } finally {
      this.#pools.used(of)
    }
  }

  #use(instance: Instance): InstancePool<Instance, Client> {
    const of = this.#pools.of(instance)
    this.#pools.used(of)
    return of
  }

  #recordFailed(open: OpenUse<Instance>, error: unknown): void {
    if (!this.events.has('failed')) return
    const { method, instance, attempts, at } = open
    const durationMs = this.clock.now() - at
    this.events.emit('failed', { method, instance: instance as Instance, attempts, error, durationMs })
  }

  #closedError(): ClosedError {
    return new ClosedError(`${this.name} is closed`)
  }
}

function checkKey(key: string | undefined): void {
  if (key !== undefined && typeof key !== 'string') failOption('key', 'must be a string', key)
}

function checkBalancer<Instance extends { readonly id: string }>(
  balancer: GrpcBalancer<Instance>,
): GrpcBalancer<Instance> {
  for (const method of ['start', 'pick', 'run', 'instances', 'on'] as const) {
    if (typeof balancer?.[method] !== 'function') failOption('balancer', `must have a method ${method}`, balancer)
  }
  return balancer
}
