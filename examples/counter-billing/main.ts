import { SlowQueryLog } from 'spillway/postgres'
import { type Closable, closeOnExit } from 'spillway/process'
import { randomSecrets } from './auth/clients.ts'
import { authClient, clientSecrets, trustedIssuer } from './auth/environment.ts'
import { authModes } from './auth/http-guard.ts'
import { defaultAuthPort, defaultTokenLifeSeconds, startAuthService } from './auth/service.ts'
import { type AuthClient, serviceTokens } from './auth/service-tokens.ts'
import type { TrustedIssuer } from './auth/token-verifier.ts'
import type { BillingServicesOptions } from './billing/billing-services.ts'
import { openQuotaStore } from './billing/quota-store.ts'
import { defaultBillingPort, startBillingService } from './billing/service.ts'
import { defaultTariff, readTariff } from './billing/tariff.ts'
import { openUsageStream, startUsageWorker } from './billing/usage-stream.ts'
import {
  addresses,
  consulOf,
  count,
  describe,
  loggingOf,
  oneOf,
  readFlags,
  storesOf,
  UsageError,
} from './command-line.ts'
import { connectToCounterServices } from './counter-services.ts'
import { acknowledgements } from './counters.ts'
import { openDatabase } from './database.ts'
import { createLogging, logLevels } from './logging.ts'
import { Metrics } from './metrics.ts'
import { startMetricsServer } from './metrics-endpoint.ts'
import { closeAll, defaultHost, type Running } from './running.ts'
import {
  defaultAcknowledgement,
  defaultGrpcPort,
  defaultPort,
  type GatewayAuth,
  startCounterService,
  startGateway,
} from './service.ts'
import { openSharedCache } from './shared-cache.ts'
import { type CounterStores, openStores, type Stores, type StoresOptions } from './stores.ts'

const roles = ['all', 'gateway', 'counters', 'billing', 'usage-worker', 'auth'] as const

const help = `The gateway, the counter service, the billing service and the auth service.

  tsx --tsconfig tsconfig.check.json examples/counter-billing/main.ts [flags]

  --role NAME         gateway: HTTP in front of the services; counters, billing: gRPC in front of the stores; usage-worker: accounts
                      what gateways publish with --usage stream; auth: issues tokens; all: auth, gateway, counters and billing (all)
  --ack NAME          when an increment is answered that doesn't say: ${acknowledgements.join(', ')} (${defaultAcknowledgement})
  --port N            where the gateway listens, 0 is any free port (${defaultPort})
  --grpc-port N       where the counter service listens, 0 is any free port (${defaultGrpcPort})
  --billing-port N    where the billing service listens, 0 is any free port (${defaultBillingPort})
  --auth NAME         whether callers of the gateway must have a token, where there is an auth service: ${authModes.join(', ')} (optional)
  --auth-port N       where the auth service listens, 0 is any free port (${defaultAuthPort}; any free one with --role all)
  --token-life N      how long a token is valid, in seconds (${defaultTokenLifeSeconds})
  --secrets FILE      the secrets of the clients of the auth service, a JSON file of which each has at least 16 characters
                      (AUTH_CLIENT_SECRETS, the same as text; with --role all, random ones that nobody is told)
  --counters LIST     host:port of the counter services, separated by commas, for a gateway alone: it balances over them
                      (those that Consul knows, else ${defaultHost}:${defaultGrpcPort})
  --billing LIST      the same of the billing services, or "consul" for those that Consul knows; without it, a gateway alone has none
  --usage NAME        how a gateway hands usage on: billing, to the billing services; stream, through Redis to usage workers (billing)
  --journal DIR       where a gateway keeps usage until it is handed on; a crash loses some milliseconds of it (in memory)
  --tariff FILE       a JSON file with what services cost (${[...defaultTariff.keys()].join(', ')})
  --channels N        how many connections a gateway holds to each service (2)
  --stores ADDRESS    host:port of a counter service whose stores to use, for a counter service without its own
  --with-parent       ends when the process that started it does, or closes the channel to it, and leaves signals to that one
  --metrics-port N    where /metrics is answered to this machine, which a gateway also does at its own port, 0 is any free port (nowhere)
  --host NAME         on which address to listen (${defaultHost})
  --data-dir DIR      where PGlite keeps its data (in memory only)
  --help              this text

REDIS_URL names a Redis server for the live values and the stream, DATABASE_URL a PostgreSQL server for the durable values and for
billing; without them they are in memory and in PGlite. AUTH_URL names an auth service: services and gateways then take its tokens,
and AUTH_CLIENT_SECRET is what a gateway gets its own with. Without it, nobody has tokens. AUTH_ISSUER is who its tokens say that they
are from, for itself and all others alike, where that isn't the AUTH_URL: it listens elsewhere than where it is called. CONSUL_HTTP_ADDR
names a Consul, where services register and gateways find them. LOG_FILE names a file for the log, which has each request then; without it,
what people must know goes to stderr. LOG_LEVEL is one of ${logLevels.join(', ')}. A query is slow, and logged, from
SLOW_QUERY_MS on (${SlowQueryLog.defaults.thresholdMs}). CURSOR_SECRET signs the cursors of listings, the same at all counter services; several, separated by commas, are good, and the
first one signs; without it, cursors are good as long as the service lives. SIGTERM or Ctrl-C writes what was accepted and ends it.`

