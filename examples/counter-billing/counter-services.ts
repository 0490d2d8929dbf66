import { type InstanceSource, LoadBalancer } from 'spillway'
import { consulSource } from 'spillway/consul'
import { classifyGrpcError, GrpcBalancedPool } from 'spillway/grpc'
import type { Closable } from 'spillway/process'
import { type Log, text } from './counters.ts'
import { type CounterClient, counterClient } from './protocol.ts'
import { type CounterInstance, RemoteCounterStore } from './remote-counter-store.ts'

/** What counter services are called in Consul. */
export const serviceName = 'counter-service'

export interface CounterServicesOptions {
  /** Where they are: `host:port`, one or several separated by commas, or a Consul that knows them. */
  at: string | { readonly consul: string }
  /** Connections to each of them. */
  channels?: number | undefined
  /** How long to wait for the first of them to be there. */
  warmUpMs?: number | undefined
  log: Log
}

export interface CounterServices {
  readonly live: RemoteCounterStore
  readonly durable: RemoteCounterStore
  /** What is open, in the order in which to close it. */
  readonly parts: readonly Closable[]
  /** Each of them: whether it is well, and how many calls it was given. */
  stats(): Record<string, unknown>
}

const defaultWarmUpMs = 10_000

/**
 * Connects to counter services. Each call goes to the less busy of two of them. One that fails three times in a row is left
 * alone for a second, then for longer; the calls that it failed are made again elsewhere, which does no harm: a batch counts once, by
 * its id, whoever applies it.
 */
export async function connectToCounterServices(options: CounterServicesOptions): Promise<CounterServices> {
  const { at, channels = 2, warmUpMs = defaultWarmUpMs, log } = options
  const balancer = new LoadBalancer<CounterInstance>(typeof at === 'string' ? instancesOf(at) : discovered(at.consul), {
    name: 'counter-services',
    algorithm: 'p2c',
    ejection: {
      failureThreshold: 3,
      recoveryTimeoutMs: 1_000,
      recovery: { factor: 2, maxMs: 10_000, jitter: 0.2 },
      classifyError: classifyGrpcError,
    },
  })
  balancer.on('ejected', ({ instance }) => log('warn', `${instance.id} fails, so others take its calls`))
  balancer.on('readmitted', ({ instance }) => log('info', `${instance.id} takes calls again`))
  balancer.on('refreshFailed', ({ error }) =>
    log('warn', `the list of counter services stays as it was: ${text(error)}`),
  )
  const pool = new GrpcBalancedPool(
    balancer,
    ({ host, port }: CounterInstance, channelOptions): CounterClient =>
      counterClient(`${host}:${port}`, channelOptions),
    { name: 'counter-services', channels },
  )
  try {
    await pool.warmUp({ deadlineMs: warmUpMs, minInstances: 1 })
  } catch (error) {
    await pool.close({ timeoutMs: 0 })
    await balancer.close({ timeoutMs: 0 })
    throw error
  }
  return {
    live: new RemoteCounterStore(pool, 'LIVE', balancer),
    durable: new RemoteCounterStore(pool, 'DURABLE', balancer),
    parts: [pool, balancer],
    stats: () => {
      const calls = new Map(pool.stats().instances.map(({ instance, offered }) => [instance, offered]))
      const instances = balancer.instances().map(({ instance, state, inFlight, weight }) => {
        return { ...instance, state, inFlight, weight, calls: calls.get(instance.id) ?? 0 }
      })
      return { ...balancer.stats(), instances }
    },
  }
}

function discovered(address: string): InstanceSource<CounterInstance> {
  return consulSource({ address, service: serviceName })
}

function instancesOf(addresses: string): CounterInstance[] {
  return addresses.split(',').map((address) => {
    const colon = address.lastIndexOf(':')
    return { id: address, host: address.slice(0, colon), port: Number(address.slice(colon + 1)) }
  })
}
