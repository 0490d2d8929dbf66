import { OptionError } from '../../core/errors.js'
import { describeValue } from '../../core/options.js'
import type { CacheSerializer } from './cache-payload.js'

/** How deep a value may be: each level takes room on the stack. */
const maxDepth = 1000
/** How much of the way to a wrong value an error tells. */
const longestPath = 200

/** Why a value can't be carried. */
interface Problem {
  /** The way to it, its innermost part first. */
  readonly path: string[]
  readonly rule: string
  readonly value: unknown
}

/**
 * JSON, strictly: what comes back equals what was given, or `encode` throws an `OptionError` that says where it wouldn't. JSON by itself makes
 * a text of a Date, nothing of a Map, and `null` of NaN.
 *
 * It takes `null`, booleans, finite numbers but -0, strings, and arrays and plain objects of those, up to 1000 levels deep. Where one object
 * is in two places, it comes back as two.
 */
export const jsonSerializer: CacheSerializer = {
  format: 'json',
  encode(value) {
    let text: string | undefined
    let thrown: unknown
    try {
      text = JSON.stringify(value)
    } catch (error) {
      thrown = error
    }
    // What JSON refuses may be met again and again, without an end; what it takes is as large as its text.
    const problem = problemOf(value, 0, text === undefined ? new Set() : undefined)
    if (problem !== undefined) throw errorOf(problem)
    if (text !== undefined) return text
    const why = thrown instanceof Error ? thrown.message : 'it is left out'
    throw errorOf({ path: [], rule: `must be what JSON can carry (${why})`, value })
  },
  decode(payload) {
    if (typeof payload !== 'string') throw new Error('JSON is a text')
    return JSON.parse(payload)
  },
}

function errorOf({ path, rule, value }: Problem): OptionError {
  const way = path.reverse().join('')
  const field = `value${way.length > longestPath ? `${way.slice(0, longestPath - 1)}…` : way}`
  return new OptionError(field, `${field} ${rule}, got ${describeValue(value)}`)
}

function problemOf(value: unknown, depth: number, seen: Set<object> | undefined): Problem | undefined {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return undefined
    case 'number':
      if (value - value === 0 && !(value === 0 && 1 / value < 0)) return undefined
      return Object.is(value, -0)
        ? { path: [], rule: 'must not be -0, which JSON makes 0 of', value }
        : { path: [], rule: 'must be a finite number: JSON makes null of others', value }
    case 'object':
      return value === null ? undefined : problemOfObject(value, depth, seen)
    default:
      return { path: [], rule: `must be what JSON can carry: it has no ${typeof value}`, value }
  }
}

function problemOfObject(value: object, depth: number, seen: Set<object> | undefined): Problem | undefined {
  if (depth >= maxDepth) {
    const rule = `must not be deeper than ${maxDepth} levels, nor contain itself`
    return { path: [], rule, value: Array.isArray(value) ? [] : {} }
  }
  if (seen?.has(value)) return undefined
  const problem = Array.isArray(value) ? problemOfArray(value, depth, seen) : problemOfPlain(value, depth, seen)
  seen?.add(value)
  return problem
}

function problemOfArray(value: unknown[], depth: number, seen: Set<object> | undefined): Problem | undefined {
  const proto: unknown = Object.getPrototypeOf(value)
  // The prototype of another realm's arrays is an array, too; that of a subclass isn't.
  if (proto !== Array.prototype && !(Array.isArray(proto) && Object.hasOwn(proto, 'copyWithin'))) {
    return { path: [], rule: `must be an ordinary array: ${classOf(value)} comes back as one`, value: [] }
  }
  if (hasToJson(value)) return { path: [], rule: 'must have no toJSON', value: [] }
  for (let i = 0; i < value.length; i++) {
    const element = value[i]
    const problem = problemOf(element, depth + 1, seen)
    if (problem === undefined) continue
    problem.path.push(`[${i}]`)
    return problem
  }
  // Its elements and its length: with holes there are fewer, with other properties more. No hole is left by now, since none is undefined.
  if (Reflect.ownKeys(value).length !== value.length + 1) {
    return { path: [], rule: 'must have no holes and nothing but elements', value: [] }
  }
  return undefined
}

function problemOfPlain(value: object, depth: number, seen: Set<object> | undefined): Problem | undefined {
  const proto: unknown = Object.getPrototypeOf(value)
  if (proto !== Object.prototype && !isForeignPlain(proto)) {
    return proto === null
      ? { path: [], rule: 'must have a prototype: without one it comes back with one', value: {} }
      : { path: [], rule: `must be a plain object: ${classOf(value)} comes back as something else`, value }
  }
  if (hasToJson(value)) return { path: [], rule: 'must have no toJSON', value: {} }
  const keys = Reflect.ownKeys(value)
  for (let i = 0; i < keys.length; i++) {
    const key = keys[i] as string | symbol
    if (typeof key === 'symbol') {
      return { path: [`[${String(key)}]`], rule: 'must not be there: JSON leaves out symbols', value: key }
    }
    const problem = problemOfProperty(value, key) ?? problemOf((value as Record<string, unknown>)[key], depth + 1, seen)
    if (problem === undefined) continue
    problem.path.push(/^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`)
    return problem
  }
  return undefined
}

function problemOfProperty(value: object, key: string): Problem | undefined {
  const { get, set, enumerable } = Object.getOwnPropertyDescriptor(value, key) as PropertyDescriptor
  if (enumerable && get === undefined && set === undefined) return undefined
  return { path: [], rule: 'must be an ordinary property, neither hidden nor computed', value: undefined }
}

/** The prototype of plain objects of another realm: what a test runner or a vm makes. */
function isForeignPlain(proto: unknown): boolean {
  return proto !== null && Object.getPrototypeOf(proto) === null && Object.hasOwn(proto as object, 'isPrototypeOf')
}

function hasToJson(value: object): boolean {
  return typeof (value as { toJSON?: unknown }).toJSON === 'function'
}

function classOf(value: object): string {
  const { constructor: made } = value as { constructor?: { name?: unknown } }
  const name = typeof made === 'function' ? made.name : undefined
  return typeof name === 'string' && name !== ''
    ? `${/^[AEIOU]/.test(name) ? 'an' : 'a'} ${name}`
    : 'an instance of a class'
}
