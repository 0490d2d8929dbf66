import { closeSync, existsSync, openSync, readFileSync, writeSync } from 'node:fs'
import type { LedgerEntry } from './evidence.ts'

/** Where a load writes down what it was answered, before it asks for more: what it was told must outlive it. */
export class LedgerFile {
  readonly #file: number

  constructor(path: string) {
    this.#file = openSync(path, 'a')
    // One that was killed may have left a line that is cut short: it is to be the only one that can't be read.
    writeSync(this.#file, '\n')
  }

  /** The system has it once this returns, so that SIGKILL of this process doesn't lose it. */
  append(entry: LedgerEntry): void {
    const line = Buffer.from(`${JSON.stringify(entry)}\n`)
    for (let written = 0; written < line.length; ) written += writeSync(this.#file, line, written)
  }

  close(): void {
    closeSync(this.#file)
  }
}

/** Reads what was written. A line that was cut short is none: who wrote it was killed before it went on. */
export function readLedger(path: string): LedgerEntry[] {
  if (!existsSync(path)) return []
  return readFileSync(path, 'utf8').split('\n').flatMap(entryOf)
}

function entryOf(line: string): LedgerEntry[] {
  try {
    return line === '' ? [] : [JSON.parse(line) as LedgerEntry]
  } catch {
    return []
  }
}
