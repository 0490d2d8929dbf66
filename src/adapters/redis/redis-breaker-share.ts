import { ClosableComponent, type ComponentOptions, type FlushReport } from '../../core/component.js'
import { ClosedError, TimeoutError } from '../../core/errors.js'
import { describeError, warn } from '../../core/events.js'
import { checkDuration, failOption, valueOr } from '../../core/options.js'
import { batchId } from '../../internal/batch-id.js'
import { rejected } from '../../internal/deferred.js'
import { maxNameLength, readMessage } from './breaker-news.js'
import { readNews } from './breaker-scripts.js'
import { type GateLink, ProbeGate, type ProbeGateOptions } from './probe-gate.js'
import { keyPrefixOf, type RedisClient, type RedisFace, redisFace } from './redis-client.js'
import { redisError } from './redis-error.js'
import type { RedisScript } from './redis-script.js'
import { RedisSubscriber } from './redis-subscriber.js'
import { circuitKeys, type PublishVerdict, type ShareableBreaker, SharedCircuit } from './shared-circuit.js'

/** Options of {@link RedisBreakerShare}. */
export interface RedisBreakerShareOptions extends ComponentOptions {
  /**
   * What its keys and its channel begin with; shares with different prefixes know nothing of each other. Without braces, which
   * Redis Cluster reads as hash tags.
   *
   * @defaultValue 'spillway:breaker'
   */
  prefix?: string | undefined
  /**
   * What others call this process: they read it in the error of a breaker that it opened. A random part is added, so that no two are
   * the same. At most 499 characters. The default is the random part alone: nothing that tells the host.
   */
  instance?: string | undefined
  /**
   * How long a call whose answer decides on a probe may take, in milliseconds, at least 1. After that this process decides alone.
   *
   * @defaultValue 500
   */
  leaseTimeoutMs?: number | undefined
  /**
   * How long any other call of Redis may take, in milliseconds, at least 1.
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
   * How often it reads from Redis what it may have missed, publishes what it couldn't, and asks its subscription for a sign of life, in
   * milliseconds, at least 1.
   *
   * @defaultValue 10_000
   */
  syncMs?: number | undefined
  /**
   * For how long Redis remembers that a circuit was opened, beyond the time for which it is open, or closed, in milliseconds, at least
   * 1. Whoever starts, or comes back, after that takes it for closed.
   *
   * @defaultValue 600_000
   */
  rememberMs?: number | undefined
}

/** Events of {@link RedisBreakerShare}. */
export interface RedisBreakerShareEvents {
  /** Redis answers: what happens is shared from now on. */
  connected: Readonly<Record<string, never>>
  /** Redis can't be asked: each process decides alone until it can. */
  disconnected: { readonly error: unknown }
  /** Messages come from now on. */
  subscribed: Readonly<Record<string, never>>
  /** No messages come, or an attempt to subscribe failed; it tries again. */
  unsubscribed: { readonly error: unknown }
  /** What happened here was told. */
  published: {
    readonly circuit: string
    readonly kind: 'opened' | 'closed'
    /** `'joined'`: it was open already. `'outdated'`: it was opened again meanwhile, so it isn't closed. */
    readonly verdict: PublishVerdict
  }
  /** What happened here couldn't be told. It is tried again once Redis answers, unless it no longer matters then. */
  publishFailed: { readonly circuit: string; readonly kind: 'opened' | 'closed'; readonly error: unknown }
  /** What happened elsewhere was done here. */
  applied: {
    readonly circuit: string
    readonly kind: 'opened' | 'closed'
    /** The instance where it happened. */
    readonly by: string
    /** Why it happened there. */
    readonly reason: string
    /** For how long it is open, in milliseconds. */
    readonly retryAfterMs: number | undefined
  }
  /** This process may probe. */
  leased: { readonly circuit: string }
  /** Others probe. */
  denied: { readonly circuit: string; readonly retryAfterMs: number }
  /** Whether this process may probe couldn't be asked; it decides alone. */
  leaseFailed: { readonly circuit: string; readonly error: unknown }
  /** Something came over the channel, or lay in Redis, that is no message: its first 200 characters. */
  ignored: { readonly text: string }
}

