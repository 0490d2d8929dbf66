import { type Clock, systemClock } from '../core/clock.js'
import { checkDuration, checkOneOf, checkOptionalFunction, checkOptions, failOption, valueOr } from '../core/options.js'
import { dice, type FaultOdds } from './fault-condition.js'
import type { FaultSwitch } from './fault-switch.js'
import { checkDelay, injectedFailure, injectedLoss, never, signalOf, wait } from './faults.js'

/**
 * How a call goes wrong: `'fail'` rejects without doing anything, as `flaky`; `'slow'` starts later; `'late'` answers later; `'hang'` never
 * answers and does nothing; `'drop'` does the work and loses the answer, as `commitThenDrop`.
 */
export type FaultKind = 'fail' | 'slow' | 'late' | 'hang' | 'drop'

const kinds: readonly FaultKind[] = ['fail', 'slow', 'late', 'hang', 'drop']

/** One fault of a method. */
export interface PlannedFault extends Omit<FaultOdds, 'random'> {
  /** What goes wrong. */
  kind: FaultKind
  /** The share of the method's calls that it strikes, from 0 to 1, of those that meet its condition. The default is 1. */
  rate?: number | undefined
  /** How much later a call starts or answers, in milliseconds; for `'slow'` and `'late'`, which need it. */
  delayMs?: number | (() => number) | undefined
  /** The error of `'fail'` and `'drop'`; it gets the number of the method's call, counted from 1. The default is a `StoreError`. */
  error?: ((call: number) => unknown) | undefined
}

/** The faults of each method, by its name; those under `'*'` are for every method that isn't named. */
export type FaultPlan<T> = {
  readonly [K in MethodOf<T> | '*']?: PlannedFault | readonly PlannedFault[] | undefined
}

/** The names of an object's methods. */
export type MethodOf<T> = {
  [K in keyof T]-?: NonNullable<T[K]> extends (...args: never[]) => unknown ? K : never
}[keyof T] &
  string

/** A call of a faulty object, as `onCall` is told of it. */
export interface FaultyCall {
  /** The method's name. */
  readonly method: string
  /** The number of the method's call, counted from 1. */
  readonly call: number
  /** The fault that strikes it; undefined where none does. What the switch does isn't among them. */
  readonly fault: FaultKind | undefined
}

/** Options of {@link faulty}. */
export interface FaultyOptions<T> {
  /** What goes wrong, method by method. The default is nothing. */
  faults?: FaultPlan<T> | undefined
  /** Decides before the faults do, for every method that isn't synchronous; those answer by promises of its own then. */
  power?: FaultSwitch | undefined
  /**
   * The methods that answer at once instead of by a promise. `'*'` and the switch leave them alone; where one is named in `faults`, its
   * `'fail'` and `'drop'` throw, and other kinds are refused.
   * @defaultValue ['connect', 'encode', 'off', 'on', 'once', 'publish', 'stats', 'watch', 'writeSync']
   */
  synchronous?: readonly string[] | undefined
  /** Told of every call, before anything is done. */
  onCall?: ((call: FaultyCall) => void) | undefined
  /** Where chance comes from; a `seededRandom` makes a run repeatable. The default is `Math.random`. */
  random?: (() => number) | undefined
  /** Where time comes from. The default is `systemClock`. */
  clock?: Clock | undefined
}

/** The defaults of {@link FaultyOptions}. */
export const faultyDefaults = {
  synchronous: ['connect', 'encode', 'off', 'on', 'once', 'publish', 'stats', 'watch', 'writeSync'],
} as const

