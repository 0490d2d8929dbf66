import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { Closable } from 'spillway/process'
import type { Log } from './counter/counters.ts'
import { redact } from './telemetry/redaction.ts'

export const defaultHost = '127.0.0.1'

/** Something that runs, and what `closeOnExit` closes of it, in this order. */
export interface Running {
  readonly parts: readonly Closable[]
  close(): Promise<void>
}

export async function closeAll(parts: readonly Closable[]): Promise<void> {
  for (const part of parts) await part.close()
}

/** Answers what has been asked; a client that never finishes its request is cut off before the deadline. */
export async function closeHttp(app: FastifyInstance, timeoutMs: number | undefined): Promise<void> {
  const closed = app.close()
  if (timeoutMs === undefined) return closed
  const patience = new AbortController()
  const cut = delay(timeoutMs * 0.9, undefined, { signal: patience.signal }).then(
    () => app.server.closeAllConnections(),
    () => undefined,
  )
  await Promise.race([closed, cut])
  patience.abort()
}

/**
 * Writes what was accepted before anything of it is closed, and is as patient as ever: while they close, buffers make their retries at
 * once, and a store that is back in a second would be too late for all of them. Half of the deadline is for this.
 */
export function patientFlush(...flushes: readonly (() => Promise<unknown>)[]): Closable {
  return {
    name: 'accepted',
    close: async ({ timeoutMs } = {}) => {
      // Who sets no deadline isn't to wait for a store that never comes back.
      if (timeoutMs === undefined) return
      const patience = new AbortController()
      const late = delay(timeoutMs, undefined, { signal: patience.signal }).catch(() => undefined)
      await Promise.race([Promise.all(flushes.map((flush) => flush())), late])
      patience.abort()
    },
  }
}

export const logToStderr: Log = (level, message) => {
  process.stderr.write(`${new Date().toISOString()} ${level} ${redact(message)}\n`)
}
