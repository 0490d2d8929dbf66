/**
 * Where a component takes its time from. The default is {@link systemClock}; `FakeClock` from `spillway/testing` makes
 * the same component run in virtual time.
 */
export interface Clock {
  /** Monotonic time in milliseconds, fractional. Only differences mean anything. */
  now(): number
  /** Wall time in milliseconds since the epoch. It may jump; used only for what leaves the process. */
  wallNow(): number
  /**
   * Calls `callback` once, `delayMs` milliseconds from now or later.
   *
   * @param options - `keepAlive: false` lets the process exit before the timer fires; the default is true.
   * @returns a function that cancels the timer; calling it again, or after the timer fired, does nothing.
   */
  setTimer(callback: () => void, delayMs: number, options?: { keepAlive?: boolean }): () => void
  /**
   * Calls `callback` at the end of the current turn of the event loop: after the input that this turn brought in, not
   * merely after the current microtask.
   */
  defer(callback: () => void): void
}

/** The longest delay that a platform timer takes; a longer one is waited for in several parts. */
const longestTimerMs = 2_147_483_647

function setTimer(callback: () => void, delayMs: number, options?: { keepAlive?: boolean }): () => void {
  const due = performance.now() + delayMs
  let handle: ReturnType<typeof setTimeout>
  const arm = (leftMs: number, fire: () => void): void => {
    const partMs = Math.min(leftMs, longestTimerMs)
    handle = setTimeout(() => (leftMs > partMs ? arm(leftMs - partMs, fire) : fire()), Math.ceil(partMs))
    if (options?.keepAlive === false) (handle as { unref?: () => void }).unref?.()
  }
  arm(Math.max(0, delayMs), () => {
    // Platform timers count whole milliseconds and fire up to one early. More than that is no rounding but a test's fake
    // timers beside a real `performance.now`, which must fire.
    const earlyMs = due - performance.now()
    if (earlyMs > 0 && earlyMs < 1) arm(earlyMs, callback)
    else callback()
  })
  return () => clearTimeout(handle)
}

/** The end of the turn, where the platform has a name for it; elsewhere the next timer is the nearest thing. */
const defer: (callback: () => void) => void =
  typeof setImmediate === 'function'
    ? (callback) => void setImmediate(callback)
    : (callback) => void setTimeout(callback, 0)

/** The platform's own clock: `performance.now`, `Date.now`, `setTimeout` and `setImmediate`. */
export const systemClock: Clock = {
  now: () => performance.now(),
  wallNow: () => Date.now(),
  setTimer,
  defer,
}
