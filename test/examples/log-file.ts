import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { createLogging, type Logging, type LoggingOptions } from '../../examples/counter-billing/telemetry/logging.ts'

/** A line of a log, as it is written. */
export type LogLine = Readonly<Record<string, unknown>> & { readonly level: number; readonly msg: string }

/** A file that goes with the test. */
export function temporaryFile(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'counter-log-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return join(folder, name)
}

export function linesOf(file: string): LogLine[] {
  const lines = readFileSync(file, 'utf8').split('\n')
  // Whatever became of the process, no line is torn.
  if (lines.pop() !== '') throw new Error(`${file} doesn't end with a newline`)
  return lines.map((line) => JSON.parse(line) as LogLine)
}

/** A log in a file that goes with the test, and what is in it once all is written. */
export function startLog(level?: LoggingOptions['level']): Logging & { written(): Promise<LogLine[]>; file: string } {
  const file = temporaryFile('service.log')
  const logging = createLogging({ role: 'test', file, level })
  onTestFinished(async () => {
    for (const part of logging.parts) await part.close()
  })
  const written = async (): Promise<LogLine[]> => {
    await logging.lines.flush()
    return linesOf(file)
  }
  return { ...logging, file, written }
}
