import { CircuitBreaker, type CircuitBreakerOptions } from '../breaker/circuit-breaker.js'
import { Classifier } from '../breaker/classifier.js'
import type { Clock } from '../core/clock.js'
import { isSpillwayError, OptionError } from '../core/errors.js'
import { checkOptions, checkRatio, valueOr } from '../core/options.js'
import type { InstanceSlot } from './instance-slot.js'

/** When an instance is ejected because calls to it fail, and for how long: the options of its breaker, and a bound. */
export interface EjectionOptions extends Omit<CircuitBreakerOptions, 'name' | 'clock' | 'random' | 'timeoutMs'> {
  /**
   * The largest share of the instances that may be ejected at a time, this one included: with 0.5, one of two, none of one.
   * The default is 0.5.
   */
  maxEjectedRatio?: number | undefined
}

/** What the breakers are made with. */
interface Setting {
  readonly name: string
  readonly clock: Clock
  readonly random: () => number
}

/** For how long a breaker that refused without saying for how long isn't asked again. */
const shortestBlockMs = 10

/** A breaker for each instance, and what its word means for who may be picked. */
export class InstanceEjection<I> {
  readonly maxRatio: number
  readonly #options: Omit<EjectionOptions, 'maxEjectedRatio'>
  readonly #setting: Setting
  readonly #changed: () => void
  #openings = 0
  /** Judges the calls of `run`; a lease's outcome is told. */
  readonly classifier: Classifier

  /** @param changed - called when a breaker's word has changed; it may be in the middle of a pick. */
  constructor(options: EjectionOptions, defaults: { maxEjectedRatio: number }, setting: Setting, changed: () => void) {
    checkOptions('ejection', options)
    const { maxEjectedRatio, ...breakerOptions } = options
    this.maxRatio = checkRatio('ejection.maxEjectedRatio', valueOr(maxEjectedRatio, defaults.maxEjectedRatio))
    this.#options = breakerOptions
    this.#setting = setting
    this.#changed = changed
    this.#makeBreaker('')
    this.classifier = new Classifier(setting.name, breakerOptions)
  }

  /** Gives an instance its breaker. */
  guard(slot: InstanceSlot<I>): void {
    if (slot.breaker !== undefined) return
    const breaker = this.#makeBreaker(slot.id)
    breaker.on('opened', ({ error, retryAfterMs }) => {
      if (slot.openedAs === 0) slot.openedAs = ++this.#openings
      slot.lastError = error
      slot.blockedUntilMs = this.#setting.clock.now() + retryAfterMs
      this.#changed()
    })
    breaker.on('closed', () => {
      slot.openedAs = 0
      slot.lastError = undefined
      this.#changed()
    })
    slot.breaker = breaker
  }

  /** A breaker has refused: keeps its instance out until it may let one through. */
  block(slot: InstanceSlot<I>): void {
    const retryAfterMs = Math.max(shortestBlockMs, slot.breaker?.retryAfterMs ?? 0)
    slot.blockedUntilMs = this.#setting.clock.now() + retryAfterMs
    this.#changed()
  }

  /** A call has ended: what has room for another probe may be picked again. The end of a call of before makes none. */
  unblock(slot: InstanceSlot<I>): void {
    if (slot.openedAs === 0 || slot.blockedUntilMs === 0 || slot.breaker?.retryAfterMs !== 0) return
    slot.blockedUntilMs = 0
    this.#changed()
  }

  #makeBreaker(id: string): CircuitBreaker {
    const { name, clock, random } = this.#setting
    try {
      return new CircuitBreaker({ ...this.#options, name: `${name}: ${id}`, clock, random })
    } catch (error) {
      if (!isSpillwayError(error, 'ERR_OPTION')) throw error
      throw new OptionError(`ejection.${(error as OptionError).field}`, `ejection.${error.message}`)
    }
  }
}
