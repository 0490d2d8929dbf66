import type { AcceptedUsage, JournalRemains } from 'spillway'
import { FileJournal, type FileJournalOptions } from 'spillway/file'

/** A use by which a test knows it again. */
export function use(value: number, more: Partial<AcceptedUsage> = {}): AcceptedUsage {
  return { userId: 'user', quotaType: 'api', value, timestamp: 1_790_000_000_000, period: '2026-09', ...more }
}

/** An open journal, and what it had. */
export async function openJournal(
  directory: string,
  options?: FileJournalOptions,
): Promise<{ readonly journal: FileJournal; readonly remains: JournalRemains }> {
  const journal = new FileJournal(directory, options)
  return { journal, remains: await journal.open() }
}

/** Uses of some values, each written alone. */
export async function appendEach(journal: FileJournal, values: Iterable<number>): Promise<number[]> {
  const positions: number[] = []
  for (const value of values) positions.push(await journal.append(use(value)))
  return positions
}

/** Whole numbers from `from` on. */
export function range(count: number, from = 1): number[] {
  return Array.from({ length: count }, (_, i) => from + i)
}

/** What came back, by the values of the uses. */
export function contentOf({ batches, events }: JournalRemains): {
  batches: Record<string, number[]>
  events: number[]
} {
  return {
    batches: Object.fromEntries(batches.map(({ id, events }) => [id, events.map(({ event }) => event.value)])),
    events: events.map(({ event }) => event.value),
  }
}

/** What a directory has, read by a journal that is closed again. */
export async function readAgain(
  directory: string,
  options?: FileJournalOptions,
): Promise<ReturnType<typeof contentOf>> {
  const { journal, remains } = await openJournal(directory, options)
  await journal.close()
  return contentOf(remains)
}
