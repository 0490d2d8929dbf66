import { LoadBalancer, type LoadBalancerOptions } from 'spillway'
import { classifyGrpcError, GrpcBalancedPool, type GrpcBalancedPoolOptions } from 'spillway/grpc'
import { type CounterClient, clientOf, type RunningServer, startServer, statusError } from './counter-service.js'
import { cleanUp } from './tidy.js'

export interface Instance {
  readonly id: string
  readonly address: string
}

/** How a member of the fleet answers: as it should, never, never though it does the work, or with a status. */
export type Manner = 'answer' | 'hang' | 'swallow' | number

/** One real server of a fleet. */
export interface Member extends Instance {
  readonly port: number
  manner: Manner
  /** Unary calls that reached it. */
  calls: number
  /** Calls and streams that were cancelled. */
  cancelled: number
  /** Streams that were opened. */
  streams: number
  /** The value that its calls give: 1 for the first of the fleet. */
  readonly value: number
  kill(): void
  /** Starts it again on the same port. */
  restart(): Promise<void>
}

/** What all members of a fleet share, as instances of a service share a database: which ids were applied. */
export class Ledger {
  readonly applied: string[] = []
  readonly #values = new Map<string, number>()
  received = 0

  apply({ id, key }: { id: string; key: string }): { id: string; value: number } {
    this.received++
    let value = this.#values.get(id)
    if (value === undefined) {
      value = this.applied.push(key)
      this.#values.set(id, value)
    }
    return { id, value }
  }
}

export async function startFleet(size: number, ledger: Ledger = new Ledger()): Promise<readonly Member[]> {
  return Promise.all(
    Array.from({ length: size }, (_, index) => startMember(`instance-${index + 1}`, index + 1, ledger)),
  )
}

export async function startMember(id: string, value: number, ledger: Ledger = new Ledger()): Promise<Member> {
  const state = { manner: 'answer' as Manner, calls: 0, cancelled: 0, streams: 0 }
  const start = (port?: number): Promise<RunningServer> =>
    startServer(
      {
        get: (call, callback) => {
          state.calls++
          call.on('cancelled', () => state.cancelled++)
          if (state.manner === 'answer') callback(null, { value })
          else if (typeof state.manner === 'number') callback(statusError(state.manner, 'because'))
        },
        increments: (call) => {
          state.streams++
          call.on('cancelled', () => state.cancelled++)
          call.on('data', (message) => {
            if (typeof state.manner === 'number') call.emit('error', statusError(state.manner, 'because'))
            else if (state.manner === 'answer') call.write(ledger.apply(message))
            else if (state.manner === 'swallow') ledger.apply(message)
          })
          call.on('end', () => call.end())
          call.on('error', () => undefined)
        },
      },
      port === undefined ? {} : { port },
    )
  let server = await start()
  cleanUp(() => server.kill())
  return Object.assign(state, {
    id,
    value,
    address: server.address,
    port: server.port,
    kill: () => server.kill(),
    restart: async () => {
      server = await start(server.port)
    },
  })
}

export type CounterPool = GrpcBalancedPool<Instance, CounterClient>

/** A list that tests change. */
export class List {
  #instances: readonly Instance[]
  #onList: ((list: readonly Instance[]) => void) | undefined

  constructor(instances: readonly Instance[]) {
    this.#instances = instances
  }

  readonly source = {
    watch: (onList: (list: readonly Instance[]) => void, { signal }: { signal: AbortSignal }): void => {
      this.#onList = onList
      signal.addEventListener('abort', () => {
        this.#onList = undefined
      })
      onList(this.#instances)
    },
  }

  set(instances: readonly Instance[]): void {
    this.#instances = instances
    this.#onList?.(instances)
  }
}

export interface BalancedOptions {
  readonly balancer?: LoadBalancerOptions<Instance>
  readonly pool?: GrpcBalancedPoolOptions<Instance>
}

/** A balancer and a pool over instances, with quick reconnects, both closed after the test. */
export function balanced(
  instances: readonly Instance[] | List,
  { balancer: balancerOptions, pool: poolOptions }: BalancedOptions = {},
) {
  const balancer = new LoadBalancer<Instance>(instances instanceof List ? instances.source : instances, balancerOptions)
  cleanUp(() => balancer.close({ timeoutMs: 0 }))
  const pool: CounterPool = new GrpcBalancedPool(balancer, ({ address }, options) => clientOf(address)(options), {
    channelOptions: { 'grpc.initial_reconnect_backoff_ms': 20, 'grpc.max_reconnect_backoff_ms': 20 },
    ...poolOptions,
  })
  cleanUp(() => pool.close({ timeoutMs: 0 }))
  return { balancer, pool }
}

/** The ejection that goes with gRPC, quick to trip and to recover. */
export const ejection = {
  failureThreshold: 3,
  recoveryTimeoutMs: 100,
  classifyError: classifyGrpcError,
} as const
