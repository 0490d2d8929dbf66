import type { Clock } from '../../core/clock.js'
import { failOption } from '../../core/options.js'

/** A client of ioredis for one server, as far as a pool needs it. */
export interface PoolableIoredis {
  /** How its connection is: `wait`, `connecting`, `ready`, `end`. */
  readonly status: string
  /** Connects, when it was made with `lazyConnect`. */
  connect(): Promise<unknown>
  /** Ends the connection at once. */
  disconnect(): void
  /** Sends any command. */
  call(command: string, args: string[]): Promise<unknown>
  /** Listens to an event. */
  on(event: string, listener: (...args: unknown[]) => void): unknown
}

/** A client of node-redis for one server, as far as a pool needs it. */
export interface PoolableNodeRedis {
  /** Whether `connect` was called and it wasn't closed since. */
  readonly isOpen: boolean
  /** Whether it can send commands at this moment. */
  readonly isReady: boolean
  /** Connects. */
  connect(): Promise<unknown>
  /** Ends the connection at once. */
  destroy(): void
  /** Sends any command. */
  sendCommand(args: string[]): Promise<unknown>
  /** Listens to an event. */
  on(event: string, listener: (...args: unknown[]) => void): unknown
}

/** A client that a pool can hold: one of its own connection, not a cluster's. */
export type PoolableClient = PoolableIoredis | PoolableNodeRedis

/** One connection: a client, and whether it has been connected without a break since the pool connected it. */
export class PooledConnection<C extends PoolableClient> {
  readonly client: C
  readonly #ioredis: PoolableIoredis | undefined
  readonly #nodeRedis: PoolableNodeRedis | undefined
  #lastError: unknown
  #broken = false
  #ended = false
  #onBreak: (() => void) | undefined

  constructor(client: C) {
    const shape = client as Partial<PoolableIoredis & PoolableNodeRedis> | null | undefined
    const usable = typeof shape === 'object' && shape !== null && typeof shape.on === 'function'
    if (usable && typeof shape.call === 'function' && typeof shape.status === 'string' && !('nodes' in shape)) {
      this.#ioredis = client as PoolableIoredis
    } else if (usable && typeof shape.sendCommand === 'function' && typeof shape.isReady === 'boolean') {
      this.#nodeRedis = client as PoolableNodeRedis
    } else {
      failOption('create', 'must return a client of ioredis or node-redis for one server', client)
    }
    this.client = client
    // One listener for errors stays for good: without any, node-redis would take the process down.
    client.on('error', (error) => {
      this.#lastError = error
      this.#break()
    })
    for (const event of ['close', 'end', 'reconnecting']) client.on(event, () => this.#break())
  }

  /** Whether the connection was lost, even if the client has got another one since: what was set on it is gone. */
  get broken(): boolean {
    return this.#broken || !this.#ready
  }

  /** Connects; rejects at the client's first error, at the deadline, or when told to stop. */
  connect(clock: Clock, timeoutMs: number, stop: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      let done = false
      const settle = (act: () => void): void => {
        if (done) return
        done = true
        cancelTimer()
        stop.removeEventListener('abort', onStop)
        this.#onBreak = undefined
        act()
      }
      const onStop = (): void => settle(() => reject(stop.reason))
      const cancelTimer = clock.setTimer(
        () => settle(() => reject(this.#lastError ?? new Error(`not connected within ${timeoutMs} ms`))),
        timeoutMs,
      )
      this.#onBreak = () => settle(() => reject(this.#lastError ?? new Error('the connection was closed')))
      if (stop.aborted) return onStop()
      stop.addEventListener('abort', onStop)
      const connected = (): void => settle(() => (this.broken ? reject(this.#lastError) : resolve()))
      const failed = (error: unknown): void => settle(() => reject(error))
      if (this.#ready) connected()
      else if (this.#ioredis?.status === 'wait' || this.#nodeRedis?.isOpen === false) {
        // A client may throw instead of rejecting.
        Promise.resolve()
          .then(() => this.client.connect())
          .then(connected, failed)
      } else this.client.on('ready', connected)
    })
  }

  /** Whether it answers PING with PONG: one left in a transaction or subscribed to something doesn't. */
  isUsable(clock: Clock, timeoutMs: number): Promise<boolean> {
    if (this.broken) return Promise.resolve(false)
    return new Promise((resolve) => {
      const cancelTimer = clock.setTimer(() => resolve(false), timeoutMs)
      const answer = (usable: boolean): void => {
        cancelTimer()
        resolve(usable && !this.broken)
      }
      const ping = this.#ioredis?.call('PING', []) ?? this.#nodeRedis?.sendCommand(['PING'])
      ping?.then(
        (reply) => answer(reply === 'PONG'),
        () => answer(false),
      )
    })
  }

  /** Ends the connection at once; what is under way on it rejects. */
  end(): void {
    if (this.#ended) return
    this.#ended = true
    this.#broken = true
    try {
      this.#ioredis?.disconnect()
      if (this.#nodeRedis?.isOpen) this.#nodeRedis.destroy()
    } catch {
      // It had ended by itself.
    }
  }

  get #ready(): boolean {
    return this.#ioredis === undefined ? this.#nodeRedis?.isReady === true : this.#ioredis.status === 'ready'
  }

  #break(): void {
    this.#broken = true
    this.#onBreak?.()
  }
}
