import { ClosableComponent, type FlushReport } from '../../core/component.js'
import { ClosedError, TimeoutError } from '../../core/errors.js'
import { describeError, isThenable, warn } from '../../core/events.js'
import { checkCount, checkDuration, failOption, valueOr } from '../../core/options.js'
import type { Invalidation, InvalidationBus, InvalidationLink, InvalidationListener } from '../../core/ports.js'
import { resolveRetry } from '../../core/retry.js'
import { type ContextRunner, captureContext } from '../../internal/async-context.js'
import { batchId } from '../../internal/batch-id.js'
import { Remembered } from '../../internal/remembered.js'
import { copyInvalidation, type InvalidationMessage, readMessage } from './invalidation-message.js'
import { InvalidationPublisher } from './invalidation-publisher.js'
import { keyPrefixOf, type RedisClient, type RedisFace, redisFace } from './redis-client.js'
import { redisError } from './redis-error.js'
import type {
  RedisInvalidationBusEvents,
  RedisInvalidationBusOptions,
  RedisInvalidationBusStats,
} from './redis-invalidation-bus-options.js'
import { RedisScript } from './redis-script.js'
import { RedisSubscriber } from './redis-subscriber.js'

/**
 * How long a message may be on its way: one that was sent just before somebody subscribed isn't missed by it. When Redis is back, all
 * subscribe at about the same time, and clients that queue what they can't send follow within about two seconds, with what they had then.
 */
const transitMs = 5000

/** From a script, so that a cluster's clients send all messages of a channel to one node, which keeps their order. */
const publish: RedisScript = new RedisScript(`return redis.call('PUBLISH', ARGV[1], ARGV[2])`)

/**
 * Carries invalidations between the caches of many processes over Redis' pub/sub, which drops messages in silence: for whoever is not
 * connected, for whoever reads too slowly, in a failover. So messages are numbered, and wherever one may be missing the caches are told
 * of a gap.
 *
 * @example
 * ```ts
 * import { Redis } from 'ioredis'
 * import { RedisInvalidationBus } from 'spillway/redis'
 *
 * const redis = new Redis('redis://127.0.0.1:6379')
 * const bus = new RedisInvalidationBus(redis)
 * const link = bus.connect({
 *   onInvalidations: (invalidations) => console.log(invalidations),
 *   onGap: () => console.log('whatever is held may be outdated'),
 * })
 * link.publish([{ kind: 'key', key: 'users:42' }])
 * await bus.close()
 * ```
 */
