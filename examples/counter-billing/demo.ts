import { fork } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { type Closable, closeOnExit } from 'spillway/process'
import { count, describe, oneOf, readFlags, storesOf } from './command-line.ts'
import { acknowledgements, type Log } from './counters.ts'
import { type Crash, Progress, printCrash, printReport, type StoredSums } from './demo-report.ts'
import { type FleetMember, startFleet } from './fleet.ts'
import { counterType, type LoadMessage, type LoadOptions, type LoadProgress, type LoadReport } from './load.ts'
import { defaultAcknowledgement, defaultPort, type Gateway, startCounterService, startGateway } from './service.ts'
import { openStores, type Stores } from './stores.ts'

const defaults = { seconds: 8, connections: 50 }
const maxRequests = 500_000
const maxInstances = 10
/** How many ports from 8080 on are tried. */
const portsToTry = 20

const help = `Starts the gateway and the counter service, drives a load at them from a second process, and compares what was sent with
what is stored.

  npm run demo -- [flags]

  --seconds N      how long the load lasts, 1 to 600 (${defaults.seconds}); it ends early after ${maxRequests} requests
  --connections N  how many clients send at the same time, 1 to 1000 (${defaults.connections})
  --instances N    run N counter services in processes of their own, 2 to ${maxInstances}, and kill one in mid-load
  --ack NAME       when an increment is answered: ${acknowledgements.join(', ')} (${defaultAcknowledgement}; committed with --instances)
  --port N         where to listen, 0 is any free port (${defaultPort}, or the next free one)
  --serve          stay up until Ctrl-C, and print a request to try; there is a load only if --seconds is given too
  --data-dir DIR   where PGlite keeps its data (in memory only)
  --help           this text

Live values are in memory, durable ones in PGlite, a PostgreSQL inside the process. To use servers, name them:
  REDIS_URL=redis://host:6379 DATABASE_URL=postgres://user:password@host:5432/database npm run demo
Ends with 0 when the sums are equal, 1 when they are not or something failed, 2 when a flag is wrong.`

const options = readFlags(
  {
    seconds: { type: 'string' },
    connections: { type: 'string' },
    instances: { type: 'string' },
    ack: { type: 'string' },
    port: { type: 'string' },
    serve: { type: 'boolean' },
    'data-dir': { type: 'string' },
  },
  help,
  (values) => ({
    seconds: count('seconds', values.seconds, 1, 600),
    connections: count('connections', values.connections, 1, 1_000) ?? defaults.connections,
    instances: count('instances', values.instances, 2, maxInstances),
    acknowledgement:
      oneOf('ack', values.ack, acknowledgements) ??
      (values.instances === undefined ? defaultAcknowledgement : 'committed'),
    port: count('port', values.port, 0, 65_535),
    serve: values.serve ?? false,
    stores: storesOf(values['data-dir']),
  }),
)

/** What an acknowledgement says, in words. */
const answered = { accepted: 'accepted', redis: 'in the live store', committed: 'committed' }

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
  const { acknowledgement } = options
  if (options.stores.databaseUrl === undefined) console.log('Starting PGlite, a PostgreSQL inside this process…')
  const stores = await openStores({ ...options.stores, onError: ({ message }) => log('warn', message) })
  // Once, though an interrupted demo fails while it is being closed.
  let closing: Promise<void> | undefined
  open.push({ name: 'stores', close: () => (closing ??= stores.close()) })
  const service = await startCounterService({ ...stores, log, port: 0 })
  open.unshift(...service.parts)
  const fleet = await startInstances(service.address)
  const at = fleet.length > 0 ? fleet.map(({ address }) => address).join(',') : service.address
  const gateway = await startGateway({ counters: { at }, ports: ports(), acknowledgement, log })
  open.unshift(...gateway.parts)
  closeOnExit(open)
  const where =
    fleet.length === 0
      ? `The counter service listens for gRPC at ${at},`
      : `${fleet.length} counter services, each in a process of its own, listen for gRPC at ${at},`
  console.log(`${where} and stores in ${stores.title}.
The gateway listens for HTTP at ${gateway.url}, and answers an increment once it is ${answered[acknowledgement]}.`)
  if (options.serve && options.seconds === undefined) {
    printRequestToTry(gateway)
    return true
  }
  const passed = await drive(gateway, stores, fleet)
  if (options.serve) printRequestToTry(gateway)
  return passed
}

