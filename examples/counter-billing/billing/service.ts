import { QuotaService, type QuotaStore } from 'spillway'
import type { Closable } from 'spillway/process'
import { guardGrpc } from '../auth/grpc-guard.ts'
import { callersOf, TokenVerifier, type TrustedIssuer } from '../auth/token-verifier.ts'
import type { Log } from '../counter/counters.ts'
import type { Database } from '../counter/database.ts'
import { startGrpcServer } from '../counter/grpc-server.ts'
import { type Registration, registerService } from '../counter/service-pool.ts'
import { closeAll, defaultHost, logToStderr, type Running } from '../running.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import { Billing } from './billing.ts'
import { billingServiceName } from './billing-services.ts'
import { Ledger } from './ledger.ts'
import { billingHandlers, billingScopes } from './server.ts'
import { defaultTariff, limitOf, periodOf, type Tariff } from './tariff.ts'

export const defaultBillingPort = 50_052

export interface BillingServiceOptions {
  /** Where the money is. */
  database: Database
  /** Where the free uses are counted, and all that is metered. */
  quotaStore: QuotaStore
  tariff?: Tariff | undefined
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

export interface BillingService extends Running {
  /** `host:port`. */
  readonly address: string
  readonly billing: Billing
  /** Verifies the tokens of callers. */
  readonly verifier: TokenVerifier | undefined
}

/** Starts the billing service: gRPC in front of the ledger and the quota store. Whoever opened the stores closes them, after it. */
export async function startBillingService(options: BillingServiceOptions): Promise<BillingService> {
  const { database, quotaStore, tariff = defaultTariff, consul, log = logToStderr } = options
  const { host = defaultHost, port = defaultBillingPort } = options
  const ledger = new Ledger(database)
  await ledger.createSchema()
  const quota = new QuotaService({
    store: quotaStore,
    limitFor: (_userId, quotaType) => limitOf(tariff, quotaType),
    periodOf: (quotaType) => periodOf(tariff, quotaType),
  })
  const billing = new Billing({ ledger, quota, tariff, log })
  billing.start()
  const verifier = options.auth && new TokenVerifier({ ...options.auth, audience: 'billing-service' })
  const parts: Closable[] = [{ name: 'billing', close: () => billing.close() }]
  if (verifier !== undefined) parts.push({ name: 'verified tokens', close: () => verifier.close() })
  if (options.metrics !== undefined) {
    const tokens = verifier !== undefined && { 'verified tokens': verifier.verified }
    parts.push(options.metrics.add('billing-service', { quota, ...tokens }, callersOf(verifier)))
  }
  try {
    const service = guardGrpc(billingHandlers(billing, quotaStore), verifier, billingScopes)
    const server = await startGrpcServer([service], `${host}:${port}`, options.maxMessageBytes)
    const { address } = server
    parts.unshift({ name: 'gRPC server', close: (options) => server.close(options) })
    // First to go: gateways are to look elsewhere before the server refuses them.
    if (consul !== undefined) {
      const isFailing = (): boolean => billing.failing
      parts.unshift(
        await registerService({
          consul,
          service: billingServiceName,
          address,
          check: options.consulCheck,
          isFailing,
          log,
        }),
      )
    }
    return { address, billing, verifier, parts, close: () => closeAll(parts) }
  } catch (error) {
    await closeAll(parts)
    throw error
  }
}