export class RedisInvalidationBus
  extends ClosableComponent<RedisInvalidationBusEvents, RedisInvalidationBusStats>
  implements InvalidationBus
{
  /** The options' defaults. */
  static readonly defaults = {
    channel: 'spillway:invalidations',
    capacity: 10_000,
    maxBatchSize: 500,
    timeoutMs: 2000,
    connectTimeoutMs: 5000,
    heartbeatMs: 10_000,
    maxSenders: 1000,
    retry: { attempts: 3, delayMs: 100, maxDelayMs: 1000 },
  } as const

  /** What others know it by: a random id. */
  readonly id: string
  readonly #client: RedisClient
  readonly #face: RedisFace
  readonly #channel: string
  /** What says which node publishes: the channel, once ioredis has put its `keyPrefix` before it. */
  readonly #key: string
  readonly #timeoutMs: number
  readonly #connectTimeoutMs: number
  readonly #heartbeatMs: number
  readonly #maxSenders: number
  readonly #publisher: InvalidationPublisher
  readonly #context: ContextRunner = captureContext()
  readonly #links = new Set<Link>()
  /** What is being told to links of this process, in turn: a listener may publish itself. */
  readonly #told: { readonly by: Link; readonly invalidations: readonly Invalidation[] }[] = []
  #telling = false
  #subscriber: RedisSubscriber | undefined
  /** The number of the latest message of each bus that was heard since it subscribed. */
  #senders: Remembered<number>
  /** Whether some of them were forgotten since. */
  #forgot = false
  /** Whether the links were told of a gap and nothing has happened since, but for other messages that came with it. */
  #justTold = false
  /** When it subscribed. */
  #subscribedMs = 0
  #cancelHeartbeat: (() => void) | undefined
  /** Ends the wait for the answer to what is being sent. */
  #cancelSend: (() => void) | undefined
  #closed = false
  readonly #books = { received: 0, heard: 0, own: 0, malformed: 0, gaps: 0, holes: 0 }

  /**
   * @param client - a client of ioredis or node-redis, single or cluster. It stays the caller's to connect and to close; for its
   * subscription the bus makes, and ends, a duplicate of it.
   * @throws OptionError when an option is wrong, or the client none that it knows.
   */
  constructor(client: RedisClient, options: RedisInvalidationBusOptions = {}) {
    super('redis-invalidation-bus', options)
    const { defaults } = RedisInvalidationBus
    this.#client = client
    this.#face = redisFace(client)
    const channel = valueOr<string>(options.channel, defaults.channel)
    if (typeof channel !== 'string' || channel === '')
      failOption('channel', 'must be a string that is not empty', channel)
    this.#key = channel
    this.#channel = `${keyPrefixOf(client)}${channel}`
    const capacity = checkCount('capacity', valueOr<number>(options.capacity, defaults.capacity))
    const maxBatchSize = checkCount('maxBatchSize', valueOr<number>(options.maxBatchSize, defaults.maxBatchSize))
    const duration = (field: 'timeoutMs' | 'connectTimeoutMs' | 'heartbeatMs'): number =>
      checkDuration(field, valueOr<number>(options[field], defaults[field]), 1)
    this.#timeoutMs = duration('timeoutMs')
    this.#connectTimeoutMs = duration('connectTimeoutMs')
    this.#heartbeatMs = duration('heartbeatMs')
    this.#maxSenders = checkCount('maxSenders', valueOr<number>(options.maxSenders, defaults.maxSenders))
    this.#senders = new Remembered(this.#maxSenders)
    const retry = resolveRetry(options.retry, defaults.retry)
    this.id = batchId(this.clock.wallNow())
    const { clock, random, id } = this
    this.#publisher = new InvalidationPublisher({
      clock,
      random,
      by: id,
      capacity,
      maxBatchSize,
      retry,
      send: (text) => this.#send(text),
      onFailed: (failure) => {
        if (this.events.has('publishFailed')) this.events.emit('publishFailed', failure)
      },
    })
  }

  /**
   * Makes a cache's own end of the bus. The first one begins to subscribe, and the last one that is closed ends that. Whoever listens is
   * told of a gap once messages come, and again after each break; other links of the same bus are heard at once, with Redis or without it.
   *
   * @throws OptionError when the listener is none; ClosedError when the bus is closed.
   */
  connect(listener: InvalidationListener): InvalidationLink {
    for (const method of ['onInvalidations', 'onGap'] as const) {
      if (typeof listener?.[method] !== 'function') failOption('listener', `must have a method ${method}`, listener)
    }
    if (this.#closed) throw new ClosedError(`${this.name} is closed`)
    const link = new Link(listener, {
      publish: (invalidations) => this.#publish(link, invalidations),
      flush: () => this.#publisher.flush(),
      close: () => this.#leave(link),
    })
    this.#links.add(link)
    if (this.#subscriber === undefined) this.#subscribe()
    else if (this.#subscriber.subscribed) {
      // What was told before it came, it has missed. Not before the caller has its link.
      queueMicrotask(() => this.#context(() => link.hearGap()))
    }
    return link
  }

  /** Waits until all that was published before is sent or lost, which takes as long as the attempts of `retry` at the most. */
  override async flush(): Promise<FlushReport> {
    const before = this.#publisher.books
    await this.#publisher.flush()
    const after = this.#publisher.books
    const told = (books: typeof before): number => books.published + books.merged
    return { succeeded: told(after) - told(before), failed: after.lost - before.lost, dropped: 0 }
  }

  override stats(): RedisInvalidationBusStats {
    return {
      name: this.name,
      subscribed: this.#subscriber?.subscribed === true,
      links: this.#links.size,
      ...this.#publisher.books,
      ...this.#books,
      senders: this.#senders.size,
    }
  }

  /** Makes the attempts that are left, without pauses. Until then its links hear on. */
  protected override drain(): Promise<void> {
    this.#closed = true
    return this.#publisher.close()
  }

  protected override abandon(): number {
    return this.#publisher.stop()
  }

  protected override release(): void {
    this.#publisher.stop()
    this.#cancelSend?.()
    this.#unsubscribe()
    for (const link of this.#links) link.end()
    this.#links.clear()
  }

  #publish(by: Link, invalidations: readonly Invalidation[]): void {
    if (this.#closed) return
    const copies: Invalidation[] = []
    for (const invalidation of Array.isArray(invalidations) ? invalidations : [undefined]) {
      const copy = copyInvalidation(invalidation)
      if (copy === undefined) warn(`${this.name} was told something that is no invalidation, and left it out`)
      else copies.push(copy)
    }
    if (copies.length === 0) return
    this.#publisher.add(copies, by)
    this.#told.push({ by, invalidations: copies })
    if (!this.#telling) this.#context(() => this.#tellLocally())
  }

  #tellLocally(): void {
    this.#telling = true
    for (let next = this.#told.shift(); next !== undefined; next = this.#told.shift()) {
      for (const link of this.#links) if (link !== next.by) link.hear(next.invalidations)
    }
    this.#telling = false
  }

  #leave(link: Link): void {
    this.#links.delete(link)
    // Nobody listens any more, so nothing holds the process.
    if (this.#links.size === 0) this.#unsubscribe()
  }

  #subscribe(): void {
    const { clock, random } = this
    const subscriber: RedisSubscriber = new RedisSubscriber(
      this.#client,
      this.#channel,
      {
        // What comes before it is told to be subscribed is covered by the gap that it tells of then.
        onMessage: (text) => {
          if (subscriber.subscribed) this.#receive(text)
        },
        onSubscribed: () => {
          if (this.events.has('subscribed')) this.events.emit('subscribed', {})
          // Whatever a sender told before this is missed or heard: its next message is no hole.
          this.#senders = new Remembered(this.#maxSenders)
          this.#forgot = false
          this.#subscribedMs = clock.now()
          this.#tellGap('subscribed', undefined)
          this.#publisher.wake()
        },
        onUnsubscribed: (error) => {
          if (!this.events.has('unsubscribed')) return
          this.events.emit('unsubscribed', { error: this.#wrap(error, 'subscribe', false) })
        },
      },
      { clock, random, connectTimeoutMs: this.#connectTimeoutMs },
    )
    this.#subscriber = subscriber
    this.#context(() => {
      void subscriber.start()
      this.#scheduleHeartbeat(subscriber)
    })
  }

  #unsubscribe(): void {
    this.#cancelHeartbeat?.()
    this.#cancelHeartbeat = undefined
    this.#subscriber?.close()
    this.#subscriber = undefined
  }

  #scheduleHeartbeat(subscriber: RedisSubscriber): void {
    this.#cancelHeartbeat = this.clock.setTimer(
      () => {
        this.#scheduleHeartbeat(subscriber)
        void subscriber.check(this.#timeoutMs)
        this.#publisher.beat()
      },
      this.#heartbeatMs,
      { keepAlive: false },
    )
  }

  #receive(text: string): void {
    const message = readMessage(text)
    if (message === undefined) {
      this.#books.malformed++
      if (this.events.has('ignored')) this.events.emit('ignored', { text: text.slice(0, 200) })
    } else if (message.by === this.id) this.#books.own++
    else this.#hear(message)
  }

  #hear(message: InvalidationMessage): void {
    this.#books.received++
    const { by, seq, kind, invalidations } = message
    const known = this.#senders.get(by)
    if (kind === 'gap') {
      // One that comes again tells nothing new. A client that queues what it can't send sends all attempts at once when Redis is back.
      if (seq > (known ?? 0) && !this.#justTold) this.#tellGap('told', by)
    } else if (this.#missedBefore(message, known)) {
      this.#books.holes++
      this.#tellGap('missed', by)
    }
    this.#forgot ||= known === undefined && this.#senders.size === this.#maxSenders
    this.#senders.add(by, Math.max(seq, known ?? 0))
    if (invalidations.length === 0) return
    this.#books.heard += invalidations.length
    for (const link of this.#links) link.hear(invalidations)
  }

  /** Whether the message before one should have come, and hasn't. */
  #missedBefore({ seq, kind, agoMs }: InvalidationMessage, known: number | undefined): boolean {
    if (known !== undefined) return (kind === 'beat' ? seq : seq - 1) > known
    // Of a sender that was forgotten, it may have come.
    return agoMs !== undefined && !this.#forgot && this.clock.now() - this.#subscribedMs >= agoMs + transitMs
  }

  #tellGap(reason: RedisInvalidationBusEvents['gap']['reason'], by: string | undefined): void {
    this.#books.gaps++
    // Until then nothing can be kept that wasn't kept before this.
    this.#justTold = true
    queueMicrotask(() => {
      this.#justTold = false
    })
    if (this.events.has('gap')) this.events.emit('gap', { reason, by })
    for (const link of this.#links) link.hearGap()
  }

  async #send(text: string): Promise<void> {
    const { closed, epoch } = this.#face
    const work = publish.run(this.#face, [this.#key], [this.#channel, text])
    try {
      await this.#within(this.#timeoutMs, work)
    } catch (error) {
      throw this.#wrap(error, 'publish', true, closed, epoch !== this.#face.epoch)
    }
  }

  #within(timeoutMs: number, work: Promise<unknown>): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      let late = false
      const giveUp = (): void => {
        late = true
        reject(new TimeoutError(`${this.name}: Redis has not answered within ${timeoutMs} ms`, timeoutMs))
      }
      // Where this process was busy for so long, the answer may be here and wait to be read.
      const cancelTimer = this.clock.setTimer(() => this.clock.defer(giveUp), timeoutMs, { keepAlive: false })
      this.#cancelSend = () => {
        cancelTimer()
        reject(new ClosedError(`${this.name} is closed`))
      }
      const answered = (): void => {
        cancelTimer()
        resolve()
        if (late) this.#publisher.wake()
      }
      work.then(answered, (error: unknown) => {
        cancelTimer()
        reject(error)
      })
    })
  }

  #wrap(error: unknown, operation: string, writes: boolean, closed = false, resent = false): unknown {
    return redisError(error, { name: this.name, operation, writes, closed, resent })
  }
}