const options = readFlags(
  {
    role: { type: 'string' },
    ack: { type: 'string' },
    port: { type: 'string' },
    'grpc-port': { type: 'string' },
    'billing-port': { type: 'string' },
    auth: { type: 'string' },
    'auth-port': { type: 'string' },
    'token-life': { type: 'string' },
    secrets: { type: 'string' },
    counters: { type: 'string' },
    billing: { type: 'string' },
    usage: { type: 'string' },
    journal: { type: 'string' },
    tariff: { type: 'string' },
    channels: { type: 'string' },
    stores: { type: 'string' },
    'with-parent': { type: 'boolean' },
    'metrics-port': { type: 'string' },
    host: { type: 'string' },
    'data-dir': { type: 'string' },
  },
  help,
  (values) => ({
    role: oneOf('role', values.role, roles) ?? 'all',
    acknowledgement: oneOf('ack', values.ack, acknowledgements),
    ports: [count('port', values.port, 0, 65_535) ?? defaultPort],
    grpcPort: count('grpc-port', values['grpc-port'], 0, 65_535),
    billingPort: count('billing-port', values['billing-port'], 0, 65_535),
    mode: oneOf('auth', values.auth, authModes),
    authPort: count('auth-port', values['auth-port'], 0, 65_535),
    tokenLifeSeconds: count('token-life', values['token-life'], 1, 86_400),
    secrets: values.secrets,
    counters: addresses('counters', values.counters),
    billing: values.billing === 'consul' ? billingOfConsul() : addresses('billing', values.billing),
    usage: oneOf('usage', values.usage, ['billing', 'stream']) ?? 'billing',
    journal: values.journal,
    tariff: values.tariff === undefined ? defaultTariff : readTariff(values.tariff),
    channels: count('channels', values.channels, 1, 20),
    metricsPort: count('metrics-port', values['metrics-port'], 0, 65_535),
    host: values.host,
    stores: {
      ...storesOf(values['data-dir']),
      onError: ({ message }) => log('warn', message),
      onSlow: (message) => log('warn', message),
    } as StoresOptions,
    storesAt: addresses('stores', values.stores),
    consul: consulOf(),
    withParent: values['with-parent'] ?? false,
    logTo: loggingOf(),
  }),
)

const logging = createLogging({ role: options.role, ...options.logTo })
const { log } = logging
const metrics = new Metrics()
metrics.add('log', { lines: logging.lines, sink: logging.sink })

