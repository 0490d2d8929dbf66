import { randomUUID } from 'node:crypto'
import type { Redis } from 'ioredis'
import { type CacheStore, cacheKey, type InvalidationBus, isSpillwayError, MultiLevelCache } from 'spillway'
import { MemoryCacheStore } from 'spillway/testing'
import { keyOf, type PageSizes } from '../http/schemas.ts'
import { Answered, type ReadMoment } from './answered.ts'
import type { Counters } from './counters.ts'
import { type CounterListing, type CounterPage, type ListRequest, maxPageSize } from './listing.ts'

/** How long what was read is kept, in both tiers together. */
const keptMs = 5_000
/** How many counters and pages a gateway keeps by itself. */
const entries = 10_000
/** How long an answer is remembered beyond what was read: longer than a read takes. */
const readMs = 10_000

export interface CounterReadsOptions {
  /** How many counters and pages are kept in memory. */
  maxEntries?: number | undefined
  /** How many in place of those that gateways share, where they share none. */
  l2MaxEntries?: number | undefined
  /** How long what was read is kept. */
  ttlMs?: number | undefined
  /** How long those that gateways share may take to be there. */
  l2TimeoutMs?: number | undefined
  /** How many counters' answers are remembered. */
  rememberedCounters?: number | undefined
  /** How many counters a page has where nobody says, and how many it may have. */
  defaultPageSize?: number | undefined
  maxPageSize?: number | undefined
}

export type Source = 'live' | 'durable'

/** Something that was read, and when. */
export interface Read<T> extends ReadMoment {
  readonly value: T
  /** When the reading began, in milliseconds since the epoch. */
  readonly at: number
}

/** Where gateways keep together what they have read. */
export interface SharedCache {
  readonly l2: CacheStore
  /** Tells the other gateways what is no longer valid. */
  readonly bus?: InvalidationBus | undefined
  /** The connection itself, for what else gateways have in common. */
  readonly redis?: Redis | undefined
}

/**
 * What the gateway reads, kept for five seconds: by itself (L1), and together with the other gateways (L2). What it then reads goes the
 * way of every read, in batches.
 *
 * A read may be as old as that, and never older than a value that this gateway told before it began: `Answered` knows of those.
 */
export class CounterReads {
  readonly cache: MultiLevelCache<Read<number>>
  readonly #pages: Pick<MultiLevelCache<Read<CounterPage>>, 'getOrLoad' | 'delete'>
  readonly #counters: Counters
  readonly #listing: CounterListing | undefined
  readonly #answered: Answered
  /** How long what was read is kept, in milliseconds. */
  readonly keptMs: number
  readonly pageSizes: PageSizes
  #fresh = 0
  #outdated = 0

  constructor(
    counters: Counters,
    listing: CounterListing | undefined,
    shared?: SharedCache,
    options: CounterReadsOptions = {},
  ) {
    const { maxEntries = entries, l2MaxEntries = entries, ttlMs = keptMs, l2TimeoutMs, rememberedCounters } = options
    this.keptMs = ttlMs
    const { defaultPageSize: usual = 100, maxPageSize: max = maxPageSize } = options
    this.pageSizes = { usual: Math.min(usual, max), max }
    this.#answered = new Answered(randomUUID(), rememberedCounters, ttlMs + readMs)
    this.#counters = counters
    this.#listing = listing
    this.cache = new MultiLevelCache<Read<number>>({
      name: 'counter-reads',
      namespace: 'counters',
      l1: { maxEntries, ttlMs },
      l2: shared?.l2 ?? new MemoryCacheStore({ capacity: l2MaxEntries }),
      l2TimeoutMs,
      ...(shared?.bus !== undefined && { bus: shared.bus }),
      ttlMs,
    })
    this.#pages = this.cache.namespace<Read<CounterPage>>('pages')
  }

  /** Whether there is a listing to read pages of. */
  get canList(): boolean {
    return this.#listing !== undefined
  }

