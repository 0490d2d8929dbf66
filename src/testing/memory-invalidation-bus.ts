import { type Clock, systemClock } from '../core/clock.js'
import { describeError, isThenable, warn } from '../core/events.js'
import { checkOptions, failOption, valueOr } from '../core/options.js'
import type { Invalidation, InvalidationBus, InvalidationLink, InvalidationListener } from '../core/ports.js'

/** Options of {@link MemoryInvalidationBus}. */
export interface MemoryInvalidationBusOptions {
  /** Where it takes the end of the turn from. The default is `systemClock`. */
  clock?: Clock | undefined
}

/**
 * A bus within a process, behaving as every {@link InvalidationBus} must: for tests, and for several caches in one process. What is
 * published arrives at the end of the turn. It passes `invalidationBusContract`.
 *
 * @example
 * ```ts
 * import { MemoryInvalidationBus } from 'spillway/testing'
 *
 * const bus = new MemoryInvalidationBus()
 * const silent = { onInvalidations: () => {}, onGap: () => {} }
 * const heard: string[] = []
 * const link = bus.connect(silent)
 * bus.connect({ ...silent, onInvalidations: (all) => all.forEach((one) => heard.push(one.kind)) })
 * link.publish([{ kind: 'tag', tag: 'prices' }])
 * await link.flush() // heard: ['tag']
 * ```
 */
export class MemoryInvalidationBus implements InvalidationBus {
  readonly #clock: Clock
  readonly #links = new Set<MemoryLink>()
  #interrupted = false
  /** What is to happen at the end of the turn, in its order. */
  #due: (() => void)[] = []
  #delivered: Promise<void> | undefined

  /** @throws OptionError when an option is wrong. */
  constructor(options: MemoryInvalidationBusOptions = {}) {
    checkOptions('options', options)
    this.#clock = valueOr(options.clock, systemClock)
  }

  /** @throws OptionError when the listener is none. */
  connect(listener: InvalidationListener): InvalidationLink {
    for (const method of ['onInvalidations', 'onGap'] as const) {
      if (typeof listener?.[method] !== 'function') failOption('listener', `must have a method ${method}`, listener)
    }
    const link = new MemoryLink(listener, {
      publish: (invalidations) => this.#publish(link, invalidations),
      flush: () => this.#delivered ?? Promise.resolve(),
      close: () => this.#links.delete(link),
    })
    this.#links.add(link)
    if (!this.#interrupted) this.#later(() => link.tellGap())
    return link
  }

  /** From now on what is published is lost, until `restore`. */
  interrupt(): void {
    this.#interrupted = true
  }

  /** Carries again, and reports a gap to everyone. */
  restore(): void {
    if (!this.#interrupted) return
    this.#interrupted = false
    for (const link of this.#links) this.#later(() => link.tellGap())
  }

  #publish(from: MemoryLink, invalidations: readonly Invalidation[]): void {
    if (this.#interrupted || invalidations.length === 0) return
    const lot = Object.freeze([...invalidations])
    for (const link of this.#links) {
      if (link !== from) this.#later(() => link.tell(lot))
    }
  }

  #later(deliver: () => void): void {
    this.#due.push(deliver)
    this.#delivered ??= new Promise((resolve) => {
      this.#clock.defer(() => {
        const due = this.#due
        this.#due = []
        this.#delivered = undefined
        for (const deliver of due) deliver()
        resolve()
      })
    })
  }
}

/** One end. */
class MemoryLink implements InvalidationLink {
  readonly #listener: InvalidationListener
  readonly #bus: InvalidationLink
  #closed = false

  constructor(listener: InvalidationListener, bus: InvalidationLink) {
    this.#listener = listener
    this.#bus = bus
  }

  publish(invalidations: readonly Invalidation[]): void {
    if (!this.#closed) this.#bus.publish(invalidations)
  }

  flush(): PromiseLike<void> {
    return this.#bus.flush()
  }

  close(): void {
    this.#closed = true
    this.#bus.close()
  }

  tell(invalidations: readonly Invalidation[]): void {
    this.#call(() => this.#listener.onInvalidations(invalidations))
  }

  tellGap(): void {
    this.#call(() => this.#listener.onGap())
  }

  /** A listener that throws, or whose promise rejects, must not keep the others from hearing. */
  #call(listen: () => unknown): void {
    if (this.#closed) return
    const report = (error: unknown): void => warn(`memory-invalidation-bus: a listener threw: ${describeError(error)}`)
    try {
      const returned = listen()
      if (isThenable(returned)) returned.then(undefined, report)
    } catch (error) {
      report(error)
    }
  }
}
