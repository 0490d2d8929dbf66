/**
 * A service that logs to a file and comes to some end; run by exits.test.ts.
 *
 *     logging-process.ts <end> <file>
 *
 * It logs lines with numbers from 0 on, and says on stdout how many there are before it ends.
 */
import { pbkdf2 } from 'node:crypto'
import { writeSync } from 'node:fs'
import pino from 'pino'
import { AsyncLogBuffer } from 'spillway'
import { FileSink } from 'spillway/file'
import { closeOnExit } from 'spillway/process'

const [end, path] = process.argv.slice(2) as [string, string]
const sink = new FileSink({ path })
const log = new AsyncLogBuffer(sink, { capacity: 100_000 })
const logger = pino({ base: null, timestamp: false }, log)
closeOnExit([log, sink])

let lines = 0
function logMany(count: number): void {
  for (let n = 0; n < count; n++) logger.info({ n: lines++ }, 'a line of the usual length, as services write them')
}
/** Past the streams: the process may end before they are written. */
const say = (what: string): void => void writeSync(1, `${what}\n`)
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

// Something is on disk, something is in flight, and much waits.
for (let turns = 0; turns < 5; turns++) {
  logMany(500)
  await turn()
}
if (end.startsWith('busy-')) {
  // All threads of the pool, so that a write in flight isn't even begun; for less long than the sink would wait.
  for (let n = 0; n < 4; n++) pbkdf2('password', 'salt', 30_000, 64, 'sha512', () => undefined)
}
logMany(100)
await turn()
logMany(20_000)

const ends: Record<string, () => void> = {
  exit: () => process.exit(3),
  uncaught: () => {
    throw new Error('the dam broke')
  },
  rejection: () => void Promise.reject(new Error('nobody caught this')),
  natural: () => {
    process.exitCode = 5
  },
  signal: () => void setInterval(() => undefined, 60_000),
  'fatal-then-kill': () => {
    logger.fatal({ n: lines++ }, 'the end')
    say(`lines ${lines}`)
    process.kill(process.pid, 'SIGKILL')
  },
}
say(`lines ${lines}`)
// In a turn of its own, so that whoever sends a signal finds all of it.
setImmediate(ends[end.replace('busy-', '')] as () => void)
