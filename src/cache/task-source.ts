import type { Clock } from '../core/clock.js'
import { failOption } from '../core/options.js'
import { handled } from '../internal/deferred.js'

/** Some of a list, and whether there is more to ask for. */
export interface Chunk {
  readonly items: readonly unknown[]
  readonly more: boolean
}

type Pulled = IteratorResult<unknown> | 'later' | 'stopped'

/**
 * Takes a list apart, a chunk at a time, and nothing before it is asked for. A chunk of a list that has to be waited for is what was
 * there by the end of the turn, so that the first items never wait for the last ones.
 */
export class TaskSource {
  readonly #clock: Clock
  readonly #iterator: Iterator<unknown> | AsyncIterator<unknown>
  readonly #isAsync: boolean
  /** An item that was asked for and that the last chunk didn't wait for. */
  #coming: Promise<IteratorResult<unknown>> | undefined
  /** Ends the wait for it. */
  #wake: ((why: 'later' | 'stopped') => void) | undefined
  /** What the list threw, for the call after the one that hands out what came before. */
  #failure: { readonly error: unknown } | undefined
  #ended = false

  constructor(list: unknown, clock: Clock) {
    this.#clock = clock
    const { [Symbol.asyncIterator]: later, [Symbol.iterator]: now } = checkList(list)
    this.#isAsync = typeof later === 'function'
    this.#iterator = this.#isAsync ? later.call(list) : now.call(list)
  }

  /** The next chunk. Rejects with what the list threw, after all that came before. */
  async next(size: number): Promise<Chunk> {
    const items: unknown[] = []
    try {
      while (!this.#ended && items.length < size) {
        const pulled = this.#isAsync ? await this.#pullLater(items.length) : (this.#iterator.next() as Pulled)
        if (pulled === 'later') break
        if (pulled === 'stopped' || pulled.done === true) this.#ended = true
        else items.push(pulled.value)
      }
    } catch (error) {
      this.#ended = true
      this.#failure = { error }
    }
    const failure = this.#failure
    if (failure === undefined || items.length > 0) return { items, more: !this.#ended || failure !== undefined }
    this.#failure = undefined
    throw failure.error
  }

  /** Ends it: asks for no more, and lets the list release what it holds. */
  stop(): void {
    this.#wake?.('stopped')
    if (this.#ended) return
    this.#ended = true
    try {
      // One that waits answers only after what it waits for, so nobody waits for it here.
      handled(Promise.resolve(this.#iterator.return?.()))
    } catch {
      // It was to end, and so it has.
    }
  }

  async #pullLater(have: number): Promise<Pulled> {
    this.#coming ??= Promise.resolve((this.#iterator as AsyncIterator<unknown>).next())
    const coming = this.#coming
    // A race of promises would leave a reaction at the one that says stop for each item there ever was.
    const pulled = await new Promise<Pulled>((resolve, reject) => {
      this.#wake = resolve
      coming.then(resolve, reject)
      if (have === 1) this.#clock.defer(() => this.#wake?.('later'))
    })
    this.#wake = undefined
    if (pulled !== 'later') this.#coming = undefined
    return pulled
  }
}

function checkList(list: unknown): AsyncIterable<unknown> & Iterable<unknown> {
  const { [Symbol.asyncIterator]: later, [Symbol.iterator]: now } = Object(list)
  if (typeof list !== 'object' || (typeof later !== 'function' && typeof now !== 'function')) {
    failOption('tasks', 'must be an Iterable or an AsyncIterable', list)
  }
  return list as AsyncIterable<unknown> & Iterable<unknown>
}
