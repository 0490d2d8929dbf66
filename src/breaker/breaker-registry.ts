import { checkCount, checkOptions, failOption, valueOr } from '../core/options.js'
import { CircuitBreaker, type CircuitBreakerOptions } from './circuit-breaker.js'

/** Options of {@link BreakerRegistry}: its own, and those of each breaker that it makes. */
export interface BreakerRegistryOptions extends Omit<CircuitBreakerOptions, 'name'> {
  /**
   * How many breakers it keeps. The one that was asked for least recently goes first, unless it isn't closed: while all are open or
   * half-open there may be more.
   * @defaultValue 1000
   */
  capacity?: number | undefined
}

/**
 * A breaker for each key: a host, a tenant, a shard. It is made when first asked for and bears its key as its name.
 *
 * @example
 * ```ts
 * import { BreakerRegistry } from 'spillway'
 *
 * const hosts = new BreakerRegistry({ capacity: 500, failureThreshold: 3 })
 * const get = (url: URL) => hosts.get(url.host).execute(({ signal }) => fetch(url, { signal }))
 * ```
 */
export class BreakerRegistry {
  /** The options' defaults. */
  static readonly defaults = { capacity: 1000 } as const

  readonly #capacity: number
  readonly #options: CircuitBreakerOptions
  /** Least recently used first. */
  readonly #breakers = new Map<string, CircuitBreaker>()

  /** @throws OptionError when an option is wrong, one of the breakers' included. */
  constructor(options: BreakerRegistryOptions = {}) {
    checkOptions('options', options)
    const { capacity, ...breakerOptions } = options
    this.#capacity = checkCount('capacity', valueOr(capacity, BreakerRegistry.defaults.capacity))
    this.#options = breakerOptions
    // Wrong options are found now, not when the first key comes.
    new CircuitBreaker(this.#options)
  }

  /** How many breakers there are. */
  get size(): number {
    return this.#breakers.size
  }

  /**
   * The breaker of a key.
   *
   * @throws OptionError unless the key is a string.
   */
  get(key: string): CircuitBreaker {
    if (typeof key !== 'string') failOption('key', 'must be a string', key)
    let breaker = this.#breakers.get(key)
    if (breaker === undefined) {
      breaker = new CircuitBreaker({ ...this.#options, name: key })
      this.#makeRoom()
    } else this.#breakers.delete(key)
    this.#breakers.set(key, breaker)
    return breaker
  }

  /** All breakers with their keys, least recently used first. */
  entries(): IterableIterator<[string, CircuitBreaker]> {
    return this.#breakers.entries()
  }

  #makeRoom(): void {
    if (this.#breakers.size < this.#capacity) return
    for (const [key, breaker] of this.#breakers) {
      if (breaker.state !== 'closed') continue
      this.#breakers.delete(key)
      if (this.#breakers.size < this.#capacity) return
    }
  }
}
