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
  /** Whether it is subscribed to anything. Clusters and sentinels, which aren't one connection, don't say. */
  readonly isPubSubActive: boolean
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
  /** Whether node-redis has a socket that `destroy` can reach. */
  #hasSocket: boolean
  #onBreak: (() => void) | undefined

  constructor(client: C) {
    const shape = client as Partial<PoolableIoredis & PoolableNodeRedis> | null | undefined
    const usable = typeof shape === 'object' && shape !== null && typeof shape.on === 'function'
    if (usable && typeof shape.call === 'function' && typeof shape.status === 'string' && !('nodes' in shape)) {
      this.#ioredis = client as PoolableIoredis
    } else if (usable && typeof shape.sendCommand === 'function' && typeof shape.isPubSubActive === 'boolean') {
      this.#nodeRedis = client as PoolableNodeRedis
    } else {
      discard(client)
      failOption('create', 'must return a client of ioredis or node-redis for one server', client)
    }
    this.client = client
    // A client of ioredis that the pool ends while it waits to reconnect would never answer what it was sent.
    const { options } = client as { options?: { retryStrategy?: unknown } }
    if (this.#ioredis !== undefined && options !== undefined) options.retryStrategy = null
    this.#hasSocket = this.#ready
    // One listener for errors stays for good: without any, node-redis would take the process down.
    client.on('error', (error) => {
      this.#lastError = error
      this.#hasSocket = false
      this.#break()
    })
    for (const event of ['close', 'end', 'reconnecting']) client.on(event, () => this.#break())
    client.on('connect', () => {
      this.#hasSocket = true
      if (this.#ended) this.#destroy()
    })
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
      this.#onBreak = () => settle(() => reject(this.#lastError ?? closed()))
      if (stop.aborted) return onStop()
      stop.addEventListener('abort', onStop)
      const connected = (): void => settle(() => (this.broken ? reject(this.#lastError ?? closed()) : resolve()))
      const failed = (error: unknown): void => settle(() => reject(error))
      if (this.#ready) connected()
      else if (['wait', 'end'].includes(this.#ioredis?.status ?? '') || this.#nodeRedis?.isOpen === false) {
        // A client may throw instead of rejecting.
        Promise.resolve()
          .then(() => this.client.connect())
          .then(connected, failed)
      } else this.client.on('ready', connected)
    })
  }

  /**
   * Whether the next use may have it: it answers PING with PONG, which one left in a transaction doesn't, and isn't subscribed to
   * anything. Keys that are still watched are let go.
   */
  isUsable(clock: Clock, timeoutMs: number): Promise<boolean> {
    if (this.broken || this.#subscribed) return Promise.resolve(false)
    return new Promise((resolve) => {
      const cancelTimer = clock.setTimer(() => resolve(false), timeoutMs)
      const answer = (usable: boolean): void => {
        cancelTimer()
        resolve(usable && !this.broken)
      }
      // Both in one turn, and so in one round trip. Who may not UNWATCH can't have watched.
      this.#send('UNWATCH').catch(() => undefined)
      this.#send('PING').then(
        (reply) => answer(String(reply) === 'PONG'),
        () => answer(false),
      )
    })
  }

  /** Ends the connection at once; what is under way on it rejects. */
  end(): void {
    if (this.#ended) return
    this.#ended = true
    this.#broken = true
    // Out of reach, the socket of node-redis would outlive its client: it is ended when it connects.
    if (this.#nodeRedis?.isOpen && !this.#hasSocket) return
    this.#destroy()
  }

  #destroy(): void {
    discard(this.client)
  }

  async #send(command: string): Promise<unknown> {
    return this.#ioredis === undefined ? this.#nodeRedis?.sendCommand([command]) : this.#ioredis.call(command, [])
  }

  /** With RESP3 a subscribed connection answers PING like any other. */
  get #subscribed(): boolean {
    if (this.#nodeRedis !== undefined) return this.#nodeRedis.isPubSubActive
    return Boolean((this.client as { condition?: { subscriber?: unknown } | null }).condition?.subscriber)
  }

  get #ready(): boolean {
    return this.#ioredis === undefined ? this.#nodeRedis?.isReady === true : this.#ioredis.status === 'ready'
  }

  /** A client that broke isn't let reconnect: what its user had set on the connection, a watch above all, would be gone. */
  #break(): void {
    this.#broken = true
    this.#onBreak?.()
    if (this.#nodeRedis?.isOpen) this.#destroy()
  }
}

function closed(): Error {
  return new Error('the connection was closed')
}

/** Ends a client, whatever it is. */
function discard(client: unknown): void {
  const { destroy, disconnect } = (client ?? {}) as { destroy?: unknown; disconnect?: unknown }
  const end = typeof destroy === 'function' ? destroy : disconnect
  if (typeof end !== 'function') return
  try {
    // One that rejects had ended by itself, as had one that throws.
    Promise.resolve(end.call(client)).catch(() => undefined)
  } catch {}
}
