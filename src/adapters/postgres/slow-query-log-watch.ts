import {
  isPGlite,
  type PGliteLike,
  type PGliteQueryable,
  type PostgresClientLike,
  type PostgresDatabase,
  type PostgresPoolLike,
  type PostgresQuery,
} from './database.js'
import { type AnyFunction, type QueryObserver, Replaced, Run, type Submittable } from './slow-query-log-run.js'

/** What is used of a `pg` Pool that is watched. */
export interface WatchedPool extends PostgresPoolLike {
  /** Adds a listener for connections that are closed. */
  on(event: 'remove', listener: (client: object) => void): unknown
  /** Takes it off again. */
  removeListener(event: 'remove', listener: (client: object) => void): unknown
  /** Its connections that nobody has. */
  readonly idleCount: number
  /** How many connections it may have, where it tells. */
  readonly options?: { readonly max?: number | undefined }
}

/** A database whose queries are observed. */
export interface Watch {
  /** The same database, unobserved. */
  readonly database: PostgresDatabase
  /** Whether there is a connection that nobody has or waits for. */
  readonly spare: boolean
  /** Observes no more, and takes off what was put on. */
  stop(): void
}

/** Observes all queries of a database, whoever makes them, and changes nothing about them. */
export function watchDatabase(database: WatchedPool | PGliteLike, observer: QueryObserver): Watch {
  return isPGlite(database) ? new PGliteWatch(database, observer) : new PoolWatch(database, observer)
}

class PoolWatch implements Watch {
  readonly #pool: WatchedPool
  readonly #observer: QueryObserver
  readonly #connect: Replaced
  readonly #clients = new Map<object, WatchedClient>()
  #stopped = false

  constructor(pool: WatchedPool, observer: QueryObserver) {
    this.#pool = pool
    this.#observer = observer
    this.#connect = new Replaced(pool, 'connect', (original) => this.#watchConnect(original))
    pool.on('remove', this.#onRemove)
  }

  get database(): PostgresDatabase {
    const pool = this.#pool
    return {
      connect: async () => this.#unwatched((await this.#connect.original.call(pool)) as PostgresClientLike),
      get totalCount() {
        return pool.totalCount
      },
      get waitingCount() {
        return pool.waitingCount
      },
    }
  }

  get spare(): boolean {
    const { waitingCount, idleCount, totalCount, options } = this.#pool
    return waitingCount === 0 && (idleCount > 0 || totalCount < (options?.max ?? 0))
  }

  stop(): void {
    this.#stopped = true
    this.#connect.restore()
    this.#pool.removeListener('remove', this.#onRemove)
    for (const client of this.#clients.values()) client.stop()
    this.#clients.clear()
  }

  readonly #onRemove = (client: object): void => {
    this.#clients.get(client)?.stop()
    this.#clients.delete(client)
  }

  #watchConnect(original: AnyFunction): AnyFunction {
    const isStopped = (): boolean => this.#stopped
    const observer = this.#observer
    const checkedOut = (beganAt: number, error: unknown, client: unknown): void => {
      const ms = observer.now() - beganAt
      if (isStopped()) return
      observer.waited(ms, client === undefined || client === null)
      if (error || typeof client !== 'object' || client === null) return
      let watched = this.#clients.get(client)
      if (watched === undefined) {
        watched = new WatchedClient(client, observer)
        this.#clients.set(client, watched)
      }
      watched.waitedMs = ms
    }
    return function (this: unknown, ...args: unknown[]): unknown {
      if (isStopped()) return original.apply(this, args)
      const beganAt = observer.now()
      const [callback] = args
      if (typeof callback === 'function') {
        return original.call(this, function (this: unknown, ...answer: unknown[]) {
          checkedOut(beganAt, answer[0], answer[1])
          return callback.apply(this, answer)
        })
      }
      const connected = original.apply(this, args)
      return (connected as Promise<unknown>).then(
        (client) => {
          checkedOut(beganAt, undefined, client)
          return client
        },
        (error) => {
          checkedOut(beganAt, error, undefined)
          throw error
        },
      )
    }
  }

  #unwatched(client: PostgresClientLike): PostgresClientLike {
    const query = this.#clients.get(client)?.original ?? (client.query as AnyFunction)
    return {
      query: (statement: PostgresQuery) => query.call(client, statement) as ReturnType<PostgresClientLike['query']>,
      on: (event, listener) => client.on(event, listener),
      removeListener: (event, listener) => client.removeListener(event, listener),
      release: (error) => client.release(error),
    }
  }
}

/** A connection whose `query` is ours while it is in the pool. */
class WatchedClient {
  /** How long this connection was waited for; its next query takes it. */
  waitedMs: number | undefined
  readonly #observer: QueryObserver
  readonly #query: Replaced
  #stopped = false

  constructor(client: object, observer: QueryObserver) {
    this.#observer = observer
    this.#query = new Replaced(client, 'query', (original) => this.#watchQuery(original))
  }

