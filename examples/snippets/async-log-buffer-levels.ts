// When there is no room, debug lines make room for errors.
import assert from 'node:assert/strict'
import pino from 'pino'
import { AsyncLogBuffer } from 'spillway'

/** The level of a line of pino's, without parsing it. */
function levelOf(line: string): number {
  const start = line.indexOf('"level":')
  return start === -1 ? Number.NaN : Number.parseInt(line.slice(start + 8, start + 12), 10)
}

const written: string[] = []
const log = new AsyncLogBuffer(
  { write: async (chunk) => void written.push(...chunk.trimEnd().split('\n')) },
  {
    capacity: 100,
    levelOf,
    onDropLine: (count) => `{"level":40,"msg":"dropped ${count} of the least important lines"}`,
  },
)
const logger = pino({ level: 'debug', base: null, timestamp: false }, log)

let told = 0
log.on('dropped', () => told++) // for a counter of your metrics; `log.stats()` has it too

for (let n = 0; n < 500; n++) {
  logger.debug({ n }, 'cache looked up')
  if (n % 50 === 0) logger.error({ n }, 'payment failed')
}
await log.close()

const errors = written.filter((line) => levelOf(line) === 50)
console.log('errors kept:', errors.length, 'dropped:', told)
console.log(written.at(-1))
assert.equal(errors.length, 10)
assert.equal(told, 410)
assert.equal(written.filter((line) => line.includes('dropped 410')).length, 1)