/** What is open, in the order in which to close it. */
const open: Closable[] = [metrics, ...logging.parts]

try {
  await logging.open()
  const ready = await runRole()
  if (options.metricsPort !== undefined) {
    console.log(`metrics at ${keepOpen(await startMetricsServer(metrics, options.metricsPort)).url}`)
  }
  if (options.withParent) endWithParent()
  else closeOnExit(open)
  // A parent that started it with a channel learns that it is ready, and where.
  if (process.connected) process.send?.({ type: 'ready', url: ready })
} catch (error) {
  console.error(`the service can't start: ${describe(error)}`)
  process.exitCode = 1
  await closeAll(open)
}

/** What is opened later uses what is there, and is closed before it. */
function keepOpen<T extends Running | Closable>(running: T): T {
  open.unshift(...('parts' in running ? running.parts : [running]))
  return running
}

/** Runs what the role asks for; returns where the last part of it listens. */
async function runRole(): Promise<string> {
  const { role } = options
  if (role === 'usage-worker') return runUsageWorker()
  if (role === 'auth') return runAuth()
  const auth = await authToUse()
  if (role === 'billing') return runBilling(undefined, auth?.issuer)
  if (role === 'gateway') return runGateway(undefined, options.billing, auth)
  const stores = await storesToUse(auth)
  const counters = await runCounters(stores, auth?.issuer)
  return role === 'counters' ? counters : runGateway(counters, await runBilling(stores, auth?.issuer), auth)
}

/** Whose tokens are taken here, and what this process gets its own with. */
interface Auth {
  readonly issuer: TrustedIssuer
  readonly client: () => AuthClient
}

/** The auth service that is named; one of its own where all is in one process. */
async function authToUse(): Promise<Auth | undefined> {
  const { role, mode } = options
  const issuer = trustedIssuer()
  if (issuer !== undefined) {
    const clientId = role === 'counters' ? 'counter-service' : 'gateway'
    return { issuer, client: () => authClient(issuer, clientId) }
  }
  if (role === 'all') {
    const secrets = { ...randomSecrets(), ...clientSecrets(options.secrets) }
    const { tokenLifeSeconds, host } = options
    const { url } = keepOpen(
      await startAuthService({ secrets, tokenLifeSeconds, host, port: options.authPort ?? 0, log, logging }),
    )
    console.log(`auth service at ${url}`)
    return { issuer: { url }, client: () => ({ url, clientId: 'gateway', clientSecret: secrets.gateway }) }
  }
  if (mode === 'required')
    throw new UsageError('--auth required needs AUTH_URL, the auth service whose tokens are taken')
  log('info', 'AUTH_URL names no auth service: calls carry no tokens, and everybody is let in')
  return undefined
}

async function runAuth(): Promise<string> {
  const secrets = clientSecrets(options.secrets)
  if (secrets === undefined) {
    throw new UsageError('--role auth needs AUTH_CLIENT_SECRETS or --secrets: nobody could get a token')
  }
  const { tokenLifeSeconds, host, authPort: port } = options
  const issuer = process.env['AUTH_ISSUER'] || undefined
  const { url } = keepOpen(
    await startAuthService({ secrets, tokenLifeSeconds, host, port, issuer, log, logging, metrics }),
  )
  console.log(`auth service at ${url}, for ${Object.keys(secrets).join(', ')}`)
  return url
}

async function runCounters(stores: CounterStores, auth: TrustedIssuer | undefined): Promise<string> {
  const { address } = keepOpen(
    await startCounterService({ ...stores, ...options, auth, port: options.grpcPort, log, metrics }),
  )
  console.log(`counter service at ${address}, on ${stores.title}`)
  return address
}

