import type { AsyncWriteBufferStats, BatchContext } from 'spillway'
import { expect } from 'vitest'

/** One attempt that the buffer made, to be settled by the test. */
export interface Attempt<K, V> {
  readonly entries: ReadonlyMap<K, V>
  readonly context: BatchContext
  /** The entries as they were when the attempt began. */
  readonly seen: readonly (readonly [K, V])[]
  succeed(): void
  fail(error: unknown): void
}

/** A write function whose every attempt waits until the test says how it ends. */
export class ControlledSink<K, V> {
  readonly attempts: Attempt<K, V>[] = []

  readonly write = (entries: ReadonlyMap<K, V>, context: BatchContext): Promise<void> =>
    new Promise((resolve, reject) => {
      this.attempts.push({ entries, context, seen: [...entries], succeed: resolve, fail: reject })
    })

  /** The attempt of this number, counted from 0. */
  at(index: number): Attempt<K, V> {
    const attempt = this.attempts[index]
    if (attempt === undefined) throw new Error(`there were only ${this.attempts.length} attempts, not ${index + 1}`)
    return attempt
  }

  /** What each attempt was given. */
  get seen(): (readonly (readonly [K, V])[])[] {
    return this.attempts.map((attempt) => attempt.seen)
  }
}

/** Sums, as counters do. */
export const add = (old: number, value: number): number => old + value

/** Checks that all that was offered is somewhere. */
export function expectBalance(stats: AsyncWriteBufferStats): void {
  const { offered, succeeded, failed, dropped, rejected, aborted, pending } = stats
  expect(succeeded + failed + dropped + rejected + aborted + pending).toBe(offered)
}
