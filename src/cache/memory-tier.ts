import { LRUCache } from 'lru-cache'
import { describeError, warn } from '../core/events.js'
import { isWithin } from './cache-path.js'
import type { CacheEntry } from './entry.js'

/** What a {@link MemoryTier} needs to know. */
export interface MemoryTierSettings {
  readonly name: string
  readonly maxEntries: number
  readonly maxBytes: number | undefined
  readonly sizeOf: ((value: unknown, key: string) => number) | undefined
}

/** The tier in memory: a bounded map of entries, the least recently used going first, with an index of their tags. */
export class MemoryTier {
  readonly #settings: MemoryTierSettings
  /** The entries by their keys in memory. Others only `get` from it: a hit has no time for a method in between. */
  readonly entries: Pick<LRUCache<string, CacheEntry>, 'get'>
  readonly #entries: LRUCache<string, CacheEntry>
  /** Keys in memory by tag. */
  readonly #tagged = new Map<string, Set<string>>()
  #evictions = 0
  #tooLarge = 0
  #warned = false

  constructor(settings: MemoryTierSettings) {
    this.#settings = settings
    const { maxEntries: max, maxBytes: maxSize } = settings
    this.#entries = new LRUCache<string, CacheEntry>({
      max,
      ...(maxSize === undefined ? {} : { maxSize }),
      dispose: (entry, memoryKey, reason) => {
        if (reason !== 'evict') return
        this.#evictions++
        this.#untag(memoryKey, entry)
      },
    })
    this.entries = this.#entries
  }

  get(memoryKey: string): CacheEntry | undefined {
    return this.#entries.get(memoryKey)
  }

  /** As `get`, but it doesn't count as a use. */
  peek(memoryKey: string): CacheEntry | undefined {
    return this.#entries.peek(memoryKey)
  }

  /** Keeps an entry instead of what was there; one that is too large alone isn't kept. */
  put(memoryKey: string, entry: CacheEntry): void {
    const size = this.#sizeOf(entry)
    this.delete(memoryKey)
    if (size === undefined) {
      this.#tooLarge++
      return
    }
    for (const tag of entry.tags) {
      const keys = this.#tagged.get(tag)
      if (keys === undefined) this.#tagged.set(tag, new Set([memoryKey]))
      else keys.add(memoryKey)
    }
    if (size === 0) this.#entries.set(memoryKey, entry)
    else this.#entries.set(memoryKey, entry, { size })
  }

  delete(memoryKey: string): void {
    const entry = this.#entries.peek(memoryKey)
    if (entry === undefined) return
    this.#untag(memoryKey, entry)
    this.#entries.delete(memoryKey)
  }

  /** Drops all that bears one of the tags. */
  deleteTagged(tags: readonly string[]): void {
    for (const tag of tags) for (const memoryKey of this.#tagged.get(tag) ?? []) this.delete(memoryKey)
  }

  /** Drops all of a namespace, and of those within it. */
  deleteWithin(path: string): void {
    const within = [...this.#entries.entries()].filter(([, entry]) => isWithin(entry.path, path))
    for (const [memoryKey] of within) this.delete(memoryKey)
  }

  /** Nothing that is there may be served unasked any more. */
  distrust(): void {
    for (const entry of this.#entries.values()) entry.distrust()
  }

  clear(): void {
    this.#entries.clear()
    this.#tagged.clear()
  }

  stats(): { readonly entries: number; readonly bytes: number; readonly evictions: number; readonly tooLarge: number } {
    const { size: entries, calculatedSize: bytes } = this.#entries
    return { entries, bytes, evictions: this.#evictions, tooLarge: this.#tooLarge }
  }

  /** An entry's bytes, 0 where they aren't limited; undefined where it is too large, or can't be measured. */
  #sizeOf(entry: CacheEntry): number | undefined {
    const { maxBytes, sizeOf, name } = this.#settings
    if (maxBytes === undefined || sizeOf === undefined) return 0
    let bytes: unknown
    try {
      bytes = sizeOf(entry.value, entry.key)
      if (typeof bytes !== 'number' || !(bytes >= 0)) throw new TypeError(`it returned ${String(bytes)}`)
    } catch (error) {
      if (!this.#warned) warn(`${name}: l1.sizeOf failed, the value isn't kept in memory: ${describeError(error)}`)
      this.#warned = true
      return undefined
    }
    const whole = Math.max(1, Math.ceil(bytes))
    return whole > maxBytes ? undefined : whole
  }

  #untag(memoryKey: string, entry: CacheEntry): void {
    for (const tag of entry.tags) {
      const keys = this.#tagged.get(tag)
      if (keys?.delete(memoryKey) && keys.size === 0) this.#tagged.delete(tag)
    }
  }
}