/**
 * An object whose methods behave worse: a store, sink, journal, lock or any other adapter. Properties and all that isn't a method are
 * those of the object itself; calls that it makes of its own methods have no faults.
 *
 * The faults of a method are tried in their order, and the first that strikes decides. The same seed strikes the same calls.
 *
 * @throws OptionError when an option is wrong, or a method that is named isn't there.
 *
 * @example
 * ```ts
 * import { MultiLevelCache } from 'spillway'
 * import { FakeClock, faulty, MemoryCacheStore, outage, seededRandom } from 'spillway/testing'
 *
 * const clock = new FakeClock()
 * const l2 = faulty(new MemoryCacheStore({ clock }), {
 *   clock,
 *   random: seededRandom(1),
 *   faults: {
 *     getMany: { kind: 'slow', delayMs: 5000, rate: 0.1 },
 *     '*': [
 *       { kind: 'fail', when: outage({ clock, fromMs: 1000, toMs: 4000 }) },
 *       { kind: 'drop', rate: 0.05 },
 *     ],
 *   },
 * })
 * const cache = new MultiLevelCache<string>({ clock, l2 })
 * ```
 */
export function faulty<T extends object>(target: T, options: FaultyOptions<T> = {}): T {
  if (typeof target !== 'object' || target === null) failOption('target', 'must be an object', target)
  checkOptions('options', options)
  const plan = new Plan(target, options)
  const methods = new Map<PropertyKey, { readonly of: unknown; readonly faulty: unknown }>()
  // In front of an empty object: of one that is frozen a proxy could only show the methods themselves.
  return new Proxy(Object.create(Object.getPrototypeOf(target)) as T, {
    // The receiver is the target, not the proxy: getters and methods may use private fields.
    get(_, key) {
      const value: unknown = Reflect.get(target, key, target)
      if (typeof value !== 'function' || key === 'constructor') return value
      const known = methods.get(key)
      if (known?.of === value) return known.faulty
      const method = (...args: unknown[]): unknown => plan.call(key, args, () => Reflect.apply(value, target, args))
      methods.set(key, { of: value, faulty: method })
      return method
    },
    set: (_, key, value) => Reflect.set(target, key, value, target),
    // So do test runners' spies put themselves in a method's place, and go again.
    defineProperty: (_, key, descriptor) => Reflect.defineProperty(target, key, descriptor),
    deleteProperty: (_, key) => Reflect.deleteProperty(target, key),
    has: (_, key) => Reflect.has(target, key),
    ownKeys: () => Reflect.ownKeys(target),
    getOwnPropertyDescriptor(_, key) {
      const descriptor = Reflect.getOwnPropertyDescriptor(target, key)
      return descriptor && { ...descriptor, configurable: true }
    },
  })
}

/** A fault with its dice. */
interface Risk {
  readonly fault: PlannedFault
  readonly strikes: () => number
}

class Plan {
  readonly #clock: Clock
  readonly #random: () => number
  readonly #onCall: ((call: FaultyCall) => void) | undefined
  readonly #power: FaultSwitch | undefined
  readonly #synchronous: ReadonlySet<string>
  readonly #others: readonly PlannedFault[]
  readonly #risks = new Map<string, readonly Risk[]>()
  readonly #calls = new Map<string, number>()