/** Counter services in processes of their own: on the servers that are named, or else on the stores of this process. */
async function startInstances(address: string): Promise<FleetMember[]> {
  if (options.instances === undefined) return []
  const { databaseUrl, redisUrl } = options.stores
  const named = databaseUrl !== undefined && redisUrl !== undefined
  const fleet = await startFleet(options.instances, named ? [] : ['--stores', address])
  open.unshift(...fleet.map((member) => ({ name: `counter service ${member.pid}`, close: () => member.close() })))
  return fleet
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
async function drive(gateway: Gateway, stores: Stores, fleet: readonly FleetMember[]): Promise<boolean> {
  const { seconds = defaults.seconds, connections } = options
  const prefix = `demo-${randomUUID().slice(0, 8)}-`
  console.log(`A second process sends for ${seconds} s over ${connections} connections.\n`)
  let crash: Promise<Crash | undefined> | undefined
  const onProgress = ({ requests, elapsedMs }: LoadProgress): void => {
    if (elapsedMs >= seconds * 500 || requests >= maxRequests / 2) crash ??= crashOne(fleet)
  }
  const report = await runLoad({ url: gateway.url, seconds, connections, maxRequests, prefix }, onProgress)
  await gateway.counters.flush()
  const passed = printReport(report, gateway.counters, { prefix, ...(await readStored(stores, prefix, report)) })
  const crashed = await crash
  if (crashed !== undefined) printCrash(report, crashed)
  return passed
}

/** Kills one of the fleet, as a crash would. */
async function crashOne([victim]: readonly FleetMember[]): Promise<Crash | undefined> {
  if (victim === undefined) return undefined
  const atMs = Date.now()
  await victim.kill()
  log('warn', `SIGKILL to the counter service at ${victim.address}, process ${victim.pid}`)
  return { atMs, address: victim.address }
}

function runLoad(loadOptions: LoadOptions, onProgress: (progress: LoadProgress) => void): Promise<LoadReport> {
  const load = fork(fileURLToPath(new URL('./load.ts', import.meta.url)), [JSON.stringify(loadOptions)])
  const progress = new Progress(loadOptions.seconds)
  const killLoad = (): boolean => load.kill()
  process.once('exit', killLoad)
  return new Promise<LoadReport>((resolve, reject) => {
    load.on('message', (message: LoadMessage) => {
      if (message.type === 'progress') {
        progress.show(message)
        return onProgress(message)
      }
      progress.end()
      resolve(message.report)
    })
    load.once('error', reject)
    load.once('exit', (code, signal) => reject(new Error(`the load ended early, with ${signal ?? code}`)))
  }).finally(() => process.off('exit', killLoad))
}

/** Asks the stores themselves, past every buffer and batcher. */
async function readStored(
  { database, live }: Stores,
  prefix: string,
  { sent }: LoadReport,
): Promise<{ stored: StoredSums; live: StoredSums }> {
  const statement = 'SELECT key, value FROM spillway_counters WHERE starts_with(key, $1)'
  const rows = await database.query<{ key: string; value: unknown }>(statement, [prefix])
  const ids = sent.map(([id]) => id)
  const values = await live.getMany(ids.map((id) => `${id}:${counterType}`))
  return {
    stored: new Map(rows.map(({ key, value }) => [key.slice(0, -counterType.length - 1), Number(value)])),
    live: new Map(ids.map((id, index) => [id, values[index] ?? 0])),
  }
}

function printRequestToTry({ url }: Gateway): void {
  const operation = { resource_id: 'post-1', counter_type: 'like', delta: 2 }
  const body = JSON.stringify(operation)
  const waiting = JSON.stringify({ ...operation, ack: 'committed' })
  console.log(`
Try it:
  curl -X POST ${url}/api/v1/counter/increment -H 'content-type: application/json' -d '${body}'
  curl -X POST ${url}/api/v1/counter/increment -H 'content-type: application/json' -d '${waiting}'
  curl ${url}/api/v1/counter/post-1/like
Ctrl-C ends it.`)
}
