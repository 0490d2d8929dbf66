// A service that logs a line in each request, in one of several ways.
import { appendFileSync, closeSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { appendFile } from 'node:fs/promises'
import Fastify from 'fastify'
import { pino } from 'pino'
import { AsyncLogBuffer } from 'spillway'
import { FileSink } from 'spillway/file'
import winston from 'winston'
import { serve, setting } from './listen.ts'

const path = setting('LOG_PATH')
closeSync(openSync(path, 'w'))

interface Logging {
  log(id: number): void | Promise<void>
  /** Writes all that waits. */
  settle(): Promise<void>
  dropped?(): number
  /** Whether there is a log at all. */
  readonly settles?: boolean
}

/** What every way says of a request. */
const fields = (id: number) => ({ id, method: 'GET', url: '/call', ip: '127.0.0.1', status: 200, ms: 0.42 })
const line = (id: number): string =>
  `${JSON.stringify({ level: 20, time: Date.now(), ...fields(id), msg: 'request' })}\n`

const ways: Readonly<Record<string, () => Logging>> = {
  nothing: () => ({ log: () => undefined, settle: async () => undefined, settles: false }),
  sync: () => ({ log: (id) => appendFileSync(path, line(id)), settle: async () => undefined }),
  awaited: () => ({ log: (id) => appendFile(path, line(id)), settle: async () => undefined }),
  winston: () => {
    const transports = [new winston.transports.File({ filename: path })]
    const logger = winston.createLogger({ transports, format: winston.format.json() })
    // It says nothing of what it has written: the file is looked at until it has all.
    return { log: (id) => void logger.info('request', fields(id)), settle: async () => undefined }
  },
  pino: () => {
    const logger = pino(pino.destination(path))
    return { log: (id) => logger.info(fields(id), 'request'), settle: async () => undefined }
  },
  'pino-async': () => {
    const destination = pino.destination({ dest: path, sync: false })
    const logger = pino(destination)
    return {
      log: (id) => logger.info(fields(id), 'request'),
      settle: () => new Promise((resolve, reject) => destination.flush((error) => (error ? reject(error) : resolve()))),
    }
  },
  spillway: () => {
    const lines = new AsyncLogBuffer(new FileSink({ path }), { capacity: 20_000 })
    const logger = pino(lines)
    return {
      log: (id) => logger.info(fields(id), 'request'),
      settle: () => lines.flush().then(() => undefined),
      dropped: () => lines.stats().dropped,
    }
  },
}
const logging = ways[setting('LOGS')]?.()
if (logging === undefined) throw new Error(`there is no way to log called ${setting('LOGS')}`)

const patienceMs = 10_000
let requests = 0
/** Those that were told. */
let dropped = 0
const app = Fastify()
app.get('/call', (_request, reply) => {
  const done = logging.log(++requests)
  if (done !== undefined) return done.then(() => reply.send({ ok: true }))
  reply.send({ ok: true })
  return undefined
})
/** How many lines there are, and whether each is whole and there once. */
function readLog(): { lines: number; broken: number } {
  const seen = new Set<number>()
  let broken = 0
  for (const one of readFileSync(path, 'utf8').split('\n')) {
    if (one === '') continue
    try {
      const { id } = JSON.parse(one) as { id?: number }
      if (seen.has(id as number)) broken++
      // One that tells of drops has none.
      if (id !== undefined) seen.add(id)
    } catch {
      broken++
    }
  }
  return { lines: seen.size, broken }
}

/** Once the log has all of the requests, or doesn't get them: what the load cut off at its end may still be logged. */
app.get('/report', async () => {
  const deadline = performance.now() + patienceMs
  for (;;) {
    await logging.settle()
    const report = { requests, ...readLog(), dropped: (logging.dropped?.() ?? 0) - dropped }
    const whole = report.lines + report.dropped === report.requests
    if (!whole && performance.now() < deadline && logging.settles !== false) {
      await new Promise((resolve) => setTimeout(resolve, 50))
      continue
    }
    writeFileSync(path, '')
    requests = 0
    dropped += report.dropped
    return report
  }
})
await serve(app)
