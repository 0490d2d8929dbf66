import type { Closable } from 'spillway/process'
import { randomSecrets } from './auth/clients.ts'
import { authClient, clientSecrets, trustedIssuer } from './auth/environment.ts'
import { type AuthService, defaultAuthPort, startAuthService } from './auth/service.ts'
import { type AuthClient, serviceTokens } from './auth/service-tokens.ts'
import type { TrustedIssuer } from './auth/token-verifier.ts'
import type { BillingServicesOptions } from './billing/billing-services.ts'
import { openQuotaStore } from './billing/quota-store.ts'
import { type BillingService, startBillingService } from './billing/service.ts'
import { defaultTariff, readTariff } from './billing/tariff.ts'
import { openUsageStream, startUsageWorker } from './billing/usage-stream.ts'
import { UsageError } from './command-line.ts'
import {
  apiOptions,
  consulOf,
  countersOptions,
  listeningOptions,
  loggingOptions,
  readsOptions,
  serviceOptions,
  storesOptions,
  usageOptions,
} from './config/options.ts'
import type { ConfigValues } from './config/settings.ts'
import type { Log } from './counter/counters.ts'
import { type Database, openDatabase } from './counter/database.ts'
import { connectToCounterServices } from './counter/services.ts'
import { openSharedCache } from './counter/shared-cache.ts'
import { type CounterStores, openStores, type Stores, type StoresOptions } from './counter/stores.ts'
import { closeAll, defaultHost, type Running } from './running.ts'
import {
  type CounterService,
  defaultGrpcPort,
  type Gateway,
  type GatewayAuth,
  startCounterService,
  startGateway,
} from './service.ts'
import { createLogging, type Logging } from './telemetry/logging.ts'
import { Metrics } from './telemetry/metrics.ts'
import { startMetricsServer } from './telemetry/metrics-endpoint.ts'

export const roles = ['all', 'gateway', 'counters', 'billing', 'usage-worker', 'auth'] as const
export type Role = (typeof roles)[number]

export interface ProgramOptions {
  readonly role: Role
  readonly values: ConfigValues
  /** Told where each part listens. */
  readonly say: (message: string) => void
}

/** Whose tokens are taken here, and what this process gets its own with. */
interface Auth {
  readonly issuer: TrustedIssuer
  readonly client: () => AuthClient
}

/** The parts of the service that a role asks for, in this process, as the configuration has them. */
export class Program {
  /** What is open, in the order in which to close it. */
  readonly open: Closable[]
  readonly logging: Logging
  readonly metrics: Metrics
  readonly started: {
    gateway?: Gateway
    counters?: CounterService
    billing?: BillingService
    auth?: AuthService
    stores?: Stores
    metricsUrl?: string
  } = {}
  readonly #options: ProgramOptions
  readonly #values: ConfigValues
  readonly #stores: StoresOptions
  readonly #log: Log

  constructor(options: ProgramOptions) {
    this.#options = options
    this.#values = options.values
    this.logging = createLogging({ role: options.role, ...loggingOptions(options.values) })
    this.metrics = new Metrics({ eventLoop: options.values['metrics.eventLoop'] })
    this.metrics.add('log', { lines: this.logging.lines, sink: this.logging.sink })
    this.open = [this.metrics, ...this.logging.parts]
    const { log } = this.logging
    this.#log = log
    const onError = ({ message }: Error): void => log('warn', message)
    this.#stores = { ...storesOptions(options.values), onError, onSlow: (message) => log('warn', message) }
  }

  get values(): ConfigValues {
    return this.#values
  }

  /** What `closeOnExit` is to be told. */
  get closeOptions(): { readonly timeoutMs: number } {
    return { timeoutMs: this.#values['api.closeTimeoutMs'] }
  }

  /** Starts them; returns where the last one listens. Nothing follows that: what it takes can be written from then on. */
  async start(): Promise<string> {
    await this.logging.open()
    const port = this.#values['metrics.port']
    if (port !== undefined) {
      const { url } = this.#keepOpen(await startMetricsServer(this.metrics, port))
      this.#options.say(`metrics at ${url}`)
      this.started.metricsUrl = url
    }
    return this.#startRole()
  }

  async #startRole(): Promise<string> {
    const { role } = this.#options
    if (role === 'usage-worker') return this.#runUsageWorker()
    if (role === 'auth') return this.#runAuth()
    const auth = await this.#auth()
    if (role === 'billing') return this.#runBilling(undefined, auth?.issuer)
    if (role === 'gateway') return this.#runGateway(undefined, this.#billingAt(), auth)
    const stores = await this.#storesToUse(auth)
    const counters = await this.#runCounters(stores, auth?.issuer)
    if (role === 'counters') return counters
    return this.#runGateway(counters, await this.#runBilling(stores, auth?.issuer), auth)
  }

