import { fork } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { serviceTokens } from '../auth/service-tokens.ts'
import { defaultTariff } from '../billing/tariff.ts'
import { openUsageStream } from '../billing/usage-stream.ts'
import type { Log } from '../counter/counters.ts'
import { accountsOf, BillingClient, spend } from './billing.ts'
import { type Crash, feltOf, type GatewayStats, printCrash, printDetails } from './details.ts'
import type { LoadMessage, LoadOptions, LoadProgress, LoadReport } from './load-process.ts'
import { printLog } from './log.ts'
import { type DemoOptions, maxRequests } from './options.ts'
import type { DemoParts, DemoServices } from './parts.ts'
import { during, Progress } from './progress.ts'
import type { DemoResult } from './report.ts'
import { sumsOf } from './sums.ts'
import { whole } from './table.ts'

/** How long what was accepted may take to be written, once the load is over. */
const settleMs = 30_000

/** Drives the load, and compares what was sent with what is stored, accounted and paid for. */
export async function drive(parts: DemoParts, services: DemoServices, interrupted: AbortSignal): Promise<DemoResult> {
  const { seconds, connections, tokenLifeSeconds: tokenSeconds, verbose, config } = parts.options
  const { stores, fleet, auth, urls } = services
  const { log, logging } = parts
  const prefix = `demo-${randomUUID().slice(0, 8)}-`
  let crash: Promise<Crash | undefined> | undefined
  const onProgress = ({ requests, elapsedMs }: LoadProgress): void => {
    if (elapsedMs >= seconds * 500 || requests >= maxRequests / 2) crash ??= crashOne(fleet, log)
  }
  const loadOptions = { urls, seconds, connections, maxRequests, prefix }
  const report = await runLoad(loadOptions, parts, auth, onProgress, interrupted)
  const gateways = await during('what was accepted is written and accounted', settled(services))
  const sums = await sumsOf(stores, prefix, report)
  const crashed = await crash
  if (verbose) {
    printDetails(report, gateways, { tokenSeconds, cacheMs: config.values['cache.ttlMs'] })
    if (crashed !== undefined) printCrash(report, crashed)
    printLog(gateways, logging, stores.database)
  }
  const tokens = serviceTokens(parts.client(auth, 'back-office'), log)
  const scopes = ['billing:read', 'billing:write'] as const
  const billing = new BillingClient(urls, tokens.forKey({ audience: 'gateway', scopes }))
  try {
    return {
      title: titleOf(parts.options),
      report,
      gateways,
      sums,
      accounts: await accountsOf(billing, gateways, report),
      money: await spend(billing, `${prefix}customer`, verbose),
      slowQueries: stores.database.slowQueries.stats(),
      logTitle: logging.title,
      crash: crashed && { ...crashed, ...feltOf(report, crashed) },
      isInterrupted: interrupted.aborted,
    }
  } finally {
    await billing.close()
    await tokens.close()
  }
}

function titleOf({ connections, acknowledgement, config, processes }: DemoOptions): string {
  const preset = config.preset === 'default' ? '' : `, preset ${config.preset}`
  const where = processes ? 'each service in processes of its own' : 'all services in one process'
  return `${connections} connections, ${where}, increments answered when ${answered[acknowledgement]}${preset}`
}

/** What an acknowledgement says, in words. */
const answered = { accepted: 'accepted', redis: 'in the live store', committed: 'committed' }

/** What gateways tell of themselves once all that they accepted has left them, and the stream of usage too. */
async function settled({ urls, servers, isStreamed }: DemoServices): Promise<GatewayStats[]> {
  const opened = isStreamed ? await openUsageStream({ stores: servers, tariff: defaultTariff }) : undefined
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
async function crashOne([victim]: DemoServices['fleet'], log: Log): Promise<Crash | undefined> {
  if (victim === undefined) return undefined
  const atMs = Date.now()
  const { address, pid } = victim
  await victim.kill()
  log('warn', `SIGKILL to the counter service at ${address}, process ${pid}`)
  return { atMs, address }
}

function runLoad(
  loadOptions: LoadOptions,
  parts: DemoParts,
  auth: string,
  onProgress: (progress: LoadProgress) => void,
  interrupted: AbortSignal,
): Promise<LoadReport> {
  const identity = { AUTH_URL: auth, AUTH_ISSUER: '', AUTH_CLIENT_SECRET: parts.secrets['load-generator'] }
  const load = fork(fileURLToPath(new URL('./load-process.ts', import.meta.url)), [JSON.stringify(loadOptions)], {
    env: { ...process.env, ...identity },
  })
  const progress = new Progress('load')
  const killLoad = (): boolean => load.kill('SIGKILL')
  const stop = (): void => void (load.connected && load.send({ type: 'stop' }))
  process.once('exit', killLoad)
  interrupted.addEventListener('abort', stop)
  if (interrupted.aborted) stop()
  return new Promise<LoadReport>((resolve, reject) => {
    load.on('message', (message: LoadMessage) => {
      if (message.type === 'report') return resolve(message.report)
      const { elapsedMs, requests } = message
      progress.set(elapsedMs / (loadOptions.seconds * 1_000), `${whole(requests)} requests`)
      onProgress(message)
    })
    load.once('error', reject)
    load.once('exit', (code, signal) => reject(new Error(`the load ended early, with ${signal ?? code}`)))
  }).finally(() => {
    progress.end()
    process.off('exit', killLoad)
    interrupted.removeEventListener('abort', stop)
  })
}
