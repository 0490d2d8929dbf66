import fc from 'fast-check'

/** Values that a key can be made of, with texts and shapes that look like parts of keys. */
export const argument: fc.Arbitrary<unknown> = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 3, depthIdentifier: 'value' },
    { weight: 6, arbitrary: leaf() },
    { weight: 2, arbitrary: fc.array(tie('value'), { maxLength: 3 }) },
    { weight: 1, arbitrary: sparseArray(tie('value')) },
    { weight: 2, arbitrary: fc.dictionary(text(), tie('value'), { maxKeys: 3, noNullPrototype: false }) },
    {
      weight: 1,
      arbitrary: fc.array(fc.tuple(tie('value'), tie('value')), { maxLength: 3 }).map((all) => new Map(all)),
    },
    { weight: 1, arbitrary: fc.array(tie('value'), { maxLength: 3 }).map((all) => new Set(all)) },
  ),
})).value

function leaf(): fc.Arbitrary<unknown> {
  const small = fc.integer({ min: -2, max: 2 })
  const bytes = fc.uint8Array({ maxLength: 2 })
  return fc.oneof(
    { weight: 4, arbitrary: text() },
    { weight: 3, arbitrary: fc.oneof(small, fc.double()) },
    small.map(BigInt),
    small.map(String),
    fc.boolean(),
    fc.constantFrom(null, undefined, -0, Number.NaN, Number.POSITIVE_INFINITY),
    small.map((ms) => new Date(ms)),
    fc.constantFrom('', 'a', ',', '%22', '(1)', '?a=1').map((path) => new URL(`http://host/${path}`)),
    fc
      .constantFrom('a', '"', '\\/', ',')
      .chain((source) => fc.constantFrom('', 'g', 'i').map((f) => new RegExp(source, f))),
    bytes,
    bytes.map((all) => Buffer.from(all)),
    bytes.map((all) => Int8Array.from(all)),
    bytes.map((all) => Float64Array.from(all)),
    bytes.map((all) => BigInt64Array.from(all, BigInt)),
    bytes.map((all) => Uint8Array.from(all).buffer),
    bytes.map((all) => new DataView(Uint8Array.from(all).buffer)),
  )
}

/** Mostly what a key has between its parts; any string now and then. */
function text(): fc.Arbitrary<string> {
  const parts = [
    'a',
    '1',
    ',',
    '"',
    '\\',
    '(',
    ')',
    '[',
    ']',
    '{',
    '}',
    ':',
    '|',
    'n',
    '\0',
    '\ud800',
    '__proto__',
    'null',
  ]
  return fc.oneof(
    { weight: 4, arbitrary: fc.array(fc.constantFrom(...parts), { maxLength: 3 }).map((all) => all.join('')) },
    { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 4 }) },
    { weight: 1, arbitrary: fc.constantFrom('undefined', 'true', 'NaN', 'Map()', '1n', '0', '-0', 'Date(1)', '[1|]') },
  )
}

function sparseArray(value: fc.Arbitrary<unknown>): fc.Arbitrary<unknown[]> {
  return fc.array(fc.option(value, { nil: undefined }), { maxLength: 3 }).chain((items) =>
    fc.array(fc.boolean(), { minLength: items.length, maxLength: items.length }).map((kept) => {
      const array = new Array<unknown>(items.length)
      for (const [i, item] of items.entries()) if (kept[i] === true) array[i] = item
      return array
    }),
  )
}

/** Whether two values have the same structure: written for its clearness, and with nothing in common with how keys are made. */
export function isEqual(a: unknown, b: unknown): boolean {
  if (a === b || (Number.isNaN(a) && Number.isNaN(b))) return true
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false
  if (kindOf(a) !== kindOf(b)) return false
  if (a instanceof Date) return a.getTime() === (b as Date).getTime()
  if (a instanceof URL) return a.href === (b as URL).href
  if (a instanceof RegExp) return String(a) === String(b) && a.lastIndex === (b as RegExp).lastIndex
  if (a instanceof ArrayBuffer || a instanceof DataView)
    return isSameList(itemsOf(a), itemsOf(b as ArrayBuffer | DataView))
  if (ArrayBuffer.isView(a)) return isSameList(Array.from(a as Uint8Array), Array.from(b as Uint8Array))
  if (a instanceof Set) return isSameBag([...a], [...(b as Set<unknown>)], isEqual)
  if (a instanceof Map) return isSameBag([...a], [...(b as Map<unknown, unknown>)], isSameList)
  if (Array.isArray(a) && a.length !== (b as unknown[]).length) return false
  return isSameBag(Object.entries(a), Object.entries(b), isSameList)
}

function kindOf(value: object): unknown {
  return Object.getPrototypeOf(value) ?? Object.prototype
}

function itemsOf(bytes: ArrayBuffer | DataView): unknown[] {
  return Array.from(
    bytes instanceof DataView
      ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      : new Uint8Array(bytes),
  )
}

export function isSameList(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a.length === b.length && a.every((item, i) => isEqual(item, b[i]))
}

/** Whether each item of one has a counterpart of its own in the other: equality is transitive, so any one will do. */
function isSameBag<T>(a: readonly T[], b: readonly T[], isSame: (a: T, b: T) => boolean): boolean {
  if (a.length !== b.length) return false
  const left = [...b]
  return a.every((item) => {
    const at = left.findIndex((other) => isSame(item, other))
    if (at >= 0) left.splice(at, 1)
    return at >= 0
  })
}

/** The same value, made anew, with everything that has no order in another order. */
export function rebuilt(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (value instanceof Map) return new Map([...value].reverse().map(([k, v]) => [rebuilt(k), rebuilt(v)]))
  if (value instanceof Set) return new Set([...value].reverse().map(rebuilt))
  if (value instanceof URL) return new URL(value.href)
  if (Buffer.isBuffer(value)) return Buffer.from(value)
  if (Array.isArray(value)) {
    const array = new Array<unknown>(value.length)
    for (const key of Object.keys(value)) array[Number(key)] = rebuilt(value[Number(key)])
    return array
  }
  if (kindOf(value) !== Object.prototype) return structuredClone(value)
  const object: Record<string, unknown> = Object.create(Object.getPrototypeOf(value) === null ? Object.prototype : null)
  for (const [key, item] of Object.entries(value).reverse()) {
    Object.defineProperty(object, key, { value: rebuilt(item), enumerable: true, configurable: true, writable: true })
  }
  return object
}
