import { OptionError } from '../core/errors.js'
import { describeValue, shorten } from '../core/options.js'

/** How deep arguments may be nested. */
const maxDepth = 100
/** How long a key may become, in characters: objects that are shared within one another can unfold to any length. */
const maxLength = 1_000_000

/**
 * Makes one key of some values, for caches whose keys have several parts. Keys are equal only where the values are: `1`, `'1'`,
 * `1n`, `null` and `undefined` differ, and so do `['a', 'b']` and `['a,b']`, a `Map` and an object, `{ a: undefined }` and `{}`.
 * The order of an object's keys, of a `Map`'s entries and of a `Set`'s values doesn't matter. `0` and `-0` are one key, as they are
 * in a `Map`.
 *
 * It takes primitives, arrays, plain objects, `Map`, `Set`, `Date`, `URL`, `RegExp`, `ArrayBuffer`, `DataView`, typed arrays and
 * `Buffer`, nested up to 100 deep. A key contains neither control characters nor halves of surrogate pairs, and begins with `(`.
 *
 * @throws OptionError - where it can't tell a value from all others: a function, a symbol, an instance of some other class, an
 *   invalid `Date`, an object that contains itself, or has symbols or hidden properties, or whose getter throws. The message says
 *   where: `args[0].user must be …`. Also where the key would be longer than a million characters.
 *
 * @example
 * ```ts
 * import { cacheKey } from 'spillway'
 *
 * console.log(cacheKey('orders', 42, { page: 1 })) // ("orders",42,{"page":1})
 * ```
 */
export function cacheKey(...args: readonly unknown[]): string {
  return encodeKey(args)
}

/** {@link cacheKey} of a list of arguments. */
export function encodeKey(args: readonly unknown[]): string {
  if (args.length === 1) {
    const only = args[0]
    if (typeof only === 'string' && only.length < maxLength) return `(${quote(only)})`
    if (typeof only === 'number') return `(${only})`
  }
  return new KeyEncoder().encode(args)
}

