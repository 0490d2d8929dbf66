import type { Closable } from 'spillway/process'
import { counterClient } from './protocol.ts'
import { RemoteCounterStore } from './remote-counter-store.ts'
import { connectToServices, type ServicePoolOptions } from './service-pool.ts'

/** What counter services are called in Consul. */
export const serviceName = 'counter-service'

export type CounterServicesOptions = Omit<ServicePoolOptions<unknown>, 'service' | 'clientOf' | 'required'>

export interface CounterServices {
  readonly live: RemoteCounterStore
  readonly durable: RemoteCounterStore
  /** What is open, in the order in which to close it. */
  readonly parts: readonly Closable[]
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
  })
  const { pool, balancer, parts, stats } = services
  return {
    live: new RemoteCounterStore(pool, 'LIVE', balancer),
    durable: new RemoteCounterStore(pool, 'DURABLE', balancer),
    parts,
    stats,
  }
}
