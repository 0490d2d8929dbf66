export { type AsWritableOptions, asWritable, asWritableDefaults, type LineBuffer } from './as-writable.js'
export type { DeadLetter } from './dead-letter-file.js'
export { FileJournal, type FileJournalEvents, type FileJournalOptions, type FileJournalStats } from './file-journal.js'
export { FileSink } from './file-sink.js'
export {
  type FileSinkDefaults,
  type FileSinkEvents,
  type FileSinkOperation,
  type FileSinkOptions,
  type FileSinkStats,
  type LogRotationOptions,
  logRotationDefaults,
} from './file-sink-options.js'
export type { DoneCallback, FileStatus, FileSystem } from './file-system.js'
