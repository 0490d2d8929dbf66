import type { Socket } from 'node:net'
import type { Agent, Client, Dispatcher, Pool } from 'undici'
import type { Clock } from '../../core/clock.js'
import type { Exchange } from './exchange.js'
import type { HttpSettings } from './http-options.js'

/** What is used of undici 7. */
export interface Undici {
  /** Its class Agent. */
  readonly Agent: typeof Agent
  /** Its class Pool. */
  readonly Pool: typeof Pool
  /** Its class Client. */
  readonly Client: typeof Client
}

/** The connections to one origin. */
export interface OriginStats {
  /** The origin. */
  readonly origin: string
  /** What its last connection speaks; undefined until there was one. */
  readonly protocol: 'http/1.1' | 'h2' | undefined
  /** Open connections. */
  readonly connections: number
  /** Those of them without a request. */
  readonly idle: number
  /** Requests on a connection. */
  readonly running: number
  /** Requests that wait for a connection. */
  readonly queued: number
}

/** Hears of connections. */
export interface ConnectionsObserver {
  connected(origin: string, protocol: 'http/1.1' | 'h2'): void
  disconnected(origin: string): void
}

/** Marks an exchange in the options that undici passes from Agent to Pool to Client. */
const tag: unique symbol = Symbol('exchange')

type Connector = (options: object, callback: (error: Error | null, socket: Socket | null) => void) => void

/** An undici Client: at most one socket at a time, under changing requests. */
class Connection {
  origin: Origin
  /** How many exchanges it has been given. */
  carried = 0
  socket: Socket | undefined
  /** Whether undici's pool has dropped it, so that no request comes to it any more. */
  retired = false
  close: () => Promise<unknown> = () => Promise.resolve()

  constructor(origin: Origin) {
    this.origin = origin
  }
}

/** What is known about one origin. */
class Origin {
  readonly name: string
  readonly connections = new Set<Connection>()
  /** What waits until it is known whether one connection can take it all. */
  readonly waiting = new Set<Exchange>()
  /** The exchange that makes the first connection. */
  probe: Exchange | undefined
  protocol: OriginStats['protocol']
  /** Connections that are being made. */
  connecting = 0
  running = 0
  queued = 0

  constructor(name: string) {
    this.name = name
  }
}

/**
 * One undici Agent, and the books of its connections, which undici doesn't keep: which are idle and since when. It
 * closes what is over the limit or was idle for too long (undici knows no limit over several origins, and lets HTTP/2
 * connections live for ever), lets an HTTP/2 connection carry many requests and an HTTP/1.1 connection one (undici
 * knows one number for both), and keeps the first burst to an HTTP/2 origin from opening a connection a request.
 */
export class Connections {
  readonly #agent: Agent
  readonly #clock: Clock
  readonly #settings: HttpSettings
  readonly #observer: ConnectionsObserver
  readonly #origins = new Map<string, Origin>()
  /** Which connection an exchange was given to. */
  readonly #carriers = new Map<Exchange, Connection>()
  /** Idle connections and since when, the longest first. */
  readonly #idle = new Map<Connection, number>()
  #trimming = false
  #destroyed = false
  #cancelTimer: (() => void) | undefined
  #opened = 0

