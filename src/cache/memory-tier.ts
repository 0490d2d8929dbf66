import { LRUCache } from 'lru-cache'
import { describeError, warn } from '../core/events.js'
import { isWithin } from './cache-path.js'
import type { CacheEntry } from './entry.js'

/** What a {@link MemoryTier} needs to know. */
export interface MemoryTierSettings {
  readonly name: string
  /** The path of the root namespace. */
  readonly root: string
  readonly maxEntries: number
  readonly maxBytes: number | undefined
  readonly sizeOf: ((value: unknown, key: string) => number) | undefined
}

/**
 * The tier in memory: a bounded map of entries, the least recently used going first, with an index of their tags, and one of each
 * namespace's keys.
 */
export class MemoryTier {
  readonly #settings: MemoryTierSettings
  /** The entries by their keys in memory. Others only `get` from it: a hit has no time for a method in between. */
  readonly entries: Pick<LRUCache<string, CacheEntry>, 'get'>
  readonly #entries: LRUCache<string, CacheEntry>
  /**
   * The entries of each namespace that has any, by their keys as callers know them: to make a key in memory of one costs several times
   * as much as to look it up. The root's keys are in memory as they are.
   */
  readonly #spaces = new Map<string, Map<string, CacheEntry>>()
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
      dispose: (entry, _, reason) => {
        if (reason === 'evict') this.#evictions++
        this.#forget(entry, reason !== 'set')
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

  /** The entries of a namespace other than the root, by its own keys: to be asked for again where it lacks one. */
  space(path: string): ReadonlyMap<string, CacheEntry> | undefined {
    return this.#spaces.get(path)
  }

  /** Keeps an entry instead of what was there; one that is too large alone isn't kept. */
  put(entry: CacheEntry): void {
    const { memoryKey } = entry
    const size = this.#sizeOf(entry)
    if (size === undefined) {
      this.#tooLarge++
      this.delete(memoryKey)
      return
    }
    if (size === 0) this.#entries.set(memoryKey, entry)
    else this.#entries.set(memoryKey, entry, { size })
    // What it replaces has been forgotten by now.
    for (const tag of entry.tags) {
      const keys = this.#tagged.get(tag)
      if (keys === undefined) this.#tagged.set(tag, new Set([memoryKey]))
      else keys.add(memoryKey)
    }
    if (entry.path === this.#settings.root) return
    const space = this.#spaces.get(entry.path)
    if (space === undefined) this.#spaces.set(entry.path, new Map([[entry.key, entry]]))
    else space.set(entry.key, entry)
  }

  delete(memoryKey: string): void {
    this.#entries.delete(memoryKey)
  }

  /** Drops all that bears one of the tags. */
  deleteTagged(tags: readonly string[]): void {
    for (const tag of tags) for (const memoryKey of this.#tagged.get(tag) ?? []) this.delete(memoryKey)
  }

  /** Drops all of a namespace, and of those within it. */
  deleteWithin(path: string): void {
    if (path === this.#settings.root) {
      this.clear()
      return
    }
    for (const [other, space] of this.#spaces) {
      if (isWithin(other, path)) for (const { memoryKey } of space.values()) this.delete(memoryKey)
    }
  }

  /** Nothing that is there may be served unasked any more. */
  distrust(): void {
    for (const entry of this.#entries.values()) entry.distrust()
  }

  clear(): void {
    this.#entries.clear()
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

  /** @param gone - whether nothing has come in its place. */
  #forget({ memoryKey, path, key, tags }: CacheEntry, gone: boolean): void {
    for (const tag of tags) {
      const keys = this.#tagged.get(tag)
      if (keys?.delete(memoryKey) && keys.size === 0) this.#tagged.delete(tag)
    }
    if (!gone || path === this.#settings.root) return
    const space = this.#spaces.get(path)
    if (space?.delete(key) && space.size === 0) this.#spaces.delete(path)
  }
}
