import { type Batch, type EarlierUnits, type Entry, type GrowingEntry, noCohort } from '../internal/batch.js'
import type { Cohort } from '../internal/batch-books.js'
import type { ListNode } from '../internal/linked-list.js'

const newline = 10

/** Lines that came in one turn and leave together. */
export class LogChunk implements GrowingEntry {
  /** In their order; where one was dropped, nothing. */
  readonly lines: (string | undefined)[]
  /** Lines before this one were dropped. */
  head = 0
  /** How important each line is, once somebody asked. */
  levels: number[] | undefined = undefined
  /** What the sink got for it and the chunks that left with it; only the first of them has it. */
  text: string | undefined = undefined
  /** How many lost lines that text tells of. */
  told = 0
  /** Whether it has left the queue. */
  gone = false
  cohort: Cohort = noCohort
  batch: Batch<Entry> | undefined = undefined
  done = false
  units = 1
  earlier: EarlierUnits[] | undefined = undefined
  bytes: number
  place: ListNode<Entry> | undefined = undefined

  constructor(line: string, bytes: number) {
    this.lines = [line]
    this.bytes = bytes
  }

  get key(): undefined {
    return undefined
  }
}

/** The lines of chunks, without those that were dropped. */
export function linesOf(chunks: readonly LogChunk[]): string[] {
  return chunks.flatMap((chunk) => chunk.lines.filter((line) => line !== undefined))
}

/**
 * Lines as one text, each with its newline.
 *
 * Whether a line ends with one is looked up in the joined text: a line is often a rope that a logger put together, and looking
 * into a rope copies it.
 */
export function textOf(chunks: readonly LogChunk[]): string {
  const first = chunks[0] as LogChunk
  const lines = chunks.length === 1 ? first.lines : chunks.flatMap((chunk) => chunk.lines)
  const text = lines.join('')
  let end = 0
  for (const line of lines) {
    if (line === undefined) continue
    end += line.length
    if (line.length === 0 || text.charCodeAt(end - 1) !== newline) return withNewlines(lines)
  }
  return text
}

/** A line with its newline. */
export function ended(line: string): string {
  return line.endsWith('\n') ? line : `${line}\n`
}

function withNewlines(lines: readonly (string | undefined)[]): string {
  let text = ''
  for (const line of lines) if (line !== undefined) text += ended(line)
  return text
}
