import { type AcceptedUsage, QuotaConsumer, type UsageJournal, type UsageSink } from 'spillway'
import { type DeadLetter, FileJournal, type FileJournalEvents } from 'spillway/file'
import { expectTypeOf, test } from 'vitest'

test('it is the journal that a QuotaConsumer takes', () => {
  expectTypeOf<FileJournal>().toExtend<UsageJournal>()
  expectTypeOf(QuotaConsumer).toBeConstructibleWith({} as UsageSink, { journal: new FileJournal('usage') })
  expectTypeOf<FileJournal>().toExtend<AsyncDisposable>()
})

test('dead letters are read one by one', () => {
  expectTypeOf<ReturnType<FileJournal['deadLetters']>>().toExtend<AsyncIterable<DeadLetter>>()
  expectTypeOf<DeadLetter['events']>().toEqualTypeOf<readonly AcceptedUsage[]>()
})

test('events carry what happened', () => {
  expectTypeOf<FileJournalEvents['tornTailCut']['offset']>().toEqualTypeOf<number>()
  expectTypeOf<FileJournalEvents['requeued']>().toEqualTypeOf<{ readonly letters: number; readonly events: number }>()
})
