/** A process that opens a journal and adds one use; run by file-journal.lock.test.ts. Its standard input keeps it alive. */
import { FileJournal } from 'spillway/file'

const [directory] = process.argv.slice(2) as [string]
const journal = new FileJournal(directory)
await journal.open()
await journal.append({ userId: 'user', quotaType: 'api', value: 1, timestamp: 1_790_000_000_000, period: '2026-09' })
process.stdout.write('open\n')
// Nothing closes it, and it mustn't be garbage before the process has ended.
process.stdin.on('end', () => journal.stats()).resume()