  /** Reads the live value, or the durable one where that is asked for or the live store fails. */
  async value(
    resourceId: string,
    key: string,
    { source, fresh }: { source: Source; fresh: boolean },
  ): Promise<Read<number> & { readonly source: Source }> {
    if (source === 'live') {
      try {
        return { ...(await this.#value(resourceId, key, source, fresh)), source }
      } catch (error) {
        if (isSpillwayError(error, 'ERR_CLOSED')) throw error
      }
    }
    return { ...(await this.#value(resourceId, key, 'durable', fresh)), source: 'durable' }
  }

  /** Reads a page of a resource's counters, as they are committed. */
  page(request: ListRequest, fresh: boolean): Promise<Read<CounterPage>> {
    const { resourceId, after = '', before = '', limit } = request
    const listing = this.#listing as CounterListing
    return this.#read({
      cache: this.#pages,
      key: cacheKey(resourceId, after, before, limit),
      name: nameOfPages(resourceId),
      resourceId,
      read: () => listing.list(request),
      fresh,
      told: ({ counters }) => {
        for (const { counterType } of counters) {
          const key = keyOf({ resource_id: resourceId, counter_type: counterType })
          this.#answered.note(nameOfValue('durable', key))
        }
        this.#answered.note(nameOfPages(resourceId))
      },
    })
  }

  /** A value was told: no read of this gateway that begins from now on is to be older. */
  told(resourceId: string, key: string, source: Source): void {
    this.#answered.note(nameOfValue(source, key))
    if (source === 'durable') this.#answered.note(nameOfPages(resourceId))
  }

  /** Forgets what was read of resources, here and at all other gateways. */
  async invalidate(resourceIds: readonly string[]): Promise<void> {
    await this.cache.invalidateTags(resourceIds.map(tagOf))
  }

  stats(): Record<string, unknown> {
    return { ...this.cache.stats(), fresh: this.#fresh, outdated: this.#outdated }
  }

  #value(resourceId: string, key: string, source: Source, fresh: boolean): Promise<Read<number>> {
    const { liveReads, durableReads } = this.#counters
    const name = nameOfValue(source, key)
    const read = (): Promise<number> => (source === 'live' ? liveReads : durableReads).add(key)
    const told = (): void => this.told(resourceId, key, source)
    return this.#read({ cache: this.cache, key: name, name, resourceId, read, fresh, told })
  }

  async #read<T>(wanted: Wanted<T>): Promise<Read<T>> {
    const { cache, key, name, resourceId, fresh } = wanted
    if (fresh) return this.#readFresh(wanted)
    const last = this.#answered.last(name)
    const options = { tags: [tagOf(resourceId)] }
    const load = (): Promise<Read<T>> => this.#load(wanted.read)
    const kept = await cache.getOrLoad(key, load, options)
    const isSince = this.#answered.isSince(last, kept)
    if (isSince) return kept
    this.#outdated++
    // Another gateway's may be older or newer: it can stay, for those who may be told either.
    if (isSince === undefined) return load()
    // Not waited for: a call that begins after it finds nothing older, in neither tier.
    cache.delete(key).catch(() => undefined)
    const again = await cache.getOrLoad(key, load, options)
    return this.#answered.isSince(last, again) ? again : load()
  }

  async #readFresh<T>({ read, told }: Wanted<T>): Promise<Read<T>> {
    this.#fresh++
    const fresh = await this.#load(read)
    told(fresh.value)
    return fresh
  }

  /** The moment is that before the reading: what is answered meanwhile may not be in it. */
  async #load<T>(read: () => Promise<T>): Promise<Read<T>> {
    const { by, after } = this.#answered.moment
    const at = Date.now()
    return { value: await read(), at, by, after }
  }
}

interface Wanted<T> {
  readonly cache: Pick<MultiLevelCache<Read<T>>, 'getOrLoad' | 'delete'>
  readonly key: string
  /** What answers are noted under. */
  readonly name: string
  readonly resourceId: string
  readonly read: () => Promise<T>
  readonly fresh: boolean
  /** Notes what was read fresh: it is in both, in pages and by itself. */
  readonly told: (value: T) => void
}

function nameOfValue(source: Source, key: string): string {
  return source === 'live' ? `l:${key}` : `d:${key}`
}

function nameOfPages(resourceId: string): string {
  return `p:${resourceId}`
}

function tagOf(resourceId: string): string {
  return `resource:${resourceId}`
}
