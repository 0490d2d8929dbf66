import { randomUUID } from 'node:crypto'
import type { Closable } from 'spillway/process'
import { randomSecrets } from '../auth/clients.ts'
import type { ClientId } from '../auth/permissions.ts'
import { startAuthService } from '../auth/service.ts'
import { openQuotaStore } from '../billing/quota-store.ts'
import { startBillingService } from '../billing/service.ts'
import { environmentOf, sharedValues } from '../config/environment.ts'
import {
  apiOptions,
  countersOptions,
  readsOptions,
  serviceOptions,
  storesOptions,
  usageOptions,
} from '../config/options.ts'
import type { SomeValues } from '../config/settings.ts'
import type { Log } from '../counter/counters.ts'
import type { Database } from '../counter/database.ts'
import { openSharedCache } from '../counter/shared-cache.ts'
import { openStores, type Stores, type StoresOptions } from '../counter/stores.ts'
import { FaultLab } from '../dashboard/fault-lab.ts'
import { type FleetMember, startFleet, startMember } from '../fleet.ts'
import { closeAll, type Running } from '../running.ts'
import { defaultPort, startCounterService, startGateway } from '../service.ts'
import { Metrics } from '../telemetry/metrics.ts'
import { redact } from '../telemetry/redaction.ts'
import { createDemoLog, type DemoLog } from './log.ts'
import { type DemoOptions, streamProcesses } from './options.ts'
import { during, printed } from './progress.ts'
import { findRedis, missingRedis, startRedis } from './redis.ts'

/** How many ports from 8080 on are tried. */
const portsToTry = 20

/** The services of a demo, and where they are. */
export interface DemoServices {
  readonly stores: Stores
  readonly servers: StoresOptions
  /** The counter services that have processes of their own. */
  readonly fleet: readonly Pick<FleetMember, 'address' | 'pid' | 'kill'>[]
  /** URL of the auth service. */
  readonly auth: string
  /** URLs of the gateways. */
  readonly urls: readonly string[]
  /** Whether usage goes through a stream. */
  readonly isStreamed: boolean
  /** Each part and where it is, for people. */
  readonly places: () => readonly (readonly [part: string, place: string])[]
}

/** What the parts of a demo have in common, and in which order to close them. */
export class DemoParts {
  readonly logging: DemoLog
  readonly metrics: Metrics
  readonly options: DemoOptions
  /** What is open, in the order in which to close it. */
  readonly #open: Closable[]
  /** Unless somebody brings some, nobody else knows them. Parts in processes of their own find theirs in their environment. */
  readonly secrets: Readonly<Record<ClientId, string>>
  readonly #interrupted: AbortSignal
  #closing: Promise<void> | undefined

  /** @param interrupted - is aborted when nothing more is to be started. */
  constructor(options: DemoOptions, interrupted: AbortSignal) {
    this.options = options
    this.#interrupted = interrupted
    this.secrets = { ...randomSecrets(), ...options.secrets }
    this.logging = createDemoLog(options.logTo)
    this.metrics = new Metrics({ eventLoop: options.config.values['metrics.eventLoop'] })
    this.metrics.add('log', { lines: this.logging.lines, sink: this.logging.sink })
    this.#open = [this.metrics, ...this.logging.parts]
  }

  /** What people must know of goes to the terminal and the log, the rest to the log. */
  readonly log: Log = (level, message) => {
    this.logging.logger[level](message)
    if (level !== 'info' || this.options.verbose) printed(redact(message))
  }

  /** What a part in a process of its own says to people; its log has all of it. */
  readonly tell = (line: string): void => {
    const isQuiet = /^\S+Z (?:info|warn) /.test(line)
    if (!isQuiet || this.options.verbose) printed(line)
  }

