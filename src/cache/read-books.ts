import type { Emitter } from '../core/events.js'
import type { CachePath } from './cache-path.js'
import type { ReadEnd, WaitingBooks } from './flights.js'
import type { CacheReadCounts, MultiLevelCacheEvents } from './multi-level-cache-events.js'

/** What became of each key that was read. The events of reads are made here, so that they can't disagree with the counts. */
export class ReadBooks implements WaitingBooks {
  /** Hits in memory: counted by the hot paths themselves. */
  l1 = 0
  /** Lookups in memory that found nothing fresh. */
  l1Misses = 0
  pending = 0
  rejected = 0
  readonly #events: Emitter<MultiLevelCacheEvents>
  readonly #ended: Record<Exclude<ReadEnd, 'l1'>, number> = {
    l2: 0,
    stale: 0,
    missed: 0,
    loaded: 0,
    failed: 0,
    aborted: 0,
  }

  constructor(events: Emitter<MultiLevelCacheEvents>) {
    this.#events = events
  }

  wait(): void {
    this.pending++
  }

  /** Takes out reads that waited, and ask again at once. */
  leave(count: number): void {
    this.pending -= count
  }

  /** Ends reads that waited. */
  end(how: ReadEnd, at: CachePath, key: string, count: number): void {
    this.pending -= count
    this.endNow(how, at, key, count)
  }

  /** Ends reads that never had to wait. */
  endNow(how: ReadEnd, at: CachePath, key: string, count = 1): void {
    if (how === 'l1') this.l1 += count
    else this.#ended[how] += count
    if (how === 'aborted') return
    if (how === 'l1' || how === 'l2' || how === 'stale') this.tellHit(how, at, key, count)
    else if (this.#events.has('missed')) {
      for (let i = 0; i < count; i++) this.#events.emit('missed', Object.freeze({ key, namespace: at.path }))
    }
  }

  tellHit(how: 'l1' | 'l2' | 'stale', at: CachePath, key: string, count: number, tier: 'l1' | 'l2' = 'l1'): void {
    if (!this.#events.has('hit')) return
    const hit = Object.freeze({
      key,
      namespace: at.path,
      tier: how === 'l2' ? 'l2' : tier,
      stale: how === 'stale',
    } as const)
    for (let i = 0; i < count; i++) this.#events.emit('hit', hit)
  }

  counts(): CacheReadCounts {
    const { l1, rejected, pending } = this
    const { l2, stale, missed, loaded, failed, aborted } = this.#ended
    const offered = l1 + l2 + stale + missed + loaded + failed + rejected + aborted + pending
    return { offered, hits: { l1, l2 }, stale, missed, loaded, failed, rejected, aborted, pending }
  }
}
