import type { Clock } from '../../core/clock.js'
import { isSpillwayError, NoInstanceError, TimeoutError } from '../../core/errors.js'
import { checkCount, checkDuration, checkOptions, checkSignal, maxDurationMs, valueOr } from '../../core/options.js'
import { orAbort } from '../../internal/abort.js'
import { deferred, handled } from '../../internal/deferred.js'
import type { GrpcChannelPool, WarmUpOptions } from './grpc-channel-pool.js'
import type { GrpcClient } from './grpc-client.js'

/** Options of {@link GrpcBalancedPool.warmUp}. */
export interface InstancesWarmUpOptions extends WarmUpOptions {
  /**
   * How many instances must be ready, at least 1. The default is all of the list, so that one that is down is named. In a
   * readiness probe, ask for as many as carry the load: otherwise one dead instance keeps its callers from starting.
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
  isListed(instance: Instance): boolean
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
  const { name, clock, deadlineMs, signal, minInstances, closing } = warmUp
  const late = deferred<never>()
  const stopWaiting = new AbortController()
  const waitedFor: { instance: Instance; pool: GrpcChannelPool<Client> }[] = []
  const cancelTimer = clock.setTimer(() => {
    const names = waitedFor.flatMap(({ instance, pool }) => notReady(instance, pool))
    const what = names.length === 0 ? 'there is no list of instances yet' : names.join(', ')
    const message = `${name} isn't ready after ${deadlineMs} ms: ${what}`
    late.reject(new TimeoutError(message, deadlineMs, { outcomeUnknown: false }))
  }, deadlineMs)

  const ready = async (): Promise<void> => {
    await warmUp.start()
    // By now nobody may be waiting any more, or the pool be closed: no pools are made then.
    if (stopWaiting.signal.aborted) return
    const instances = warmUp.instances()
    if (instances.length === 0) throw new NoInstanceError(`${name} has no instance to connect to`)
    for (const instance of instances) waitedFor.push({ instance, pool: warmUp.poolOf(instance) })
    await new Promise<void>((resolve, reject) => {
      let connected = 0
      let waiting = waitedFor.length
      const look = (): void => {
        if (connected >= minInstances || waiting === 0) resolve()
      }
      for (const { instance, pool } of waitedFor) {
        pool.warmUp({ deadlineMs: maxDurationMs, signal: stopWaiting.signal }).then(
          () => {
            connected++
            waiting--
            look()
          },
          (error: unknown) => {
            // An instance that left meanwhile is missed by nobody.
            if (!isSpillwayError(error, 'ERR_CLOSED') || warmUp.isListed(instance)) reject(error)
            waiting--
            look()
          },
        )
      }
    })
  }

  try {
    await orAbort(orAbort(Promise.race([handled(ready()), late.promise]), signal), closing)
  } finally {
    cancelTimer()
    stopWaiting.abort()
  }
}

function notReady<Client extends GrpcClient>(
  { id }: { readonly id: string },
  pool: GrpcChannelPool<Client>,
): readonly string[] {
  return pool
    .stats()
    .channels.filter(({ state }) => state !== 'ready')
    .map(({ channel, address, state }) => `channel ${channel} of instance ${id} to ${address} is ${state}`)
}
