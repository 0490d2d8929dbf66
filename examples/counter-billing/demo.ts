import { fork } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type Closable, closeOnExit } from 'spillway/process'
import { randomSecrets } from './auth/clients.ts'
import { clientSecrets } from './auth/environment.ts'
import { authModes } from './auth/http-guard.ts'
import type { ClientId } from './auth/permissions.ts'
import { startAuthService } from './auth/service.ts'
import { serviceTokens } from './auth/service-tokens.ts'
import { openQuotaStore } from './billing/quota-store.ts'
import { startBillingService } from './billing/service.ts'
import { defaultTariff } from './billing/tariff.ts'
import { openUsageStream } from './billing/usage-stream.ts'
import { count, describe, loggingOf, oneOf, readFlags, storesOf, UsageError } from './command-line.ts'
import { acknowledgements, type Log } from './counters.ts'
import { BillingClient, printBilling, printUsage } from './demo-billing.ts'
import { createDemoLog, printLog } from './demo-log.ts'
import { startRedis } from './demo-redis.ts'
import {
  type Crash,
  type GatewayStats,
  Progress,
  printCrash,
  printReport,
  printTokens,
  type StoredSums,
} from './demo-report.ts'
import { type FleetMember, startFleet } from './fleet.ts'
import { counterType, type LoadMessage, type LoadOptions, type LoadProgress, type LoadReport } from './load.ts'
import { Metrics } from './metrics.ts'
import { redact } from './redaction.ts'
import { closeAll, type Running } from './running.ts'
import { defaultAcknowledgement, defaultPort, startCounterService, startGateway } from './service.ts'
import { openSharedCache } from './shared-cache.ts'
import { openStores, type Stores, type StoresOptions } from './stores.ts'

/** Tokens are short-lived, so that some are replaced while one looks on. */
const defaults = { seconds: 8, connections: 50, tokenLifeSeconds: 5 }
const maxRequests = 500_000
const maxInstances = 10
/** How many ports from 8080 on are tried. */
const portsToTry = 20

/** How many gateways, and how many usage workers, there are with `--usage stream`. */
const streamProcesses = 2
/** How long what was accepted may take to be written, once the load is over. */
const settleMs = 30_000

const help = `Starts the gateway, the counter, the billing and the auth service, drives a load at them from a second process, and compares what
was sent with what is stored, and with what is accounted.

  npm run demo -- [flags]

  --seconds N      how long the load lasts, 1 to 600 (${defaults.seconds}); it ends early after ${maxRequests} requests
  --connections N  how many clients send at the same time, 1 to 1000 (${defaults.connections})
  --instances N    run N counter services in processes of their own, 2 to ${maxInstances}, and kill one in mid-load
  --usage NAME     how gateways hand usage on: billing, to the billing service; stream, through Redis Streams, between ${streamProcesses} gateways
                   and ${streamProcesses} usage workers in processes of their own (billing)
  --ack NAME       when an increment is answered: ${acknowledgements.join(', ')} (${defaultAcknowledgement}; committed with --instances)
  --auth NAME      whether callers of the gateway must have a token: ${authModes.join(', ')} (optional; the load has them either way)
  --token-life N   how long a token is valid, in seconds (${defaults.tokenLifeSeconds})
  --port N         where to listen, 0 is any free port (${defaultPort}, or the next free one); with --usage stream, free ones are taken
  --serve          stay up until Ctrl-C, and print a request to try; there is a load only if --seconds is given too
  --data-dir DIR   where PGlite keeps its data (in memory only)
  --help           this text

Live values are in memory, durable ones and money in PGlite, a PostgreSQL inside the process; --usage stream starts a Redis of its own.
Each request is logged, in a file that goes with the demo, or the one that LOG_FILE names; LOG_LEVEL=info leaves requests out.
AUTH_CLIENT_SECRETS brings secrets for the clients of the auth service, as JSON; without it they are random, and nobody is told.
To use servers, name them:
  REDIS_URL=redis://host:6379 DATABASE_URL=postgres://user:password@host:5432/database npm run demo
Ends with 0 when the sums are equal, 1 when they are not or something failed, 2 when a flag is wrong.`

