import { type Batch, type EarlierUnits, type Entry, type GrowingEntry, noCohort } from '../internal/batch.js'
import type { Cohort } from '../internal/batch-books.js'
import type { ListNode } from '../internal/linked-list.js'

const newline = 10
/** How many gaps a chunk keeps before it closes them. */
const gapsAllowed = 64

/** Where a line is, and how important it is. */
export interface LinePlace {
  readonly chunk: LogChunk
  index: number
  readonly level: number
}

/** Lines that came in one turn, or one millisecond, and leave together. */
export class LogChunk implements GrowingEntry {
  /** In their order; where one was dropped, nothing. */
  lines: (string | undefined)[]
  /** Lines before this one were dropped. */
  head = 0
  /** The place of each line, once somebody asked how important it is. */
  places: (LinePlace | undefined)[] | undefined = undefined
  /** Its place among all chunks of its buffer. */
  readonly order: number
  /** Whether listeners wrote it while they were told of other lines. */
  readonly echo: boolean
  /** What the sink got for it and the chunks that left with it; only the first of them has it. */
  text: string | undefined = undefined
  /** Its place among the chunks that wait. */
  waiting: ListNode<LogChunk> | undefined = undefined
  /** Its lines as one text, made ahead, and of how many lines. */
  laid: string | undefined = undefined
  laidLines = 0
  /** How many lost lines `text` tells of. */
  told = 0
  #gaps = 0
  cohort: Cohort = noCohort
  batch: Batch<Entry> | undefined = undefined
  done = false
  units = 1
  earlier: EarlierUnits[] | undefined = undefined
  bytes: number
  place: ListNode<Entry> | undefined = undefined

  constructor(line: string, bytes: number, order: number, echo: boolean) {
    this.lines = [line]
    this.bytes = bytes
    this.order = order
    this.echo = echo
  }

  get key(): undefined {
    return undefined
  }

  /** Makes its text ahead of its time. */
  layOut(): void {
    if (this.laid !== undefined && this.laidLines === this.lines.length) return
    this.laid = joined(this.lines)
    this.laidLines = this.lines.length
  }

  /** Its lines as one text, each with its newline. */
  takeText(): string {
    this.layOut()
    const text = this.laid as string
    this.laid = undefined
    return text
  }

  /** Takes out a line. */
  drop(index: number): string {
    this.laid = undefined
    const line = this.lines[index] as string
    this.lines[index] = undefined
    if (this.places !== undefined) this.places[index] = undefined
    if (++this.#gaps > gapsAllowed && this.#gaps * 2 > this.lines.length) this.#closeGaps()
    return line
  }

  /** Without it, a chunk whose lines go as fast as they come would remember each of them. */
  #closeGaps(): void {
    const { lines, places } = this
    this.lines = []
    this.places = places && []
    for (let index = 0; index < lines.length; index++) {
      if (lines[index] === undefined) continue
      const place = places?.[index]
      if (place !== undefined) {
        place.index = this.lines.length
        ;(this.places as LinePlace[])[place.index] = place
      }
      this.lines.push(lines[index])
    }
    this.head = 0
    this.#gaps = 0
  }
}

/** The lines of chunks, without those that were dropped. */
export function linesOf(chunks: readonly LogChunk[]): string[] {
  return chunks.flatMap((chunk) => chunk.lines.filter((line) => line !== undefined))
}

/** The lines of chunks as one text, each with its newline. */
export function textOf(chunks: readonly LogChunk[]): string {
  let text = ''
  for (const chunk of chunks) text += chunk.takeText()
  return text
}

/** A line with its newline. */
export function ended(line: string): string {
  return line.endsWith('\n') ? line : `${line}\n`
}

/**
 * Lines are put together one by one, which makes a rope that is copied once, where `join` would copy a list of the lines first. Whether
 * a line ends with a newline is looked up in the whole: it is often a rope itself, and looking into one copies it.
 */
function joined(lines: readonly (string | undefined)[]): string {
  let text = ''
  for (const line of lines) if (line !== undefined) text += line
  let end = 0
  for (const line of lines) {
    if (line === undefined) continue
    end += line.length
    if (line.length === 0 || text.charCodeAt(end - 1) !== newline) return withNewlines(lines)
  }
  return text
}

function withNewlines(lines: readonly (string | undefined)[]): string {
  let text = ''
  for (const line of lines) if (line !== undefined) text += ended(line)
  return text
}
