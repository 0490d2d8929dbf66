import { OptionError } from './errors.js'

/** The largest duration that an option takes, in milliseconds: 2^31 - 1, nearly 25 days. */
export const maxDurationMs = 2_147_483_647
/** The largest count that an option takes: 2^31 - 1. */
export const maxCount = 2_147_483_647

/** Says what was given, cut to a readable length, for an error. */
export function describeValue(value: unknown): string {
  const type = value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value
  let text: string
  try {
    text =
      typeof value === 'string'
        ? JSON.stringify(value)
        : type === 'object' || type === 'array'
          ? (JSON.stringify(value) ?? String(value))
          : type === 'function'
            ? `${(value as { name: string }).name || 'anonymous'}()`
            : String(value)
  } catch {
    text = Object.prototype.toString.call(value)
  }
  return `${shorten(text)} (${type})`
}

/** Cuts a text to a readable length. */
export function shorten(text: string): string {
  return text.length > 60 ? `${text.slice(0, 59)}…` : text
}

/** Throws an {@link OptionError} that reads `field rule, got value (type)`. */
export function failOption(field: string, rule: string, value: unknown): never {
  throw new OptionError(field, `${field} ${rule}, got ${describeValue(value)}`)
}

/** An option's value, or its default where there is none: `null` is a value, and a wrong one. */
export function valueOr<T>(value: T | undefined, fallback: T): T {
  return value === undefined ? fallback : value
}

/** Checks a duration in milliseconds, fractions allowed. */
export function checkDuration(field: string, value: number, min = 0, max: number = maxDurationMs): number {
  if (typeof value !== 'number' || !(value >= min && value <= max)) {
    failOption(field, `must be a number between ${min} and ${max}`, value)
  }
  return value
}

/** Checks a count: a whole number. */
export function checkCount(field: string, value: number, min = 1, max: number = maxCount): number {
  if (!Number.isInteger(value) || value < min || value > max) {
    failOption(field, `must be a whole number between ${min} and ${max}`, value)
  }
  return value
}

/** Checks a ratio: a number from 0 to 1. */
export function checkRatio(field: string, value: number): number {
  return checkDuration(field, value, 0, 1)
}

/** Checks a flag. */
export function checkBoolean(field: string, value: boolean): boolean {
  if (typeof value !== 'boolean') failOption(field, 'must be true or false', value)
  return value
}

/** Checks a required function. */
export function checkFunction<F>(field: string, value: F): F {
  if (typeof value !== 'function') failOption(field, 'must be a function', value)
  return value
}

/** Checks a function that may be left out. */
export function checkOptionalFunction<F>(field: string, value: F): F {
  if (value !== undefined && typeof value !== 'function') failOption(field, 'must be a function', value)
  return value
}

/** Checks one of several strings. */
export function checkOneOf<T extends string>(field: string, value: T, allowed: readonly T[]): T {
  if (!allowed.includes(value)) failOption(field, `must be one of '${allowed.join("', '")}'`, value)
  return value
}

/** Checks that an options argument is an object, where it is given at all. */
export function checkOptions(field: string, value: unknown): void {
  if (value !== undefined && (typeof value !== 'object' || value === null))
    failOption(field, 'must be an object', value)
}

/** Checks an `AbortSignal` that may be left out. */
export function checkSignal(value: AbortSignal | undefined): AbortSignal | undefined {
  if (value !== undefined && !isSignal(value)) failOption('signal', 'must be an AbortSignal', value)
  return value
}

/** By its shape: signals come from other realms and from polyfills. */
function isSignal(value: AbortSignal): boolean {
  return (
    typeof value === 'object' &&
    value !== null &&
    typeof value.aborted === 'boolean' &&
    typeof value.addEventListener === 'function'
  )
}

/** What happens to new work when there is no room: refuse it, drop it and count it, or drop the oldest for it. */
export type Overflow = 'reject' | 'drop-newest' | 'drop-oldest'

/** All values of {@link Overflow}. */
export const overflows: readonly Overflow[] = ['reject', 'drop-newest', 'drop-oldest']
