import type { PartOfTurn, Turns } from './contest.ts'
import { LogFile } from './log-file.ts'

/** How the lines of a turn come, and what of it is timed. */
export interface LogWork {
  /** How many lines come in one turn of the event loop, and how many such turns there are. */
  readonly linesAtOnce: number
  readonly times: number
  /** `'write'`: what the callers of a turn wait for, added up. `'arrival'`: from the first line until the file has the last. */
  readonly until: 'write' | 'arrival'
}

/** Something that takes lines, set up by a contender. */
export interface LogWriter {
  /** Writes the lines from one to before another. Each contender has a loop of its own. */
  readonly write: (from: number, to: number) => void
  /** Called behind the last line: hands over what would otherwise wait for more. */
  readonly last?: () => void
  /** Throws when lines were lost. */
  readonly check?: () => void
  readonly close?: () => Promise<unknown> | undefined
}

/** Sets a writer up on a file of its own; each turn writes all its lines, waits until they are there, and then the file is compared. */
export async function logTurns(
  lines: readonly string[],
  { linesAtOnce, times, until }: LogWork,
  make: (file: LogFile) => LogWriter | Promise<LogWriter>,
): Promise<Turns> {
  const bytes = Buffer.from(
    Array.from({ length: linesAtOnce * times }, (_, i) => lines[i % lines.length] as string).join(''),
  )
  const file = new LogFile()
  const { write, last, check, close } = await make(file)
  if (close !== undefined) file.onRemoval(close)
  const finish = async (): Promise<void> => {
    last?.()
    await file.has(bytes.length)
  }
  return {
    async: true,
    turn:
      until === 'arrival'
        ? async () => {
            for (let time = 0; time < times; time++) {
              const from = (time * linesAtOnce) % lines.length
              write(from, from + linesAtOnce)
              await nextTurn()
            }
            await finish()
          }
        : async (): Promise<PartOfTurn> => {
            const start = performance.now()
            let overriddenDuration = 0
            for (let time = 0; time < times; time++) {
              const from = (time * linesAtOnce) % lines.length
              const called = performance.now()
              write(from, from + linesAtOnce)
              overriddenDuration += performance.now() - called
              await nextTurn()
            }
            await finish()
            return { overriddenDuration, overriddenIterationCost: performance.now() - start }
          },
    check: () => {
      check?.()
      file.expect(bytes)
    },
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
