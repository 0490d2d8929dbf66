import type { CloseOptions, CloseReport } from '../../core/component.js'
import {
  checkBoolean,
  checkCount,
  checkDuration,
  checkOneOf,
  checkOptionalFunction,
  checkOptions,
  failOption,
  valueOr,
} from '../../core/options.js'
import { rejected } from '../../internal/deferred.js'

/** What of a `pg` Pool's configuration {@link createPostgresPool} decides; the rest is the caller's. */
export interface PostgresPoolSettings {
  readonly max: number
  readonly min: number
  readonly connectionTimeoutMillis: number
  readonly idleTimeoutMillis: number
  readonly maxLifetimeSeconds: number
  readonly keepAlive: boolean
  readonly pipeline: boolean
  readonly allowExitOnIdle: boolean
}

/** What is used of a `pg` Pool here. */
export interface ManagedPool {
  /** Its connections. */
  readonly totalCount: number
  /** Those that nobody has. */
  readonly idleCount: number
  /** How many wait for a connection. */
  readonly waitingCount: number
  /** Adds a listener. */
  on(event: 'error', listener: (error: Error) => void): unknown
  /** Listens to what becomes of connections. */
  on(event: 'connect' | 'remove' | 'acquire' | 'release', listener: (first: never, second: never) => void): unknown
  /** Closes its connections, each once it was given back. */
  end(): Promise<void>
}

/** The class `Pool` of `pg`. */
export type PoolClass<Config, P extends ManagedPool> = new (config?: Config) => P

/** Named sets of defaults of {@link createPostgresPool}. */
export const postgresPoolPresets = {
  /** Suits a server with its usual 100 connections, shared by several processes. */
  default: { maxConnections: 10, minConnections: 0, idleTimeoutMs: 10_000, maxLifetimeMs: 0 },
  /** For a server that was set up for many connections, or a PgBouncer before it. */
  highThroughput: { maxConnections: 100, minConnections: 20, idleTimeoutMs: 600_000, maxLifetimeMs: 3_600_000 },
} as const

/** Options of {@link createPostgresPool}. */
export interface CreatePostgresPoolOptions<Config> {
  /**
   * Where the defaults of the four options below come from.
   * @defaultValue 'default'
   */
  preset?: keyof typeof postgresPoolPresets | undefined
  /** The most connections, at least 1. The default is the preset's: 10, or 100 with `highThroughput`. */
  maxConnections?: number | undefined
  /**
   * So many connections aren't closed for being idle; none is opened before it is needed. At most `maxConnections`. The default
   * is the preset's, or `maxConnections` where that is less: 0, or 20 with `highThroughput`.
   */
  minConnections?: number | undefined
  /** How long a connection may be idle before it is closed, in milliseconds; 0 is for ever. The default is the preset's: 10 000, or 600 000 with `highThroughput`. */
  idleTimeoutMs?: number | undefined
  /**
   * How long a connection may live, in milliseconds, so that a server behind a changed name is noticed; it is closed once it is
   * idle. 0 is for ever. The default is the preset's: 0, or 3 600 000 with `highThroughput`.
   */
  maxLifetimeMs?: number | undefined
  /**
   * How long to wait for a connection, be it made or given back, in milliseconds, at least 1. Nothing was sent when it is over.
   * @defaultValue 5000
   */
  connectTimeoutMs?: number | undefined
  /**
   * Whether the system probes idle connections, so that one whose other end is gone is noticed.
   * @defaultValue true
   */
  keepAlive?: boolean | undefined
  /**
   * Whether a client sends a query while others still wait for their answers, as QueryBatcher needs it (`pg` 8.23 or later).
   * Cursors (`pg-cursor`, `pg-query-stream`) then don't work.
   * @defaultValue true
   */
  pipeline?: boolean | undefined
  /** Hears of connections that broke while nobody used them. They are replaced when needed; without it they are silent. */
  onError?: ((error: Error) => void) | undefined
  /** Everything else that the class takes: where the server is, and who asks. What the options above decide wins over it. */
  config?: Config | undefined
}

/** The defaults of {@link CreatePostgresPoolOptions}, those of the presets apart. */
export const createPostgresPoolDefaults = {
  preset: 'default',
  connectTimeoutMs: 5000,
  keepAlive: true,
  pipeline: true,
} as const

/** What {@link createPostgresPool} adds to a pool. */
export interface ClosablePool extends AsyncDisposable {
  /**
   * Waits until those who wait for a connection have been served and every connection was given back, and closes all. At the
   * deadline, connections still in use are cut. What uses the pool is closed before it.
   *
   * @returns `abandoned` is how many connections were in use or waited for at the deadline. It rejects only with an
   * `OptionError` for a wrong `timeoutMs`.
   */
  close(options?: CloseOptions): Promise<CloseReport>
}

/**
 * Makes a `pg` Pool with settings for production: a bound on every wait, keep-alive, pipelining, and a listener for broken
 * connections, so that none of them ever ends the process, in use or idle.
 *
 * @param library - the module `pg`, or its class `Pool`.
 * @returns the pool itself, with a `close` in addition.
 * @throws OptionError when an option is wrong.
 *
 * @example
 * ```ts
 * import pg from 'pg'
 * import { createPostgresPool } from 'spillway/postgres'
 *
 * const pool = createPostgresPool(pg, { config: { connectionString: process.env['DATABASE_URL'] } })
 * await pool.close({ timeoutMs: 5000 })
 * ```
 */
