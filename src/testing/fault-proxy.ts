import { type Clock, systemClock } from '../core/clock.js'
import { ClosedError, StoreError } from '../core/errors.js'
import {
  checkBoolean,
  checkCount,
  checkDuration,
  checkOneOf,
  checkOptionalFunction,
  checkOptions,
  failOption,
  valueOr,
} from '../core/options.js'
import type { LinkFaults, NetModule, NetSocket } from './proxy-lane.js'
import { ProxyPair, resetSocket } from './proxy-pair.js'

/** Options of {@link FaultProxy}. */
export interface FaultProxyOptions {
  /** The server's port. */
  port: number
  /**
   * The server's host.
   * @defaultValue '127.0.0.1'
   */
  host?: string | undefined
  /**
   * The port on 127.0.0.1 that it listens on; 0 is one that is free.
   * @defaultValue 0
   */
  listenPort?: number | undefined
  /** Where the chance of `jitterMs` comes from. The default is `Math.random`. */
  random?: (() => number) | undefined
  /** Where time comes from. The default is `systemClock`; bytes travel in real time whatever it says. */
  clock?: Clock | undefined
}

/** What is wrong with a way to a server. */
export interface ProxyFaults extends LinkFaults {
  /**
   * What becomes of new connections: `'pass'`, the default; `'refuse'` resets them; `'ignore'` accepts them and never answers, and swallows
   * what they send. Those that are there already go on.
   */
  readonly mode?: 'pass' | 'refuse' | 'ignore' | undefined
  /** What is wrong on the way to the server, where that differs. */
  readonly toServer?: LinkFaults | undefined
  /** What is wrong on the way to the client, where that differs. */
  readonly toClient?: LinkFaults | undefined
}

/** Which answers `loseAnswers` loses. */
export interface LoseAnswersOptions {
  /** Whether what a client sent in one piece is a request whose answer is to be lost. The default is whatever it sends. */
  readonly request?: ((bytes: Uint8Array) => boolean) | undefined
  /** Whether the answer is complete, given all that the server sent since. The default is once anything came. */
  readonly answer?: ((bytes: Uint8Array) => boolean) | undefined
}

/** What has gone through a {@link FaultProxy}. */
export interface FaultProxyStats {
  /** Connections in all, those that were refused or ignored included. */
  readonly connections: number
  /** Connections that are open. */
  readonly open: number
  /** Connections that were refused. */
  readonly refused: number
  /** Connections that were ignored. */
  readonly ignored: number
  /** Connections that the proxy cut. */
  readonly cuts: number
  /** Answers that it lost. */
  readonly lostAnswers: number
  /** Bytes that it handed on to the server. */
  readonly toServerBytes: number
  /** Bytes that it handed on to clients. */
  readonly toClientBytes: number
}

/** Answers that are to be lost. */
interface Losses {
  left: number
  readonly request: (bytes: Uint8Array) => boolean
  readonly answer: (bytes: Uint8Array) => boolean
}

const modes = ['pass', 'refuse', 'ignore'] as const

/**
 * A TCP proxy in front of a real server, which makes it slow, unreachable or forgetful: for tests of what a client does then. It listens
 * on 127.0.0.1 alone. It needs sockets: Node, Bun or Deno.
 *
 * @example
 * ```ts
 * import { FaultProxy } from 'spillway/testing'
 *
 * await using proxy = new FaultProxy({ port: 6379 })
 * await proxy.start()
 * // … connect a client to proxy.address
 * proxy.set({ latencyMs: 200, jitterMs: 50 }) // a slow network
 * proxy.set({ toClient: { frozen: true } }) // half-open: the server hears, the client doesn't
 * proxy.set({ mode: 'refuse' })
 * proxy.cut() // dead
 * proxy.heal()
 * ```
 */
export class FaultProxy implements AsyncDisposable {
  /** The options' defaults. */
  static readonly defaults = { host: '127.0.0.1', listenPort: 0 } as const