  /**
   * What is opened later uses what is there, and is closed before it.
   *
   * @throws the reason of an interruption, so that nothing more is opened then.
   */
  keepOpen<T extends Running | Closable>(running: T): T {
    const parts = 'parts' in running ? running.parts : [running]
    if (this.#closing === undefined) this.#open.unshift(...parts)
    // The demo ended while this was being opened.
    else
      void (async () => {
        for (const part of parts) await part.close({ timeoutMs: 1_000 })
      })()
    this.#interrupted.throwIfAborted()
    return running
  }

  /** Closes what is open, each within half of what is left of the time. */
  close({ timeoutMs = 10_000 }: { timeoutMs?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(performance.now() + timeoutMs)
    return this.#closing
  }

  async #close(deadline: number): Promise<void> {
    for (const part of this.#open.splice(0)) {
      await part.close({ timeoutMs: Math.max(0, (deadline - performance.now()) / 2) })
    }
  }

  /** What a part in a process of its own finds in its environment: what all parts are to be like, and what is its own. */
  environment(process: string, own: SomeValues): Record<string, string> {
    const file = this.logging.fileOf(process)
    return environmentOf({ ...sharedValues(this.options.config.values), 'log.file': file, ...own })
  }

  /** Who a part is at the auth service. */
  identity(auth: string, clientId: ClientId): SomeValues {
    return { 'services.authUrl': auth, 'services.authClientSecret': this.secrets[clientId] }
  }

  /** The same for a part of this process. */
  client<Id extends ClientId>(auth: string, clientId: Id) {
    return { url: auth, clientId, clientSecret: this.secrets[clientId] }
  }

  /** The servers that are named, and how to connect to them. */
  storesOptions(): StoresOptions {
    // How slow queries are, the report says; which, the log.
    const onSlow = (message: string): void => this.logging.logger.warn(message)
    return { ...storesOptions(this.options.config.values), onError: ({ message }) => this.log('warn', message), onSlow }
  }

  /** Opens the stores of this process. */
  async openStores(servers: StoresOptions): Promise<Stores> {
    const opening = openStores(servers)
    const stores = await (servers.databaseUrl === undefined
      ? during('PGlite, a PostgreSQL inside this process, starts', opening)
      : opening)
    this.metrics.add('stores', stores.instruments)
    this.keepOpen({ name: 'stores', close: () => stores.close() })
    return stores
  }
}

/** Starts all services in this process, but for those that the options want apart. */
export async function startTogether(parts: DemoParts): Promise<DemoServices> {
  const { metrics, log, logging, options } = parts
  const { tokenLifeSeconds, usage, config } = options
  const named = await serversToUse(parts)
  const lab = options.faults && (await FaultLab.open(named, log))
  if (lab !== undefined) parts.keepOpen(lab.proxies)
  const servers = lab?.servers ?? named
  const own = await parts.openStores(servers)
  const stores = lab?.around(own) ?? own
  const quota = parts.keepOpen(await openQuotaStore(servers, stores.database))
  metrics.add('quota', quota.instruments)
  const { secrets } = parts
  const auth = parts.keepOpen(await startAuthService({ secrets, tokenLifeSeconds, log, logging, metrics, port: 0 })).url
  const common = { auth: { url: auth }, log, metrics, port: 0 }
  const ways = { ...countersOptions(config.values), reads: readsOptions(config.values) }
  const service = parts.keepOpen(await startCounterService({ ...stores, ...ways, ...common }))
  const { database } = stores
  const billingOptions = { database, quotaStore: quota.store, ...common }
  const { address: billing } = parts.keepOpen(await startBillingService(billingOptions))
  const member = memberOptions(parts, servers, service.address, auth)
  const fleet = await startMembers(parts, 'counter service', 'counters', options.instances ?? 0, member)
  const counters = fleet.length > 0 ? fleet.map(({ address }) => address).join(',') : service.address
  // Those that come later are closed when the first ones are: after the gateway.
  if (lab !== undefined) parts.keepOpen(lab.restarted)
  const urls = await startGateways(parts, counters, billing, { ...servers, database }, auth, lab)
  if (lab !== undefined) {
    const env = { AUTH_URL: auth, AUTH_ISSUER: '', AUTH_CLIENT_SECRET: secrets['load-generator'] }
    const startAgain = (port: string): Promise<FleetMember> => startInPlace(parts, port, member)
    const { seconds } = options.faults as { seconds: number }
    await parts.keepOpen(lab).start({ stores: own, urls, seconds, env, fleet, startMember: startAgain })
  }
  const places = () => [
    ['gateway', urls.join(', ')] as const,
    ['counters', `${counters}, on ${stores.title}`] as const,
    ['billing', `${billing}, money on ${database.title}, uses on ${quota.title}`] as const,
    ['auth', `${auth}, tokens for ${tokenLifeSeconds} s`] as const,
  ]
  return { stores, servers, fleet, auth, urls, isStreamed: usage === 'stream', places }
}

/** The servers that are named, and a Redis where one is needed. */
async function serversToUse(parts: DemoParts): Promise<StoresOptions> {
  const servers = parts.storesOptions()
  if (parts.options.usage === 'billing' || servers.redisUrl !== undefined) return servers
  const binary = findRedis()
  if (binary === undefined) throw new Error(`--usage stream needs Redis: ${missingRedis}`)
  return { ...servers, redisUrl: parts.keepOpen(await during('Redis starts', startRedis(binary))).url }
}

/** Counter services in processes of their own are on the servers that are named, or else on the stores of this process. */
function memberOptions(
  parts: DemoParts,
  { databaseUrl, redisUrl }: StoresOptions,
  address: string,
  auth: string,
): SomeValues {
  const isOnServers = databaseUrl !== undefined && redisUrl !== undefined
  return {
    ...parts.identity(auth, 'counter-service'),
    'api.grpcPort': 0,
    // A page of one of them has a neighbour at another.
    'query.cursorSecrets': parts.options.config.values['query.cursorSecrets'] ?? [randomUUID()],
    ...(isOnServers
      ? { 'services.redisUrl': redisUrl, 'services.databaseUrl': databaseUrl }
      : { 'services.stores': address }),
  }
}

/** Another counter service where one was that was killed. */
function startInPlace(parts: DemoParts, port: string, options: SomeValues): Promise<FleetMember> {
  const own = { ...options, 'api.grpcPort': Number(port) }
  return startMember(['--role', 'counters'], parts.environment(`counters-at-${port}`, own), parts.tell)
}

/** The gateway, in this process; or gateways and usage workers in processes of their own. */
async function startGateways(
  parts: DemoParts,
  counters: string,
  billing: string,
  { database, ...servers }: StoresOptions & { readonly database: Database },
  auth: string,
  faults: FaultLab | undefined,
): Promise<string[]> {
  const { log, logging, metrics, options } = parts
  const { acknowledgement, usage, mode, config } = options
  if (usage === 'billing') {
    const cache = await openSharedCache(servers, log)
    if (cache !== undefined) metrics.add('cache', parts.keepOpen(cache).instruments)
    const ways = { ...countersOptions(config.values), reads: readsOptions(config.values) }
    const services = serviceOptions(config.values)
    const gateway = await startGateway({
      ...ways,
      counters: { at: counters, ...services },
      billing: { at: billing, ...services, ...usageOptions(config.values) },
      auth: { ...parts.client(auth, 'gateway'), mode },
      // The load is one caller, who may make as many requests as he likes.
      api: { ...apiOptions(config.values), rateLimit: false },
      database,
      dashboard: { faults },
      ...{ cache, acknowledgement, log, logging, metrics, ports: ports(options) },
    })
    return [parts.keepOpen(gateway).url]
  }
  const own: SomeValues = {
    ...parts.identity(auth, 'gateway'),
    'services.redisUrl': servers.redisUrl,
    'services.databaseUrl': servers.databaseUrl,
  }
  await startMembers(parts, 'usage worker', 'usage-worker', streamProcesses, own)
  const gateways = await startMembers(parts, 'gateway', 'gateway', streamProcesses, {
    ...own,
    'services.counters': counters,
    'services.billing': billing,
    'services.usage': usage,
    'api.rateLimit.enabled': false,
    'api.dashboard': true,
    'api.port': 0,
  })
  return gateways.map(({ address }) => address)
}

async function startMembers(
  parts: DemoParts,
  name: string,
  role: string,
  count: number,
  own: SomeValues,
): Promise<FleetMember[]> {
  const flags = new Array<string[]>(count).fill(['--role', role])
  const starting = startFleet(flags, (index) => parts.environment(`${role}-${index + 1}`, own), parts.tell)
  const members = await (count === 0 ? starting : during(`${count} ${name}s start`, starting))
  const closables = members.map((member) => ({ name: `${name} ${member.pid}`, close: () => member.close() }))
  parts.keepOpen({ parts: closables, close: () => closeAll(closables) })
  return members
}

/** Where it was told to listen; where it wasn't, at 8080 or the next free port. */
function ports({ port }: DemoOptions): number[] {
  return port !== undefined ? [port] : Array.from({ length: portsToTry }, (_, index) => defaultPort + index)
}
