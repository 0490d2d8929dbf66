import pLimit from 'p-limit'
import type { Clock } from '../core/clock.js'
import { ClosedError } from '../core/errors.js'
import type { Emitter } from '../core/events.js'
import { rejected } from '../internal/deferred.js'
import { TurnClock } from '../internal/turn-clock.js'
import { CacheLink } from './cache-link.js'
import { type CachePath, tagsOf } from './cache-path.js'
import { CacheEntry } from './entry.js'
import { type Fence, Flights, KeyRead, type ReadOutcome } from './flights.js'
import { LoadCounts } from './load-counts.js'
import { MemoryTier } from './memory-tier.js'
import type { MultiLevelCacheEvents } from './multi-level-cache-events.js'
import type { CacheSettings } from './multi-level-cache-options.js'
import { OpenWork } from './open-work.js'
import { ReadBooks } from './read-books.js'
import { SharedTier } from './shared-tier.js'
import type { SharedFailure, SharedRead } from './shared-tier-settings.js'

/** What a cache is made of, as its namespaces share it. */
export interface CacheParts {
  readonly name: string
  readonly clock: Clock
  readonly random: () => number
  readonly events: Emitter<MultiLevelCacheEvents>
  readonly settings: CacheSettings
}

/** Something that may or may not still be stored. */
interface Fenced {
  readonly fence: Fence
  readonly memoryKey: string
}

/** Both tiers, what flies between them, and the books: one for a cache and all its namespaces. */
export class CacheCore {
  readonly name: string
  readonly clock: Clock
  readonly turn: TurnClock
  readonly random: () => number
  readonly events: Emitter<MultiLevelCacheEvents>
  readonly settings: CacheSettings
  readonly memory: MemoryTier
  readonly flights: Flights = new Flights()
  readonly books: ReadBooks
  readonly loads: LoadCounts = new LoadCounts()
  readonly work: OpenWork = new OpenWork()
  readonly shared: SharedTier | undefined
  readonly link: CacheLink
  /** Bounds how many loaders run at once, where that is asked for. Not p-limit's type: CommonJS can't import it under node16. */
  readonly limit: (<T>(load: () => PromiseLike<T>) => Promise<T>) | undefined
  closed = false

  constructor(parts: CacheParts) {
    const { name, clock, random, events, settings } = parts
    this.name = name
    this.clock = clock
    this.turn = TurnClock.of(clock)
    this.random = random
    this.events = events
    this.settings = settings
    const { maxEntries, maxBytes, sizeOf } = settings
    this.memory = new MemoryTier({ name, root: settings.root, maxEntries, maxBytes, sizeOf })
    this.books = new ReadBooks(events)
    this.limit = settings.loadConcurrency === Number.POSITIVE_INFINITY ? undefined : pLimit(settings.loadConcurrency)
    this.shared = settings.l2 === undefined ? undefined : this.#makeShared(settings.l2)
    const { memory, flights, shared } = this
    const { root, bus, l2TimeoutMs: timeoutMs } = settings
    this.link = new CacheLink({ name, clock, timeoutMs, root, bus, memory, flights, shared, events })
  }

  closedError(): ClosedError {
    return new ClosedError(`${this.name} is closed`)
  }

  /** Refuses reads. */
  refuse(error: unknown, count = 1): Promise<never> {
    this.books.rejected += count
    return rejected(error)
  }