  constructor(target: object, options: FaultyOptions<never>) {
    this.#clock = valueOr(options.clock, systemClock)
    this.#random = valueOr(checkOptionalFunction('random', options.random), Math.random)
    this.#onCall = checkOptionalFunction('onCall', options.onCall)
    this.#power = options.power
    if (this.#power !== undefined) {
      if (typeof this.#power !== 'object' || typeof this.#power?.run !== 'function') {
        failOption('power', 'must be a FaultSwitch', this.#power)
      }
    }
    const synchronous = valueOr<readonly string[]>(options.synchronous, faultyDefaults.synchronous)
    if (!Array.isArray(synchronous)) failOption('synchronous', 'must be a list of names', synchronous)
    this.#synchronous = new Set(synchronous)
    checkOptions('faults', options.faults)
    const { '*': others, ...named } = (options.faults ?? {}) as Record<string, PlannedFault | readonly PlannedFault[]>
    this.#others = listOf(others)
    for (const fault of this.#others) checkFault("faults['*']", fault, false)
    for (const [method, faults] of Object.entries(named)) {
      if (faults === undefined) continue
      if (typeof (target as Record<string, unknown>)[method] !== 'function') {
        failOption(`faults.${method}`, 'must be the name of a method', method)
      }
      for (const fault of listOf(faults)) checkFault(`faults.${method}`, fault, this.#synchronous.has(method))
      this.#risks.set(method, this.#risksOf(listOf(faults)))
    }
    // The dice of '*' are thrown for each method apart, so that they are made when it is first called; a wrong rate is found here.
    this.#risksOf(this.#others)
  }

  call(key: PropertyKey, args: readonly unknown[], work: () => unknown): unknown {
    // What the language calls, for instance to dispose, isn't a call of the adapter.
    if (typeof key !== 'string') return work()
    const isSynchronous = this.#synchronous.has(key)
    const call = (this.#calls.get(key) ?? 0) + 1
    this.#calls.set(key, call)
    const fault = this.#strike(key, isSynchronous)
    this.#onCall?.({ method: key, call, fault: fault?.kind })
    if (isSynchronous) return fault === undefined ? work() : spoilNow(fault, call, work)
    const spoiled = (): unknown => (fault === undefined ? work() : this.#spoil(fault, call, args, work))
    return this.#power === undefined ? spoiled() : this.#power.run(spoiled, signalOf(args))
  }

  /** All dice are thrown, so that what one fault does shifts no other's chance. */
  #strike(method: string, isSynchronous: boolean): PlannedFault | undefined {
    let risks = this.#risks.get(method)
    if (risks === undefined) {
      risks = isSynchronous ? [] : this.#risksOf(this.#others)
      this.#risks.set(method, risks)
    }
    let struck: PlannedFault | undefined
    for (const { fault, strikes } of risks) if (strikes() > 0) struck ??= fault
    return struck
  }

  #risksOf(faults: readonly PlannedFault[]): Risk[] {
    return faults.map((fault) => {
      const { rate, when } = fault
      return { fault, strikes: dice('rate', valueOr(rate, 1), { when, random: this.#random }) }
    })
  }

  async #spoil(fault: PlannedFault, call: number, args: readonly unknown[], work: () => unknown): Promise<unknown> {
    const { kind, delayMs = 0, error } = fault
    const delay = { delayMs, clock: this.#clock }
    switch (kind) {
      case 'fail':
        throw (error ?? injectedFailure)(call)
      case 'hang':
        return never()
      case 'slow':
        await wait(delay, signalOf(args))
        return work()
      case 'late':
        try {
          return await work()
        } finally {
          await wait(delay, undefined)
        }
      case 'drop':
        await work()
        throw (error ?? injectedLoss)(call)
    }
  }
}

function spoilNow({ kind, error }: PlannedFault, call: number, work: () => unknown): never {
  if (kind === 'fail') throw (error ?? injectedFailure)(call)
  work()
  throw (error ?? injectedLoss)(call)
}

function listOf(faults: PlannedFault | readonly PlannedFault[] | undefined): readonly PlannedFault[] {
  if (faults === undefined) return []
  return Array.isArray(faults) ? (faults as readonly PlannedFault[]) : [faults as PlannedFault]
}

function checkFault(field: string, fault: PlannedFault, isSynchronous: boolean): void {
  if (typeof fault !== 'object' || fault === null) failOption(field, 'must be a fault or a list of faults', fault)
  checkOneOf('kind', fault.kind, isSynchronous ? ['fail', 'drop'] : kinds)
  checkDuration('rate', valueOr(fault.rate, 1), 0, 1)
  checkOptionalFunction('when', fault.when)
  checkOptionalFunction('error', fault.error)
  const isDelay = fault.kind === 'slow' || fault.kind === 'late'
  if (isDelay) checkDelay(fault.delayMs as number)
  else if (fault.delayMs !== undefined) failOption('delayMs', "belongs to 'slow' and 'late'", fault.delayMs)
}
