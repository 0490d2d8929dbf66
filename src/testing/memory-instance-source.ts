import { type Clock, systemClock } from '../core/clock.js'
import { describeError, isThenable, warn } from '../core/events.js'
import { checkFunction, checkOptions, checkSignal, failOption, valueOr } from '../core/options.js'
import type { InstanceSource } from '../core/ports.js'
import { onAbort } from '../internal/abort.js'

/** Options of {@link MemoryInstanceSource}. */
export interface MemoryInstanceSourceOptions {
  /** Where it takes the end of the turn from. The default is `systemClock`. */
  clock?: Clock | undefined
}

interface Watch<I> {
  readonly onList: (instances: readonly I[]) => void
  readonly onError: (error: unknown) => void
  readonly signal: AbortSignal
  /** Which state it was told of last; -1 for none. */
  told: number
}

/**
 * A registry in memory, behaving as every {@link InstanceSource} must: for tests of what follows instances. News is told at the end of the
 * turn. It passes `instanceSourceContract`.
 *
 * @example
 * ```ts
 * import { LoadBalancer } from 'spillway'
 * import { FakeClock, MemoryInstanceSource } from 'spillway/testing'
 *
 * const clock = new FakeClock()
 * const registry = new MemoryInstanceSource([{ id: 'a' }], { clock })
 * const balancer = new LoadBalancer(registry, { clock })
 * await clock.until(balancer.start())
 * registry.set([{ id: 'a' }, { id: 'b' }])
 * await clock.advance(0) // the balancer knows both
 * ```
 */
export class MemoryInstanceSource<I> implements InstanceSource<I> {
  readonly #clock: Clock
  readonly #watches = new Set<Watch<I>>()
  #instances: readonly I[]
  /** Counts what was set and reported. */
  #state = 0
  #failure: { readonly error: unknown } | undefined
  #due = false

  /**
   * @param instances - those that are there at first.
   * @throws OptionError when an argument is wrong.
   */
  constructor(instances: readonly I[] = [], options: MemoryInstanceSourceOptions = {}) {
    checkOptions('options', options)
    this.#instances = listOf(instances)
    this.#clock = valueOr(options.clock, systemClock)
  }

  /** How many watches there are that haven't been stopped. */
  get watches(): number {
    return this.#watches.size
  }

  /**
   * Makes these the instances that are there, and ends a failure. Of lists that are set in one turn only the last one is told.
   *
   * @throws OptionError when they are no list.
   */
  set(instances: readonly I[]): void {
    this.#instances = listOf(instances)
    this.#failure = undefined
    this.#change()
  }

  /** Tells of an error, now and to whoever comes, until `set` or `heal`. */
  fail(error: unknown): void {
    this.#failure = { error }
    this.#change()
  }

  /** Ends a failure: the instances are those that were there before. */
  heal(): void {
    if (this.#failure === undefined) return
    this.#failure = undefined
    this.#change()
  }

  /** @throws OptionError when an argument is wrong. */
  watch(
    onList: (instances: readonly I[]) => void,
    context: { readonly signal: AbortSignal; readonly onError: (error: unknown) => void },
  ): void {
    checkFunction('onList', onList)
    if (context === undefined) failOption('context', 'must be an object', context)
    checkOptions('context', context)
    const signal = checkSignal(context.signal)
    if (signal === undefined) failOption('signal', 'must be an AbortSignal', signal)
    const onError = checkFunction('onError', context.onError)
    if (signal.aborted) return
    const watch: Watch<I> = { onList, onError, signal, told: -1 }
    this.#watches.add(watch)
    onAbort(signal, () => void this.#watches.delete(watch))
    this.#later()
  }

  #change(): void {
    this.#state++
    this.#later()
  }

  #later(): void {
    if (this.#due) return
    this.#due = true
    this.#clock.defer(() => {
      this.#due = false
      for (const watch of this.#watches) this.#tell(watch)
    })
  }

  #tell(watch: Watch<I>): void {
    if (watch.told === this.#state) return
    watch.told = this.#state
    const failure = this.#failure
    const instances = this.#instances
    // A callback that throws, or whose promise rejects, must not keep the others from hearing.
    const report = (error: unknown): void => warn(`memory-instance-source: a callback failed: ${describeError(error)}`)
    try {
      const returned: unknown = failure === undefined ? watch.onList(instances) : watch.onError(failure.error)
      if (isThenable(returned)) returned.then(undefined, report)
    } catch (error) {
      report(error)
    }
  }
}

/** A copy that nobody changes. */
function listOf<I>(instances: readonly I[]): readonly I[] {
  if (!Array.isArray(instances)) failOption('instances', 'must be a list', instances)
  return Object.freeze([...instances])
}
