import type { Clock } from '../core/clock.js'
import { ClosedError, TimeoutError } from '../core/errors.js'
import type { InstanceSource } from '../core/ports.js'
import type { ContextRunner } from '../internal/async-context.js'
import { type Deferred, deferred, handled, rejected } from '../internal/deferred.js'

/** Asks for the whole list of instances. */
export type ListInstances<I> = (context: { readonly signal: AbortSignal }) => PromiseLike<readonly I[]>

/** Who takes the lists. */
export interface FeedOwner<I> {
  /**
   * Takes a list in.
   *
   * @returns how many instances it has. Throws when the list is wrong.
   */
  check(list: readonly I[]): ReadonlyMap<string, I>
  apply(instances: ReadonlyMap<string, I>): void
  onRefreshed(): void
  onFailed(error: unknown): void
  /** An empty list came that isn't believed yet. */
  onDoubted(): void
}

/** What a feed works with. */
export interface FeedSetting {
  readonly name: string
  readonly clock: Clock
  readonly refreshMs: number
  readonly refreshTimeoutMs: number
  readonly inContext: ContextRunner
}

/** Where lists come from. */
export interface Feed {
  /** Resolves once the first list is there. */
  start(): Promise<void>
  /** Resolves once a list that was asked for after this call is there. */
  refresh(): Promise<void>
  close(): void
}

/** Common to all feeds that go out for their lists: what to believe of what comes. */
class Believer<I> {
  readonly #owner: FeedOwner<I>
  /** How many instances the latest list that was believed had. */
  #size = 0
  #loaded = false
  /** Whether the latest list was empty and wasn't believed. */
  doubting = false

  constructor(owner: FeedOwner<I>) {
    this.#owner = owner
  }

  get loaded(): boolean {
    return this.#loaded
  }

  /** Takes a list, unless it is the first empty one after one that wasn't. Throws when it is wrong. */
  take(list: readonly I[]): void {
    const instances = this.#owner.check(list)
    this.#owner.onRefreshed()
    if (instances.size === 0 && this.#size > 0 && !this.doubting) {
      this.doubting = true
      this.#owner.onDoubted()
      return
    }
    this.#believe(instances)
  }

  /** Nobody has contradicted the empty list. */
  confirm(): void {
    if (this.doubting) this.#believe(new Map())
  }

  #believe(instances: ReadonlyMap<string, I>): void {
    this.doubting = false
    this.#size = instances.size
    this.#loaded = true
    this.#owner.apply(instances)
  }
}

/** One call of a list function. */
interface Request {
  readonly controller: AbortController
  readonly done: Deferred<void>
  readonly deadlineMs: number
  cancelTimer: (() => void) | undefined
}

/**
 * Calls a function again and again, one call at a time, so that lists come in the order in which they were asked for. The
 * first refresh that anybody asks for starts it.
 */
export class PolledFeed<I> implements Feed {
  readonly #list: ListInstances<I>
  readonly #owner: FeedOwner<I>
  readonly #setting: FeedSetting
  readonly #believer: Believer<I>
  #request: Request | undefined
  /** Those who want a list that is asked for after the request in flight. */
  #next: Deferred<void> | undefined
  #cancelTimer: (() => void) | undefined
  #closed = false

  constructor(list: ListInstances<I>, owner: FeedOwner<I>, setting: FeedSetting) {
    this.#list = list
    this.#owner = owner
    this.#setting = setting
    this.#believer = new Believer(owner)
  }

  start(): Promise<void> {
    if (this.#closed) return rejected(closedError(this.#setting))
    if (this.#believer.loaded) return Promise.resolve()
    if (this.#request === undefined) return this.refresh()
    this.#arm(this.#request, true)
    return this.#request.done.promise
  }

  refresh(): Promise<void> {
    if (this.#closed) return rejected(closedError(this.#setting))
    if (this.#request === undefined) return this.#ask(true, handledDeferred())
    this.#arm(this.#request, true)
    this.#next ??= handledDeferred()
    return this.#next.promise
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#cancelTimer?.()
    const error = closedError(this.#setting)
    const request = this.#request
    this.#request = undefined
    this.#next?.reject(error)
    request?.cancelTimer?.()
    request?.done.reject(error)
    request?.controller.abort(error)
  }

  #ask(awaited: boolean, done: Deferred<void>): Promise<void> {
    const { clock, refreshTimeoutMs, inContext } = this.#setting
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
    const request: Request = {
      controller: new AbortController(),
      done,
      deadlineMs: clock.now() + refreshTimeoutMs,
      cancelTimer: undefined,
    }
    this.#request = request
    this.#arm(request, awaited)
    const listed = (list: readonly I[]): void => this.#end(request, () => this.#believer.take(list))
    const failed = (error: unknown): void =>
      this.#end(request, () => {
        throw error
      })
    inContext(() => {
      try {
        Promise.resolve(this.#list({ signal: request.controller.signal })).then(listed, failed)
      } catch (error) {
        failed(error)
      }
    })
    return done.promise
  }

  /** What comes for a request that is over, because it took too long or all is closed, comes too late. */
  #end(request: Request, take: () => void): void {
    if (this.#request !== request) return
    this.#request = undefined
    request.cancelTimer?.()
    try {
      take()
      request.done.resolve()
    } catch (error) {
      request.done.reject(error)
      this.#owner.onFailed(error)
    }
    // A listener may have closed it, or asked again.
    if (this.#closed || this.#request !== undefined) return
    const next = this.#next
    this.#next = undefined
    if (next === undefined) this.#rest()
    else void this.#ask(true, next)
  }

  #rest(): void {
    const { clock, refreshMs } = this.#setting
    this.#cancelTimer?.()
    this.#cancelTimer = clock.setTimer(() => void this.#ask(false, handledDeferred()), refreshMs, { keepAlive: false })
  }

  /** A request that somebody waits for keeps the process alive; one behind the callers doesn't. */
  #arm(request: Request, keepAlive: boolean): void {
    const { clock } = this.#setting
    request.cancelTimer?.()
    const leftMs = Math.max(0, request.deadlineMs - clock.now())
    request.cancelTimer = clock.setTimer(() => this.#expire(request), leftMs, { keepAlive })
  }

  #expire(request: Request): void {
    const { name, refreshTimeoutMs } = this.#setting
    const message = `${name}: a refresh took longer than ${refreshTimeoutMs} ms`
    const error = new TimeoutError(message, refreshTimeoutMs, { outcomeUnknown: false })
    request.controller.abort(error)
    this.#end(request, () => {
      throw error
    })
  }
}

/** Listens to a source that tells of its own accord. One that fails to begin is begun again. */
export class WatchedFeed<I> implements Feed {
  readonly #source: InstanceSource<I>
  readonly #owner: FeedOwner<I>
  readonly #setting: FeedSetting
  readonly #believer: Believer<I>
  readonly #waiting = new Set<Waiter>()
  #controller: AbortController | undefined
  #cancelTimer: (() => void) | undefined
  #closed = false

