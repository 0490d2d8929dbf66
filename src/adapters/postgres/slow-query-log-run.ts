import { errorMonitor } from 'node:events'

/** A query that is under way. */
export interface WatchedQuery {
  readonly text: string
  readonly values: readonly unknown[] | undefined
  readonly beganAt: number
  readonly waitedMs: number | undefined
}

/** Hears of queries and waits. Nothing of it may throw. */
export interface QueryObserver {
  now(): number
  /** A query was taken, and not refused with an exception. */
  began(): void
  ended(query: WatchedQuery, error: unknown, result: unknown): void
  unmeasured(): void
  waited(ms: number, failed: boolean): void
}

/** One query from its beginning to its end. */
export class Run implements WatchedQuery {
  readonly text: string
  readonly values: readonly unknown[] | undefined
  readonly waitedMs: number | undefined
  readonly beganAt: number
  readonly #observer: QueryObserver
  #begun = false
  #ended = false

  constructor(observer: QueryObserver, text: string, values: readonly unknown[] | undefined, waitedMs?: number) {
    this.#observer = observer
    this.text = text
    this.values = values
    this.waitedMs = waitedMs
    this.beganAt = observer.now()
  }

  start(original: AnyFunction, self: unknown, args: unknown[]): unknown {
    const made = original.apply(self, args)
    this.#begin()
    return made
  }

  /** A promise in the place of the query's own, since a look at that would make a rejection that nobody handles a handled one. */
  promise(made: unknown): unknown {
    if (typeof (made as PromiseLike<unknown> | undefined)?.then !== 'function') {
      this.end(undefined, undefined)
      return made
    }
    return (made as PromiseLike<unknown>).then(
      (result) => {
        this.end(undefined, result)
        return result
      },
      (error) => {
        this.end(error ?? new Error('unknown'), undefined)
        throw error
      },
    )
  }

  callback(callback: AnyFunction): AnyFunction {
    const run = this
    return function (this: unknown, ...answer: unknown[]): unknown {
      run.end(answer[0] || undefined, answer[1])
      return callback.apply(this, answer)
    }
  }

  /** Without a callback, its events tell of the end; to hear of an error must not mean to handle it. */
  listen(submitted: Submittable): void {
    const onEnd = (result: unknown): void => {
      submitted.removeListener?.(errorMonitor, onError)
      this.end(undefined, result)
    }
    const onError = (error: unknown): void => {
      submitted.removeListener?.('end', onEnd)
      this.end(error ?? new Error('unknown'), undefined)
    }
    submitted.once?.('end', onEnd)
    submitted.once?.(errorMonitor, onError)
  }

  end(error: unknown, result: unknown): void {
    if (this.#ended) return
    this.#ended = true
    this.#begin()
    this.#observer.ended(this, error, result)
  }

  #begin(): void {
    if (this.#begun) return
    this.#begun = true
    this.#observer.began()
  }
}

/** What is used of a query that the caller made an object of. */
export interface Submittable {
  submit: unknown
  text?: unknown
  values?: unknown
  callback?: unknown
  read?: unknown
  once?: (event: string | symbol, listener: (...args: unknown[]) => void) => unknown
  removeListener?: (event: string | symbol, listener: (...args: unknown[]) => void) => unknown
}

/** Any method. */
export type AnyFunction = (this: unknown, ...args: unknown[]) => unknown

/** A method of an object that was replaced by one of ours, and can be put back. */
export class Replaced {
  readonly original: AnyFunction
  readonly #target: Record<string, unknown>
  readonly #name: string
  readonly #own: PropertyDescriptor | undefined
  readonly #ours: AnyFunction

  constructor(target: object, name: string, make: (original: AnyFunction) => AnyFunction) {
    this.#target = target as Record<string, unknown>
    this.#name = name
    this.#own = Object.getOwnPropertyDescriptor(target, name)
    this.original = this.#target[name] as AnyFunction
    this.#ours = make(this.original)
    Object.defineProperty(target, name, { value: this.#ours, writable: true, configurable: true, enumerable: false })
  }

  /** Where somebody else replaced it again, ours stays below theirs, and only passes on. */
  restore(): void {
    if (this.#target[this.#name] !== this.#ours) return
    if (this.#own === undefined) delete this.#target[this.#name]
    else Object.defineProperty(this.#target, this.#name, this.#own)
  }
}