/** Texts that JSON has as they are. */
const plainText = /^[ !#-[\]-\ud7ff\ue000-\uffff]*$/

/** As in JSON, which also writes half a surrogate pair so that it survives being turned into bytes. */
function quote(text: string): string {
  return plainText.test(text) ? `"${text}"` : JSON.stringify(text)
}

/** Where something is: a property, an index, or what else to write behind the path so far. */
type Step = string | number | { readonly text: string }

/**
 * Writes values so that they can be read back, which is why no two differ and have the same text: a primitive as in a program, an
 * array in brackets, an object in braces, all else as `Kind(…)`. Nobody reads them back.
 *
 * An encoder is good for one key. It holds the way to where it is, and the objects on that way.
 */
class KeyEncoder {
  readonly #steps: Step[] = []
  readonly #ancestors: object[] = []
  #left = maxLength

  encode(args: readonly unknown[]): string {
    try {
      const parts: string[] = []
      for (let i = 0; i < args.length; i++) parts.push(this.#item(args, i))
      return `(${parts.join(',')})`
    } catch (error) {
      if (error instanceof OptionError) throw error
      // A getter, a proxy's trap, a proxy of something that can't be proxied.
      return this.#fail('must be readable', `but reading it threw ${describeThrown(error)}`)
    }
  }

  #item(list: readonly unknown[], index: number): string {
    this.#steps.push(index)
    const text = this.#value(list[index])
    this.#steps.pop()
    return text
  }

  #property(object: object, key: string): string {
    // Before it is read: a getter may throw.
    this.#steps.push(key)
    const text = this.#value((object as Record<string, unknown>)[key])
    this.#steps.pop()
    return text
  }

  /** What is reached otherwise. */
  #member(step: Step, value: unknown): string {
    this.#steps.push(step)
    const text = this.#value(value)
    this.#steps.pop()
    return text
  }

  #value(value: unknown): string {
    switch (typeof value) {
      case 'string':
        return this.#count(quote(value))
      case 'number':
      case 'boolean':
      case 'undefined':
        return this.#count(String(value))
      case 'bigint':
        return this.#count(`${value}n`)
      case 'object':
        return value === null ? this.#count('null') : this.#object(value)
      default:
        return this.#refuse(value)
    }
  }

  #object(value: object): string {
    if (this.#ancestors.includes(value)) this.#fail('must not contain itself')
    if (this.#ancestors.length === maxDepth) this.#fail(`must not be nested deeper than ${maxDepth} levels`)
    this.#ancestors.push(value)
    const text = this.#kind(value, Object.getPrototypeOf(value))
    this.#ancestors.pop()
    return text
  }

  #kind(value: object, prototype: object | null): string {
    if (Array.isArray(value)) return isArrayPrototype(prototype) ? this.#array(value) : this.#refuse(value)
    if (prototype === null || isObjectPrototype(prototype)) return this.#plainObject(value)
    if (prototype === Date.prototype) return this.#date(value as Date)
    if (prototype === Map.prototype) return this.#map(value as Map<unknown, unknown>)
    if (prototype === Set.prototype) return this.#set(value as Set<unknown>)
    if (prototype === globalThis.URL?.prototype) return `URL(${this.#count(quote((value as URL).href))})`
    if (prototype === RegExp.prototype) return this.#regExp(value as RegExp)
    return this.#binary(value, prototype)
  }

  #array(array: readonly unknown[]): string {
    const keys = Reflect.ownKeys(array)
    const { length } = array
    // Indices come first, then `length`.
    if (keys.length !== length + 1) return this.#sparseArray(array, keys)
    if (length > 0 && keys[length - 1] !== String(length - 1)) this.#checkIndices(array, keys)
    this.#charge(length + 2)
    const parts: string[] = []
    for (let i = 0; i < length; i++) parts.push(this.#item(array, i))
    return `[${parts.join(',')}]`
  }

  /** With holes: its length, and what it has. */
  #sparseArray(array: readonly unknown[], keys: readonly PropertyKey[]): string {
    this.#checkIndices(array, keys)
    this.#charge(12 + 2 * keys.length)
    let text = `[${array.length}`
    for (const key of keys) {
      if (key !== 'length') text += `|${this.#count(key as string)}:${this.#item(array, Number(key))}`
    }
    return `${text}|]`
  }

  #checkIndices(array: readonly unknown[], keys: readonly PropertyKey[]): void {
    for (const key of keys) {
      if (key !== 'length' && !isIndex(key, array.length)) this.#refuseProperty(key)
    }
  }

  #plainObject(object: object): string {
    // An own property may be called `__proto__`: it is read like any other, never assigned.
    const keys = Object.keys(object)
    const all = Reflect.ownKeys(object)
    if (all.length !== keys.length) this.#refuseProperty(all.find((key) => !keys.includes(key as string)) ?? '')
    this.#charge(2 + 2 * keys.length)
    keys.sort()
    let text = ''
    for (const key of keys) {
      const name = this.#count(quote(key))
      text += `${text && ','}${name}:${this.#property(object, key)}`
    }
    return `{${text}}`
  }

  #date(date: Date): string {
    this.#checkBare(date)
    const time = Date.prototype.getTime.call(date)
    if (Number.isNaN(time)) this.#fail('must be a valid Date')
    return `Date(${this.#count(String(time))})`
  }

  #map(map: Map<unknown, unknown>): string {
    this.#checkBare(map)
    this.#charge(5 + 2 * map.size)
    const parts: string[] = []
    for (const [key, value] of map) {
      const name = this.#member({ text: `.keys()[${parts.length}]` }, key)
      parts.push(`${name}:${this.#member({ text: `.get(${name.slice(0, 60)})` }, value)}`)
    }
    // Sorted as text: whatever order two equal maps were filled in, it is the same now.
    return `Map(${parts.sort().join(',')})`
  }

  #set(set: Set<unknown>): string {
    this.#checkBare(set)
    this.#charge(5 + set.size)
    const parts: string[] = []
    for (const value of set) parts.push(this.#member({ text: `.values()[${parts.length}]` }, value))
    return `Set(${parts.sort().join(',')})`
  }

  #regExp(regExp: RegExp): string {
    const extra = Reflect.ownKeys(regExp).find((key) => key !== 'lastIndex')
    if (extra !== undefined) this.#refuseProperty(extra)
    return `RegExp(${this.#count(quote(regExp.source))},${regExp.flags},${this.#member('lastIndex', regExp.lastIndex)})`
  }

  #binary(value: object, prototype: object): string {
    if (prototype === ArrayBuffer.prototype)
      return this.#bytes('ArrayBuffer', value, new Uint8Array(value as ArrayBuffer))
    if (!ArrayBuffer.isView(value)) return this.#refuse(value)
    if (prototype === DataView.prototype) return this.#bytes('DataView', value, bytesOf(value))
    if (prototype === globalThis.Buffer?.prototype) return this.#elements('Buffer', value as Uint8Array)
    const name = (value as Uint8Array)[Symbol.toStringTag]
    const isItself =
      (globalThis as unknown as Record<string, { prototype?: unknown } | undefined>)[name]?.prototype === prototype
    return isItself ? this.#elements(name, value as Uint8Array) : this.#refuse(value)
  }

  #bytes(kind: string, holder: object, bytes: Uint8Array): string {
    this.#checkBare(holder)
    return `${kind}(${this.#hex(bytes)})`
  }

  #elements(kind: string, array: Uint8Array): string {
    const { length } = array
    this.#charge(length)
    const keys = Reflect.ownKeys(array)
    const bare = keys.length === length && (length === 0 || keys[length - 1] === String(length - 1))
    if (!bare) this.#refuseProperty(keys.find((key) => !isIndex(key, length)) ?? '')
    if (array.BYTES_PER_ELEMENT === 1) return `${kind}(${this.#hex(array)})`
    // By value, not by bytes: which byte comes first is the machine's business. `join` writes 0 for -0.
    return `${kind}(${this.#count(array.join(','))})`
  }

  #hex(bytes: Uint8Array): string {
    this.#charge(2 * bytes.length)
    let text = ''
    for (const byte of new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length))
      text += byte.toString(16).padStart(2, '0')
    return text
  }

  /** What an object is beside its content would be lost. */
  #checkBare(object: object): void {
    const [extra] = Reflect.ownKeys(object)
    if (extra !== undefined) this.#refuseProperty(extra)
  }

  #count(text: string): string {
    this.#charge(text.length)
    return text
  }

  /** Takes some characters off what is left of the key. */
  #charge(characters: number): void {
    this.#left -= characters
    if (this.#left >= 0) return
    this.#steps.length = 0
    this.#fail(`must make a key of at most ${maxLength} characters`)
  }

  #refuseProperty(key: PropertyKey): never {
    this.#steps.push(typeof key === 'symbol' ? { text: `[${String(key)}]` } : key)
    return this.#fail(
      'must be an enumerable property with a string for a key, of an object or an array that has only such',
    )
  }

  #refuse(value: unknown): never {
    const rule = 'must be a primitive, an array, a plain object, a Map, Set, Date, URL, RegExp or binary data'
    return this.#fail(rule, `got ${typeof value === 'object' ? describeInstance(value) : describeValue(value)}`)
  }

  #fail(rule: string, rest?: string): never {
    const path = shorten(`args${this.#steps.map(describeStep).join('')}`)
    throw new OptionError(path, rest === undefined ? `${path} ${rule}` : `${path} ${rule}, ${rest}`)
  }
}

