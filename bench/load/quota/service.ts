// A service of one process that counts what each request uses, in the one way that it is told, and does nothing else: plain node:http, so
// that it is the accounting that takes time.
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import pg from 'pg'
import { QuotaConsumer, QuotaService } from 'spillway'
import { PostgresQuotaStore } from 'spillway/postgres'
import { setting } from '../targets/listen.ts'
import { isPath, type Path, type ServiceReport, tableOf } from './paths.ts'

/** How a service counts. */
interface Accounting {
  use(userId: string, value: number): Promise<unknown>
  /** Once every use has its answer: writes what waits, and says what there was. */
  settle(): Promise<ServiceReport>
}

const quotaType = 'requests'
const connections = 10
// A service in use has its connections open. One that waits for its turn here would lose them after 10 s, and open them again while it
// is measured.
const pool = new pg.Pool({ connectionString: setting('DATABASE_URL'), max: connections, idleTimeoutMillis: 0 })
const opened = await Promise.all(Array.from({ length: connections }, () => pool.connect()))
for (const client of opened) client.release()
const path = setting('ACCOUNTING')
if (!isPath(path)) throw new Error(`there is no path '${path}'`)

const accountings: Record<Path, () => Promise<Accounting>> = {
  upsert: accountByHand,
  'consume-sync': accountInRequest,
  consume: () => accountBehind(false),
  'check-and-consume': () => accountBehind(true),
}
const nothingWaits: ServiceReport = { mostPending: 0, batches: 0, givenUp: 0, fallbacks: 0 }
const accounting = await accountings[path]()

/** What one writes oneself: prepared, so that it is the writing that takes time. */
async function accountByHand(): Promise<Accounting> {
  const table = tableOf('upsert')
  await pool.query(`CREATE TABLE IF NOT EXISTS ${table} (user_id text, quota_type text, period text,
    value double precision NOT NULL, PRIMARY KEY (user_id, quota_type, period))`)
  const upsert = {
    name: 'upsert',
    text: `INSERT INTO ${table} AS usage (user_id, quota_type, period, value) VALUES ($1, $2, $3, $4)
      ON CONFLICT (user_id, quota_type, period) DO UPDATE SET value = usage.value + excluded.value`,
  }
  return {
    use: (userId, value) => {
      const period = new Date().toISOString().slice(0, 7)
      return pool.query({ ...upsert, values: [userId, quotaType, period, value] })
    },
    settle: async () => nothingWaits,
  }
}

async function accountInRequest(): Promise<Accounting> {
  const service = new QuotaService({ store: await storeOf('consume-sync'), limitFor: () => 1_000_000 })
  return {
    use: (userId, value) => service.consumeQuotaSync(userId, quotaType, value),
    settle: async () => nothingWaits,
  }
}

async function accountBehind(checked: boolean): Promise<Accounting> {
  const store = await storeOf(checked ? 'check-and-consume' : 'consume')
  const consumer = new QuotaConsumer(store, QuotaConsumer.presets.highConcurrency)
  const service = new QuotaService({ store, consumer, limitFor: () => 1_000_000, usageTtlMs: 10_000 })
  let [pending, mostPending, batches, givenUp, fallbacks] = [0, 0, 0, 0, 0]
  consumer.on('applied', ({ events }) => {
    pending -= events
    batches++
  })
  consumer.on('failed', ({ events }) => {
    pending -= events.length
    givenUp += events.length
  })
  const use = async (userId: string, value: number): Promise<void> => {
    if (checked && !(await service.checkQuota(userId, quotaType, value)).allowed) throw new Error('over the limit')
    if ((await service.consumeQuota(userId, quotaType, value)) === 'written') fallbacks++
    else mostPending = Math.max(mostPending, ++pending)
  }
  return {
    use,
    settle: async () => {
      await consumer.flush()
      const report: ServiceReport = { mostPending, batches, givenUp, fallbacks }
      ;[mostPending, batches, givenUp, fallbacks] = [0, 0, 0, 0]
      return report
    },
  }
}

async function storeOf(name: Path): Promise<PostgresQuotaStore> {
  const table = tableOf(name)
  const names = { batchTable: `${table}_batches`, requestTable: `${table}_requests`, holdTable: `${table}_holds` }
  const store = new PostgresQuotaStore(pool, { table, ...names })
  await store.createSchema()
  return store
}

/** The uses on their way: some may be of callers who no longer wait. */
const uses = new Set<Promise<unknown>>()

async function answer(request: IncomingMessage): Promise<unknown> {
  if (request.url === '/settle') {
    await Promise.allSettled(uses)
    return accounting.settle()
  }
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  const { user_id, value } = JSON.parse(Buffer.concat(chunks).toString()) as { user_id: string; value: number }
  const use = accounting.use(user_id, value)
  uses.add(use)
  await use.finally(() => uses.delete(use))
  return { accepted: true }
}

const server = createServer((request, response) => {
  const reply = (status: number, body: unknown): void => {
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  }
  answer(request).then(
    (body) => reply(200, body),
    (error) => reply(500, { error: String(error) }),
  )
})
server.keepAliveTimeout = 60_000
server.listen(0, '127.0.0.1', () => {
  process.send?.({ type: 'ready', url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` })
})
process.once('SIGTERM', () => process.exit(0))
process.once('disconnect', () => process.exit(1))