  /** Reads a key from the shared tier, unless it is being read already. */
  readOne(shared: SharedTier, at: CachePath, key: string, easyRatio: number): KeyRead {
    const memoryKey = at.memory(key)
    const running = this.flights.read(memoryKey)
    if (running !== undefined) return running
    const read = new KeyRead(at, key, memoryKey, this.flights.nextOrder())
    this.flights.beginRead(read)
    this.work.begin(read)
    const since = shared.moment()
    shared.readOne(at.full(key), at.clearMarks, (answer) => {
      try {
        read.end(this.#take(read, answer, { since, now: this.clock.now(), ratio: easyRatio }))
      } catch (error) {
        read.fail(error)
      }
      this.flights.end(read)
      this.work.end(read)
    })
    return read
  }

  /** Reads keys from the shared tier, in one call those that aren't being read already. */
  readMany(shared: SharedTier, at: CachePath, keys: readonly string[], easyRatio: number): KeyRead[] {
    const [only] = keys
    if (only !== undefined && keys.length === 1) return [this.readOne(shared, at, only, easyRatio)]
    const begun: KeyRead[] = []
    const reads = keys.map((key) => {
      const memoryKey = at.memory(key)
      const running = this.flights.read(memoryKey)
      if (running !== undefined) return running
      const read = new KeyRead(at, key, memoryKey, this.flights.nextOrder())
      this.flights.beginRead(read)
      begun.push(read)
      return read
    })
    if (begun.length > 0) {
      const abandon = (error: unknown): number => {
        for (const read of begun) read.fail(error)
        return 0
      }
      this.work.track(this.#read(shared, at, begun, easyRatio), { abandon })
    }
    return reads
  }

  /** Puts an entry into memory, unless it was fenced or something newer is there. */
  keep(flight: Fenced, entry: CacheEntry): void {
    if (this.closed || !flight.fence.passesMemory(entry.tags)) return
    const there = this.memory.peek(flight.memoryKey)
    if (there === undefined || there.order <= entry.order) this.memory.put(entry)
  }

  async #read(shared: SharedTier, at: CachePath, reads: readonly KeyRead[], ratio: number): Promise<undefined> {
    const since = shared.moment()
    const fullKeys = reads.map((read) => at.full(read.key))
    try {
      const answers = await shared.read(fullKeys, at.clearMarks)
      const now = this.clock.now()
      reads.forEach((read, index) => {
        read.end(this.#take(read, answers[index] as SharedRead, { since, now, ratio }))
      })
    } catch (error) {
      for (const read of reads) read.fail(error)
    }
    for (const read of reads) this.flights.end(read)
  }

  /** Makes of a read what memory keeps, and keeps it. */
  #take(read: KeyRead, answer: SharedRead, at: { since: number; now: number; ratio: number }): ReadOutcome {
    const { version } = answer
    const { since } = at
    const there = this.memory.peek(read.memoryKey)
    if (answer.value === undefined) {
      // The store knows of a delete, or of a mark that was renewed: what memory has is older than that.
      const outdated = version !== undefined && version !== '' && there !== undefined && there.order < read.order
      if (outdated && read.fence.passes([])) this.memory.delete(read.memoryKey)
      return { version, entry: undefined, since }
    }
    const times = {
      madeAt: at.now - answer.ageMs,
      freshUntil: at.now + answer.freshMs,
      checkedUntil: Math.min(at.now + this.settings.l1TtlMs, answer.checkedUntil),
    }
    const tags = tagsOf(this.settings.root, answer.marks)
    const entry = new CacheEntry(
      read.at.place(read.key, read.memoryKey),
      { value: answer.value, tags, version },
      times,
      at.ratio,
      read.order,
    )
    if (there?.version === version) entry.throttledUntil = there?.throttledUntil ?? entry.throttledUntil
    this.keep(read, entry)
    return { version, entry, since }
  }

  #makeShared(store: NonNullable<CacheSettings['l2']>): SharedTier {
    const { name, clock, random, settings } = this
    return new SharedTier({
      store,
      name,
      clock,
      random,
      timeoutMs: settings.l2TimeoutMs,
      breaker: settings.l2Breaker,
      replayCapacity: settings.l2ReplayCapacity,
      markTtlMs: settings.l1TtlMs,
      onFailed: (failure) => this.tellFailed(failure),
      onReplayed: (keys, marks) => this.link.tellReplayed(keys, marks),
    })
  }

  tellFailed(failure: SharedFailure | { operation: 'encode' | 'lock'; keys: readonly string[]; error: unknown }): void {
    if (this.events.has('storeFailed')) this.events.emit('storeFailed', Object.freeze({ ...failure }))
  }
}
