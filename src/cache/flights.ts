import { onAbort } from '../internal/abort.js'
import { type Deferred, deferred, handled } from '../internal/deferred.js'
import { type CachePath, isWithin } from './cache-path.js'
import type { CacheEntry } from './entry.js'

/** How many invalidated tags are remembered for something that was begun: a loader that hangs mustn't collect them for ever. */
const maxTags = 1000

/**
 * Stands between something that was begun and the tiers: what is written, deleted or invalidated meanwhile shuts it, and then what was
 * begun before is stored nowhere. It is told by identity, so that there is no list of versions that grows with the keys.
 */
export class Fence {
  #shut = false
  #memoryShut = false
  #invalidated: Set<string> | undefined
  #invalidatedAll = false

  shut(): void {
    this.#shut = true
  }

  /** What was missed can't be told, so nothing goes into memory; the shared tier compares versions itself. */
  shutMemory(): void {
    this.#memoryShut = true
  }

  invalidate(tags: readonly string[]): void {
    if (this.#invalidatedAll) return
    this.#invalidated ??= new Set()
    for (const tag of tags) this.#invalidated.add(tag)
    if (this.#invalidated.size <= maxTags) return
    this.#invalidatedAll = true
    this.#invalidated.clear()
  }

  /** Whether too many tags were invalidated since to remember them: then whatever bears any may bear one of them. */
  get invalidatedAll(): boolean {
    return this.#invalidatedAll
  }

  /** Whether a value with these tags may still be stored. */
  passes(tags: readonly string[]): boolean {
    return !this.#shut && this.spares(tags)
  }

  /** Whether any tags were invalidated since. */
  get hasInvalidated(): boolean {
    return this.#invalidated !== undefined
  }

  /** Whether none of these tags was invalidated since. */
  spares(tags: readonly string[]): boolean {
    const invalidated = this.#invalidated
    if (invalidated === undefined || tags.length === 0) return true
    return !this.#invalidatedAll && !tags.some((tag) => invalidated.has(tag))
  }

  /** Whether it may also be stored in memory. */
  passesMemory(tags: readonly string[]): boolean {
    return !this.#memoryShut && this.passes(tags)
  }
}

/** What a read of the shared tier brought for one key. */
export interface ReadOutcome {
  /** For a later fill; undefined where the store couldn't be asked. */
  readonly version: string | undefined
  /** The value, fresh or stale. */
  readonly entry: CacheEntry | undefined
  /** The moment before the read. */
  readonly since: number
}

/** One key being read from the shared tier, for whoever wants it. */
export class KeyRead {
  readonly fence: Fence = new Fence()
  readonly at: CachePath
  readonly key: string
  readonly memoryKey: string
  readonly order: number
  readonly #outcome: Deferred<ReadOutcome> = deferred()

  constructor(at: CachePath, key: string, memoryKey: string, order: number) {
    this.at = at
    this.key = key
    this.memoryKey = memoryKey
    this.order = order
    handled(this.#outcome.promise)
  }

  get outcome(): Promise<ReadOutcome> {
    return this.#outcome.promise
  }

  end(outcome: ReadOutcome): void {
    this.#outcome.resolve(outcome)
  }

  fail(error: unknown): void {
    this.#outcome.reject(error)
  }
}

/** How a read of one key ended, for the books. */
export type ReadEnd = 'l1' | 'l2' | 'stale' | 'missed' | 'loaded' | 'failed' | 'aborted'

/** Counts those who wait, and what they get. */
export interface WaitingBooks {
  wait(): void
  end(how: ReadEnd, at: CachePath, key: string, count: number): void
}

/** Who runs a load. */
export interface LoadOwner {
  /** The last one who waited for it has gone. */
  onIdle(reason: unknown): void
  /** Somebody waits for it. */
  onJoined(load: KeyLoad): void
  /** What it brings is too old for some who wait, who ask again now: nobody joins it any more. */
  onOutdated(load: KeyLoad): void
}

/** One who came when tags had been invalidated since the load began: what bears them isn't for it. */
interface LateWaiter {
  readonly answer: Deferred<unknown>
  /** Asks again; whoever does so is still in the books. */
  readonly again: () => Promise<unknown>
  stop: () => void
}

/** What becomes of whoever asks for a key that is being loaded. */
type Answer = { readonly how: ReadEnd; readonly promise: Promise<unknown> }

/** One key being loaded, for all who ask for it meanwhile. */
export class KeyLoad {
  readonly fence: Fence = new Fence()
  readonly at: CachePath
  readonly key: string
  readonly memoryKey: string
  /** Its place in the order of what begins: that of its loader, once that has begun. */
  order: number
  /** An old value, to be served if the reader takes it so old, and to be renewed if the loader finds it unchanged. */
  old: CacheEntry | undefined
  /** Whether it goes on even if nobody waits for it. */
  background: boolean
  /** Whether the value that is there is to be replaced although it is fresh. */
  readonly ahead: boolean
  /** What the shared tier has to be filled against. */
  version: string | undefined
  /** What the loader said. */
  ttlMs: number | undefined
  tags: readonly string[] | undefined
  notModified = false
  readonly #books: WaitingBooks
  readonly #owner: LoadOwner
  readonly #plannedTags: readonly string[]
  #open: Deferred<unknown> | undefined
  #waiting = 0
  #late: Set<LateWaiter> | undefined
  /** What those get who come from now on. */
  #answer: Answer | undefined

  constructor(
    at: CachePath,
    key: string,
    memoryKey: string,
    start: {
      readonly order: number
      readonly tags: readonly string[]
      readonly old: CacheEntry | undefined
      readonly background: boolean
      readonly ahead: boolean
    },
    books: WaitingBooks,
    owner: LoadOwner,
  ) {
    this.at = at
    this.key = key
    this.memoryKey = memoryKey
    this.order = start.order
    this.#plannedTags = start.tags
    this.old = start.old
    this.background = start.background
    this.ahead = start.ahead
    this.#books = books
    this.#owner = owner
  }

  get waiting(): number {
    return this.#waiting + (this.#late?.size ?? 0)
  }

  /** Whether its loader has brought something, which goes into the tiers now. */
  get loaded(): Promise<unknown> | undefined {
    return this.#answer?.how === 'loaded' ? this.#answer.promise : undefined
  }

  /** Whether its value is likely to bear one of these tags; once it is loaded, whether it does. */
  mayBear(tags: readonly string[]): boolean {
    const known = this.tags ?? this.#plannedTags
    const old = this.#answer === undefined ? this.old?.tags : undefined
    return tags.some((tag) => known.includes(tag) || old?.includes(tag))
  }

  /**
   * Waits for the answer. Who has a signal of its own gives it, and takes its leave by it; the others share a promise. Either may be left
   * alone.
   *
   * @param again - asks again, where the answer turns out to bear a tag that was invalidated after the load began and before this
   * call; without it any answer will do.
   */
  join(signal: AbortSignal | undefined, again?: () => Promise<unknown>): Promise<unknown> {
    if (this.#answer !== undefined) {
      this.#books.wait()
      this.#books.end(this.#answer.how, this.at, this.key, 1)
      return this.#answer.promise
    }
    this.#books.wait()
    if (again !== undefined && this.fence.hasInvalidated) return this.#joinLate(signal, again)
    this.#waiting++
    this.#open ??= handledDeferred()
    const open = this.#open
    this.#owner.onJoined(this)
    if (signal === undefined) return open.promise
    const answer = new Promise((resolve, reject) => {
      const stop = onAbort(signal, () => {
        if (this.#leave(open, signal.reason)) reject(signal.reason)
      })
      const settle = (): void => {
        stop()
        resolve(open.promise)
      }
      open.promise.then(settle, settle)
    })
    return handled(answer)
  }

  /**
   * Answers those who wait. Who comes later gets the next answer.
   *
   * @param tags - what the value bears; undefined where that can't be told.
   */
  answer(how: ReadEnd, value: unknown, tags: readonly string[] | undefined): void {
    const open = this.#open
    const count = this.#waiting
    this.#open = undefined
    this.#waiting = 0
    if (open !== undefined) {
      this.#books.end(how, this.at, this.key, count)
      open.resolve(value)
    }
    if (tags === undefined || !this.fence.spares(tags)) this.#passOn()
    else this.#settleLate(how, ({ resolve }) => resolve(value))
  }

  /** Answers those who wait, and those who come from now on, with what bears none of the tags that were invalidated meanwhile. */
  answerAll(how: ReadEnd, value: unknown, tags: readonly string[]): void {
    this.tags = tags
    this.#answer = { how, promise: this.#open?.promise ?? Promise.resolve(value) }
    this.answer(how, value, tags)
  }

  /** @param told - whether the error tells what was to be loaded, so that it may be outdated too. */
  fail(error: unknown, told: boolean): void {
    const open = this.#open
    const count = this.#waiting
    this.#open = undefined
    this.#waiting = 0
    if (open !== undefined) {
      this.#books.end('failed', this.at, this.key, count)
      open.reject(error)
    }
    if (told) this.#passOn()
    else this.#settleLate('failed', ({ reject }) => reject(error))
  }

  /** The old value, unless it was written over, deleted or invalidated since. */
  usableOld(): CacheEntry | undefined {
    return this.old !== undefined && this.fence.passes(this.old.tags) ? this.old : undefined
  }

  #joinLate(signal: AbortSignal | undefined, again: () => Promise<unknown>): Promise<unknown> {
    const waiter: LateWaiter = { answer: handledDeferred(), again, stop: () => undefined }
    this.#late ??= new Set()
    this.#late.add(waiter)
    this.#owner.onJoined(this)
    if (signal === undefined || !this.#late.has(waiter)) return waiter.answer.promise
    waiter.stop = onAbort(signal, () => {
      if (!this.#late?.delete(waiter)) return
      this.#books.end('aborted', this.at, this.key, 1)
      waiter.answer.reject(signal.reason)
      this.#onLeft(signal.reason)
    })
    return waiter.answer.promise
  }

  #settleLate(how: ReadEnd, settle: (answer: Deferred<unknown>) => void): void {
    for (const waiter of this.#takeLate()) {
      this.#books.end(how, this.at, this.key, 1)
      settle(waiter.answer)
    }
  }

  #passOn(): void {
    if (this.#late === undefined || this.#late.size === 0) return
    this.#owner.onOutdated(this)
    for (const { answer, again } of this.#takeLate()) answer.resolve(again())
  }

  /** Those who came late, one after the other: what is done for one may make another one go. */
  *#takeLate(): Generator<LateWaiter> {
    for (const waiter of this.#late ?? []) {
      this.#late?.delete(waiter)
      waiter.stop()
      yield waiter
    }
  }

  /** One of those who wait goes; false where it has its answer already. */
  #leave(open: Deferred<unknown>, reason: unknown): boolean {
    if (this.#open !== open) return false
    this.#waiting--
    this.#books.end('aborted', this.at, this.key, 1)
    this.#onLeft(reason)
    return true
  }

  #onLeft(reason: unknown): void {
    if (this.waiting === 0 && !this.background) this.#owner.onIdle(reason)
  }
}

function handledDeferred(): Deferred<unknown> {
  const made = deferred<unknown>()
  handled(made.promise)
  return made
}

/**
 * All that is being read and loaded. What may still be joined is found by its key; what may not, because something was written or
 * invalidated since it began, is only kept to be fenced further.
 */
export class Flights {
  readonly #reads = new Map<string, KeyRead>()
  readonly #loads = new Map<string, KeyLoad>()
  readonly #apart = new Set<KeyRead | KeyLoad>()
  #order = 0

  /** A place in the order of all that begins or is set. */
  nextOrder(): number {
    return ++this.#order
  }

  read(memoryKey: string): KeyRead | undefined {
    return this.#reads.get(memoryKey)
  }

  load(memoryKey: string): KeyLoad | undefined {
    return this.#loads.get(memoryKey)
  }

  beginRead(read: KeyRead): void {
    this.#reads.set(read.memoryKey, read)
  }

  beginLoad(load: KeyLoad): void {
    this.#loads.set(load.memoryKey, load)
  }

  end(flight: KeyRead | KeyLoad): void {
    this.#apart.delete(flight)
    const joinable = this.#joinable(flight)
    if (joinable.get(flight.memoryKey) === flight) joinable.delete(flight.memoryKey)
  }

  /** Lets nobody join it any more; where it has ended that is so already. */
  part(flight: KeyRead | KeyLoad): void {
    const joinable = this.#joinable(flight)
    if (joinable.get(flight.memoryKey) !== flight) return
    joinable.delete(flight.memoryKey)
    this.#apart.add(flight)
  }

  /** Keeps whatever runs for a key out of both tiers, and lets nobody join it any more. */
  fenceKey(memoryKey: string): void {
    const read = this.#reads.get(memoryKey)
    const load = this.#loads.get(memoryKey)
    if (read !== undefined) this.#shut(read)
    if (load !== undefined) this.#shut(load)
    if (this.#apart.size === 0) return
    for (const flight of this.#apart) if (flight.memoryKey === memoryKey) this.#shut(flight)
  }

  /** The same for all of a namespace, and of those within it. */
  fenceWithin(path: string): void {
    for (const flight of this.all()) if (isWithin(flight.at.path, path)) this.#shut(flight)
  }

  /**
   * Which tags a value has isn't known before it is there: each flight learns what was invalidated. Who comes from now on may still join
   * a load, to ask again if its value turns out to be outdated; but not where that is likely, nor a read, which is short.
   */
  fenceTags(tags: readonly string[]): void {
    for (const flight of this.all()) {
      flight.fence.invalidate(tags)
      if (flight instanceof KeyRead || flight.fence.invalidatedAll || flight.mayBear(tags)) this.part(flight)
    }
  }

  /** Keeps all that runs out of memory. */
  fenceMemory(): void {
    for (const flight of this.all()) {
      flight.fence.shutMemory()
      this.part(flight)
    }
  }

  /** Keeps what is being read of a key out of memory: something newer has come there. */
  fenceReads(memoryKey: string): void {
    const read = this.#reads.get(memoryKey)
    if (read !== undefined) this.#shut(read)
    for (const flight of this.#apart) {
      if (flight.memoryKey === memoryKey && flight instanceof KeyRead) this.#shut(flight)
    }
  }

  all(): (KeyRead | KeyLoad)[] {
    return [...this.#reads.values(), ...this.#loads.values(), ...this.#apart]
  }

  #joinable(flight: KeyRead | KeyLoad): Map<string, KeyRead | KeyLoad> {
    return flight instanceof KeyRead ? this.#reads : this.#loads
  }

  /** What is shut needs no further fences. */
  #shut(flight: KeyRead | KeyLoad): void {
    flight.fence.shut()
    this.end(flight)
  }
}