  readonly #target: { readonly host: string; readonly port: number }
  readonly #clock: Clock
  readonly #random: () => number
  readonly #pairs = new Set<ProxyPair>()
  readonly #ignored = new Set<NetSocket>()
  readonly #counts = {
    connections: 0,
    refused: 0,
    ignored: 0,
    cuts: 0,
    lostAnswers: 0,
    toServerBytes: 0,
    toClientBytes: 0,
  }
  #listenPort: number
  #server: InstanceType<NetModule['Server']> | undefined
  #starting: Promise<number> | undefined
  #started = false
  #faults: ProxyFaults = {}
  #losses: Losses | undefined

  /** @throws OptionError when an option is wrong. */
  constructor(options: FaultProxyOptions) {
    if (options === undefined) failOption('options', 'must be an object', options)
    checkOptions('options', options)
    const { defaults } = FaultProxy
    const host = valueOr<string>(options.host, defaults.host)
    if (typeof host !== 'string' || host === '') failOption('host', 'must be a string that is not empty', host)
    this.#target = { host, port: checkCount('port', options.port, 1, 65_535) }
    this.#listenPort = checkCount('listenPort', valueOr<number>(options.listenPort, defaults.listenPort), 0, 65_535)
    this.#random = valueOr(checkOptionalFunction('random', options.random), Math.random)
    this.#clock = valueOr(options.clock, systemClock)
  }

  /**
   * The port that it listens on, the same after another start.
   *
   * @throws ClosedError before it was started.
   */
  get port(): number {
    if (!this.#started) throw new ClosedError('fault-proxy has not been started')
    return this.#listenPort
  }

  /**
   * Where it listens: `127.0.0.1:PORT`.
   *
   * @throws ClosedError before it was started.
   */
  get address(): string {
    return `127.0.0.1:${this.port}`
  }

  /** Listens. Again after `stop`, on the same port; does nothing where it listens already. Rejects where it can't. Throws nothing. */
  start(): Promise<number> {
    this.#starting ??= this.#start().catch((error: unknown) => {
      this.#starting = undefined
      throw error
    })
    return this.#starting
  }

  /** Cuts all connections, and listens no more: whoever connects is refused by the machine itself. Throws nothing. */
  async stop(): Promise<void> {
    await this.#starting?.catch(() => undefined)
    const server = this.#server
    this.#server = undefined
    this.#starting = undefined
    const closed = new Promise<void>((resolve) => (server === undefined ? resolve() : server.close(() => resolve())))
    this.#cutAll()
    await closed
  }

  /** Stops it, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  /**
   * Makes these the faults, in place of those that were set before: at once, also for connections that are there.
   *
   * @throws OptionError when one is wrong.
   */
  set(faults: ProxyFaults): void {
    if (faults === undefined) failOption('faults', 'must be an object', faults)
    checkOptions('faults', faults)
    checkOneOf('mode', valueOr(faults.mode, 'pass'), modes)
    for (const link of [faults, faults.toServer, faults.toClient]) checkLink(link)
    this.#faults = faults
    for (const pair of this.#pairs) pair.apply(this.#linkFaults('toServer'), this.#linkFaults('toClient'))
  }

  /** Takes all faults away; what was frozen goes on. What was ignored stays so. */
  heal(): void {
    this.#losses = undefined
    this.set({})
  }

  /** Resets all connections that are open. */
  cut(): void {
    this.#counts.cuts += this.#pairs.size + this.#ignored.size
    this.#cutAll()
  }

  /**
   * Lets the next requests through, swallows what the server answers, and resets the connection then: the work is done, and the client
   * never hears of it.
   *
   * @param count - how many requests.
   * @throws OptionError when an argument is wrong.
   */
  loseAnswers(count = 1, options: LoseAnswersOptions = {}): void {
    checkCount('count', count)
    checkOptions('options', options)
    const request = valueOr(checkOptionalFunction('request', options.request), () => true)
    const answer = valueOr(checkOptionalFunction('answer', options.answer), () => true)
    this.#losses = { left: count, request, answer }
  }

  /** What has gone through, as of now. */
  stats(): FaultProxyStats {
    return { ...this.#counts, open: this.#pairs.size + this.#ignored.size }
  }

  async #start(): Promise<number> {
    const net = globalThis.process?.getBuiltinModule?.('node:net')
    if (net === undefined) throw new StoreError('fault-proxy needs sockets: node:net', { retryable: false })
    const server = net.createServer({ allowHalfOpen: true }, (client) => this.#accept(net, client))
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause) => {
        reject(new StoreError(`fault-proxy can't listen on 127.0.0.1:${this.#listenPort}`, { cause }))
      })
      server.listen(this.#listenPort, '127.0.0.1', resolve)
    })
    const address = server.address()
    if (typeof address === 'object' && address !== null) this.#listenPort = address.port
    this.#server = server
    this.#started = true
    return this.#listenPort
  }

  #accept(net: NetModule, client: NetSocket): void {
    const counts = this.#counts
    counts.connections++
    client.on('error', () => undefined)
    if (this.#faults.mode === 'refuse') {
      counts.refused++
      resetSocket(client)
      return
    }
    if (this.#faults.mode === 'ignore') {
      counts.ignored++
      this.#ignored.add(client)
      client.once('close', () => void this.#ignored.delete(client))
      client.once('end', () => void client.end())
      client.resume()
      return
    }
    const server = net.connect({ ...this.#target, allowHalfOpen: true })
    const pair: ProxyPair = new ProxyPair(client, server, {
      clock: this.#clock,
      random: this.#random,
      toServer: this.#linkFaults('toServer'),
      toClient: this.#linkFaults('toClient'),
      passed: (way, bytes) => {
        counts[way === 'toServer' ? 'toServerBytes' : 'toClientBytes'] += bytes
      },
      cut: () => void counts.cuts++,
      loses: (request) => this.#loses(request),
      lost: () => void counts.lostAnswers++,
      ended: () => void this.#pairs.delete(pair),
    })
    this.#pairs.add(pair)
  }

  /** Whether the answer to this request is to be lost, and then what makes it complete. */
  #loses(request: Uint8Array): ((answer: Uint8Array) => boolean) | undefined {
    const losses = this.#losses
    if (losses === undefined || !losses.request(request)) return undefined
    if (--losses.left === 0) this.#losses = undefined
    return losses.answer
  }

  #linkFaults(way: 'toServer' | 'toClient'): LinkFaults {
    return { ...this.#faults, ...this.#faults[way] }
  }

  #cutAll(): void {
    for (const pair of this.#pairs) pair.reset()
    for (const socket of this.#ignored) resetSocket(socket)
  }
}

function checkLink(link: LinkFaults | undefined): void {
  checkOptions('faults', link)
  if (link === undefined) return
  const { latencyMs, jitterMs, bytesPerSecond, frozen, resetAfterBytes } = link
  if (latencyMs !== undefined) checkDuration('latencyMs', latencyMs)
  if (jitterMs !== undefined) checkDuration('jitterMs', jitterMs)
  if (bytesPerSecond !== undefined) checkDuration('bytesPerSecond', bytesPerSecond, 1, Number.MAX_SAFE_INTEGER)
  if (frozen !== undefined) checkBoolean('frozen', frozen)
  if (resetAfterBytes !== undefined) checkCount('resetAfterBytes', resetAfterBytes, 1, Number.MAX_SAFE_INTEGER)
}
