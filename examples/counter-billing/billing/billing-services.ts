import type { UsageSink } from 'spillway'
import type { Closable } from 'spillway/process'
import { scopesOf } from '../auth/permissions.ts'
import type { ServiceTokens } from '../auth/service-tokens.ts'
import { connectToServices, type ServicePoolOptions } from '../counter/service-pool.ts'
import type { Instruments } from '../telemetry/metrics.ts'
import { Metering, type MeteringOptions } from './metering.ts'
import { billingClient } from './protocol.ts'
import { type BillingPool, RemoteUsageSink } from './usage.ts'

/** What billing services are called in Consul. */
export const billingServiceName = 'billing-service'

export interface BillingServicesOptions
  extends Omit<ServicePoolOptions<unknown>, 'service' | 'clientOf' | 'required' | 'token'>,
    Omit<MeteringOptions, 'log'> {
  /** Where usage is published, in place of the billing services themselves: a stream. */
  usageSink?: UsageSink | undefined
  /** The tokens of the caller, where billing services ask for them. */
  tokens?: ServiceTokens | undefined
}

export interface BillingServices {
  readonly pool: BillingPool
  /** Counts what users do elsewhere. */
  readonly metering: Metering
  /** What is open, in the order in which to close it. */
  readonly parts: readonly Closable[]
  readonly instruments: Instruments
  stats(): Record<string, unknown>
}

/**
 * Connects to billing services: a request counts once, by its id, whoever answers it. Where none is there yet, counters go on without:
 * what is metered waits.
 */
export async function connectToBillingServices(options: BillingServicesOptions): Promise<BillingServices> {
  const { pool, balancer, parts, instruments, stats } = await connectToServices({
    ...options,
    service: billingServiceName,
    clientOf: billingClient,
    required: false,
    token: options.tokens?.forKey({ audience: 'billing-service', scopes: scopesOf['billing-service'] }),
  })
  const metering = new Metering(options.usageSink ?? new RemoteUsageSink(pool, balancer), options)
  return {
    pool,
    metering,
    parts: [metering.usage, ...parts],
    instruments: {
      ...instruments,
      usage: metering.usage,
      ...(metering.journal !== undefined && { 'usage journal': metering.journal }),
    },
    stats: () => ({ ...stats(), usage: metering.usage.stats() }),
  }
}
