import type { Clock } from '../../core/clock.js'
import { describeError, warn } from '../../core/events.js'
import { backoffMs } from '../../core/retry.js'
import { orAbort } from '../../internal/abort.js'
import { handled } from '../../internal/deferred.js'
import {
  type PoolableClient,
  type PoolableIoredis,
  type PoolableNodeRedis,
  PooledConnection,
} from './pooled-connection.js'
import type { RedisClient } from './redis-client.js'

/** Who hears what a subscriber hears. */
export interface SubscriberListener {
  /** A message came. */
  onMessage(text: string): void
  /** From now on messages come; those of the time before are lost. */
  onSubscribed(): void
  /** They come no more, or an attempt to subscribe failed. It tries again. */
  onUnsubscribed(error: unknown): void
}

/** Where a subscriber takes its time and chance from, and how long it waits. */
export interface SubscriberSettings {
  readonly clock: Clock
  readonly random: () => number
  /** How long an attempt to connect and to subscribe takes at the most, in milliseconds. */
  readonly connectTimeoutMs: number
}

/** Between attempts to subscribe. */
const reconnect = { delayMs: 100, maxDelayMs: 10_000 } as const

/**
 * Listens to one channel over a connection of its own: a duplicate of the caller's client or, on a cluster, of its client for
 * one of the nodes, since a cluster passes every message to all nodes. A duplicate that broke is ended, and the next one made here rather
 * than by the library: so that each subscription is one that Redis has confirmed, and whoever listens knows when messages were missed.
 */
export class RedisSubscriber {
  readonly #client: RedisClient
  readonly #channel: string
  readonly #listener: SubscriberListener
  readonly #settings: SubscriberSettings
  readonly #stop = new AbortController()
  #connection: PooledConnection<PoolableClient> | undefined
  #subscribed = false
  #cancelTimer: (() => void) | undefined

  constructor(client: RedisClient, channel: string, listener: SubscriberListener, settings: SubscriberSettings) {
    this.#client = client
    this.#channel = channel
    this.#listener = listener
    this.#settings = settings
  }

  /** Whether messages come, as far as it knows. */
  get subscribed(): boolean {
    return this.#subscribed
  }

  /** Subscribes, and goes on trying until it is closed. Resolves after the first attempt; never rejects. */
  start(): Promise<void> {
    return this.#attempt(1)
  }