/** Stats of {@link RedisBreakerShare}, of publications: `offered = succeeded + failed + pending`. */
export interface RedisBreakerShareStats {
  /** Its name. */
  readonly name: string
  /** Whether Redis answers. */
  readonly connected: boolean
  /** Whether messages come. */
  readonly subscribed: boolean
  /** Breakers that have joined. */
  readonly circuits: number
  /** Attempts to publish. */
  readonly offered: number
  /** Attempts that Redis has answered. */
  readonly succeeded: number
  /** Attempts that failed. */
  readonly failed: number
  /** Attempts that are under way. */
  readonly pending: number
  /** Of those that succeeded, trips that joined an opening. */
  readonly joined: number
  /** Of those that succeeded, closings of what had been opened again. */
  readonly outdated: number
  /** Messages that came. */
  readonly received: number
  /** Openings and closings of others that were done here. */
  readonly applied: number
  /** Messages of what was known already, or had been overtaken by later news. */
  readonly late: number
  /** Messages that were none. */
  readonly ignored: number
  /** Leases that were asked for. */
  readonly leasesAsked: number
  /** Leases that were given. */
  readonly leased: number
  /** Leases that others had. */
  readonly denied: number
  /** Leases that couldn't be asked for. */
  readonly leasesFailed: number
}

/** How many circuits one call reads, so that none holds up a server. */
const circuitsPerRead = 100

/**
 * Shares circuit breakers among processes: what trips one opens it in all, what closes it by recovering closes it in all, and while it is
 * half-open the whole fleet makes as few probes as one process would. No call waits for Redis, and without it each process goes on alone.
 *
 * Messages make it quick; what Redis remembers makes it right: it is read at the start, after each break and every `syncMs`.
 *
 * @example
 * ```ts
 * import { Redis } from 'ioredis'
 * import { CircuitBreaker } from 'spillway'
 * import { RedisBreakerShare } from 'spillway/redis'
 *
 * const share = new RedisBreakerShare(new Redis('redis://127.0.0.1:6379'))
 * const payments = new CircuitBreaker({ name: 'payments', probeGate: share.probeGate('payments') })
 * share.join(payments)
 * await share.start()
 * ```
 */
export class RedisBreakerShare extends ClosableComponent<RedisBreakerShareEvents, RedisBreakerShareStats> {
  /** The options' defaults. */
  static readonly defaults = {
    prefix: 'spillway:breaker',
    leaseTimeoutMs: 500,
    timeoutMs: 2000,
    connectTimeoutMs: 5000,
    syncMs: 10_000,
    rememberMs: 600_000,
  } as const

