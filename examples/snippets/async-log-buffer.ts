// A log that never holds anybody up: pino writes into a buffer, a file gets chunks, and what was dropped is told in the log itself.
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { AsyncLogBuffer } from 'spillway'
import { FileSink } from 'spillway/file'

const folder = await mkdtemp(join(tmpdir(), 'log-'))
const path = join(folder, 'app.log')
const linesOf = async (): Promise<string[]> => (await readFile(path, 'utf8')).trimEnd().split('\n')

const sink = new FileSink({ path, rotate: { maxBytes: 100_000_000, maxFiles: 5 } })
const log = new AsyncLogBuffer(sink)
const logger = pino({ redact: ['password'] }, log) // redacted before it is text: what reaches the buffer is never parsed
log.on('failed', ({ lines, error }) => console.error(`${lines.length} log lines failed`, error))

logger.info({ user: 'ann', password: 'hunter2' }, 'logged in')
await log.flush()
const [first] = await linesOf()
console.log(first)
assert.match(first as string, /"user":"ann","password":"\[Redacted\]"/)

// A burst within one turn is bounded by `capacity`. Nobody waits, and one line says what became of the rest.
for (let n = 0; n < 5000; n++) logger.info({ n }, 'burst')
await log.flush()
const lines = await linesOf()
console.log('lines on disk:', lines.length)
console.log(lines.at(-1))
assert.equal(lines.length, 1 + 1000 + 1)
assert.match(lines.at(-1) as string, /"dropped":4000,"msg":"4000 log lines were dropped"/)

const { offered, succeeded, dropped, dropLines } = log.stats()
console.log({ offered, succeeded, dropped, dropLines })
assert.deepEqual(
  { offered, succeeded, dropped, dropLines },
  { offered: 5001, succeeded: 1001, dropped: 4000, dropLines: 1 },
)

// A fatal line is on disk when the call returns.
logger.fatal('the dam broke')
assert.match((await linesOf()).at(-1) as string, /the dam broke/)

await log.close()
await sink.close() // the sink belongs to whoever made it: close it after the buffer
await rm(folder, { recursive: true })