const options = readFlags(
  {
    seconds: { type: 'string' },
    connections: { type: 'string' },
    instances: { type: 'string' },
    usage: { type: 'string' },
    ack: { type: 'string' },
    auth: { type: 'string' },
    'token-life': { type: 'string' },
    port: { type: 'string' },
    serve: { type: 'boolean' },
    'data-dir': { type: 'string' },
  },
  help,
  (values) => ({
    seconds: count('seconds', values.seconds, 1, 600),
    connections: count('connections', values.connections, 1, 1_000) ?? defaults.connections,
    instances: count('instances', values.instances, 2, maxInstances),
    usage: oneOf('usage', values.usage, ['billing', 'stream']) ?? 'billing',
    acknowledgement:
      oneOf('ack', values.ack, acknowledgements) ??
      (values.instances === undefined ? defaultAcknowledgement : 'committed'),
    mode: oneOf('auth', values.auth, authModes) ?? 'optional',
    tokenLifeSeconds: count('token-life', values['token-life'], 1, 86_400) ?? defaults.tokenLifeSeconds,
    port: portOf(values.port, values.usage),
    serve: values.serve ?? false,
    stores: storesOf(values['data-dir']),
    secrets: clientSecrets(undefined),
    logTo: loggingOf(),
  }),
)

/** Two gateways can't have one port. */
function portOf(port: string | undefined, usage: string | undefined): number | undefined {
  if (port === undefined || usage !== 'stream') return count('port', port, 0, 65_535)
  throw new UsageError('--port is for one gateway, but --usage stream starts two, each on a free port')
}

/** What an acknowledgement says, in words. */
const answered = { accepted: 'accepted', redis: 'in the live store', committed: 'committed' }

const logging = createDemoLog(options.logTo)
const log: Log = (level, message) => {
  logging.logger[level](message)
  console.log(redact(message))
}

const metrics = new Metrics()
metrics.add('log', { lines: logging.lines, sink: logging.sink })

/** What is open, in the order in which to close it. */
const open: Closable[] = [metrics, ...logging.parts]

/** Unless somebody brings some, nobody else knows them. Parts in processes of their own find theirs in their environment. */
const secrets = { ...randomSecrets(), ...options.secrets }

try {
  process.exitCode = (await demo()) ? 0 : 1
  if (!options.serve) await closeAll(open.splice(0))
} catch (error) {
  console.error(`the demo failed: ${describe(error)}`)
  process.exitCode = 1
  await closeAll(open.splice(0))
}

async function demo(): Promise<boolean> {
  const { acknowledgement } = options
  await logging.open()
  const servers = await serversToUse()
  if (servers.databaseUrl === undefined) console.log('Starting PGlite, a PostgreSQL inside this process…')
  const stores = await openStores(servers)
  metrics.add('stores', stores.instruments)
  // Once, though an interrupted demo fails while it is being closed.
  let closing: Promise<void> | undefined
  open.unshift({ name: 'stores', close: () => (closing ??= stores.close()) })
  const quota = keepOpen(await openQuotaStore(servers, stores.database))
  metrics.add('quota', quota.instruments)
  const { tokenLifeSeconds } = options
  const auth = keepOpen(await startAuthService({ secrets, tokenLifeSeconds, log, logging, metrics, port: 0 })).url
  const common = { auth: { url: auth }, log, metrics, port: 0 }
  const service = keepOpen(await startCounterService({ ...stores, ...common }))
  const { database } = stores
  const { address: billing } = keepOpen(await startBillingService({ database, quotaStore: quota.store, ...common }))
  const fleet = await startInstances(service.address, auth)
  const counters = fleet.length > 0 ? fleet.map(({ address }) => address).join(',') : service.address
  const urls = await startGateways(counters, billing, servers, auth)
  closeOnExit(open)
  const where =
    fleet.length === 0
      ? `The counter service listens for gRPC at ${counters},`
      : `${fleet.length} counter services, each in a process of its own, listen for gRPC at ${counters},`
  console.log(`${where} and stores in ${stores.title}.
The billing service listens for gRPC at ${billing}, has money in ${database.title}, and counts uses in ${quota.title}.
The auth service issues tokens at ${auth}, valid for ${tokenLifeSeconds} s; services take calls with one only, and the gateway ${options.mode === 'required' ? 'too' : 'some without, too'}.
The gateway listens for HTTP at ${urls.join(' and ')}, and answers an increment once it is ${answered[acknowledgement]}.`)
  if (options.usage === 'stream') {
    console.log(`The gateways publish usage in Redis Streams, and ${streamProcesses} usage workers account it.`)
  }
  if (options.serve && options.seconds === undefined) {
    printRequestToTry(urls, auth)
    return true
  }
  const passed = await drive(urls, stores, fleet, servers, auth)
  if (options.serve) printRequestToTry(urls, auth)
  return passed
}

