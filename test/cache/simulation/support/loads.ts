/** How often a key had been written or invalidated. */
export type Fenced = (id: string) => number

/** One call of a loader. */
export interface RunningLoad {
  readonly ids: readonly string[]
  readonly signal: AbortSignal
  /** What had been fenced of each of its keys when it was asked for. */
  readonly fences: readonly number[]
}

/**
 * The loaders that run in one process. No two may run for one key, unless something was written or invalidated between their starts,
 * or the cache has given up the first one and said so by its signal.
 */
export class Loads {
  started = 0
  #all = 0
  readonly #fences = new Map<string, number>()
  readonly #running = new Set<RunningLoad>()

  /** Something was written or invalidated: all of these keys, or all keys. */
  fence(ids?: Iterable<string>): void {
    if (ids === undefined) this.#all++
    else for (const id of ids) this.#fences.set(id, (this.#fences.get(id) ?? 0) + 1)
  }

  /** What has been fenced so far. */
  fenced(): Fenced {
    const all = this.#all * 1_000_000
    const fences = new Map(this.#fences)
    return (id) => all + (fences.get(id) ?? 0)
  }

  /**
   * A loader begins. Returns which key is already being loaded, if one is.
   *
   * @param fenced - what had been fenced when it was asked for: what is fenced after that, and before it begins, parts it from others
   *   although it needn't.
   */
  begin(
    ids: readonly string[],
    signal: AbortSignal,
    fenced: Fenced,
  ): { readonly load: RunningLoad; readonly twice: string | undefined } {
    const load: RunningLoad = { ids, signal, fences: ids.map(fenced) }
    const others = [...this.#running].filter((other) => !other.signal.aborted)
    const twice = ids.find((id, i) =>
      others.some((other) => other.ids.some((same, n) => same === id && other.fences[n] === load.fences[i])),
    )
    this.started += ids.length
    this.#running.add(load)
    return { load, twice }
  }

  end(load: RunningLoad): void {
    this.#running.delete(load)
  }
}
