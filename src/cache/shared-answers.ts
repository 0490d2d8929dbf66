import type { CachedValue, CacheWriteOutcome, CurrentMark } from '../core/ports.js'

/** Whether it is what the port says of a key. */
export function isCachedValue(answer: unknown): answer is CachedValue {
  if (typeof answer !== 'object' || answer === null) return false
  const { value, version, ageMs, freshMs, keptMs, marks } = answer as Partial<Record<keyof CachedValue, unknown>>
  return (
    typeof version === 'string' &&
    (version !== '' || value === undefined) &&
    isTime(ageMs) &&
    isTime(freshMs) &&
    isTime(keptMs) &&
    Array.isArray(marks) &&
    marks.every(isNamed)
  )
}

function isTime(ms: unknown): boolean {
  return typeof ms === 'number' && !Number.isNaN(ms)
}

function isNamed(one: { readonly name?: unknown; readonly mark?: unknown } | null | undefined): boolean {
  return typeof one?.name === 'string' && typeof one.mark === 'string'
}

/** Whether it says what became of a write. */
export function isOutcome(answer: unknown): answer is CacheWriteOutcome {
  if (typeof answer !== 'object' || answer === null) return false
  const { written, version } = answer as Partial<Record<keyof CacheWriteOutcome, unknown>>
  return typeof written === 'boolean' && typeof version === 'string' && (!written || version !== '')
}

/** A write without a condition is made. */
export function isWritten(answer: unknown): answer is CacheWriteOutcome {
  return isOutcome(answer) && answer.written
}

/** Whether it is the version of a tombstone. */
export function isVersion(answer: unknown): answer is string {
  return typeof answer === 'string' && answer !== ''
}

/** Whether it is what the port says of a mark. */
export function isMark(answer: unknown): answer is CurrentMark {
  if (typeof answer !== 'object' || answer === null) return false
  const { mark, renewedMs } = answer as Partial<Record<keyof CurrentMark, unknown>>
  return typeof mark === 'string' && mark !== '' && typeof renewedMs === 'number' && renewedMs >= 0
}
