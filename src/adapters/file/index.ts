export type { DeadLetter } from './dead-letter-file.js'
export { FileJournal, type FileJournalEvents, type FileJournalOptions, type FileJournalStats } from './file-journal.js'