/** What is opened later uses what is there, and is closed before it. */
function keepOpen<T extends Running | Closable>(running: T): T {
  open.unshift(...('parts' in running ? running.parts : [running]))
  return running
}

/** The servers that are named, and a Redis where one is needed. */
async function serversToUse(): Promise<StoresOptions> {
  // How slow queries are, the report says; which, the log.
  const onSlow = (message: string): void => logging.logger.warn(message)
  const { redisUrl, ...others } = { ...options.stores, onError: ({ message }: Error) => log('warn', message), onSlow }
  if (options.usage === 'billing' || redisUrl !== undefined) return { ...others, redisUrl }
  return { ...others, redisUrl: keepOpen(await startRedis()).url }
}

/** Counter services in processes of their own: on the servers that are named, or else on the stores of this process. */
async function startInstances(address: string, auth: string): Promise<FleetMember[]> {
  const { databaseUrl, redisUrl } = options.stores
  const flags = ['--role', 'counters', '--grpc-port', '0']
  if (databaseUrl === undefined || redisUrl === undefined) flags.push('--stores', address)
  const all = new Array<string[]>(options.instances ?? 0).fill(flags)
  // A page of one of them has a neighbour at another.
  const env = { CURSOR_SECRET: process.env['CURSOR_SECRET'] || randomUUID() }
  return startMembers('counter service', all, { ...env, ...identity(auth, 'counter-service') })
}

/** Who a process is at the auth service: what it finds in its environment. */
function identity(auth: string, clientId: ClientId): Readonly<Record<string, string>> {
  return { AUTH_URL: auth, AUTH_ISSUER: '', AUTH_CLIENT_SECRET: secrets[clientId] }
}

/** The gateway, in this process; or gateways and usage workers in processes of their own. */
async function startGateways(
  counters: string,
  billing: string,
  servers: StoresOptions,
  auth: string,
): Promise<string[]> {
  const { acknowledgement, usage, mode } = options
  if (usage === 'billing') {
    const cache = await openSharedCache(servers, log)
    if (cache !== undefined) metrics.add('cache', keepOpen(cache).instruments)
    const client = { url: auth, clientId: 'gateway', clientSecret: secrets.gateway, mode } as const
    const services = { counters: { at: counters }, billing: { at: billing } }
    const settings = { ...services, auth: client, cache, ports: ports(), acknowledgement, log, logging, metrics }
    return [keepOpen(await startGateway(settings)).url]
  }
  const env = { REDIS_URL: servers.redisUrl as string, ...identity(auth, 'gateway') }
  const twice = (flags: string[]): string[][] => new Array<string[]>(streamProcesses).fill(flags)
  await startMembers('usage worker', twice(['--role', 'usage-worker']), env)
  const to = ['--counters', counters, '--billing', billing, '--usage', usage]
  const gateways = await startMembers(
    'gateway',
    twice(['--role', 'gateway', '--port', '0', '--ack', acknowledgement, '--auth', mode, ...to]),
    env,
  )
  return gateways.map(({ address }) => address)
}

async function startMembers(
  name: string,
  flags: readonly string[][],
  env?: Readonly<Record<string, string>>,
): Promise<FleetMember[]> {
  const fileOf = (index: number): string => logging.fileOf(`${name.replaceAll(' ', '-')}-${index + 1}`)
  const members = await startFleet(flags, (index) => ({ ...env, LOG_FILE: fileOf(index) }))
  open.unshift(...members.map((member) => ({ name: `${name} ${member.pid}`, close: () => member.close() })))
  return members
}

/** Where it was told to listen; where it wasn't, at 8080 or the next free port. */
function ports(): number[] {
  if (options.port !== undefined) return [options.port]
  return Array.from({ length: portsToTry }, (_, index) => defaultPort + index)
}

