import { fork } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { type Closable, closeOnExit } from 'spillway/process'
import { count, databaseOf, describe, readFlags } from './command-line.ts'
import type { Log } from './counters.ts'
import { type Database, openDatabase } from './database.ts'
import { Progress, printReport, type StoredSums } from './demo-report.ts'
import { counterType, type LoadMessage, type LoadOptions, type LoadReport } from './load.ts'
import { defaultPort, type Service, startService } from './service.ts'

const defaults = { seconds: 8, connections: 50 }
const maxRequests = 500_000
/** How many ports from 8080 on are tried. */
const portsToTry = 20

const help = `Starts the counter service, drives a load at it from a second process, and compares what was sent with what is stored.

  npm run demo -- [flags]

  --seconds N      how long the load lasts, 1 to 600 (${defaults.seconds}); it ends early after ${maxRequests} requests
  --connections N  how many clients send at the same time, 1 to 1000 (${defaults.connections})
  --port N         where to listen, 0 is any free port (${defaultPort}, or the next free one)
  --serve          stay up until Ctrl-C, and print a request to try; there is a load only if --seconds is given too
  --data-dir DIR   where PGlite keeps its data (in memory only)
  --help           this text

It uses PGlite, a PostgreSQL inside the process. To use a server, name it:
  DATABASE_URL=postgres://user:password@host:5432/database npm run demo
Ends with 0 when the sums are equal, 1 when they are not or something failed, 2 when a flag is wrong.`

const options = readFlags(
  {
    seconds: { type: 'string' },
    connections: { type: 'string' },
    port: { type: 'string' },
    serve: { type: 'boolean' },
    'data-dir': { type: 'string' },
  },
  help,
  (values) => ({
    seconds: count('seconds', values.seconds, 1, 600),
    connections: count('connections', values.connections, 1, 1_000) ?? defaults.connections,
    port: count('port', values.port, 0, 65_535),
    serve: values.serve ?? false,
    database: databaseOf(values['data-dir']),
  }),
)

const log: Log = (_level, message) => console.log(message)

/** What is open, in the order in which to close it. */
const open: Closable[] = []

try {
  process.exitCode = (await demo()) ? 0 : 1
  if (!options.serve) await closeAll()
} catch (error) {
  console.error(`the demo failed: ${describe(error)}`)
  process.exitCode = 1
  await closeAll()
}

async function demo(): Promise<boolean> {
  if (options.database.url === undefined) console.log('Starting PGlite, a PostgreSQL inside this process…')
  const database = await openDatabase({ ...options.database, onError: ({ message }) => log('warn', message) })
  open.push(database)
  const service = await startService({ database, ports: ports(), log })
  open.unshift(...service.parts)
  closeOnExit(open)
  console.log(`The counter service listens at ${service.url}, and stores in ${database.title}.`)
  if (options.serve && options.seconds === undefined) {
    printRequestToTry(service)
    return true
  }
  const passed = await drive(service, database)
  if (options.serve) printRequestToTry(service)
  return passed
}

async function closeAll(): Promise<void> {
  for (const part of open.splice(0)) await part.close()
}

/** Where it was told to listen; where it wasn't, at 8080 or the next free port. */
function ports(): number[] {
  if (options.port !== undefined) return [options.port]
  return Array.from({ length: portsToTry }, (_, index) => defaultPort + index)
}

/** Drives the load, reports, and tells whether everything that was sent is stored. */
async function drive(service: Service, database: Database): Promise<boolean> {
  const { seconds = defaults.seconds, connections } = options
  const prefix = `demo-${randomUUID().slice(0, 8)}-`
  console.log(`A second process sends for ${seconds} s over ${connections} connections.\n`)
  const report = await runLoad({ url: service.url, seconds, connections, maxRequests, prefix })
  await service.counters.buffer.flush()
  const stored = await readStored(database, prefix)
  return printReport(report, service.counters, { prefix, stored })
}

function runLoad(loadOptions: LoadOptions): Promise<LoadReport> {
  const load = fork(fileURLToPath(new URL('./load.ts', import.meta.url)), [JSON.stringify(loadOptions)])
  const progress = new Progress(loadOptions.seconds)
  const killLoad = (): boolean => load.kill()
  process.once('exit', killLoad)
  return new Promise<LoadReport>((resolve, reject) => {
    load.on('message', (message: LoadMessage) => {
      if (message.type === 'progress') return progress.show(message)
      progress.end()
      resolve(message.report)
    })
    load.once('error', reject)
    load.once('exit', (code, signal) => reject(new Error(`the load ended early, with ${signal ?? code}`)))
  }).finally(() => process.off('exit', killLoad))
}

/** Asks the database itself, past every buffer and batcher. */
async function readStored(database: Database, prefix: string): Promise<StoredSums> {
  const statement = 'SELECT key, value FROM spillway_counters WHERE starts_with(key, $1)'
  const rows = await database.query<{ key: string; value: unknown }>(statement, [prefix])
  return new Map(rows.map(({ key, value }) => [key.slice(0, -counterType.length - 1), Number(value)]))
}

function printRequestToTry({ url }: Service): void {
  const body = JSON.stringify({ resource_id: 'post-1', counter_type: 'like', delta: 2 })
  console.log(`
Try it:
  curl -X POST ${url}/api/v1/counter/increment -H 'content-type: application/json' -d '${body}'
  curl ${url}/api/v1/counter/post-1/like
Ctrl-C ends it.`)
}