/** With a database of its own, unless the counters here have one. */
async function runBilling(stores: Partial<Stores> | undefined, auth: TrustedIssuer | undefined): Promise<string> {
  const database =
    stores?.database ?? keepOpen(await openDatabase({ url: options.stores.databaseUrl, ...options.stores }))
  const quota = keepOpen(await openQuotaStore(options.stores, database))
  metrics.add('quota', { ...quota.instruments, ...(stores?.database === undefined && database.instruments) })
  const settings = { ...options, auth, port: options.billingPort, database, quotaStore: quota.store, log, metrics }
  const { address } = keepOpen(await startBillingService(settings))
  console.log(`billing service at ${address}, on ${database.title}, uses in ${quota.title}`)
  return address
}

async function runUsageWorker(): Promise<string> {
  const { databaseUrl: url } = options.stores
  const database = url === undefined ? undefined : keepOpen(await openDatabase({ url, ...options.stores }))
  const quota = keepOpen(await openQuotaStore(options.stores, database))
  const { stream } = keepOpen(await openUsageStream(options))
  const { worker } = keepOpen(await startUsageWorker(stream, quota.store, log))
  metrics.add('usage', { ...quota.instruments, ...database?.instruments, stream, worker })
  console.log(`usage worker on ${quota.title}`)
  return ''
}

async function runGateway(
  counters: string | undefined,
  billing: BillingServicesOptions['at'] | undefined,
  auth: Auth | undefined,
): Promise<string> {
  const { channels, consul, usage, tariff, journal } = options
  const known = consul === undefined ? `${defaultHost}:${defaultGrpcPort}` : { consul }
  const at = counters ?? options.counters ?? known
  const stream =
    billing !== undefined && usage === 'stream' ? keepOpen(await openUsageStream(options)).stream : undefined
  const shared = await openSharedCache(options.stores, log)
  if (shared !== undefined) metrics.add('cache', keepOpen(shared).instruments)
  const { url } = keepOpen(
    await startGateway({
      ...options,
      log,
      logging,
      metrics,
      cache: shared,
      auth: auth && gatewayAuth(auth),
      counters: { at, channels },
      billing: billing === undefined ? undefined : { at: billing, channels, tariff, journal, usageSink: stream },
    }),
  )
  console.log(`gateway at ${url}, counters at ${nameOf(at)}${billing ? `, billing at ${nameOf(billing)}` : ''}`)
  return url
}

function gatewayAuth({ issuer, client }: Auth): GatewayAuth {
  return { ...issuer, ...client(), mode: options.mode }
}

function nameOf(at: BillingServicesOptions['at']): string {
  return typeof at === 'string' ? at : `those of Consul, ${at.consul}`
}

function billingOfConsul(): { consul: string } {
  const consul = consulOf()
  if (consul === undefined) throw new UsageError('--billing consul needs CONSUL_HTTP_ADDR')
  return { consul }
}

/**
 * Ctrl-C, and a supervisor's SIGTERM, reach the parent too, which has accepted increments yet to be written here: it closes the
 * channel when nothing more is to come.
 */
function endWithParent(): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => undefined)
  closeOnExit(open, { signals: ['SIGHUP'] })
  const end = (): void => void process.kill(process.pid, 'SIGHUP')
  if (process.connected) process.once('disconnect', end).channel?.unref()
  // The parent went while this one was starting.
  else end()
}

/** Its own stores, or those of another counter service. */
async function storesToUse(auth: Auth | undefined): Promise<CounterStores & Partial<Stores>> {
  const { storesAt } = options
  if (storesAt === undefined) {
    const stores = await openStores(options.stores)
    keepOpen({ name: 'stores', close: () => stores.close() })
    metrics.add('stores', stores.instruments)
    return stores
  }
  const tokens = auth && keepOpen(serviceTokens(auth.client(), log))
  const services = await connectToCounterServices({ at: storesAt, tokens, log })
  const close = (): Promise<void> => closeAll(services.parts)
  open.unshift(...services.parts)
  return { ...services, title: `the stores of ${storesAt}`, close }
}
