import { MultiLevelCache, type MultiLevelCacheOptions, type MultiLevelCacheStats } from 'spillway'
import type { FakeClock } from 'spillway/testing'
import { expect } from 'vitest'

/** A loader that holds every call until the test settles it. */
export class GateLoader<V = string> {
  readonly calls: GateLoad<V>[] = []

  readonly load = (key: string, context: GateContext<V>): Promise<V> => {
    const call = new GateLoad<V>(key, context)
    this.calls.push(call)
    return call.work
  }

  /** The n-th call, counted from 0. */
  call(index: number): GateLoad<V> {
    const call = this.calls[index]
    if (call === undefined) throw new Error(`there is no call ${index}, only ${this.calls.length}`)
    return call
  }
}

/** What a loader learns, as far as tests ask for it. */
export interface GateContext<V> {
  readonly signal: AbortSignal
  readonly stale: { readonly value: V; readonly ageMs: number } | undefined
  setTtl(ttlMs: number): void
  setTags(tags: readonly string[]): void
  notModified(): V
}

/** One call of a {@link GateLoader}. */
export class GateLoad<V> {
  readonly key: string
  readonly context: GateContext<V>
  readonly work: Promise<V>
  readonly answer: (value: V) => void
  readonly fail: (error: unknown) => void

  constructor(key: string, context: GateContext<V>) {
    this.key = key
    this.context = context
    let settle: [(value: V) => void, (error: unknown) => void] | undefined
    this.work = new Promise((resolve, reject) => {
      settle = [resolve, reject]
    })
    ;[this.answer, this.fail] = settle as NonNullable<typeof settle>
  }
}

/** A cache of strings in virtual time, and a gate to load through. */
export function cacheOn<V extends NonNullable<unknown> | null = string>(
  clock: FakeClock,
  options: MultiLevelCacheOptions<V> = {},
): { cache: MultiLevelCache<V>; gate: GateLoader<V> } {
  return { cache: new MultiLevelCache<V>({ clock, ...options }), gate: new GateLoader<V>() }
}

/** Checks that the books balance, and some of what is in them. */
export function expectCacheBooks(
  cache: { stats(): MultiLevelCacheStats },
  expected: Partial<MultiLevelCacheStats['reads']> = {},
): void {
  const { reads, loads, l1 } = cache.stats()
  const { hits, stale, missed, loaded, failed, rejected, aborted, pending } = reads
  const sum = hits.l1 + hits.l2 + stale + missed + loaded + failed + rejected + aborted + pending
  expect(sum, JSON.stringify(reads)).toBe(reads.offered)
  expect(loads.succeeded + loads.failed + loads.running, JSON.stringify(loads)).toBe(loads.started)
  expect(l1.hits).toBe(hits.l1)
  expect(reads).toMatchObject(expected)
}

/** A loader that must not be called. */
export function neverLoad(): never {
  throw new Error('the loader was called')
}
