import { fork } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { serviceTokens } from './auth/service-tokens.ts'
import { defaultTariff } from './billing/tariff.ts'
import { openUsageStream } from './billing/usage-stream.ts'
import type { Log } from './counters.ts'
import { BillingClient, printBilling, printUsage } from './demo-billing.ts'
import { printLog } from './demo-log.ts'
import { type DemoOptions, maxRequests } from './demo-options.ts'
import type { DemoParts, DemoServices } from './demo-parts.ts'
import {
  type Crash,
  type GatewayStats,
  Progress,
  printCrash,
  printReport,
  printTokens,
  type StoredSums,
} from './demo-report.ts'
import type { FleetMember } from './fleet.ts'
import { counterType, type LoadMessage, type LoadOptions, type LoadProgress, type LoadReport } from './load.ts'
import type { Stores } from './stores.ts'

/** How long what was accepted may take to be written, once the load is over. */
const settleMs = 30_000

/** Drives the load, reports, and tells whether everything that was sent is stored and accounted. */
export async function drive(options: DemoOptions, parts: DemoParts, services: DemoServices): Promise<boolean> {
  const { seconds, connections } = options
  const { stores, fleet, auth, urls } = services
  const { log, logging } = parts
  const prefix = `demo-${randomUUID().slice(0, 8)}-`
  console.log(`A second process sends for ${seconds} s over ${connections} connections.\n`)
  let crash: Promise<Crash | undefined> | undefined
  const onProgress = ({ requests, elapsedMs }: LoadProgress): void => {
    if (elapsedMs >= seconds * 500 || requests >= maxRequests / 2) crash ??= crashOne(fleet, log)
  }
  const loadOptions = { urls, seconds, connections, maxRequests, prefix }
  const report = await runLoad(loadOptions, parts.identity(auth, 'load-generator'), onProgress)
  const gateways = await settled(options, services)
  const stored = printReport(report, gateways, { prefix, ...(await readStored(stores, prefix, report)) })
  const crashed = await crash
  if (crashed !== undefined) printCrash(report, crashed)
  printTokens(options.tokenLifeSeconds, report, gateways)
  printLog(gateways, logging, stores.database)
  const tokens = serviceTokens(parts.client(auth, 'back-office'), log)
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
async function settled({ usage }: DemoOptions, { urls, servers }: DemoServices): Promise<GatewayStats[]> {
  const opened = usage === 'stream' ? await openUsageStream({ stores: servers, tariff: defaultTariff }) : undefined
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
async function crashOne([victim]: readonly FleetMember[], log: Log): Promise<Crash | undefined> {
  if (victim === undefined) return undefined
  const atMs = Date.now()
  await victim.kill()
  log('warn', `SIGKILL to the counter service at ${victim.address}, process ${victim.pid}`)
  return { atMs, address: victim.address }
}

function runLoad(
  loadOptions: LoadOptions,
  identity: Readonly<Record<string, string>>,
  onProgress: (progress: LoadProgress) => void,
): Promise<LoadReport> {
  const load = fork(fileURLToPath(new URL('./load.ts', import.meta.url)), [JSON.stringify(loadOptions)], {
    env: { ...process.env, ...identity },
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
