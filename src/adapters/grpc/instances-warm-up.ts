import type { Clock } from '../../core/clock.js'
import { NoInstanceError, TimeoutError } from '../../core/errors.js'
import { checkCount, checkDuration, checkOptions, checkSignal, maxDurationMs, valueOr } from '../../core/options.js'
import { orAbort } from '../../internal/abort.js'
import { type Deferred, deferred, handled } from '../../internal/deferred.js'
import type { GrpcChannelPool, WarmUpOptions } from './grpc-channel-pool.js'
import type { GrpcClient } from './grpc-client.js'

/** Options of {@link GrpcBalancedPool.warmUp}. */
export interface InstancesWarmUpOptions extends WarmUpOptions {
  /**
   * How many instances must be ready, at least 1; where the list has fewer, more are waited for. The default is all of the
   * list, so that one that is down is named. In a readiness probe, ask for as many as carry the load: otherwise one dead
   * instance keeps its callers from starting.
   */
  minInstances?: number | undefined
}

/** What is asked of a warm-up. */
interface Request {
  readonly deadlineMs: number
  readonly signal: AbortSignal | undefined
  readonly minInstances: number
}

/** A warm-up's request, and what it needs of the pool. */
interface WarmUp<Instance, Client extends GrpcClient> extends Request {
  readonly name: string
  readonly clock: Clock
  start(): Promise<void>
  instances(): readonly Instance[]
  poolOf(instance: Instance): GrpcChannelPool<Client>
  /** Calls back after each change of the list, until it is taken off. */
  onUpdated(listener: () => void): () => void
  /** Aborts, with what waits for it is to be told, when the pool is closed. */
  readonly closing: AbortSignal
}

const defaultDeadlineMs = 10_000

/** @throws OptionError */
export function resolveWarmUp(options: InstancesWarmUpOptions | undefined): Request {
  checkOptions('options', options)
  return {
    deadlineMs: checkDuration('deadlineMs', valueOr(options?.deadlineMs, defaultDeadlineMs)),
    signal: checkSignal(options?.signal),
    minInstances:
      options?.minInstances === undefined ? Number.POSITIVE_INFINITY : checkCount('minInstances', options.minInstances),
  }
}

/** Waits for the list, then for all channels of enough of its instances. */
export async function warmUpInstances<Instance extends { readonly id: string }, Client extends GrpcClient>(
  warmUp: WarmUp<Instance, Client>,
): Promise<void> {
  const { name, clock, deadlineMs, signal, closing } = warmUp
  const late = deferred<never>()
  const stopWaiting = new AbortController()
  const instances = new WarmingInstances(warmUp, stopWaiting.signal)
  const cancelTimer = clock.setTimer(() => {
    const message = `${name} isn't ready after ${deadlineMs} ms: ${instances.describe()}`
    late.reject(new TimeoutError(message, deadlineMs, { outcomeUnknown: false }))
  }, deadlineMs)
  let stopFollowing: (() => void) | undefined

  const ready = async (): Promise<void> => {
    await warmUp.start()
    // By now nobody may be waiting any more, or the pool be closed: no pools are made then.
    if (stopWaiting.signal.aborted) return
    stopFollowing = warmUp.onUpdated(() => instances.follow())
    instances.follow()
    await instances.ready
  }

  try {
    await orAbort(orAbort(Promise.race([handled(ready()), late.promise]), signal), closing)
  } finally {
    cancelTimer()
    stopFollowing?.()
    stopWaiting.abort()
  }
}

/** An instance that is waited for. */
interface Warming<Client extends GrpcClient> {
  /** Undefined where none could be made. */
  readonly pool: GrpcChannelPool<Client> | undefined
  readonly error: unknown
  ready: boolean
}

/** The instances of the list, as it is now, and which of them are connected. */
class WarmingInstances<Instance extends { readonly id: string }, Client extends GrpcClient> {
  readonly #warmUp: WarmUp<Instance, Client>
  /** Aborts when nobody waits any more. */
  readonly #stop: AbortSignal
  readonly #done: Deferred<void> = deferred()
  #warming: Map<string, Warming<Client>> | undefined

  constructor(warmUp: WarmUp<Instance, Client>, stop: AbortSignal) {
    this.#warmUp = warmUp
    this.#stop = stop
    handled(this.#done.promise)
  }

  /** Resolves once enough of them are. */
  get ready(): Promise<void> {
    return this.#done.promise
  }

  /** Waits for those of the present list: for a new pool of one that has moved, and no more for one that has left. */
  follow(): void {
    if (this.#stop.aborted || this.#warmUp.closing.aborted) return
    const before = this.#warming
    const warming = new Map<string, Warming<Client>>()
    this.#warming = warming
    for (const instance of this.#warmUp.instances()) {
      const made = this.#poolOf(instance)
      // A listener has changed the list, and that was followed already.
      if (this.#warming !== warming) return
      const known = before?.get(instance.id)
      if (known?.pool !== undefined && known.pool === made.pool) warming.set(instance.id, known)
      else {
        warming.set(instance.id, made)
        this.#watch(instance.id, made)
      }
    }
    this.#look()
  }

  /** What is missing, for people. */
  describe(): string {
    if (this.#warming === undefined) return 'there is no list of instances yet'
    const { minInstances } = this.#warmUp
    const missing = Array.from(this.#warming, ([id, warming]) => notReady(id, warming)).flat()
    const { size } = this.#warming
    if (Number.isFinite(minInstances) && size < minInstances) {
      missing.push(`the list has ${size} of ${minInstances} instances`)
    }
    return missing.join(', ')
  }

  /** One for which no client can be made is one that isn't ready, where others will do. */
  #poolOf(instance: Instance): Warming<Client> {
    try {
      return { pool: this.#warmUp.poolOf(instance), error: undefined, ready: false }
    } catch (error) {
      if (!Number.isFinite(this.#warmUp.minInstances)) this.#done.reject(error)
      return { pool: undefined, error, ready: false }
    }
  }

  #watch(id: string, warming: Warming<Client>): void {
    warming.pool?.warmUp({ deadlineMs: maxDurationMs, signal: this.#stop }).then(
      () => {
        warming.ready = true
        this.#look()
      },
      (error: unknown) => {
        // Its pool was closed: unless somebody did that by hand, it has left, or has another one by now.
        this.follow()
        if (this.#warming?.get(id)?.pool === warming.pool) this.#done.reject(error)
      },
    )
  }

  #look(): void {
    const { name, minInstances } = this.#warmUp
    const all = [...(this.#warming?.values() ?? [])]
    if (all.length === 0 && !Number.isFinite(minInstances)) {
      this.#done.reject(new NoInstanceError(`${name} has no instance to connect to`))
    }
    const enough = Number.isFinite(minInstances) ? minInstances : all.length
    if (all.filter(({ ready }) => ready).length >= enough) this.#done.resolve()
  }
}

function notReady<Client extends GrpcClient>(id: string, { pool, error }: Warming<Client>): readonly string[] {
  if (pool === undefined) return [`instance ${id} has no client: ${describeError(error)}`]
  return pool
    .stats()
    .channels.filter(({ state }) => state !== 'ready')
    .map(({ channel, address, state }) => `channel ${channel} of instance ${id} to ${address} is ${state}`)
}

function describeError(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
