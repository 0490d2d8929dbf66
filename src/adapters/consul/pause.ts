import type { Clock } from '../../core/clock.js'
import { onAbort } from '../../internal/abort.js'

/** Waits, or until the signal aborts; it never rejects. */
export function pause(
  clock: Clock,
  delayMs: number,
  options: { readonly signal: AbortSignal; readonly keepAlive: boolean },
): Promise<void> {
  const { signal, keepAlive } = options
  if (signal.aborted || delayMs <= 0) return Promise.resolve()
  return new Promise((resolve) => {
    const done = (): void => {
      cancelTimer()
      stopListening()
      resolve()
    }
    const cancelTimer = clock.setTimer(done, delayMs, { keepAlive })
    const stopListening = onAbort(signal, done)
  })
}