  /** What others call this process. */
  readonly instance: string
  readonly #face: RedisFace
  readonly #link: GateLink
  readonly #subscriber: RedisSubscriber
  readonly #timeoutMs: number
  readonly #syncMs: number
  readonly #circuits = new Map<string, SharedCircuit>()
  /** Publications under way, and leases that are asked for or given back. */
  readonly #tracked = new Set<Promise<void>>()
  #starting: Promise<boolean> | undefined
  /** Whether Redis answered last; undefined before it was asked. */
  #connected: boolean | undefined
  #syncing: Promise<boolean> | undefined
  #syncAgain = false
  #cancelSync: (() => void) | undefined
  #closed = false
  readonly #books = {
    offered: 0,
    succeeded: 0,
    failed: 0,
    joined: 0,
    outdated: 0,
    received: 0,
    applied: 0,
    late: 0,
    ignored: 0,
    leasesAsked: 0,
    leased: 0,
    denied: 0,
    leasesFailed: 0,
  }

  /**
   * @param client - a client of ioredis or node-redis, single or cluster. It stays the caller's to connect and to close; for its
   * subscription the share makes, and ends, a duplicate of it.
   * @throws OptionError when an option is wrong, or the client none that it knows.
   */
  constructor(client: RedisClient, options: RedisBreakerShareOptions = {}) {
    super('redis-breaker-share', options)
    const { defaults } = RedisBreakerShare
    this.#face = redisFace(client)
    const prefix = checkText('prefix', valueOr<string>(options.prefix, defaults.prefix))
    if (/[{}]/.test(prefix)) failOption('prefix', 'must be a string without braces', prefix)
    const duration = (field: 'leaseTimeoutMs' | 'timeoutMs' | 'connectTimeoutMs' | 'syncMs' | 'rememberMs'): number =>
      checkDuration(field, valueOr<number>(options[field], defaults[field]), 1)
    const connectTimeoutMs = duration('connectTimeoutMs')
    this.#timeoutMs = duration('timeoutMs')
    this.#syncMs = duration('syncMs')
    const unique = batchId(this.clock.wallNow()).slice(-12)
    // As a whole it must be no longer than others read.
    const longest = maxNameLength - unique.length - 1
    this.instance =
      options.instance === undefined ? unique : `${checkText('instance', options.instance, longest)}-${unique}`
    const channel = `${keyPrefixOf(client)}${prefix}:news`
    this.#link = this.#makeLink(prefix, channel, duration('leaseTimeoutMs'), duration('rememberMs'))
    const { clock, random } = this
    this.#subscriber = new RedisSubscriber(
      client,
      channel,
      {
        onMessage: (text) => this.#receive(text),
        onSubscribed: () => {
          if (this.events.has('subscribed')) this.events.emit('subscribed', {})
          void this.#sync()
        },
        onUnsubscribed: (error) => {
          if (!this.events.has('unsubscribed')) return
          this.events.emit('unsubscribed', { error: this.#wrap(error, 'subscribe', { writes: false }) })
        },
      },
      { clock, random, connectTimeoutMs },
    )
  }

  /**
   * Begins to share: subscribes, and reads what is open. Until then, and whenever Redis can't be reached, breakers work alone; it goes on
   * trying until it is closed.
   *
   * @returns whether it has succeeded at once. Rejects with `ClosedError` only.
   */
  start(): Promise<boolean> {
    if (this.#closed) return rejected(new ClosedError(`${this.name} is closed`))
    this.#starting ??= this.#start()
    return this.#starting
  }

  /**
   * Takes a breaker in: its trips and recoveries are told to those of its name in other processes, and theirs are done to it.
   * Isolation stays its own, and so does what is done by hand: `open` and `reset`.
   *
   * @returns the function that parts it again.
   * @throws OptionError when it is no breaker, or another one of its name has joined; ClosedError when the share is closed.
   */
  join(breaker: ShareableBreaker): () => void {
    checkBreaker(breaker)
    if (this.#circuits.has(breaker.name)) {
      failOption('breaker.name', 'must be one under which no other breaker has joined', breaker.name)
    }
    if (this.#closed) throw new ClosedError(`${this.name} is closed`)
    const circuit = new SharedCircuit(breaker, this.#link)
    this.#circuits.set(circuit.name, circuit)
    if (this.#starting !== undefined) void this.#sync()
    return () => {
      if (this.#circuits.get(circuit.name) !== circuit) return
      this.#circuits.delete(circuit.name)
      circuit.leave()
    }
  }

  /**
   * Makes a breaker's `probeGate`: it lets no more than `probes` probes through in the whole fleet. The calls that come while
   * Redis is asked are turned away. It says yes while no breaker of that name has joined, before `start`, and while Redis doesn't answer.
   *
   * @param circuit - the breaker's name.
   * @throws OptionError when an option is wrong.
   */
  probeGate(circuit: string, options?: ProbeGateOptions): () => boolean {
    checkText('circuit', circuit)
    const gate = new ProbeGate(this.#link, () => this.#circuits.get(circuit), options)
    return () => gate.ask()
  }

  /**
   * Closes a circuit in all processes, whatever opened it: what an operator does who knows better. Here it is done at once.
   *
   * @throws OptionError when no breaker of that name has joined; ClosedError when the share is closed.
   */
  reset(circuit: string): void {
    if (this.#closed) throw new ClosedError(`${this.name} is closed`)
    const found = this.#circuits.get(circuit)
    if (found === undefined) failOption('circuit', 'must be the name of a breaker that has joined', circuit)
    found.resetEverywhere()
  }

  /** Waits for the publications that are under way, and for leases that are asked for or given back. */
  override async flush(): Promise<FlushReport> {
    const { succeeded, failed } = this.#books
    await Promise.all(this.#tracked)
    return { succeeded: this.#books.succeeded - succeeded, failed: this.#books.failed - failed, dropped: 0 }
  }

  override stats(): RedisBreakerShareStats {
    const { offered, succeeded, failed, ...others } = this.#books
    return {
      name: this.name,
      connected: this.#connected === true,
      subscribed: this.#subscriber.subscribed,
      circuits: this.#circuits.size,
      offered,
      succeeded,
      failed,
      pending: offered - succeeded - failed,
      ...others,
    }
  }

  /** Parts the breakers, which gives their leases back; then what is under way may end. */
  protected override async drain(): Promise<void> {
    this.#closed = true
    this.#cancelSync?.()
    await Promise.all(this.#tracked)
    for (const circuit of this.#circuits.values()) circuit.leave()
    this.#circuits.clear()
    // A lease that still comes is given back.
    while (this.#tracked.size > 0) await Promise.all(this.#tracked)
  }

  protected override abandon(): number {
    return this.#books.offered - this.#books.succeeded - this.#books.failed
  }

  protected override release(): void {
    for (const circuit of this.#circuits.values()) circuit.leave()
    this.#circuits.clear()
    this.#connected = false
    this.#subscriber.close()
  }

  async #start(): Promise<boolean> {
    this.#scheduleSync()
    await this.#subscriber.start()
    // To be subscribed has begun a reading.
    const read = await (this.#syncing ?? this.#sync())
    return read && this.#subscriber.subscribed
  }

  #scheduleSync(): void {
    if (this.#closed) return
    this.#cancelSync = this.clock.setTimer(
      () => {
        void this.#subscriber.check(this.#timeoutMs)
        void this.#sync()
        this.#scheduleSync()
      },
      this.#syncMs,
      { keepAlive: false },
    )
  }

  /** Reads the news of all circuits. One call at a time; one that comes meanwhile has it read once more. Never rejects. */
  #sync(): Promise<boolean> {
    if (this.#syncing !== undefined) {
      this.#syncAgain = true
      return this.#syncing
    }
    this.#syncing = this.#readAll().finally(() => {
      this.#syncing = undefined
    })
    return this.#syncing
  }

  async #readAll(): Promise<boolean> {
    let read = false
    do {
      this.#syncAgain = false
      if (this.#closed) return false
      const circuits = [...this.#circuits.values()]
      const size = this.#face.cluster ? 1 : circuitsPerRead
      const portions: SharedCircuit[][] = []
      for (let i = 0; i < circuits.length; i += size) portions.push(circuits.slice(i, i + size))
      try {
        // Without a circuit there is nothing to read, but still to find out whether Redis answers.
        if (portions.length === 0) await this.#read([])
        await Promise.all(portions.map((portion) => this.#read(portion)))
        read = true
      } catch (error) {
        read = false
        this.#disconnect(error)
      }
    } while (this.#syncAgain)
    return read
  }

  async #read(portion: readonly SharedCircuit[]): Promise<void> {
    const sentMs = this.clock.now()
    const keys =
      portion.length === 0 ? [circuitKeys(this.#link.prefix, '')[0]] : portion.map(({ keys: [news] }) => news)
    const [micros, ...texts] = await this.#link.call(readNews, keys, [], this.#timeoutMs)
    if (this.#closed) return
    this.#connect()
    for (const [i, circuit] of portion.entries()) {
      circuit.observeTime(Number(micros), sentMs)
      const text = texts[i]
      const news = text ? readMessage(text) : undefined
      if (news !== undefined && news.kind !== 'released') circuit.learn(news)
      else if (text) this.#ignore(text)
      circuit.publishPending()
    }
  }

  #receive(text: string): void {
    this.#books.received++
    const message = readMessage(text)
    if (message === undefined) return this.#ignore(text)
    const circuit = this.#circuits.get(message.circuit)
    if (circuit === undefined) return
    if (message.kind === 'released') circuit.hearReleased()
    else if (message.epoch > circuit.known) circuit.learn(message)
    else if (message.by !== this.instance) this.#books.late++
  }

  #ignore(text: string): void {
    this.#books.ignored++
    if (this.events.has('ignored')) this.events.emit('ignored', { text: text.slice(0, 200) })
  }

  #connect(): void {
    if (this.#connected) return
    this.#connected = true
    if (this.events.has('connected')) this.events.emit('connected', {})
  }

  #disconnect(error: unknown): void {
    if (this.#connected === false || this.#closed) return
    this.#connected = false
    if (this.events.has('disconnected')) this.events.emit('disconnected', { error })
  }

  async #call(
    script: RedisScript,
    keys: readonly string[],
    args: readonly string[],
    timeoutMs: number,
  ): Promise<string[]> {
    const { closed, epoch } = this.#face
    const writes = script !== readNews
    let answer: unknown
    try {
      answer = await this.#within(timeoutMs, script.run(this.#face, keys, args), writes)
    } catch (error) {
      throw this.#wrap(error, writes ? 'a call' : 'reading', { writes, closed, resent: epoch !== this.#face.epoch })
    }
    return Array.isArray(answer) ? answer.map(String) : [String(answer)]
  }

  #within<T>(timeoutMs: number, work: Promise<T>, outcomeUnknown: boolean): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const message = `${this.name}: Redis has not answered within ${timeoutMs} ms`
      const giveUp = (): void => reject(new TimeoutError(message, timeoutMs, { outcomeUnknown }))
      // Where this process was busy for so long, the answer may be here and wait to be read.
      const cancelTimer = this.clock.setTimer(() => this.clock.defer(giveUp), timeoutMs, { keepAlive: false })
      work.then(resolve, reject).finally(cancelTimer)
    })
  }

  #wrap(error: unknown, operation: string, call: { writes: boolean; closed?: boolean; resent?: boolean }): unknown {
    return redisError(error, { name: this.name, operation, closed: false, resent: false, ...call })
  }

  #makeLink(prefix: string, channel: string, leaseTimeoutMs: number, rememberMs: number): GateLink {
    const share = this
    const books = this.#books
    const { clock, instance, events } = this
    return {
      clock,
      instance,
      prefix,
      channel,
      leaseTimeoutMs,
      timeoutMs: this.#timeoutMs,
      rememberMs,
      get sharing() {
        return share.#connected === true
      },
      call: (...call) => share.#call(...call),
      track: (work) => {
        const tracked = work
          .catch((error: unknown) => warn(`${share.name} failed: ${describeError(error)}`))
          .then(() => void share.#tracked.delete(tracked))
        share.#tracked.add(tracked)
      },
      recordOffered: () => void books.offered++,
      recordPublished: (circuit, kind, verdict) => {
        books.succeeded++
        if (verdict !== 'published') books[verdict]++
        if (events.has('published')) events.emit('published', { circuit, kind, verdict })
      },
      recordPublishFailed: (circuit, kind, error) => {
        books.failed++
        if (events.has('publishFailed')) events.emit('publishFailed', { circuit, kind, error })
        share.#disconnect(error)
      },
      recordApplied: ({ circuit, kind, by, reason }, retryAfterMs) => {
        books.applied++
        if (events.has('applied')) events.emit('applied', { circuit, kind, by, reason, retryAfterMs })
      },
      recordLeaseAsked: () => void books.leasesAsked++,
      recordLeased: (circuit) => {
        books.leased++
        if (events.has('leased')) events.emit('leased', { circuit })
      },
      recordDenied: (circuit, retryAfterMs) => {
        books.denied++
        if (events.has('denied')) events.emit('denied', { circuit, retryAfterMs })
      },
      recordLeaseFailed: (circuit, error) => {
        books.leasesFailed++
        if (events.has('leaseFailed')) events.emit('leaseFailed', { circuit, error })
        share.#disconnect(error)
      },
    }
  }
}

function checkBreaker(breaker: ShareableBreaker): void {
  for (const method of ['open', 'reset', 'stats', 'on'] as const) {
    if (typeof breaker?.[method] !== 'function') failOption('breaker', `must have a method ${method}`, breaker)
  }
  checkText('breaker.name', breaker.name)
}

function checkText(field: string, value: string, longest = maxNameLength): string {
  if (typeof value !== 'string') failOption(field, 'must be a string', value)
  if (value.length > longest) failOption(field, `must have at most ${longest} characters`, value)
  return value
}
