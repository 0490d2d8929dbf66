import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { Closable } from 'spillway/process'
import { PostgresCounterStore } from './counter-store.ts'
import { Counters, type CountersOptions, type Log, text } from './counters.ts'
import type { Database } from './database.ts'
import { createGateway } from './gateway.ts'

export interface ServiceOptions extends CountersOptions {
  /** Where the counters are kept. Whoever opened it closes it, after the service. */
  database: Database
  host?: string | undefined
  /** The ports to try, in this order; 0 is any free one. */
  ports?: readonly number[] | undefined
  log?: Log | undefined
  /** Makes the store; a test puts one that fails in its place. */
  createStore?: ((database: Database) => PostgresCounterStore) | undefined
}

export interface Service {
  readonly url: string
  readonly counters: Counters
  /** What `closeOnExit` closes, in this order: what takes work in comes before what the work flows into. */
  readonly parts: readonly Closable[]
  close(): Promise<void>
}

export const defaultHost = '127.0.0.1'
export const defaultPort = 8080

const forgetEveryMs = 600_000

/** Makes the tables, and starts to listen. */
export async function startService(options: ServiceOptions): Promise<Service> {
  const { database, log = logToStderr } = options
  const store = options.createStore?.(database) ?? new PostgresCounterStore(database)
  const counters = new Counters(store, log, options)
  const app = createGateway(counters, log)
  const stopForgetting = forgetOldBatches(store, log)
  const parts: Closable[] = [
    { name: 'gateway', close: ({ timeoutMs } = {}) => closeGateway(app, timeoutMs) },
    counters.buffer,
    counters.commits,
    counters.reads,
    { name: 'batch ids', close: stopForgetting },
  ]
  const close = async (): Promise<void> => {
    for (const part of parts) await part.close()
  }
  try {
    await store.createSchema()
    const url = await listen(app, options.host ?? defaultHost, options.ports ?? [defaultPort], log)
    return { url, counters, parts, close }
  } catch (error) {
    await close()
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

/** Answers what has been asked, but leaves half of the time to what comes after: a slow client must not cost a write. */
async function closeGateway(app: FastifyInstance, timeoutMs: number | undefined): Promise<void> {
  const closed = app.close()
  if (timeoutMs === undefined) return closed
  const patience = new AbortController()
  const cut = delay(timeoutMs / 2, undefined, { signal: patience.signal }).then(
    () => app.server.closeAllConnections(),
    () => undefined,
  )
  await Promise.race([closed, cut])
  patience.abort()
}

/** Keeps the table of batch ids small, for as long as the service runs. */
function forgetOldBatches(store: PostgresCounterStore, log: Log): () => void {
  const timer = setInterval(() => {
    store.forgetOldBatches().catch((error: unknown) => log('warn', text(error)))
  }, forgetEveryMs)
  timer.unref()
  return () => clearInterval(timer)
}

export const logToStderr: Log = (level, message) => {
  process.stderr.write(`${new Date().toISOString()} ${level} ${message}\n`)
}
