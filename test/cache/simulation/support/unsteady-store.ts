import type { CachedValue, CacheStore, CacheWrite, CacheWriteOutcome, CurrentMark } from 'spillway'
import type { FakeClock } from 'spillway/testing'
import type { Chance } from './chance.js'

/** How a call goes wrong. */
type Fault = 'refused' | 'answer lost' | 'never answered' | 'never applied' | 'late'

/** What one call of the store does, in parts that are applied each for itself. */
type Parts<T> = readonly (() => PromiseLike<readonly (T | Error)[]>)[]

/**
 * A store that applies each call at some moment and answers at a later one, so that calls overtake each other. With faults, it also
 * refuses, applies and answers with an error, never answers, and applies after everybody has given up.
 *
 * What it never answers it applies in time or not at all: nobody could make up for a write that lands at any time without a word.
 */
export class UnsteadyStore implements CacheStore {
  readonly fenceMs: number
  /** How many calls went wrong. */
  faults = 0
  readonly #store: CacheStore
  readonly #clock: FakeClock
  readonly #chance: Chance
  readonly #timeoutMs: number
  readonly #faults: readonly Fault[]
  #faultRate: number

  constructor(
    store: CacheStore,
    clock: FakeClock,
    chance: Chance,
    how: { readonly faultRate: number; readonly late: boolean; readonly timeoutMs: number },
  ) {
    this.fenceMs = store.fenceMs
    this.#store = store
    this.#clock = clock
    this.#chance = chance
    this.#faultRate = how.faultRate
    this.#timeoutMs = how.timeoutMs
    const faults: readonly Fault[] = ['refused', 'refused', 'answer lost', 'never answered', 'never applied']
    this.#faults = how.late ? [...faults, 'late'] : faults
  }

  /** Has no faults from now on. */
  calm(): void {
    this.#faultRate = 0
  }

  getMany(keys: readonly string[]): Promise<readonly (CachedValue | Error)[]> {
    return this.#call(this.#parts(keys, (part) => this.#store.getMany(part)))
  }

  setMany(writes: readonly CacheWrite[]): Promise<readonly (CacheWriteOutcome | Error)[]> {
    return this.#call(this.#parts(writes, (part) => this.#store.setMany(part)))
  }

  deleteMany(keys: readonly string[]): Promise<readonly (string | Error)[]> {
    return this.#call(this.#parts(keys, (part) => this.#store.deleteMany(part)))
  }

  readMarks(names: readonly string[]): Promise<readonly (CurrentMark | Error)[]> {
    return this.#call(this.#parts(names, (part) => this.#store.readMarks(part)))
  }

  renewMarks(names: readonly string[]): Promise<readonly (CurrentMark | Error)[]> {
    return this.#call(this.#parts(names, (part) => this.#store.renewMarks(part)))
  }

  /** A call on several keys is one step or, as on a cluster, one step a key. */
  #parts<A, T>(args: readonly A[], apply: (args: readonly A[]) => PromiseLike<readonly (T | Error)[]>): Parts<T> {
    if (args.length < 2 || this.#chance.happens(0.5)) return [() => apply(args)]
    return args.map((arg) => () => apply([arg]))
  }

  /** What was applied in steps answers once all of them have: some may be errors. */
  async #call<T>(parts: Parts<T>): Promise<readonly (T | Error)[]> {
    const [only] = parts
    if (parts.length === 1 && only !== undefined) return this.#apply(only)
    const answers = await Promise.allSettled(parts.map((part) => this.#apply(part)))
    return answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : [answer.reason as Error]))
  }

  async #apply<T>(part: Parts<T>[number]): Promise<readonly (T | Error)[]> {
    const chance = this.#chance
    if (!chance.happens(this.#faultRate)) {
      await this.#wait(chance.shortMs())
      const answer = await part()
      await this.#wait(chance.shortMs())
      return answer
    }
    this.faults++
    const fault = chance.pick(this.#faults)
    await this.#wait(chance.shortMs())
    if (fault === 'refused') throw new Error('refused')
    if (fault === 'never applied') return new Promise(() => {})
    if (fault === 'late') await this.#wait(this.#timeoutMs + chance.shortMs())
    const answer = await part()
    if (fault === 'never answered') return new Promise(() => {})
    await this.#wait(chance.shortMs())
    if (fault === 'answer lost') throw new Error('the connection broke')
    return answer
  }

  async #wait(ms: number): Promise<void> {
    if (ms > 0) await new Promise<void>((resolve) => this.#clock.setTimer(resolve, ms))
  }
}