/** Drives the load, reports, and tells whether everything that was sent is stored and accounted. */
async function drive(
  urls: readonly string[],
  stores: Stores,
  fleet: readonly FleetMember[],
  servers: StoresOptions,
  auth: string,
): Promise<boolean> {
  const { seconds = defaults.seconds, connections } = options
  const prefix = `demo-${randomUUID().slice(0, 8)}-`
  console.log(`A second process sends for ${seconds} s over ${connections} connections.\n`)
  let crash: Promise<Crash | undefined> | undefined
  const onProgress = ({ requests, elapsedMs }: LoadProgress): void => {
    if (elapsedMs >= seconds * 500 || requests >= maxRequests / 2) crash ??= crashOne(fleet)
  }
  const report = await runLoad({ urls, seconds, connections, maxRequests, prefix }, auth, onProgress)
  const gateways = await settled(urls, servers)
  const stored = printReport(report, gateways, { prefix, ...(await readStored(stores, prefix, report)) })
  const crashed = await crash
  if (crashed !== undefined) printCrash(report, crashed)
  printTokens(options.tokenLifeSeconds, report, gateways)
  printLog(gateways, logging, stores.database)
  const tokens = serviceTokens({ url: auth, clientId: 'back-office', clientSecret: secrets['back-office'] }, log)
  const billing = new BillingClient(
    urls,
    tokens.forKey({ audience: 'gateway', scopes: ['billing:read', 'billing:write'] }),
  )
  try {
    const accounted = await printUsage(billing, gateways, report)
    const billed = await printBilling(billing, `${prefix}customer`)
    return stored && accounted && billed
  } finally {
    await billing.close()
    await tokens.close()
  }
}

/** What gateways tell of themselves once all that they accepted has left them, and the stream of usage too. */
async function settled(urls: readonly string[], servers: StoresOptions): Promise<GatewayStats[]> {
  const opened =
    options.usage === 'stream' ? await openUsageStream({ stores: servers, tariff: defaultTariff }) : undefined
  const deadline = Date.now() + settleMs
  try {
    for (;;) {
      const gateways = await Promise.all(
        urls.map(async (url) => (await (await fetch(`${url}/stats`)).json()) as GatewayStats),
      )
      const left = gateways.reduce((sum, { billing, durableWrites, liveWrites }) => {
        return sum + billing.usage.pending + durableWrites.pending + liveWrites.pending
      }, 0)
      const status = left === 0 ? await opened?.stream.status() : undefined
      const [group] = status?.groups ?? []
      const underWay = (group?.pending ?? 0) + (group?.undelivered ?? status?.length ?? 0)
      if (left + underWay === 0 || Date.now() > deadline) return gateways
      await delay(100)
    }
  } finally {
    await opened?.close()
  }
}

/** Kills one of the fleet, as a crash would. */
async function crashOne([victim]: readonly FleetMember[]): Promise<Crash | undefined> {
  if (victim === undefined) return undefined
  const atMs = Date.now()
  await victim.kill()
  log('warn', `SIGKILL to the counter service at ${victim.address}, process ${victim.pid}`)
  return { atMs, address: victim.address }
}

function runLoad(
  loadOptions: LoadOptions,
  auth: string,
  onProgress: (progress: LoadProgress) => void,
): Promise<LoadReport> {
  const load = fork(fileURLToPath(new URL('./load.ts', import.meta.url)), [JSON.stringify(loadOptions)], {
    env: { ...process.env, ...identity(auth, 'load-generator') },
  })
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

function printRequestToTry([url]: readonly string[], auth: string): void {
  if (options.mode === 'required') {
    console.log(`
Try it, with the secret that you have given the client back-office in AUTH_CLIENT_SECRETS as JSON:
  curl -u back-office ${auth}/oauth/token -d grant_type=client_credentials
  curl -i ${url}/api/v1/counter/post-1/like -H 'authorization: Bearer …'
Ctrl-C ends it.`)
    return
  }
  const operation = { resource_id: 'post-1', counter_type: 'like', delta: 2 }
  const post = (path: string, body: object): string =>
    `curl -X POST ${url}/api/v1/${path} -H 'content-type: application/json' -d '${JSON.stringify(body)}'`
  console.log(`
Try it:
  ${post('counter/increment', { user_id: 'ann', ...operation })}
  ${post('counter/increment', { ...operation, ack: 'committed' })}
  curl -i ${url}/api/v1/counter/post-1/like
  curl '${url}/api/v1/counter?resource_id=post-1&limit=10&fresh=true'
  ${post('billing/recharge', { request_id: 'r1', user_id: 'ann', amount: 500 })}
  ${post('billing/deduct', { request_id: 'd1', user_id: 'ann', service: 'thumbnail', count: 120 })}
  curl ${url}/api/v1/billing/free-quota/ann/counter-writes
Ctrl-C ends it.`)
}
