import * as grpc from '@grpc/grpc-js'
import { type Client, type ClientOptions, Metadata } from '@grpc/grpc-js'
import { type InstanceSource, LoadBalancer, StoreError, type TokenSource } from 'spillway'
import { ConsulRegistration, consulSource } from 'spillway/consul'
import { classifyGrpcError, GrpcBalancedPool, GrpcCallError, tokenInterceptor } from 'spillway/grpc'
import type { Closable } from 'spillway/process'
import { CallTimes } from '../telemetry/call-times.ts'
import type { Instruments } from '../telemetry/metrics.ts'
import { type Log, text } from './counters.ts'

/** One instance of a service, from a list or from Consul. */
export interface ServiceInstance {
  readonly id: string
  readonly host: string
  readonly port: number
  readonly weight?: number
}

/** Where the instances of a service are: `host:port`, one or several separated by commas, or a Consul that knows them. */
export type ServiceAddresses = string | { readonly consul: string }

export interface ServicePoolOptions<C> {
  /** What they are called in Consul, and in the log. */
  service: string
  at: ServiceAddresses
  clientOf: (address: string, options: ClientOptions) => C
  /** Connections to each of them. */
  channels?: number | undefined
  /** After how many failures in a row one of them is left alone, and for how long at first. */
  ejectAfterFailures?: number | undefined
  ejectMs?: number | undefined
  /** How long to wait for the first of them to be there. */
  warmUpMs?: number | undefined
  /** Whether it is a failure when none of them is there by then. */
  required: boolean
  /** What its calls carry, where it asks for tokens. A token that it refuses is fetched anew, and the call made again, once. */
  token?: TokenSource | undefined
  log: Log
}

export interface ServicePool<C extends Client> {
  readonly pool: GrpcBalancedPool<ServiceInstance, C>
  readonly balancer: LoadBalancer<ServiceInstance>
  /** What is open, in the order in which to close it. */
  readonly parts: readonly Closable[]
  readonly instruments: Instruments
  /** Each of them: whether it is well, how many calls it was given, and how long those took. */
  stats(): Record<string, unknown>
}

const defaultWarmUpMs = 10_000

/**
 * Connects to the instances of a service. Each call goes to the less busy of two of them. One that fails three times in a row is left
 * alone for a second, then for longer; the calls that it failed are made again elsewhere, which does no harm: each counts once, by its
 * id, whoever answers it.
 */
export async function connectToServices<C extends Client>(options: ServicePoolOptions<C>): Promise<ServicePool<C>> {
  const { service, at, clientOf, channels = 2, warmUpMs = defaultWarmUpMs, required, token, log } = options
  const { ejectAfterFailures: failureThreshold = 3, ejectMs: recoveryTimeoutMs = 1_000 } = options
  const interceptors = token === undefined ? [] : [tokenInterceptor(grpc, token)]
  const source = typeof at === 'string' ? instancesOf(at) : discovered(at.consul, service)
  const balancer = new LoadBalancer<ServiceInstance>(source, {
    name: service,
    algorithm: 'p2c',
    ejection: {
      failureThreshold,
      recoveryTimeoutMs,
      recovery: { factor: 2, maxMs: Math.max(10_000, recoveryTimeoutMs), jitter: 0.2 },
      classifyError: classifyGrpcError,
    },
  })
  balancer.on('ejected', ({ instance }) => log('warn', `${instance.id} fails, so others take its calls`))
  balancer.on('readmitted', ({ instance }) => log('info', `${instance.id} takes calls again`))
  balancer.on('refreshFailed', ({ error }) => log('warn', `the list of ${service}s stays as it was: ${text(error)}`))
  const times = new CallTimes()
  const pool = new GrpcBalancedPool(
    balancer,
    ({ id, host, port }: ServiceInstance, channelOptions): C =>
      clientOf(`${host}:${port}`, { ...channelOptions, interceptors: [times.interceptorOf(id), ...interceptors] }),
    { name: service, channels },
  )
  try {
    await pool.warmUp({ deadlineMs: warmUpMs, minInstances: 1 })
  } catch (error) {
    if (required) {
      await pool.close({ timeoutMs: 0 })
      await balancer.close({ timeoutMs: 0 })
      throw error
    }
    log('warn', `no ${service} is there yet: ${text(error)}`)
  }
  return {
    pool,
    balancer,
    parts: [pool, balancer],
    instruments: { [`calls of ${service}`]: pool, [service]: balancer },
    stats: () => {
      const calls = new Map(pool.stats().instances.map(({ instance, offered }) => [instance, offered]))
      const instances = balancer.instances().map(({ instance, state, inFlight, weight }) => {
        return { ...instance, state, inFlight, weight, calls: calls.get(instance.id) ?? 0, ...times.of(instance.id) }
      })
      return { ...balancer.stats(), instances }
    },
  }
}

/**
 * Whom a service doesn't let in may be let in again: keys come back, and rights are given. What was accepted must not be lost for it
 * meanwhile, so that such a call is tried again like any other.
 */
export function rethrowPatiently(error: unknown): never {
  if (error instanceof GrpcCallError && ['UNAUTHENTICATED', 'PERMISSION_DENIED'].includes(error.statusName)) {
    throw new StoreError(error.message, {
      cause: error,
      retryable: true,
      outcomeUnknown: error.outcomeUnknown === true,
    })
  }
  throw error
}

const waiting = new Metadata({ waitForReady: true })

/**
 * For calls that nobody waits for. Where there is nobody else to ask, such a call waits for a connection: at close, retries follow
 * each other at once, and a service that is about to be back must not cost what was accepted.
 */
export function patientMetadata(services: { instances(): readonly unknown[] }): Metadata | undefined {
  return services.instances().length < 2 ? waiting : undefined
}

function discovered(address: string, service: string): InstanceSource<ServiceInstance> {
  return consulSource({ address, service })
}

function instancesOf(addresses: string): ServiceInstance[] {
  return addresses.split(',').map((address) => ({ id: address, ...partsOf(address) }))
}

export interface Registration {
  /** A Consul to register with: `http://host:port`. */
  readonly consul: string
  readonly service: string
  /** `host:port`. */
  readonly address: string
  /** After how long without a sign of life it counts as gone, and after how long it is forgotten. */
  readonly check?: { readonly ttlMs: number; readonly deregisterAfterMs: number } | undefined
  readonly isFailing: () => boolean
  readonly log: Log
}

const usualCheck = { ttlMs: 5_000, deregisterAfterMs: 60_000 }

/** Tells Consul where a service is, and every second or so that it is well. After a crash Consul knows within five seconds. */
export async function registerService(options: Registration): Promise<Closable> {
  const { consul, service, address, isFailing, log, check = usualCheck } = options
  const registration = new ConsulRegistration({
    address: consul,
    service,
    id: `${service}-${address}`,
    ...partsOf(address),
    check: { ttlMs: check.ttlMs, health: () => (isFailing() ? 'warning' : 'passing') },
    deregisterCriticalAfterMs: check.deregisterAfterMs,
  })
  registration.on('heartbeatFailed', ({ error }) => log('warn', `Consul was not told that all is well: ${text(error)}`))
  await registration.start()
  return registration
}

function partsOf(address: string): { host: string; port: number } {
  const colon = address.lastIndexOf(':')
  return { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) }
}
