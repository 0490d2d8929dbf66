export type Unit = 'per second' | 'ms' | 's' | 'items' | '%' | 'count'

/** What a line must not be broken at. */
const nbsp = '\u00a0'

/** A value as people read it, with its unit. */
export function format(value: number | null | undefined, unit: Unit): string {
  if (value === null || value === undefined) return '–'
  switch (unit) {
    case 'per second':
      return `${short(value)}/s`
    case 'ms':
      return value >= 1_000 ? `${short(value / 1_000)}${nbsp}s` : `${short(value)}${nbsp}ms`
    case 's':
      return `${short(value)}${nbsp}s`
    case '%':
      return `${short(value)}${nbsp}%`
    default:
      return short(value)
  }
}

/** What stands at an axis, where the unit is said once. */
export function tick(value: number): string {
  if (Math.abs(value) >= 10_000) return `${trim(value / 1_000)}k`
  return trim(value)
}

export function whole(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

export function time(at: number): string {
  return new Date(at).toLocaleTimeString('en-GB')
}

function short(value: number): string {
  const size = Math.abs(value)
  if (size >= 100_000) return `${trim(value / 1_000)}k`
  if (size >= 100) return whole(value)
  if (size >= 10) return trim(value, 1)
  return trim(value, size === 0 ? 0 : 2)
}

function trim(value: number, digits = 2): string {
  return String(Number(value.toFixed(digits)))
}
