import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { CounterStore } from 'spillway'
import { GrpcChannelPool } from 'spillway/grpc'
import type { Closable } from 'spillway/process'
import { type CounterServer, startCounterServer } from './counter-server.ts'
import { type Acknowledgement, Counters, type CountersOptions, type Log } from './counters.ts'
import { createGateway } from './gateway.ts'
import { counterClient } from './protocol.ts'
import { RemoteCounterStore } from './remote-counter-store.ts'

export const defaultHost = '127.0.0.1'
export const defaultPort = 8080
export const defaultGrpcPort = 50_051
export const defaultAcknowledgement: Acknowledgement = 'accepted'

/** How long a gateway waits for a counter service to be there, unless told otherwise. */
const defaultWarmUpMs = 10_000

/** Something that runs, and what `closeOnExit` closes of it, in this order. */
export interface Running {
  readonly parts: readonly Closable[]
  close(): Promise<void>
}

export interface CounterServiceOptions extends CountersOptions {
  live: CounterStore
  durable: CounterStore
  host?: string | undefined
  /** Where gRPC is listened for; 0 is any free port. */
  port?: number | undefined
  log?: Log | undefined
}

export interface CounterService extends Running {
  /** `host:port`. */
  readonly address: string
  readonly counters: Counters
}

/** Starts the counter service: gRPC in front of the stores. Whoever opened the stores closes them, after it. */
export async function startCounterService(options: CounterServiceOptions): Promise<CounterService> {
  const { live, durable, host = defaultHost, port = defaultGrpcPort, log = logToStderr } = options
  const counters = new Counters({ live, durable }, log, options)
  const server: CounterServer = await startCounterServer({ live, durable, counters }, `${host}:${port}`)
  const parts: Closable[] = [{ name: 'gRPC server', close: (options) => server.close(options) }, ...partsOf(counters)]
  return { address: server.address, counters, parts, close: () => closeAll(parts) }
}

export interface GatewayServiceOptions extends CountersOptions {
  /** Where the counters are: stores in this process, or the `host:port` of a counter service. */
  counters:
    | { live: CounterStore; durable: CounterStore }
    | { address: string; channels?: number | undefined; warmUpMs?: number | undefined }
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
}

/** Starts the gateway: HTTP in front of the counters. */
export async function startGateway(options: GatewayServiceOptions): Promise<Gateway> {
  const { log = logToStderr, acknowledgement = defaultAcknowledgement, host = defaultHost } = options
  const { stores, pool } = await connect(options.counters)
  const counters = new Counters(stores, log, options)
  const app = createGateway(counters, log, { acknowledgement })
  const parts: Closable[] = [
    { name: 'gateway', close: ({ timeoutMs } = {}) => closeGateway(app, timeoutMs) },
    ...partsOf(counters),
    ...(pool === undefined ? [] : [pool]),
  ]
  try {
    const url = await listen(app, host, options.ports ?? [defaultPort], log)
    return { url, counters, parts, close: () => closeAll(parts) }
  } catch (error) {
    await closeAll(parts)
    throw error
  }
}

interface Connection {
  readonly stores: { readonly live: CounterStore; readonly durable: CounterStore }
  readonly pool?: Closable
}

/** Connects to the counter service, if the stores aren't here. */
async function connect(counters: GatewayServiceOptions['counters']): Promise<Connection> {
  if ('live' in counters) return { stores: counters }
  const { address, channels = 2, warmUpMs = defaultWarmUpMs } = counters
  const pool = new GrpcChannelPool((options) => counterClient(address, options), { name: 'counter-service', channels })
  try {
    await pool.warmUp({ deadlineMs: warmUpMs })
  } catch (error) {
    await pool.close({ timeoutMs: 0 })
    throw error
  }
  const live = new RemoteCounterStore(pool, 'LIVE')
  const durable = new RemoteCounterStore(pool, 'DURABLE')
  return { stores: { live, durable }, pool }
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

async function closeAll(parts: readonly Closable[]): Promise<void> {
  for (const part of parts) await part.close()
}

export const logToStderr: Log = (level, message) => {
  process.stderr.write(`${new Date().toISOString()} ${level} ${message}\n`)
}
