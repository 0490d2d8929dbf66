import { LinkedList } from '../internal/linked-list.js'
import type { LinePlace, LogChunk } from './log-chunk.js'

/** How many empty places a rank keeps before it closes the gap. */
const gapAllowed = 256

/** A line that made room for a newer one. */
export interface Loser {
  readonly chunk: LogChunk
  readonly line: string
}

/** Lines of one level, oldest first. */
interface Rank {
  readonly level: number
  readonly places: LinePlace[]
  /** How many of the first places are empty. */
  head: number
}

/**
 * The chunks that wait, and which of their lines goes first when there is no room.
 *
 * Levels are asked for when the first line has to go, and the ranks are kept as long as no chunk leaves: while there is room, and that
 * is nearly always, a level costs nothing.
 */
export class WaitingLines {
  readonly #levelOf: ((line: string) => number) | undefined
  readonly #oldestFirst: boolean
  /** Oldest first. No Set: a table that it has outgrown, once it is old, keeps all that comes after it from the young collector. */
  readonly #chunks = new LinkedList<LogChunk>()
  /** The least important first; made when it is needed. */
  #ranks: Rank[] | undefined
  /** The level of the line that comes next, where it is known. */
  #levelOfNewcomer: number | undefined
  /** Whether `levelOf` is on the stack: what it writes is dropped, or as important as anything. */
  #asking = false

  constructor(levelOf: ((line: string) => number) | undefined, oldestFirst: boolean) {
    this.#levelOf = levelOf
    this.#oldestFirst = oldestFirst
  }

  /** Whether each new line has to be told of. */
  get ranked(): boolean {
    return this.#ranks !== undefined
  }

  add(chunk: LogChunk): void {
    chunk.waiting = this.#chunks.push(chunk)
  }

  remove(chunk: LogChunk): void {
    if (chunk.waiting !== undefined) this.#chunks.remove(chunk.waiting)
    chunk.waiting = undefined
    // Of a chunk that lost its last line, no place is left.
    if (chunk.units > 1 || chunk.lines.some((line) => line !== undefined)) this.#ranks = undefined
  }

  /** Makes the texts of what leaves next, up to so many bytes, of chunks that take no more lines. */
  layOut(bytes: number, open: LogChunk | undefined): void {
    let left = bytes
    for (const chunk of this.#chunks) {
      left -= chunk.bytes
      if (left < 0 || chunk === open) return
      chunk.layOut()
    }
  }

  /** A line joined a chunk, as its last one. */
  rank(chunk: LogChunk): void {
    const level = this.#levelOfNewcomer
    this.#levelOfNewcomer = undefined
    const index = chunk.lines.length - 1
    if (level !== undefined) placesOf(chunk)[index] = { chunk, index, level }
    if (this.#ranks !== undefined) this.#rank(this.#ranks, chunk, index)
  }

  /** Takes out the line that makes room for a newer one, which is ranked next; undefined where the newer one itself is to go. */
  giveWay(newcomer: string): Loser | undefined {
    if (this.#asking) return undefined
    return this.#levelOf === undefined ? this.#oldest() : this.#leastImportant(newcomer)
  }

  #oldest(): Loser | undefined {
    if (!this.#oldestFirst) return undefined
    for (const chunk of this.#chunks) {
      while (chunk.head < chunk.lines.length) {
        const index = chunk.head++
        if (chunk.lines[index] !== undefined) return { chunk, line: chunk.drop(index) }
      }
    }
    return undefined
  }

  #leastImportant(newcomer: string): Loser | undefined {
    this.#ranks ??= this.#rankAll()
    const level = this.#level(newcomer)
    // Whoever answers for levels may have let everything go meanwhile.
    const ranks = this.#ranks ?? []
    for (let least = ranks[0]; least !== undefined; least = ranks[0]) {
      if (level < least.level || (level === least.level && !this.#oldestFirst)) return undefined
      const place = this.#oldestFirst ? least.places[least.head++] : least.places.pop()
      if (least.head >= least.places.length) ranks.shift()
      else if (least.head > gapAllowed && least.head * 2 > least.places.length) {
        least.places.splice(0, least.head)
        least.head = 0
      }
      if (place === undefined || place.chunk.waiting === undefined) continue
      this.#levelOfNewcomer = level
      return { chunk: place.chunk, line: place.chunk.drop(place.index) }
    }
    return undefined
  }

  #rankAll(): Rank[] {
    const ranks: Rank[] = []
    // A copy: whoever answers for levels may let chunks go meanwhile.
    for (const chunk of [...this.#chunks]) {
      for (let index = 0; index < chunk.lines.length; index++) {
        if (chunk.lines[index] !== undefined) this.#rank(ranks, chunk, index)
      }
    }
    return ranks
  }

  #rank(ranks: Rank[], chunk: LogChunk, index: number): void {
    const places = placesOf(chunk)
    places[index] ??= { chunk, index, level: this.#level(chunk.lines[index] as string) }
    const place = places[index] as LinePlace
    const { level } = place
    let low = 0
    let high = ranks.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((ranks[middle] as Rank).level < level) low = middle + 1
      else high = middle
    }
    const rank = ranks[low]
    if (rank?.level === level) rank.places.push(place)
    else ranks.splice(low, 0, { level, places: [place], head: 0 })
  }

  /** What can't be told is as important as anything. */
  #level(line: string): number {
    if (this.#asking) return Number.POSITIVE_INFINITY
    this.#asking = true
    try {
      const level = this.#levelOf?.(line)
      return typeof level === 'number' && !Number.isNaN(level) ? level : Number.POSITIVE_INFINITY
    } catch {
      return Number.POSITIVE_INFINITY
    } finally {
      this.#asking = false
    }
  }
}

function placesOf(chunk: LogChunk): (LinePlace | undefined)[] {
  chunk.places ??= []
  return chunk.places
}
