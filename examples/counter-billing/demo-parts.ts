import { randomUUID } from 'node:crypto'
import type { Closable } from 'spillway/process'
import { randomSecrets } from './auth/clients.ts'
import type { ClientId } from './auth/permissions.ts'
import { startAuthService } from './auth/service.ts'
import { openQuotaStore } from './billing/quota-store.ts'
import { startBillingService } from './billing/service.ts'
import type { Log } from './counters.ts'
import { createDemoLog, type DemoLog } from './demo-log.ts'
import { type DemoOptions, streamProcesses } from './demo-options.ts'
import { startRedis } from './demo-redis.ts'
import { type FleetMember, startFleet } from './fleet.ts'
import { Metrics } from './metrics.ts'
import { redact } from './redaction.ts'
import { closeAll, type Running } from './running.ts'
import { defaultPort, startCounterService, startGateway } from './service.ts'
import { openSharedCache } from './shared-cache.ts'
import { openStores, type Stores, type StoresOptions } from './stores.ts'

/** How many ports from 8080 on are tried. */
const portsToTry = 20

/** The services of a demo, and where they are. */
export interface DemoServices {
  readonly stores: Stores
  readonly servers: StoresOptions
  /** The counter services that have processes of their own. */
  readonly fleet: readonly FleetMember[]
  /** `host:port` of the counter services, separated by commas. */
  readonly counters: string
  readonly billing: string
  /** URL of the auth service. */
  readonly auth: string
  /** URLs of the gateways. */
  readonly urls: readonly string[]
  /** Where uses are counted, for people. */
  readonly quotaTitle: string
}

/** Starts the parts of the demo, and knows in which order to close them. */
export class DemoParts {
  readonly logging: DemoLog
  readonly metrics = new Metrics()
  /** What is open, in the order in which to close it. */
  readonly open: Closable[]
  readonly #options: DemoOptions
  /** Unless somebody brings some, nobody else knows them. Parts in processes of their own find theirs in their environment. */
  readonly #secrets: Readonly<Record<ClientId, string>>

  constructor(options: DemoOptions) {
    this.#options = options
    this.#secrets = { ...randomSecrets(), ...options.secrets }
    this.logging = createDemoLog(options.logTo)
    this.metrics.add('log', { lines: this.logging.lines, sink: this.logging.sink })
    this.open = [this.metrics, ...this.logging.parts]
  }

  readonly log: Log = (level, message) => {
    this.logging.logger[level](message)
    console.log(redact(message))
  }

