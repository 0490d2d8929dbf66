/**
 * A process that writes numbered lines to its standard output, which a test makes a pipe or a socket; run by file-sink.pipe.test.ts.
 *
 *     sink-process <chunks> <lines a chunk>
 *
 * Every fifth chunk goes by `writeSync`, while the one before is in flight. What it has to say goes to its standard error.
 */
import { fstatSync, writeSync } from 'node:fs'
import { FileSink } from 'spillway/file'

const [chunks = 0, lines = 0] = process.argv.slice(2).map(Number)
const sink = new FileSink({ fd: 1, retryDelayMs: 1, syncTimeoutMs: 10_000 })
let inFlight: Promise<void> | undefined
for (let chunk = 0; chunk < chunks; chunk++) {
  const text = Array.from({ length: lines }, (_, i) => `${chunk * lines + i} ${'€'.repeat(30)}\n`).join('')
  if (chunk % 5 === 4) {
    const rest = sink.writeSync(text)
    await inFlight
    await rest
  } else {
    if (chunk % 5 !== 3) await inFlight
    inFlight = sink.write(text)
  }
}
await inFlight
await sink.close()
writeSync(2, JSON.stringify({ socket: fstatSync(1).isSocket(), fifo: fstatSync(1).isFIFO(), ...sink.stats() }))