/** What a link asks of its bus. */
interface LinkHost {
  publish(invalidations: readonly Invalidation[]): void
  flush(): Promise<void>
  close(): void
}

/** One cache's end. */
class Link implements InvalidationLink {
  readonly #listener: InvalidationListener
  #host: LinkHost | undefined
  #reported = false

  constructor(listener: InvalidationListener, host: LinkHost) {
    this.#listener = listener
    this.#host = host
  }

  publish(invalidations: readonly Invalidation[]): void {
    this.#host?.publish(invalidations)
  }

  flush(): Promise<void> {
    return this.#host?.flush() ?? Promise.resolve()
  }

  close(): void {
    const host = this.#host
    this.#host = undefined
    host?.close()
  }

  /** Its bus is closed. */
  end(): void {
    this.#host = undefined
  }

  hear(invalidations: readonly Invalidation[]): void {
    if (this.#host !== undefined) this.#tell(() => this.#listener.onInvalidations(invalidations))
  }

  hearGap(): void {
    if (this.#host !== undefined) this.#tell(() => this.#listener.onGap())
  }

  /** A listener that throws, or whose promise rejects, hurts nobody else; its first error is reported. */
  #tell(act: () => unknown): void {
    try {
      const returned = act()
      if (isThenable(returned)) returned.then(undefined, (error: unknown) => this.#report(error))
    } catch (error) {
      this.#report(error)
    }
  }

  #report(error: unknown): void {
    if (this.#reported) return
    this.#reported = true
    warn(`what listens to invalidations failed: ${describeError(error)}`)
  }
}
