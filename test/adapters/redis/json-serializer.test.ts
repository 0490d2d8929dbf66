import { isDeepStrictEqual } from 'node:util'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { isSpillwayError } from 'spillway'
import { jsonSerializer } from 'spillway/redis'
import { describe, expect, test } from 'vitest'

const roundTrip = (value: unknown): unknown => jsonSerializer.decode(jsonSerializer.encode(value))

/** What `encode` says. */
function refusalOf(value: unknown): { field?: string; message: string } {
  try {
    jsonSerializer.encode(value)
  } catch (error) {
    if (isSpillwayError(error, 'ERR_OPTION')) return error as never
    throw error
  }
  throw new Error('it was taken')
}

class Point {
  x = 1
}

/** An object of so many levels. */
function deep(levels: number, wrap: (inner: unknown) => unknown): unknown {
  let value: unknown = 1
  for (let i = 0; i < levels; i++) value = wrap(value)
  return value
}

describe('jsonSerializer carries', () => {
  test.each<[string, unknown]>([
    ['null', null],
    ['texts with NUL', 'a\0b'],
    ['half a surrogate pair', '\ud800 \udc00'],
    ['a key that is half a surrogate pair', { '\udfff': '\ud800' }],
    ['line separators', '\u2028\u2029'],
    ['numbers of every size', [0, -1, 5e-324, 1.7976931348623157e308, 2 ** 53 + 2, 0.1]],
    ['what has no elements', [[], {}, '']],
    ['a property called toJSON', { toJSON: 'text' }],
    ['an object that is in two places', ((shared) => [shared, shared])({ a: 1 })],
    ['what is frozen', Object.freeze({ a: Object.freeze([1]) })],
    ['a thousand levels', deep(1000, (inner) => [inner])],
  ])('%s', (_, value) => {
    expect(isDeepStrictEqual(roundTrip(value), value)).toBe(true)
  })

  test('__proto__ as a key, which stays one and changes no prototype', () => {
    const value = JSON.parse('{"__proto__":{"polluted":true},"a":1}')

    const back = roundTrip(value) as Record<string, unknown>

    expect(Object.keys(back)).toEqual(['__proto__', 'a'])
    expect(Object.getPrototypeOf(back)).toBe(Object.prototype)
    expect(back['polluted']).toBeUndefined()
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined()
  })

  test('plain objects and arrays of another realm', () => {
    const foreign = runInNewContext('({ a: [1, { b: null }] })')

    expect(roundTrip(foreign)).toEqual({ a: [1, { b: null }] })
  })
})

describe('jsonSerializer refuses, and says where', () => {
  const hidden = Object.defineProperty({ a: 1 }, 'b', { value: 2, enumerable: false })
  const cycle: Record<string, unknown> = { a: [{}] }
  ;(cycle['a'] as Record<string, unknown>[])[0] = { back: cycle }
  const sparse = [1, 2, 3]
  delete sparse[1]
  test.each<[string, unknown, string, RegExp]>([
    ['undefined', undefined, 'value', /undefined/],
    ['undefined in an object', { a: { b: undefined } }, 'value.a.b', /undefined/],
    ['undefined in an array', [1, undefined], 'value[1]', /undefined/],
    ['NaN', { n: Number.NaN }, 'value.n', /finite/],
    ['Infinity', [Number.NEGATIVE_INFINITY], 'value[0]', /finite/],
    ['-0', { items: [0, -0] }, 'value.items[1]', /-0/],
    ['a bigint', { 'a b': 1n }, 'value["a b"]', /bigint/],
    ['a symbol', [Symbol('s')], 'value[0]', /symbol/],
    ['a function', { f: () => 1 }, 'value.f', /function/],
    ['a Date', { items: [1, 2, 3, { at: new Date(0) }] }, 'value.items[3].at', /a Date comes back/],
    ['a Date that is none', new Date(Number.NaN), 'value', /a Date comes back/],
    ['a Map', new Map([[1, 2]]), 'value', /a Map comes back/],
    ['a Set', { s: new Set() }, 'value.s', /a Set comes back/],
    ['bytes', { b: Buffer.from('a') }, 'value.b', /a Buffer comes back/],
    ['a RegExp', /a/, 'value', /a RegExp/],
    ['an Error', { e: new Error('no') }, 'value.e', /an Error comes back/],
    ['an instance', [new Point()], 'value[0]', /a Point comes back/],
    ['a boxed number', Object(1), 'value', /a Number/],
    ['an object without a prototype', { o: Object.create(null) }, 'value.o', /prototype/],
    ['an object that inherits', Object.create({ a: 1 }), 'value', /plain object/],
    ['a toJSON', { a: { toJSON: () => 1 } }, 'value.a', /toJSON/],
    ['an array with a toJSON', Object.assign([1], { toJSON: () => 1 }), 'value', /toJSON/],
    ['an array with a hole', { a: sparse }, 'value.a[1]', /undefined/],
    ['an array with a property', Object.assign([1], { extra: 1 }), 'value', /nothing but elements/],
    ['an array of a class', class extends Array {}.of(1), 'value', /ordinary array/],
    ['a key that is a symbol', { [Symbol('k')]: 1 }, 'value[Symbol(k)]', /symbols/],
    ['a hidden property', hidden, 'value.b', /ordinary property/],
    [
      'a computed property',
      {
        get now() {
          return 1
        },
      },
      'value.now',
      /ordinary property/,
    ],
    [
      'a getter that throws',
      {
        get now() {
          throw new Error('no')
        },
      },
      'value.now',
      /ordinary property/,
    ],
    ['what contains itself', cycle, 'value', /nor contain itself/],
    ['1001 levels', deep(1001, (inner) => ({ a: inner })), 'value', /deeper than 1000/],
    ['a hundred thousand levels', deep(100_000, (inner) => [inner]), 'value', /deeper than 1000/],
  ])('%s', (_, value, field, rule) => {
    const { field: found, message } = refusalOf(value)

    expect(message).toMatch(rule)
    if (/deeper/.test(message)) expect(found?.startsWith(field)).toBe(true)
    else expect(found).toBe(field)
    expect(message.length).toBeLessThan(600)
  })

  test('what holds a wrong value in more places than could ever be looked at', () => {
    let value: unknown = { wrong: 1n }
    for (let i = 0; i < 60; i++) value = [value, value]

    expect(refusalOf(value).message).toMatch(/bigint/)
  })
})

test('whatever it takes comes back the same, and whatever it refuses it refuses with an OptionError', () => {
  const anything = fc.anything({
    ...{ withBigInt: true, withDate: true, withMap: true, withSet: true, withNullPrototype: true },
    ...{ withSparseArray: true, withTypedArray: true, withObjectString: true, withBoxedValues: true },
    ...{ key: fc.oneof(fc.string(), fc.constant('__proto__'), fc.constant('toJSON')), maxDepth: 4 },
  })
  let taken = 0
  fc.assert(
    fc.property(fc.oneof(anything, fc.jsonValue()), (value) => {
      let text: string | Uint8Array
      try {
        text = jsonSerializer.encode(value)
      } catch (error) {
        expect(isSpillwayError(error, 'ERR_OPTION')).toBe(true)
        return
      }
      taken++
      expect(isDeepStrictEqual(jsonSerializer.decode(text), value)).toBe(true)
    }),
    { numRuns: 3000 },
  )
  // Nothing is proved where hardly anything is taken.
  expect(taken).toBeGreaterThan(1000)
})
