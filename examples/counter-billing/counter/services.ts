import type { Closable } from 'spillway/process'
import { scopesOf } from '../auth/permissions.ts'
import type { ServiceTokens } from '../auth/service-tokens.ts'
import type { Instruments } from '../telemetry/metrics.ts'
import { counterClient } from './protocol.ts'
import { RemoteCounterListing, RemoteCounterStore } from './remote-store.ts'
import { connectToServices, type ServicePoolOptions } from './service-pool.ts'

/** What counter services are called in Consul. */
export const serviceName = 'counter-service'

export interface CounterServicesOptions
  extends Omit<ServicePoolOptions<unknown>, 'service' | 'clientOf' | 'required' | 'token'> {
  /** The tokens of the caller, where counter services ask for them. */
  tokens?: ServiceTokens | undefined
}

export interface CounterServices {
  readonly live: RemoteCounterStore
  readonly durable: RemoteCounterStore
  readonly listing: RemoteCounterListing
  /** What is open, in the order in which to close it. */
  readonly parts: readonly Closable[]
  readonly instruments: Instruments
  /** Each of them: whether it is well, and how many calls it was given. */
  stats(): Record<string, unknown>
}

/** Connects to counter services: a batch counts once, by its id, whoever applies it. */
export async function connectToCounterServices(options: CounterServicesOptions): Promise<CounterServices> {
  const services = await connectToServices({
    ...options,
    service: serviceName,
    clientOf: counterClient,
    required: true,
    token: options.tokens?.forKey({ audience: 'counter-service', scopes: scopesOf['counter-service'] }),
  })
  const { pool, balancer, parts, instruments, stats } = services
  return {
    live: new RemoteCounterStore(pool, 'LIVE', balancer),
    durable: new RemoteCounterStore(pool, 'DURABLE', balancer),
    listing: new RemoteCounterListing(pool),
    parts,
    instruments,
    stats,
  }
}