  /** The auth service that is named; one of its own where all is in one process. */
  async #auth(): Promise<Auth | undefined> {
    const { role } = this.#options
    const { logging } = this
    const values = this.#values
    const issuer = trustedIssuer(values['services.authUrl'], values['services.authIssuer'])
    if (issuer !== undefined) {
      const clientId = role === 'counters' ? 'counter-service' : 'gateway'
      return { issuer, client: () => authClient(issuer, clientId, values['services.authClientSecret']) }
    }
    if (role === 'all') {
      const secrets = { ...randomSecrets(), ...clientSecrets(values['services.authSecrets']) }
      const port = values['api.authPort'] ?? 0
      const auth = await startAuthService({ secrets, ...this.#authOptions(), port, log: this.#log, logging })
      this.started.auth = this.#keepOpen(auth)
      const { url } = auth
      this.#options.say(`auth service at ${url}`)
      return { issuer: { url }, client: () => ({ url, clientId: 'gateway', clientSecret: secrets.gateway }) }
    }
    if (values['api.auth'] === 'required') {
      throw new UsageError('--auth required needs AUTH_URL, the auth service whose tokens are taken')
    }
    this.#log('info', 'AUTH_URL names no auth service: calls carry no tokens, and everybody is let in')
    return undefined
  }

  #authOptions() {
    return { tokenLifeSeconds: this.#values['api.tokenLifeSeconds'], host: this.#values['api.host'] }
  }

  async #runAuth(): Promise<string> {
    const { logging, metrics } = this
    const { say } = this.#options
    const secrets = clientSecrets(this.#values['services.authSecrets'])
    if (secrets === undefined) {
      throw new UsageError('--role auth needs AUTH_CLIENT_SECRETS or --secrets: nobody could get a token')
    }
    const port = this.#values['api.authPort'] ?? defaultAuthPort
    const issuer = this.#values['services.authIssuer']
    const options = { secrets, ...this.#authOptions(), port, issuer, log: this.#log, logging, metrics }
    this.started.auth = this.#keepOpen(await startAuthService(options))
    say(`auth service at ${this.started.auth.url}, for ${Object.keys(secrets).join(', ')}`)
    return this.started.auth.url
  }

  async #runCounters(stores: CounterStores, auth: TrustedIssuer | undefined): Promise<string> {
    const values = this.#values
    const { metrics } = this
    const { say } = this.#options
    const ways = { ...countersOptions(values), reads: readsOptions(values) }
    const listening = { ...listeningOptions(values), port: values['api.grpcPort'], auth, log: this.#log, metrics }
    this.started.counters = this.#keepOpen(await startCounterService({ ...stores, ...ways, ...listening }))
    const { address } = this.started.counters
    say(`counter service at ${address}, on ${stores.title}`)
    return address
  }

  /** With a database of its own, unless the counters here have one. */
  async #runBilling(stores: Partial<Stores> | undefined, auth: TrustedIssuer | undefined): Promise<string> {
    const values = this.#values
    const { metrics } = this
    const { say } = this.#options
    const database =
      stores?.database ?? this.#keepOpen(await openDatabase({ url: this.#stores.databaseUrl, ...this.#stores }))
    const quota = this.#keepOpen(await openQuotaStore(this.#stores, database))
    metrics.add('quota', { ...quota.instruments, ...(stores?.database === undefined && database.instruments) })
    const listening = { ...listeningOptions(values), port: values['api.billingPort'], auth, log: this.#log, metrics }
    const options = { database, quotaStore: quota.store, tariff: this.#tariff(), ...listening }
    this.started.billing = this.#keepOpen(await startBillingService(options))
    const { address } = this.started.billing
    say(`billing service at ${address}, on ${database.title}, uses in ${quota.title}`)
    return address
  }

  async #runUsageWorker(): Promise<string> {
    const { databaseUrl: url } = this.#stores
    const { metrics } = this
    const { say } = this.#options
    const database = url === undefined ? undefined : this.#keepOpen(await openDatabase({ url, ...this.#stores }))
    const quota = this.#keepOpen(await openQuotaStore(this.#stores, database))
    const { stream } = this.#keepOpen(await openUsageStream({ stores: this.#stores, tariff: this.#tariff() }))
    const { worker } = this.#keepOpen(await startUsageWorker(stream, quota.store, this.#log))
    metrics.add('usage', { ...quota.instruments, ...database?.instruments, stream, worker })
    say(`usage worker on ${quota.title}`)
    return ''
  }

  async #runGateway(
    counters: string | undefined,
    billing: BillingServicesOptions['at'] | undefined,
    auth: Auth | undefined,
  ): Promise<string> {
    const values = this.#values
    const { logging, metrics } = this
    const { say } = this.#options
    const consul = consulOf(values)
    const known = consul === undefined ? `${defaultHost}:${defaultGrpcPort}` : { consul }
    const at = counters ?? values['services.counters'] ?? known
    const tariff = this.#tariff()
    const isStreamed = billing !== undefined && values['services.usage'] === 'stream'
    const usageSink = isStreamed
      ? this.#keepOpen(await openUsageStream({ stores: this.#stores, tariff })).stream
      : undefined
    const cache = await openSharedCache(this.#stores, this.#log)
    if (cache !== undefined) metrics.add('cache', this.#keepOpen(cache).instruments)
    const services = serviceOptions(values)
    const database = await this.#databaseOfGateway()
    this.started.gateway = this.#keepOpen(
      await startGateway({
        ...countersOptions(values),
        reads: readsOptions(values),
        api: apiOptions(values),
        dashboard: values['api.dashboard'] ? {} : undefined,
        acknowledgement: values['api.ack'],
        host: values['api.host'],
        ports: [values['api.port']],
        log: this.#log,
        logging,
        metrics,
        cache,
        database,
        auth: auth && this.#gatewayAuth(auth),
        counters: { at, ...services },
        billing:
          billing === undefined ? undefined : { at: billing, ...services, ...usageOptions(values), tariff, usageSink },
      }),
    )
    const { url } = this.started.gateway
    say(`gateway at ${url}, counters at ${nameOf(at)}${billing ? `, billing at ${nameOf(billing)}` : ''}`)
    return url
  }

  /** Where API keys are, and answers under keys: beside the counters, or in the server that is named; else there is none. */
  async #databaseOfGateway(): Promise<Database | undefined> {
    const { databaseUrl: url } = this.#stores
    if (this.started.stores !== undefined || url === undefined) return this.started.stores?.database
    const database = this.#keepOpen(await openDatabase({ url, ...this.#stores }))
    this.metrics.add('api', database.instruments)
    return database
  }

  #gatewayAuth({ issuer, client }: Auth): GatewayAuth {
    return { ...issuer, ...client(), mode: this.#values['api.auth'] }
  }

  #billingAt(): BillingServicesOptions['at'] | undefined {
    const at = this.#values['services.billing']
    if (at !== 'consul') return at
    const consul = consulOf(this.#values)
    if (consul === undefined) throw new UsageError('--billing consul needs CONSUL_HTTP_ADDR')
    return { consul }
  }

  #tariff() {
    const path = this.#values['services.tariff']
    return path === undefined ? defaultTariff : readTariff(path)
  }

  /** Its own stores, or those of another counter service. */
  async #storesToUse(auth: Auth | undefined): Promise<CounterStores & Partial<Stores>> {
    const at = this.#values['services.stores']
    const { metrics } = this
    if (at === undefined) {
      const stores = await openStores(this.#stores)
      this.started.stores = stores
      this.#keepOpen({ name: 'stores', close: () => stores.close() })
      metrics.add('stores', stores.instruments)
      return stores
    }
    const tokens = auth && this.#keepOpen(serviceTokens(auth.client(), this.#log))
    const services = await connectToCounterServices({ at, ...serviceOptions(this.#values), tokens, log: this.#log })
    const close = (): Promise<void> => closeAll(services.parts)
    this.open.unshift(...services.parts)
    return { ...services, title: `the stores of ${at}`, close }
  }

  /** What is opened later uses what is there, and is closed before it. */
  #keepOpen<T extends Running | Closable>(running: T): T {
    this.open.unshift(...('parts' in running ? running.parts : [running]))
    return running
  }
}

function nameOf(at: BillingServicesOptions['at']): string {
  return typeof at === 'string' ? at : `those of Consul, ${at.consul}`
}