  constructor(source: InstanceSource<I>, owner: FeedOwner<I>, setting: FeedSetting) {
    this.#source = source
    this.#owner = owner
    this.#setting = setting
    this.#believer = new Believer(owner)
  }

  start(): Promise<void> {
    if (this.#closed) return rejected(closedError(this.#setting))
    if (this.#believer.loaded) return Promise.resolve()
    const waiter = this.#wait()
    if (this.#controller === undefined) this.#watch()
    return waiter
  }

  /** Watches anew: whoever watches is told the present list first. */
  refresh(): Promise<void> {
    if (this.#closed) return rejected(closedError(this.#setting))
    const waiter = this.#wait()
    this.#watch()
    return waiter
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#cancelTimer?.()
    const error = closedError(this.#setting)
    this.#settle(error)
    this.#controller?.abort(error)
  }

  #wait(): Promise<void> {
    const { clock, refreshTimeoutMs, name } = this.#setting
    const done = handledDeferred()
    const waiter: Waiter = {
      done,
      cancelTimer: clock.setTimer(() => {
        this.#waiting.delete(waiter)
        const message = `${name}: no list came within ${refreshTimeoutMs} ms`
        const error = new TimeoutError(message, refreshTimeoutMs, { outcomeUnknown: false })
        done.reject(error)
        this.#owner.onFailed(error)
      }, refreshTimeoutMs),
    }
    this.#waiting.add(waiter)
    return done.promise
  }

  #watch(): void {
    const controller = new AbortController()
    const before = this.#controller
    this.#controller = controller
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
    before?.abort(new ClosedError(`${this.#setting.name} watches anew`))
    const current = (): boolean => this.#controller === controller && !this.#closed
    const onList = (list: readonly I[]): void => {
      if (current()) this.#take(list)
    }
    const onError = (error: unknown): void => {
      if (current()) this.#fail(error)
    }
    // What has broken off tells nothing more, or what it still says would call off that it is begun again.
    const onBreak = (error: unknown): void => {
      if (!current()) return
      this.#controller = undefined
      controller.abort(error)
      this.#fail(error)
      // A listener may have closed it, or begun it again.
      if (this.#closed || this.#controller !== undefined) return
      this.#after(() => this.#watch())
    }
    this.#setting.inContext(() => {
      try {
        const returned: unknown = this.#source.watch(onList, { signal: controller.signal, onError })
        // An async function fits the type too. That it has come to its end needn't mean that it has stopped watching.
        if (returned !== undefined) Promise.resolve(returned).then(undefined, onBreak)
      } catch (error) {
        onBreak(error)
      }
    })
  }

  #take(list: readonly I[]): void {
    try {
      this.#believer.take(list)
    } catch (error) {
      this.#fail(error)
      return
    }
    this.#settle(undefined)
    if (this.#closed) return
    // There is no next refresh that could confirm it, so time does.
    if (this.#believer.doubting) this.#after(() => this.#believer.confirm())
    else this.#cancelTimer?.()
  }

  #fail(error: unknown): void {
    // An error is no confirmation that the list is empty. A source that tells of changes alone may have no more to tell.
    if (this.#believer.doubting) this.#after(() => this.#watch())
    this.#settle(error)
    this.#owner.onFailed(error)
  }

  #settle(error: unknown): void {
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const { done, cancelTimer } of waiting) {
      cancelTimer()
      if (error === undefined) done.resolve()
      else done.reject(error)
    }
  }

  #after(callback: () => void): void {
    const { clock, refreshMs } = this.#setting
    this.#cancelTimer?.()
    this.#cancelTimer = clock.setTimer(callback, refreshMs, { keepAlive: false })
  }
}

/** Somebody who waits for a list. */
interface Waiter {
  readonly done: Deferred<void>
  readonly cancelTimer: () => void
}

function handledDeferred(): Deferred<void> {
  const made = deferred<void>()
  handled(made.promise)
  return made
}

function closedError({ name }: FeedSetting): ClosedError {
  return new ClosedError(`${name} is closed`)
}
