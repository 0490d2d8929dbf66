import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { CounterStore } from 'spillway'
import type { Closable } from 'spillway/process'
import {
  type BillingServices,
  type BillingServicesOptions,
  connectToBillingServices,
} from './billing/billing-services.ts'
import { counterHandlers } from './counter-server.ts'
import { type CounterServicesOptions, connectToCounterServices, serviceName } from './counter-services.ts'
import { type Acknowledgement, Counters, type CountersOptions, type Log } from './counters.ts'
import { createGateway } from './gateway.ts'
import { startGrpcServer } from './grpc-server.ts'
import { closeAll, defaultHost, logToStderr, type Running } from './running.ts'
import { registerService } from './service-pool.ts'

export const defaultPort = 8080
export const defaultGrpcPort = 50_051
export const defaultAcknowledgement: Acknowledgement = 'accepted'

export interface CounterServiceOptions extends CountersOptions {
  live: CounterStore
  durable: CounterStore
  host?: string | undefined
  /** Where gRPC is listened for; 0 is any free port. */
  port?: number | undefined
  /** A Consul to register with: `http://host:port`. */
  consul?: string | undefined
  log?: Log | undefined
}

export interface CounterService extends Running {
  /** `host:port`. */
  readonly address: string
  readonly counters: Counters
}

/** Starts the counter service: gRPC in front of the stores. Whoever opened the stores closes them, after it. */
export async function startCounterService(options: CounterServiceOptions): Promise<CounterService> {
  const { live, durable, host = defaultHost, port = defaultGrpcPort, consul, log = logToStderr } = options
  const counters = new Counters({ live, durable }, log, options)
  const server = await startGrpcServer([counterHandlers({ live, durable, counters })], `${host}:${port}`)
  const parts: Closable[] = [{ name: 'gRPC server', close: (options) => server.close(options) }, ...partsOf(counters)]
  try {
    // First to go: gateways are to look elsewhere before the server refuses them.
    if (consul !== undefined) {
      const isFailing = (): boolean => counters.losses.failing
      parts.unshift(await registerService({ consul, service: serviceName, address: server.address, isFailing, log }))
    }
  } catch (error) {
    await closeAll(parts)
    throw error
  }
  return { address: server.address, counters, parts, close: () => closeAll(parts) }
}

export interface GatewayServiceOptions extends CountersOptions {
  /** Where the counters are: stores in this process, or counter services. */
  counters: { live: CounterStore; durable: CounterStore } | Omit<CounterServicesOptions, 'log'>
  /** Billing services to pass requests on to, and to meter the writes of users with. None by default. */
  billing?: Omit<BillingServicesOptions, 'log'> | undefined
  host?: string | undefined
  /** The ports to try, in this order; 0 is any free one. */
  ports?: readonly number[] | undefined
  /** When an increment is answered whose request doesn't say. */
  acknowledgement?: Acknowledgement | undefined
  log?: Log | undefined
}

export interface Gateway extends Running {
  readonly url: string
  readonly counters: Counters
  readonly billing: BillingServices | undefined
}

/** Starts the gateway: HTTP in front of the counters and of billing. */
export async function startGateway(options: GatewayServiceOptions): Promise<Gateway> {
  const { log = logToStderr, acknowledgement = defaultAcknowledgement, host = defaultHost } = options
  const services = 'live' in options.counters ? undefined : await connectToCounterServices({ ...options.counters, log })
  const parts: Closable[] = [...(services?.parts ?? [])]
  try {
    const billing = options.billing && (await connectToBillingServices({ ...options.billing, log }))
    parts.unshift(...(billing?.parts ?? []))
    await billing?.metering.start()
    const stores = services ?? (options.counters as { live: CounterStore; durable: CounterStore })
    const counters = new Counters(stores, log, options)
    const app = createGateway(counters, log, { acknowledgement, services: services?.stats, billing })
    const http: Closable = { name: 'gateway', close: ({ timeoutMs } = {}) => closeGateway(app, timeoutMs) }
    parts.unshift(http, ...partsOf(counters))
    const url = await listen(app, host, options.ports ?? [defaultPort], log)
    return { url, counters, billing, parts, close: () => closeAll(parts) }
  } catch (error) {
    await closeAll(parts)
    throw error
  }
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

/** Answers what has been asked; a client that never finishes its request is cut off before the deadline. */
async function closeGateway(app: FastifyInstance, timeoutMs: number | undefined): Promise<void> {
  const closed = app.close()
  if (timeoutMs === undefined) return closed
  const patience = new AbortController()
  const cut = delay(timeoutMs * 0.9, undefined, { signal: patience.signal }).then(
    () => app.server.closeAllConnections(),
    () => undefined,
  )
  await Promise.race([closed, cut])
  patience.abort()
}

function partsOf(counters: Counters): Closable[] {
  return [...counters.parts, counters.liveReads, counters.durableReads]
}
