import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { AsyncLogBuffer } from 'spillway'
import { FileSink } from 'spillway/file'
import { wholeFlag } from '../load/whole-flag.ts'
import { LogTail } from './log-tail.ts'
import { Watch } from './watch.ts'

const help = `Usage: npm run soak -- [options]

Logs as fast as the machine allows through an AsyncLogBuffer and a FileSink that rotates, and reads the files as they fill. Every ten
seconds it prints heap, rss and descriptors. It writes to a directory of its own under the system's temporary one: a few files of
16 MB at a time, whatever it writes in all.

  --minutes N    how long, 1 to 600 (5)
  --seconds N    the same in seconds, 1 to 3600, for a quick look
  --help         this text

Exit code: 0, or 1 when a line is missing, comes twice, out of order or torn, when memory or descriptors grew, or 2 when an argument is
wrong.`

const maxBytes = 16_000_000
/** Files that the reader may be behind. */
const maxFiles = 20
const linesATurn = 400
const seconds = readArguments()
process.exitCode = await main()

function readArguments(): number {
  try {
    const { values } = parseArgs({
      options: { minutes: { type: 'string' }, seconds: { type: 'string' }, help: { type: 'boolean' } },
    })
    if (values.help) {
      console.log(help)
      process.exit(0)
    }
    if (values.seconds !== undefined) return wholeFlag('seconds', values.seconds, 3600)
    return 60 * wholeFlag('minutes', values.minutes ?? '5', 600)
  } catch (error) {
    console.error((error as Error).message)
    process.exit(2)
  }
}

async function main(): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'log-soak-'))
  const path = join(folder, 'soak.log')
  const sink = new FileSink({ path, rotate: { maxBytes, maxFiles } })
  const log = new AsyncLogBuffer(sink)
  const tail = new LogTail()
  const watch = new Watch(() => log.stats())
  // What has been moved away is complete: it is read, and then it may be removed.
  sink.on('rotated', ({ rotatedPath }) => {
    tail.read(readFileSync(rotatedPath, 'utf8'))
  })
  let offered = 0
  try {
    const end = performance.now() + seconds * 1000
    while (performance.now() < end) {
      for (let n = 0; n < linesATurn; n++) {
        log.write(
          `{"level":30,"n":${offered++},"msg":"a request was answered, and all is well, as it is most of the time"}`,
        )
      }
      await new Promise((resolve) => setImmediate(resolve))
      watch.look()
    }
    const { drained } = await log.close({ timeoutMs: 30_000 })
    await sink.close()
    tail.read(readFileSync(path, 'utf8'))
    const stats = log.stats()
    const problems = [...tail.problems, ...watch.problems()]
    if (!drained) problems.push('close gave lines up')
    if (tail.lines !== stats.succeeded) problems.push(`${tail.lines} lines are on disk, ${stats.succeeded} succeeded`)
    if (tail.told !== stats.dropped) problems.push(`the log tells of ${tail.told} dropped lines, ${stats.dropped} were`)
    if (stats.succeeded + stats.dropped !== offered) problems.push(`of ${offered} lines some are nowhere`)
    const { rotations, writtenBytes } = sink.stats()
    console.log(
      `${offered} lines, ${stats.dropped} dropped and told of, ${writtenBytes} bytes, ${rotations} rotations, ` +
        `${readdirSync(folder).length} files left`,
    )
    for (const problem of problems) console.error(`WRONG: ${problem}`)
    console.log(problems.length === 0 ? 'every line once, memory flat' : `${problems.length} problems`)
    return problems.length === 0 ? 0 : 1
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