export function createPostgresPool<Config extends object, P extends ManagedPool>(
  library: { readonly Pool: PoolClass<Config, P> } | PoolClass<Config, P>,
  options: CreatePostgresPoolOptions<Config> = {},
): P & ClosablePool {
  checkOptions('options', options)
  const Pool = typeof library === 'function' ? library : library?.Pool
  if (typeof Pool !== 'function') failOption('library', 'must be pg, or its class Pool', library)
  checkOptions('config', options.config)
  const onError = checkOptionalFunction('onError', options.onError)
  const pool = new Pool({ ...options.config, ...poolSettings(options) } as unknown as Config)
  const clients = new Set<Destroyable>()
  pool.on('error', (error) => {
    try {
      onError?.(error)
    } catch {
      // Whoever listens to broken connections must not break more.
    }
  })
  pool.on('connect', (client: Destroyable) => {
    clients.add(client)
    // Taken off a pool's client while somebody has it; without any, a connection that breaks then ends the process.
    client.on('error', () => undefined)
  })
  pool.on('remove', (client: Destroyable) => clients.delete(client))
  let closing: PoolClosing | undefined
  const close = (closeOptions?: CloseOptions): Promise<CloseReport> => {
    try {
      checkOptions('options', closeOptions)
      if (closeOptions?.timeoutMs !== undefined) checkDuration('timeoutMs', closeOptions.timeoutMs)
    } catch (error) {
      return rejected(error)
    }
    closing ??= new PoolClosing(pool, clients)
    closing.shorten(closeOptions?.timeoutMs)
    return closing.done
  }
  return Object.assign(pool, { close, [Symbol.asyncDispose]: async () => void (await close()) })
}

function poolSettings(options: CreatePostgresPoolOptions<object>): PostgresPoolSettings {
  const names = Object.keys(postgresPoolPresets) as (keyof typeof postgresPoolPresets)[]
  const defaults = createPostgresPoolDefaults
  const preset = postgresPoolPresets[checkOneOf('preset', valueOr(options.preset, defaults.preset), names)]
  const max = checkCount('maxConnections', valueOr(options.maxConnections, preset.maxConnections))
  const min = checkCount('minConnections', valueOr(options.minConnections, Math.min(preset.minConnections, max)), 0)
  if (min > max) failOption('minConnections', `must be at most maxConnections (${max})`, min)
  return {
    max,
    min,
    connectionTimeoutMillis: checkDuration(
      'connectTimeoutMs',
      valueOr(options.connectTimeoutMs, defaults.connectTimeoutMs),
      1,
    ),
    idleTimeoutMillis: checkDuration('idleTimeoutMs', valueOr(options.idleTimeoutMs, preset.idleTimeoutMs)),
    maxLifetimeSeconds: checkDuration('maxLifetimeMs', valueOr(options.maxLifetimeMs, preset.maxLifetimeMs)) / 1000,
    keepAlive: checkBoolean('keepAlive', valueOr(options.keepAlive, defaults.keepAlive)),
    pipeline: checkBoolean('pipeline', valueOr(options.pipeline, defaults.pipeline)),
    // A pool that nobody uses is no reason for a process to go on.
    allowExitOnIdle: true,
  }
}

/** A client of the pool, as far as it is needed to cut it. */
interface Destroyable {
  on(event: 'error', listener: (error: Error) => void): unknown
  end(): Promise<void>
  readonly connection?: { readonly stream?: { destroy(): unknown } }
}

/** One close in progress. */
class PoolClosing {
  readonly done: Promise<CloseReport>
  readonly #pool: ManagedPool
  readonly #clients: ReadonlySet<Destroyable>
  #resolve!: (report: CloseReport) => void
  #deadline = Number.POSITIVE_INFINITY
  #timer: ReturnType<typeof setTimeout> | undefined
  #poll: ReturnType<typeof setInterval> | undefined
  #ending = false

  constructor(pool: ManagedPool, clients: ReadonlySet<Destroyable>) {
    this.#pool = pool
    this.#clients = clients
    this.done = new Promise((resolve) => {
      this.#resolve = resolve
    })
    // An ending pool forgets those who wait for a connection, so they are served first.
    pool.on('acquire', () => this.#endWhenServed())
    pool.on('remove', () => this.#endWhenServed())
    this.#endWhenServed()
  }

  shorten(timeoutMs: number | undefined): void {
    if (timeoutMs === undefined || performance.now() + timeoutMs >= this.#deadline) return
    this.#deadline = performance.now() + timeoutMs
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#cut(), timeoutMs)
  }

  #endWhenServed(): void {
    if (this.#ending) return
    if (this.#pool.waitingCount === 0) this.#end()
    // One that gives up waiting, or whose connection fails, is no event of the pool.
    else this.#poll ??= setInterval(() => this.#endWhenServed(), 50)
  }

  #end(): void {
    this.#ending = true
    clearInterval(this.#poll)
    const drained = (): void => {
      clearTimeout(this.#timer)
      this.#resolve({ drained: true, abandoned: 0 })
    }
    // It rejects only when somebody else has ended the pool; then this is as closed as it gets.
    this.#pool.end().then(drained, drained)
  }

  #cut(): void {
    const abandoned = this.#pool.totalCount - this.#pool.idleCount + this.#pool.waitingCount
    this.#resolve({ drained: abandoned === 0, abandoned })
    if (!this.#ending) this.#end()
    for (const client of this.#clients) {
      // Told to end first: a connection that is cut without it reports an error.
      client.end().catch(() => undefined)
      client.connection?.stream?.destroy()
    }
  }
}