  get original(): AnyFunction {
    return this.#query.original
  }

  stop(): void {
    this.#stopped = true
    this.#query.restore()
  }

  #watchQuery(original: AnyFunction): AnyFunction {
    const begin = (config: unknown, values: unknown): Run | undefined => {
      if (this.#stopped || config === null || config === undefined) return undefined
      const {
        text,
        name,
        values: own,
      } = (typeof config === 'string' ? { text: config } : config) as Partial<PostgresQuery>
      const { waitedMs } = this
      this.waitedMs = undefined
      const given = Array.isArray(values) ? values : own
      // A statement that the connection knows by its name may come without its text.
      const known = [text, name].find((one) => typeof one === 'string') ?? ''
      return new Run(this.#observer, known, Array.isArray(given) ? given : undefined, waitedMs)
    }
    const observer = this.#observer
    return function (this: unknown, ...args: unknown[]): unknown {
      const [config, values] = args
      if (typeof (config as Submittable | null | undefined)?.submit === 'function') {
        const submitted = config as Submittable
        if (isUnmeasurable(submitted, args)) {
          observer.unmeasured()
          return original.apply(this, args)
        }
        return runSubmitted(original, this, args, submitted, begin(config, undefined))
      }
      const run = begin(config, values)
      if (run === undefined) return original.apply(this, args)
      const at = [2, 1].find((index) => typeof args[index] === 'function')
      if (at !== undefined) {
        args[at] = run.callback(args[at] as AnyFunction)
        return run.start(original, this, args)
      }
      const own = (config as { callback?: unknown }).callback
      if (typeof own === 'function') {
        // The caller's object stays as it is.
        args[0] = Object.create(config as object, {
          callback: { value: run.callback(own as AnyFunction), writable: true, configurable: true, enumerable: true },
        })
        return run.start(original, this, args)
      }
      return run.promise(run.start(original, this, args))
    }
  }
}

/** Cursors and streams of rows go at the pace of their reader; and of some, nothing tells the end. */
function isUnmeasurable({ read, callback, once, removeListener }: Submittable, args: readonly unknown[]): boolean {
  if (typeof read === 'function') return true
  const told = [callback, args[1], args[2]].some((one) => typeof one === 'function')
  return !told && (typeof once !== 'function' || typeof removeListener !== 'function')
}

function runSubmitted(
  original: AnyFunction,
  client: unknown,
  args: unknown[],
  submitted: Submittable,
  run: Run | undefined,
): unknown {
  if (run === undefined) return original.apply(client, args)
  const at = [1, 2].find((index) => typeof args[index] === 'function')
  if (typeof submitted.callback === 'function') submitted.callback = run.callback(submitted.callback as AnyFunction)
  else if (at !== undefined) args[at] = run.callback(args[at] as AnyFunction)
  else run.listen(submitted)
  return run.start(original, client, args)
}

class PGliteWatch implements Watch {
  readonly spare = true
  readonly database: PGliteLike
  readonly #replaced: readonly Replaced[]
  #stopped = false

  constructor(database: PGliteLike, observer: QueryObserver) {
    const watch = (): AnyFunctionMaker => (original) => this.#watchRun(original, observer)
    const query = new Replaced(database, 'query', watch())
    const exec = new Replaced(database, 'exec', watch())
    const transaction = new Replaced(database, 'transaction', (original) => this.#watchTransaction(original, observer))
    this.#replaced = [query, exec, transaction]
    this.database = {
      query: (text, values) => query.original.call(database, text, values) as never,
      exec: (text) => exec.original.call(database, text) as Promise<unknown>,
      transaction: (callback) => transaction.original.call(database, callback) as never,
    }
  }

  stop(): void {
    this.#stopped = true
    for (const one of this.#replaced) one.restore()
  }

  #watchRun(original: AnyFunction, observer: QueryObserver): AnyFunction {
    const isStopped = (): boolean => this.#stopped
    return function (this: unknown, ...args: unknown[]): unknown {
      const [text, values] = args
      if (isStopped() || typeof text !== 'string') return original.apply(this, args)
      const run = new Run(observer, text, Array.isArray(values) ? values : undefined)
      return run.promise(run.start(original, this, args))
    }
  }

  #watchTransaction(original: AnyFunction, observer: QueryObserver): AnyFunction {
    const watched = (transaction: PGliteQueryable & { exec?: unknown }): void => {
      if (this.#stopped) return
      for (const name of ['query', 'exec'] as const) {
        if (typeof transaction[name] === 'function') {
          new Replaced(transaction, name, (run) => this.#watchRun(run, observer))
        }
      }
    }
    return function (this: unknown, ...args: unknown[]): unknown {
      const [callback] = args
      if (typeof callback !== 'function') return original.apply(this, args)
      return original.call(this, (transaction: PGliteQueryable) => {
        watched(transaction)
        return callback(transaction)
      })
    }
  }
}

type AnyFunctionMaker = (original: AnyFunction) => AnyFunction