  constructor(undici: Undici, settings: HttpSettings, clock: Clock, observer: ConnectionsObserver) {
    this.#settings = settings
    this.#clock = clock
    this.#observer = observer
    const { connectionsPerOrigin, keepAliveMs, allowH2, connectTimeoutMs } = settings
    this.#agent = new undici.Agent({
      connections: connectionsPerOrigin,
      keepAliveTimeout: keepAliveMs,
      keepAliveMaxTimeout: keepAliveMs,
      connectTimeout: connectTimeoutMs,
      allowH2,
      headersTimeout: Math.ceil(settings.headersTimeoutMs),
      bodyTimeout: Math.ceil(settings.bodyTimeoutMs),
      ...(settings.connect === undefined ? {} : { connect: settings.connect }),
      factory: (origin, options) => {
        const name = new URL(origin).origin
        return new undici.Pool(origin, {
          ...options,
          factory: (url, clientOptions) => this.#makeClient(undici, name, url, clientOptions),
        })
      },
    })
  }

  /** Sends an exchange as soon as there is a connection for it. */
  dispatch(exchange: Exchange): void {
    const origin = this.#originOf(exchange.request.origin)
    origin.queued++
    let started = false
    exchange.observer = {
      started: () => {
        started = true
        origin.queued--
        origin.running++
      },
      ended: () => {
        if (started) origin.running--
        else origin.queued--
        origin.waiting.delete(exchange)
        this.#unassign(exchange)
        // One that was given up while connecting leaves its connection to those that wait.
        if (origin.probe === exchange && origin.connecting === 0) this.#probed(origin)
        this.#forget(origin)
      },
    }
    if (origin.probe !== undefined) origin.waiting.add(exchange)
    else this.#send(origin, exchange)
  }

  /** How many sockets were opened so far. */
  get opened(): number {
    return this.#opened
  }

  /** How many connections are idle. */
  get idle(): number {
    return this.#idle.size
  }

  stats(): OriginStats[] {
    return [...this.#origins.values()].map(({ name, protocol, connections, running, queued }) => {
      const open = [...connections].filter(({ socket }) => socket !== undefined)
      const idle = open.filter((connection) => this.#idle.has(connection)).length
      return { origin: name, protocol, connections: open.length, idle, running, queued }
    })
  }

  /**
   * Closes all connections, but not within the turn in which the last answer came: to destroy an HTTP/2 session out of
   * its own callbacks can corrupt the memory of Node 20.
   */
  async destroy(): Promise<void> {
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
    await new Promise((resolve) => setImmediate(resolve))
    this.#destroyed = true
    const known = [...this.#origins.values()].flatMap(({ connections }) => [...connections])
    // One by one too: the agent knows nothing of a connection that its pool has dropped.
    await Promise.all([this.#agent.destroy(), ...known.map((connection) => connection.close())])
  }

  #originOf(name: string): Origin {
    let origin = this.#origins.get(name)
    if (origin === undefined) {
      origin = new Origin(name)
      this.#origins.set(name, origin)
    }
    return origin
  }

  #send(origin: Origin, exchange: Exchange): void {
    const mayBeH2 = this.#settings.allowH2 && origin.name.startsWith('https:') && origin.protocol !== 'http/1.1'
    if (mayBeH2 && ![...origin.connections].some(({ socket }) => socket !== undefined)) origin.probe = exchange
    this.#dispatch(exchange)
  }

  #dispatch(exchange: Exchange): void {
    exchange.dispatch(this.#agent, { [tag]: exchange })
  }

  /** The first connection is there, or can't be had: what waited goes on. */
  #probed(origin: Origin): void {
    origin.probe = undefined
    const waiting = [...origin.waiting]
    origin.waiting.clear()
    for (const exchange of waiting) this.#dispatch(exchange)
  }

  #makeClient(undici: Undici, name: string, url: URL, options: object): Dispatcher {
    const connection = new Connection(this.#originOf(name))
    const connect = (options as { connect: Connector }).connect
    const client = new undici.Client(url, {
      ...options,
      pipelining: this.#concurrencyOf(connection.origin.protocol),
      connect: ((connectOptions, callback) => {
        const { origin } = connection
        origin.connecting++
        connect(connectOptions, (error, socket) => {
          origin.connecting--
          if (this.#destroyed) {
            socket?.destroy()
            callback(error ?? new Error('the client is closed'), null)
            return
          }
          if (socket !== null && socket !== undefined) {
            this.#connected(connection, socket)
            client.pipelining = this.#concurrencyOf(origin.protocol)
          }
          callback(error, socket)
          if (origin.probe !== undefined) this.#probed(origin)
          this.#forget(origin)
        })
      }) as Connector as never,
    })
    connection.close = () => client.destroy()
    // A lost HTTP/2 connection is one too, and then undici may go on with what waited on it.
    client.on('connectionError', () => {
      connection.retired = true
    })
    const dispatch = client.dispatch.bind(client)
    client.dispatch = (dispatchOptions, handler) => {
      const exchange = (dispatchOptions as { [tag]?: Exchange })[tag]
      if (exchange !== undefined && !exchange.ended) this.#assign(connection, exchange)
      return dispatch(dispatchOptions, handler)
    }
    return client
  }

  #assign(connection: Connection, exchange: Exchange): void {
    // undici may keep a client for longer than an origin without connections is remembered.
    connection.origin = this.#originOf(connection.origin.name)
    connection.origin.connections.add(connection)
    connection.carried++
    this.#carriers.set(exchange, connection)
    this.#idle.delete(connection)
  }

  #concurrencyOf(protocol: OriginStats['protocol']): number {
    return protocol === 'h2' ? this.#settings.maxStreamsPerConnection : 1
  }

  #connected(connection: Connection, socket: Socket): void {
    const { origin } = connection
    const h2 = (socket as { alpnProtocol?: unknown }).alpnProtocol === 'h2'
    origin.protocol = h2 ? 'h2' : 'http/1.1'
    origin.connections.add(connection)
    connection.socket = socket
    this.#opened++
    this.#observer.connected(origin.name, origin.protocol)
    socket.once('close', () => {
      if (connection.socket === socket) connection.socket = undefined
      this.#idle.delete(connection)
      if (connection.carried === 0) origin.connections.delete(connection)
      this.#observer.disconnected(origin.name)
      this.#forget(origin)
    })
    // Whoever asked for it may have given up meanwhile.
    if (connection.carried === 0) this.#rest(connection)
  }

  #unassign(exchange: Exchange): void {
    const connection = this.#carriers.get(exchange)
    if (connection === undefined) return
    this.#carriers.delete(exchange)
    connection.carried--
    if (connection.carried > 0) return
    if (connection.socket === undefined) connection.origin.connections.delete(connection)
    else this.#rest(connection)
  }

  #rest(connection: Connection): void {
    this.#idle.set(connection, this.#clock.now())
    this.#arm()
    const { maxIdleConnections } = this.#settings
    if ((this.#idle.size <= maxIdleConnections && !connection.retired) || this.#trimming) return
    this.#trimming = true
    // At the end of the turn: what waits in undici's queue takes the connection before that.
    this.#clock.defer(() => {
      this.#trimming = false
      for (const idle of this.#idle.keys()) {
        if (idle.retired || this.#idle.size > maxIdleConnections) this.#close(idle)
      }
    })
  }

  #arm(): void {
    if (this.#cancelTimer !== undefined) return
    const [longest] = this.#idle.values()
    if (longest === undefined) return
    const dueInMs = Math.max(0, longest + this.#settings.keepAliveMs - this.#clock.now())
    this.#cancelTimer = this.#clock.setTimer(
      () => {
        this.#cancelTimer = undefined
        const limit = this.#clock.now() - this.#settings.keepAliveMs
        for (const [connection, since] of this.#idle) {
          if (since > limit) break
          this.#close(connection)
        }
        this.#arm()
      },
      dueInMs,
      { keepAlive: false },
    )
  }

  #close(connection: Connection): void {
    this.#idle.delete(connection)
    // As undici does it itself: its HTTP/2 session stumbles over a socket that closes without an error.
    connection.socket?.destroy(Object.assign(new Error('idle for too long'), { code: 'UND_ERR_INFO' }))
  }

  #forget(origin: Origin): void {
    if (origin.running + origin.queued + origin.connecting + origin.connections.size > 0) return
    if (this.#origins.get(origin.name) === origin && origin.waiting.size === 0) this.#origins.delete(origin.name)
    if (this.#origins.size === 0) {
      this.#cancelTimer?.()
      this.#cancelTimer = undefined
    }
  }
}
