import type { Closable } from 'spillway/process'
import type { Log } from './counters.ts'

export const defaultHost = '127.0.0.1'

/** Something that runs, and what `closeOnExit` closes of it, in this order. */
export interface Running {
  readonly parts: readonly Closable[]
  close(): Promise<void>
}

export async function closeAll(parts: readonly Closable[]): Promise<void> {
  for (const part of parts) await part.close()
}

export const logToStderr: Log = (level, message) => {
  process.stderr.write(`${new Date().toISOString()} ${level} ${message}\n`)
}
