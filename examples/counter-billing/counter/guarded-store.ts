import {
  type BatchContext,
  CircuitBreaker,
  CircuitOpenError,
  type CounterIncrement,
  type CounterStore,
  isSpillwayError,
  type RefusedIncrement,
} from 'spillway'
import { isRefusal, type Log, text } from './counters.ts'

/**
 * A store behind a circuit breaker. Those who wait for an answer are told at once that it fails, instead of each trying for seconds;
 * a read then goes to the other store.
 *
 * What nobody waits for is never turned away: a buffer tries few and ever rarer times by itself, and must not use up its attempts on
 * a breaker. What becomes of it counts: as soon as it succeeds, the breaker closes.
 */
export class GuardedStore implements CounterStore {
  readonly idempotent: boolean
  readonly breaker: CircuitBreaker
  readonly #store: CounterStore

  constructor(store: CounterStore, name: string, log: Log) {
    this.#store = store
    this.idempotent = store.idempotent
    this.breaker = new CircuitBreaker({
      name: `${name}-store`,
      failureThreshold: 5,
      recoveryTimeoutMs: 1_000,
      recovery: { factor: 2, maxMs: 5_000, jitter: 0.2 },
      // Longer than any call is waited for.
      probeTimeoutMs: 15_000,
      classifyError,
    })
    this.breaker.on('opened', ({ retryAfterMs, error, openings }) => {
      const forMs = Math.round(retryAfterMs)
      if (openings === 1)
        log('warn', `the ${name} store fails, so answers of it are given up for ${forMs} ms: ${text(error)}`)
    })
    this.breaker.on('closed', () => log('info', `the ${name} store answers again`))
  }

  increment(increments: readonly CounterIncrement[], context: BatchContext): Promise<readonly (number | Error)[]> {
    return this.#guarded(() => this.#store.increment(increments, context))
  }

  getMany(keys: readonly string[]): Promise<readonly number[]> {
    return this.#guarded(() => this.#store.getMany(keys))
  }

  async add(sums: ReadonlyMap<string, number>, context: BatchContext): Promise<readonly RefusedIncrement[]> {
    const permit = this.breaker.tryAcquire()
    try {
      const refused = await this.#store.add(sums, context)
      // Turned away it would have been, and done it was: the store is back, whatever the breaker waits for.
      if (permit === undefined) this.breaker.reset()
      else permit.success()
      return refused
    } catch (error) {
      if (classifyError(error) === 'failure') permit?.failure(error)
      else permit?.success()
      throw error
    }
  }

  /** What was turned away wasn't done. Trying it again at once would be turned away, too: whoever waits is to hear of it now. */
  #guarded<T>(call: () => PromiseLike<T>): Promise<T> {
    return this.breaker.execute(call).catch((error: unknown) => {
      if (!isSpillwayError(error, 'ERR_CIRCUIT_OPEN')) throw error
      throw new CircuitOpenError(text(error), { cause: error, retryable: false })
    })
  }
}

/** A store that says no works. */
function classifyError(error: unknown): 'success' | 'failure' {
  return isRefusal(error) ? 'success' : 'failure'
}
