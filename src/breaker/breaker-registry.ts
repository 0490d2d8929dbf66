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
  /** Those that would have had to go when they weren't closed: apart, so that a new key needn't look at all of them again. */
  readonly #kept = new Map<string, CircuitBreaker>()

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
    return this.#breakers.size + this.#kept.size
  }

  /**
   * The breaker of a key.
   *
   * @throws OptionError unless the key is a string.
   */
  get(key: string): CircuitBreaker {
    if (typeof key !== 'string') failOption('key', 'must be a string', key)
    let breaker = this.#breakers.get(key) ?? this.#kept.get(key)
    if (breaker === undefined) {
      breaker = new CircuitBreaker({ ...this.#options, name: key })
      this.#makeRoom()
    } else if (!this.#breakers.delete(key)) this.#kept.delete(key)
    this.#breakers.set(key, breaker)
    return breaker
  }

  /** All breakers with their keys, as of now. */
  entries(): IterableIterator<[string, CircuitBreaker]> {
    return new Map([...this.#kept, ...this.#breakers]).entries()
  }

  /** Lets closed breakers go until there is room for one more, or none is closed. */
  #makeRoom(): void {
    // Of those that were kept some have closed meanwhile: two of them are looked at for each new key.
    let looks = 2
    for (const [key, breaker] of this.#kept) {
      if (this.size < this.#capacity || looks-- === 0) break
      this.#kept.delete(key)
      if (breaker.state !== 'closed') this.#kept.set(key, breaker)
    }
    for (const [key, breaker] of this.#breakers) {
      if (this.size < this.#capacity) return
      this.#breakers.delete(key)
      if (breaker.state !== 'closed') this.#kept.set(key, breaker)
    }
  }
}