  /** Asks for a sign of life; a connection that gives none in time is ended, and another one made. Never rejects. */
  async check(timeoutMs: number): Promise<void> {
    const connection = this.#connection
    if (connection === undefined || !this.#subscribed) return
    try {
      await this.#within(timeoutMs, 'PING', commandOf(connection.client, 'PING'))
    } catch (error) {
      this.#lose(connection, error)
    }
  }

  /** Ends its connection. */
  close(): void {
    this.#stop.abort(new Error('the subscriber is closed'))
    this.#cancelTimer?.()
    this.#subscribed = false
    this.#connection?.end()
    this.#connection = undefined
  }

  async #attempt(nth: number): Promise<void> {
    const { clock, connectTimeoutMs } = this.#settings
    const { signal } = this.#stop
    let connection: PooledConnection<PoolableClient> | undefined
    try {
      // A cluster of node-redis connects to a node to give its client.
      const client = await this.#within(
        connectTimeoutMs,
        'a client',
        duplicateOf(this.#client, this.#settings.random),
        end,
      )
      connection = new PooledConnection(client)
      this.#connection = connection
      if (signal.aborted) return connection.end()
      await connection.connect(clock, connectTimeoutMs, signal)
      this.#listen(connection)
      await this.#within(connectTimeoutMs, 'SUBSCRIBE', this.#subscribe(connection))
      if (signal.aborted || connection.broken) throw new Error('the connection broke')
    } catch (error) {
      connection?.end()
      if (this.#connection === connection) this.#connection = undefined
      if (signal.aborted) return
      this.#retry(nth)
      this.#tell(() => this.#listener.onUnsubscribed(error))
      return
    }
    this.#subscribed = true
    this.#tell(() => this.#listener.onSubscribed())
  }

  #listen(connection: PooledConnection<PoolableClient>): void {
    const { client } = connection
    const lose = (error: unknown): void => this.#lose(connection, error)
    client.on('error', lose)
    for (const event of ['close', 'end', 'reconnecting'])
      client.on(event, () => lose(new Error('the connection broke')))
    // Of ioredis; node-redis calls the listener that it gets with the subscription.
    client.on('message', (channel, text) => {
      if (channel === this.#channel) this.#hear(connection, text)
    })
  }

  #subscribe(connection: PooledConnection<PoolableClient>): Promise<unknown> {
    const client = connection.client as unknown as {
      call?: unknown
      subscribe(channel: string, listener?: (text: unknown) => void): Promise<unknown>
    }
    if (typeof client.call === 'function') return client.subscribe(this.#channel)
    return client.subscribe(this.#channel, (text) => this.#hear(connection, text))
  }

  #hear(connection: PooledConnection<PoolableClient>, text: unknown): void {
    if (this.#connection === connection) this.#tell(() => this.#listener.onMessage(String(text)))
  }

  #lose(connection: PooledConnection<PoolableClient>, error: unknown): void {
    // Before it has subscribed, its attempt finds out by itself.
    if (this.#connection !== connection || !this.#subscribed) return
    this.#subscribed = false
    this.#connection = undefined
    connection.end()
    this.#retry(1)
    this.#tell(() => this.#listener.onUnsubscribed(error))
  }

  #retry(nth: number): void {
    if (this.#stop.signal.aborted) return
    const { clock, random } = this.#settings
    // Not at once: a server that accepts connections and drops them would keep both sides busy.
    const delayMs = Math.max(reconnect.delayMs / 2, backoffMs(nth, reconnect, random))
    this.#cancelTimer = clock.setTimer(() => void this.#attempt(nth + 1), delayMs, { keepAlive: false })
  }

  /** Waits for a call for a while, or until it is closed. What comes later is discarded. */
  #within<T>(timeoutMs: number, what: string, work: Promise<T>, discard?: (value: T) => void): Promise<T> {
    const { clock } = this.#settings
    return new Promise<T>((resolve, reject) => {
      let over = false
      const settle = (act: () => void): void => {
        if (over) return
        over = true
        cancelTimer()
        act()
      }
      const giveUp = (): void => settle(() => reject(new Error(`${what}: no answer within ${timeoutMs} ms`)))
      // Where this process was busy for so long, the answer may be here and wait to be read.
      const cancelTimer = clock.setTimer(() => clock.defer(giveUp), timeoutMs, { keepAlive: false })
      orAbort(handled(work), this.#stop.signal).catch((error: unknown) => settle(() => reject(error)))
      work.then((value) => (over ? discard?.(value) : settle(() => resolve(value)))).catch(() => undefined)
    })
  }

  #tell(act: () => void): void {
    if (this.#stop.signal.aborted) return
    try {
      act()
    } catch (error) {
      warn(`what listens to ${this.#channel} failed: ${describeError(error)}`)
    }
  }
}

/** A client of its own for one server, that hasn't connected yet and won't reconnect. */
async function duplicateOf(client: RedisClient, random: () => number): Promise<PoolableClient> {
  const shape = client as {
    isCluster?: boolean
    call?: unknown
    nodes?: (role: string) => PoolableIoredis[]
    masters?: readonly unknown[]
    nodeClient?: (node: unknown) => unknown
  }
  if (typeof shape.call === 'function') {
    const one = shape.isCluster ? anyOf(shape.nodes?.('master') ?? [], random) : client
    return duplicateIoredis(one as PoolableIoredis)
  }
  if (shape.masters === undefined) return duplicateNodeRedis(client as PoolableNodeRedis)
  const node = anyOf(shape.masters, random)
  return duplicateNodeRedis((await shape.nodeClient?.(node)) as PoolableNodeRedis)
}

function anyOf<T>(nodes: readonly T[], random: () => number): T {
  const node = nodes[Math.floor(random() * nodes.length)]
  if (node === undefined) throw new Error('the client knows no node of the cluster yet')
  return node
}

function duplicateIoredis(client: PoolableIoredis): PoolableClient {
  return (client as unknown as { duplicate(overrides: object): PoolableClient }).duplicate({
    lazyConnect: true,
    retryStrategy: null,
    autoResubscribe: false,
    enableOfflineQueue: true,
    enableReadyCheck: true,
    maxRetriesPerRequest: null,
    readOnly: false,
    monitor: false,
    // A channel has no prefix of the client's: scripts publish without.
    keyPrefix: '',
  })
}

function duplicateNodeRedis(client: PoolableNodeRedis): PoolableClient {
  const { options, duplicate } = client as unknown as {
    options?: { socket?: object }
    duplicate(overrides: object): PoolableClient
  }
  return duplicate.call(client, {
    // A channel may be silent for long: its checks find out what is broken.
    socket: { ...options?.socket, reconnectStrategy: false, socketTimeout: undefined },
    clientSideCache: undefined,
    disableOfflineQueue: false,
    readonly: false,
  })
}

function end(client: PoolableClient): void {
  new PooledConnection(client).end()
}

async function commandOf(client: PoolableClient, command: string): Promise<unknown> {
  return 'call' in client ? client.call(command, []) : client.sendCommand([command])
}
