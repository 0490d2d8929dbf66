import type { QuotaConsumer, QuotaConsumerStats } from 'spillway'
import { expect } from 'vitest'

/** Both ways to read the books: by what was offered, and by what was taken on. */
export function expectQuotaBalanced(stats: QuotaConsumerStats): void {
  const { offered, succeeded, failed, dropped, rejected, aborted, pending } = stats
  const text = JSON.stringify(stats)
  expect(succeeded + failed + dropped + rejected + aborted + pending, text).toBe(offered)
  const { totalEvents, processedEvents, failedEvents, droppedEvents } = stats
  expect(processedEvents + failedEvents + droppedEvents + pending, text).toBe(totalEvents)
  expect([processedEvents, failedEvents, droppedEvents, stats.batchCount], text).toEqual([
    succeeded,
    failed,
    dropped,
    stats.batches,
  ])
}

/** Checks that the books balance, and some of what is in them. */
export function expectQuotaBooks(consumer: QuotaConsumer, expected: Partial<QuotaConsumerStats>): void {
  const stats = consumer.stats()
  expectQuotaBalanced(stats)
  expect(stats).toMatchObject(expected)
}