function bytesOf(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
}

function isIndex(key: PropertyKey, length: number): boolean {
  if (typeof key !== 'string') return false
  const index = Number(key)
  return Number.isInteger(index) && index >= 0 && index < length && String(index) === key
}

/** `Object.prototype`, or that of another realm: what `structuredClone` and `node:vm` return may have that one. */
function isObjectPrototype(prototype: object): boolean {
  return (
    prototype === Object.prototype ||
    (Object.getPrototypeOf(prototype) === null && Object.hasOwn(prototype, 'isPrototypeOf'))
  )
}

/** `Array.prototype`, or that of another realm: the prototype of a class derived from it is no array. */
function isArrayPrototype(prototype: object | null): boolean {
  return prototype === Array.prototype || (Array.isArray(prototype) && Object.hasOwn(prototype, 'push'))
}

function describeStep(step: Step): string {
  if (typeof step === 'object') return step.text
  if (typeof step === 'number') return `[${step}]`
  return /^[A-Za-z_$][\w$]*$/.test(step) ? `.${step}` : `[${quote(step)}]`
}

function describeThrown(error: unknown): string {
  try {
    return shorten(String(error))
  } catch {
    return 'what could not be read either'
  }
}

/** An object by its class: its content may be anything, and of any size. */
function describeInstance(value: unknown): string {
  const name: unknown = (value as { constructor?: { name?: unknown } }).constructor?.name
  return typeof name === 'string' && name !== '' ? `an instance of ${name}` : 'an object with a prototype of its own'
}
