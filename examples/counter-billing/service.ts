import type { FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import type { CounterStore } from 'spillway'
import type { Closable } from 'spillway/process'
import { guardGrpc } from './auth/grpc-guard.ts'
import type { AuthMode } from './auth/http-guard.ts'
import { type AuthClient, type ServiceTokens, serviceTokens } from './auth/service-tokens.ts'
import { callersOf, TokenVerifier, type TrustedIssuer } from './auth/token-verifier.ts'
import {
  type BillingServices,
  type BillingServicesOptions,
  connectToBillingServices,
} from './billing/billing-services.ts'
import { type Acknowledgement, Counters, type CountersOptions, type Log } from './counter/counters.ts'
import type { Database } from './counter/database.ts'
import { startGrpcServer } from './counter/grpc-server.ts'
import { GuardedStore } from './counter/guarded-store.ts'
import type { CounterListing } from './counter/listing.ts'
import { CounterReads, type CounterReadsOptions, type SharedCache } from './counter/reads.ts'
import { counterHandlers, counterScopes } from './counter/server.ts'
import { type Registration, registerService } from './counter/service-pool.ts'
import { type CounterServicesOptions, connectToCounterServices, serviceName } from './counter/services.ts'
import { Dashboard, type DashboardOptions } from './dashboard/dashboard.ts'
import { type ApiOptions, apiSettings } from './http/api-options.ts'
import { openApiParts } from './http/api-parts.ts'
import { createGateway, type HttpFace } from './http/gateway.ts'
import { KeyedWrites } from './idempotency/keyed-writes.ts'
import { closeAll, closeHttp, defaultHost, logToStderr, patientFlush, type Running } from './running.ts'
import type { Logging } from './telemetry/logging.ts'
import type { Instruments, Metrics, Tallies } from './telemetry/metrics.ts'

export const defaultPort = 8080
export const defaultGrpcPort = 50_051
export const defaultAcknowledgement: Acknowledgement = 'accepted'

export interface CounterServiceOptions extends CountersOptions {
  live: CounterStore
  durable: CounterStore
  listing?: CounterListing | undefined
  host?: string | undefined
  /** Where gRPC is listened for; 0 is any free port. */
  port?: number | undefined
  /** Whose tokens callers must have; without it, everybody is let in. */
  auth?: TrustedIssuer | undefined
  /** A Consul to register with: `http://host:port`. */
  consul?: string | undefined
  consulCheck?: Registration['check']
  /** The largest message that is taken. */
  maxMessageBytes?: number | undefined
  /** What is measured in this process. Nothing is without it. */
  metrics?: Metrics | undefined
  log?: Log | undefined
}

export interface CounterService extends Running {
  /** `host:port`. */
  readonly address: string
  readonly counters: Counters
  /** Verifies the tokens of callers. */
  readonly verifier: TokenVerifier | undefined
}

/** Starts the counter service: gRPC in front of the stores. Whoever opened the stores closes them, after it. */
export async function startCounterService(options: CounterServiceOptions): Promise<CounterService> {
  const { live, durable, listing, host = defaultHost, port = defaultGrpcPort, consul, log = logToStderr } = options
  const counters = new Counters({ live, durable }, log, options)
  const verifier = options.auth && new TokenVerifier({ ...options.auth, audience: 'counter-service' })
  const handlers = guardGrpc(counterHandlers({ live, durable, listing, counters }), verifier, counterScopes)
  const server = await startGrpcServer([handlers], `${host}:${port}`, options.maxMessageBytes)
  const grpc: Closable = { name: 'gRPC server', close: (options) => server.close(options) }
  const parts: Closable[] = [grpc, patientFlush(() => counters.flush()), ...partsOf(counters)]
  if (verifier !== undefined) parts.push({ name: 'verified tokens', close: () => verifier.close() })
  if (options.metrics !== undefined)
    parts.push(options.metrics.add('counter-service', instrumentsOf(counters, verifier), talliesOf(counters, verifier)))
  try {
    // First to go: gateways are to look elsewhere before the server refuses them.
    if (consul !== undefined) {
      const isFailing = (): boolean => counters.losses.failing
      const { address } = server
      const registration = { consul, service: serviceName, address, check: options.consulCheck, isFailing, log }
      parts.unshift(await registerService(registration))
    }
  } catch (error) {
    await closeAll(parts)
    throw error
  }
  return { address: server.address, counters, verifier, parts, close: () => closeAll(parts) }
}

/** Who a gateway is at the auth service, and whose tokens it takes. */
export interface GatewayAuth extends TrustedIssuer, AuthClient {
  /** Whether callers must have a token; they may by default. */
  mode?: AuthMode | undefined
}

export interface GatewayServiceOptions extends CountersOptions {
  /** Where the counters are: stores in this process, or counter services. */
  counters:
    | { live: CounterStore; durable: CounterStore; listing?: CounterListing }
    | Omit<CounterServicesOptions, 'log'>
  /** Where this gateway keeps together with others what it has read; in its own memory by default. */
  cache?: SharedCache | undefined
  /** How much of it, and for how long. */
  reads?: (CountersOptions['reads'] & CounterReadsOptions) | undefined
  /** Who the gateway is at the auth service, and whose tokens its callers have; without it, nobody has any. */
  auth?: GatewayAuth | undefined
  /** Billing services to pass requests on to, and to meter the writes of users with. None by default. */
  billing?: Omit<BillingServicesOptions, 'log'> | undefined
  /** Limits of the HTTP face, and API keys of the configuration. */
  api?: ApiOptions | undefined
  /** Where API keys are, and what was answered to an `Idempotency-Key`. Without it, there are the keys of the configuration. */
  database?: Database | undefined
  /** Where gateways count together how many requests a caller makes, and without a database, what they answered. */
  redis?: Redis | undefined
  host?: string | undefined
  /** The ports to try, in this order; 0 is any free one. */
  ports?: readonly number[] | undefined
  /** When an increment is answered whose request doesn't say. */
  acknowledgement?: Acknowledgement | undefined
  /** A page on which one sees it work. None by default. */
  dashboard?: DashboardOptions | undefined
  /** What is measured in this process, the gateway with it; it answers `/metrics` then. Nothing is without it. */
  metrics?: Metrics | undefined
  log?: Log | undefined
  /** Where requests are logged, with an id each. None are without it. */
  logging?: Logging | undefined
}

export interface Gateway extends Running {
  readonly url: string
  readonly counters: Counters
  readonly reads: CounterReads
  readonly billing: BillingServices | undefined
  /** Verifies the tokens of callers. */
  readonly verifier: TokenVerifier | undefined
  /** The paths of all routes of HTTP. */
  routes(): string[]
  /** The gateway's own tokens. */
  readonly tokens: ServiceTokens | undefined
}

/** Starts the gateway: HTTP in front of the counters and of billing. */
export async function startGateway(options: GatewayServiceOptions): Promise<Gateway> {
  const { log = logToStderr, acknowledgement = defaultAcknowledgement, host = defaultHost } = options
  const settings = apiSettings(options.api)
  const access = options.auth && openAccess(options.auth, log)
  const tokens = access?.tokens
  const parts: Closable[] = [...(access?.parts ?? [])]
  try {
    const services =
      'live' in options.counters ? undefined : await connectToCounterServices({ ...options.counters, tokens, log })
    parts.unshift(...(services?.parts ?? []))
    const billing = options.billing && (await connectToBillingServices({ ...options.billing, tokens, log }))
    parts.unshift(...(billing?.parts ?? []))
    await billing?.metering.start()
    const stores = services ?? (options.counters as Exclude<GatewayServiceOptions['counters'], { at: unknown }>)
    const live = new GuardedStore(stores.live, 'live', log)
    const durable = new GuardedStore(stores.durable, 'durable', log)
    const breakers = { 'live store': live.breaker, 'durable store': durable.breaker }
    const counters = new Counters({ live, durable }, log, options)
    const reads = new CounterReads(counters, stores.listing, options.cache, options.reads)
    const { logging, metrics } = options
    const shown = { counters, reads, breakers, services: services?.stats, billing, logging }
    const dashboard = options.dashboard && new Dashboard(shown, access?.verifier, options.dashboard)
    const keyedWrites = new KeyedWrites({ live, durable }, counters.losses, log)
    const { database, redis = options.cache?.redis } = options
    const apiParts = await openApiParts({ database, redis }, settings, log)
    parts.unshift(...apiParts.parts)
    const face = await createGateway(counters, reads, log, {
      ...{ acknowledgement, keyedWrites, settings, parts: apiParts, services: services?.stats },
      ...{ billing, auth: access, logging, metrics, dashboard },
    })
    const { app } = face
    const accepted = [counters, billing?.metering.usage].flatMap((part) => (part ? [() => part.flush()] : []))
    const written = [patientFlush(...accepted), reads.cache, ...keyedWrites.parts, ...partsOf(counters)]
    parts.unshift(httpOf(face, settings.drainMs), ...written)
    const verifier = access?.verifier
    if (metrics !== undefined) {
      const others = {
        ...services?.instruments,
        ...billing?.instruments,
        ...(tokens && { tokens }),
        reads: reads.cache,
        ...breakers,
        ...apiParts.instruments,
      }
      const instruments = { ...instrumentsOf(counters, verifier), ...others }
      parts.push(metrics.add('gateway', instruments, talliesOf(counters, verifier)))
    }
    const url = await listen(app, host, options.ports ?? [defaultPort], log)
    const { routes } = face
    return { url, counters, reads, billing, verifier, routes, tokens, parts, close: () => closeAll(parts) }
  } catch (error) {
    await closeAll(parts)
    throw error
  }
}

const closeIdleEveryMs = 50

/** What closes a gateway: those who send it requests learn first that it takes no more, and then it listens no more. */
function httpOf({ app, health }: HttpFace, drainMs: number): Closable {
  const close = async ({ timeoutMs }: { timeoutMs?: number } = {}): Promise<void> => {
    const began = performance.now()
    await health.close(Math.min(drainMs, (timeoutMs ?? Number.POSITIVE_INFINITY) / 4))
    // Node closes those that are idle when it stops to listen, and not those that become so then.
    const idle = setInterval(() => app.server.closeIdleConnections(), closeIdleEveryMs)
    await closeHttp(app, timeoutMs && timeoutMs - (performance.now() - began)).finally(() => clearInterval(idle))
  }
  return { name: 'gateway', close }
}

/** The gateway's own tokens, and what verifies those of its callers. */
function openAccess(auth: GatewayAuth, log: Log) {
  const verifier = new TokenVerifier({ ...auth, audience: 'gateway' })
  const tokens = serviceTokens(auth, log)
  const parts: Closable[] = [tokens, { name: 'verified tokens', close: () => verifier.close() }]
  const stats = (): Record<string, unknown> => ({ tokens: tokens.stats(), callers: verifier.stats() })
  return { verifier, tokens, mode: auth.mode ?? 'optional', parts, stats }
}

/** Listens at the first port that nobody else has. */
async function listen(app: FastifyInstance, host: string, ports: readonly number[], log: Log): Promise<string> {
  const [port = defaultPort, ...others] = ports
  try {
    return await app.listen({ host, port })
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'EADDRINUSE' || others.length === 0) throw error
    log('info', `port ${port} is taken, trying ${others[0]}`)
    return listen(app, host, others, log)
  }
}

function partsOf(counters: Counters): Closable[] {
  return [...counters.parts, counters.liveReads, counters.durableReads]
}

function instrumentsOf(counters: Counters, verifier: TokenVerifier | undefined): Instruments {
  const parts = [...counters.parts, counters.liveReads, counters.durableReads]
  const named = Object.fromEntries(parts.map((part) => [part.name, part]))
  return { ...named, ...(verifier !== undefined && { 'verified tokens': verifier.verified }) }
}

function talliesOf({ losses }: Counters, verifier: TokenVerifier | undefined): Tallies {
  return { lost_counters: () => losses.lost, not_live_counters: () => losses.notLive, ...callersOf(verifier) }
}
