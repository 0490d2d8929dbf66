import type { Clock } from '../../core/clock.js'
import { onAbort } from '../../internal/abort.js'

/** Waits, or until the signal aborts; it never rejects, and doesn't keep the process alive. */
export function pause(clock: Clock, delayMs: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted || delayMs <= 0) return Promise.resolve()
  return new Promise((resolve) => {
    const done = (): void => {
      cancelTimer()
      stopListening()
      resolve()
    }
    const cancelTimer = clock.setTimer(done, delayMs, { keepAlive: false })
    const stopListening = onAbort(signal, done)
  })
}