  async start(): Promise<DemoServices> {
    const { metrics, log, logging } = this
    await logging.open()
    const servers = await this.#servers()
    if (servers.databaseUrl === undefined) console.log('Starting PGlite, a PostgreSQL inside this process…')
    const stores = await openStores(servers)
    metrics.add('stores', stores.instruments)
    // Once, though an interrupted demo fails while it is being closed.
    let closing: Promise<void> | undefined
    this.open.unshift({ name: 'stores', close: () => (closing ??= stores.close()) })
    const quota = this.#keepOpen(await openQuotaStore(servers, stores.database))
    metrics.add('quota', quota.instruments)
    const { tokenLifeSeconds } = this.#options
    const authOptions = { secrets: this.#secrets, tokenLifeSeconds, log, logging, metrics, port: 0 }
    const auth = this.#keepOpen(await startAuthService(authOptions)).url
    const common = { auth: { url: auth }, log, metrics, port: 0 }
    const service = this.#keepOpen(await startCounterService({ ...stores, ...common }))
    const { database } = stores
    const billingOptions = { database, quotaStore: quota.store, ...common }
    const { address: billing } = this.#keepOpen(await startBillingService(billingOptions))
    const fleet = await this.#startInstances(service.address, auth)
    const counters = fleet.length > 0 ? fleet.map(({ address }) => address).join(',') : service.address
    const urls = await this.#startGateways(counters, billing, servers, auth)
    return { stores, servers, fleet, counters, billing, auth, urls, quotaTitle: quota.title }
  }

  /** Closes what is still open. */
  close(): Promise<void> {
    return closeAll(this.open.splice(0))
  }

  /** Who a process is at the auth service: what it finds in its environment. */
  identity(auth: string, clientId: ClientId): Readonly<Record<string, string>> {
    return { AUTH_URL: auth, AUTH_ISSUER: '', AUTH_CLIENT_SECRET: this.#secrets[clientId] }
  }

  /** The same for a part of this process. */
  client<Id extends ClientId>(auth: string, clientId: Id) {
    return { url: auth, clientId, clientSecret: this.#secrets[clientId] }
  }

  /** What is opened later uses what is there, and is closed before it. */
  #keepOpen<T extends Running | Closable>(running: T): T {
    this.open.unshift(...('parts' in running ? running.parts : [running]))
    return running
  }

  /** The servers that are named, and a Redis where one is needed. */
  async #servers(): Promise<StoresOptions> {
    // How slow queries are, the report says; which, the log.
    const onSlow = (message: string): void => this.logging.logger.warn(message)
    const onError = ({ message }: Error): void => this.log('warn', message)
    const { redisUrl, ...others } = { ...this.#options.stores, onError, onSlow }
    if (this.#options.usage === 'billing' || redisUrl !== undefined) return { ...others, redisUrl }
    return { ...others, redisUrl: this.#keepOpen(await startRedis()).url }
  }

  /** Counter services in processes of their own: on the servers that are named, or else on the stores of this process. */
  async #startInstances(address: string, auth: string): Promise<FleetMember[]> {
    const { stores, instances = 0 } = this.#options
    const flags = ['--role', 'counters', '--grpc-port', '0']
    if (stores.databaseUrl === undefined || stores.redisUrl === undefined) flags.push('--stores', address)
    const all = new Array<string[]>(instances).fill(flags)
    // A page of one of them has a neighbour at another.
    const env = { CURSOR_SECRET: process.env['CURSOR_SECRET'] || randomUUID() }
    return this.#startMembers('counter service', all, { ...env, ...this.identity(auth, 'counter-service') })
  }

  /** The gateway, in this process; or gateways and usage workers in processes of their own. */
  async #startGateways(counters: string, billing: string, servers: StoresOptions, auth: string): Promise<string[]> {
    const { acknowledgement, usage, mode } = this.#options
    const { log, logging, metrics } = this
    if (usage === 'billing') {
      const cache = await openSharedCache(servers, log)
      if (cache !== undefined) metrics.add('cache', this.#keepOpen(cache).instruments)
      const client = { ...this.client(auth, 'gateway'), mode }
      const services = { counters: { at: counters }, billing: { at: billing } }
      const common = { auth: client, cache, acknowledgement, log, logging, metrics }
      return [this.#keepOpen(await startGateway({ ...services, ...common, ports: this.#ports() })).url]
    }
    const env = { REDIS_URL: servers.redisUrl as string, ...this.identity(auth, 'gateway') }
    const twice = (flags: string[]): string[][] => new Array<string[]>(streamProcesses).fill(flags)
    await this.#startMembers('usage worker', twice(['--role', 'usage-worker']), env)
    const to = ['--counters', counters, '--billing', billing, '--usage', usage]
    const gateways = await this.#startMembers(
      'gateway',
      twice(['--role', 'gateway', '--port', '0', '--ack', acknowledgement, '--auth', mode, ...to]),
      env,
    )
    return gateways.map(({ address }) => address)
  }

  async #startMembers(
    name: string,
    flags: readonly string[][],
    env?: Readonly<Record<string, string>>,
  ): Promise<FleetMember[]> {
    const fileOf = (index: number): string => this.logging.fileOf(`${name.replaceAll(' ', '-')}-${index + 1}`)
    const members = await startFleet(flags, (index) => ({ ...env, LOG_FILE: fileOf(index) }))
    this.open.unshift(...members.map((member) => ({ name: `${name} ${member.pid}`, close: () => member.close() })))
    return members
  }

  /** Where it was told to listen; where it wasn't, at 8080 or the next free port. */
  #ports(): number[] {
    const { port } = this.#options
    return port !== undefined ? [port] : Array.from({ length: portsToTry }, (_, index) => defaultPort + index)
  }
}
