import type { LogChunk } from './log-chunk.js'

/** How many empty places a rank keeps before it closes the gap. */
const gapAllowed = 256

/** A line and where it is. */
interface Place {
  readonly chunk: LogChunk
  readonly index: number
}

/** Lines of one level, oldest first. */
interface Rank {
  readonly level: number
  readonly places: Place[]
  /** How many of the first places are empty. */
  head: number
}

/**
 * The chunks that wait, and which of their lines goes first when there is no room.
 *
 * Levels are asked for when the first line has to go, and kept as long as no chunk leaves: while there is room, and that is nearly
 * always, a level costs nothing.
 */
export class WaitingLines {
  readonly #levelOf: ((line: string) => number) | undefined
  readonly #oldestFirst: boolean
  readonly #chunks = new Set<LogChunk>()
  /** The least important first; made when it is needed. */
  #ranks: Rank[] | undefined

  constructor(levelOf: ((line: string) => number) | undefined, oldestFirst: boolean) {
    this.#levelOf = levelOf
    this.#oldestFirst = oldestFirst
  }

  /** Whether each new line has to be told of. */
  get ranked(): boolean {
    return this.#ranks !== undefined
  }

  /** The chunk that was added last, of those that wait. */
  last: LogChunk | undefined

  add(chunk: LogChunk): void {
    this.#chunks.add(chunk)
    this.last = chunk
  }

  remove(chunk: LogChunk): void {
    this.#chunks.delete(chunk)
    if (this.last === chunk) this.last = undefined
    // Of a chunk that lost its last line, no place is left.
    if (chunk.units > 1 || chunk.lines.some((line) => line !== undefined)) this.#ranks = undefined
  }

  /** A line joined a chunk, as its last one. */
  rank(chunk: LogChunk): void {
    if (this.#ranks !== undefined) this.#rank(this.#ranks, chunk, chunk.lines.length - 1)
  }

  /** Takes out the line that makes room for a newer one; undefined where the newer one itself is to go. */
  giveWay(newcomer: string): { readonly chunk: LogChunk; readonly line: string } | undefined {
    const place = this.#levelOf === undefined ? this.#plainPlace() : this.#leastImportant(newcomer)
    if (place === undefined) return undefined
    const { chunk, index } = place
    const line = chunk.lines[index] as string
    chunk.lines[index] = undefined
    return { chunk, line }
  }

  #plainPlace(): Place | undefined {
    if (!this.#oldestFirst) return undefined
    for (const chunk of this.#chunks) {
      while (chunk.head < chunk.lines.length) {
        const index = chunk.head++
        if (chunk.lines[index] !== undefined) return { chunk, index }
      }
    }
    return undefined
  }

  #leastImportant(newcomer: string): Place | undefined {
    this.#ranks ??= this.#rankAll()
    const ranks = this.#ranks
    const level = this.#level(newcomer)
    for (let least = ranks[0]; least !== undefined; least = ranks[0]) {
      if (level < least.level || (level === least.level && !this.#oldestFirst)) return undefined
      const place = this.#oldestFirst ? least.places[least.head++] : least.places.pop()
      if (least.head >= least.places.length) ranks.shift()
      else if (least.head > gapAllowed && least.head * 2 > least.places.length) {
        least.places.splice(0, least.head)
        least.head = 0
      }
      if (place !== undefined) return place
    }
    return undefined
  }

  #rankAll(): Rank[] {
    const ranks: Rank[] = []
    for (const chunk of this.#chunks) {
      for (let index = 0; index < chunk.lines.length; index++) {
        if (chunk.lines[index] !== undefined) this.#rank(ranks, chunk, index)
      }
    }
    return ranks
  }

  #rank(ranks: Rank[], chunk: LogChunk, index: number): void {
    chunk.levels ??= []
    chunk.levels[index] ??= this.#level(chunk.lines[index] as string)
    const level = chunk.levels[index] as number
    let low = 0
    let high = ranks.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((ranks[middle] as Rank).level < level) low = middle + 1
      else high = middle
    }
    const rank = ranks[low]
    if (rank?.level === level) rank.places.push({ chunk, index })
    else ranks.splice(low, 0, { level, places: [{ chunk, index }], head: 0 })
  }

  /** What can't be told is as important as anything. */
  #level(line: string): number {
    try {
      const level = this.#levelOf?.(line)
      return typeof level === 'number' && !Number.isNaN(level) ? level : Number.POSITIVE_INFINITY
    } catch {
      return Number.POSITIVE_INFINITY
    }
  }
}
