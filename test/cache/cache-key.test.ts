import { runInNewContext } from 'node:vm'
import { cacheKey, isSpillwayError, type OptionError } from 'spillway'
import { describe, expect, it } from 'vitest'

/** The error of a key that can't be made. */
function refusal(...args: readonly unknown[]): OptionError {
  try {
    cacheKey(...args)
  } catch (error) {
    if (isSpillwayError(error, 'ERR_OPTION')) return error as OptionError
    throw error
  }
  throw new Error('there is a key')
}

/** An array with holes but for some items, which are undefined. */
function holed(length: number, ...items: readonly number[]): unknown[] {
  const array = new Array<unknown>(length)
  for (const item of items) array[item] = undefined
  return array
}

function nested(depth: number): unknown {
  let value: unknown = 1
  for (let i = 0; i < depth; i++) value = [value]
  return value
}

describe('cacheKey', () => {
  it.each<[readonly unknown[], string]>([
    [[], '()'],
    [['user', 42], '("user",42)'],
    [[1, '1', 1n, true, null, undefined], '(1,"1",1n,true,null,undefined)'],
    [[Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY], '(NaN,Infinity,-Infinity)'],
    [['"\\\n\ud800é'], '("\\"\\\\\\n\\ud800é")'],
    [[[1, [2]], []], '([1,[2]],[])'],
    [[{ b: [{}], a: undefined }], '({"a":undefined,"b":[{}]})'],
    [
      [
        new Map<unknown, unknown>([
          [2, { x: 1 }],
          ['1', 0],
        ]),
      ],
      '(Map("1":0,2:{"x":1}))',
    ],
    [[new Set([2, 1])], '(Set(1,2))'],
    [[new Date(5)], '(Date(5))'],
    [[/a"/gi], '(RegExp("a\\"",gi,0))'],
    [[new URL('http://host/a?b=1')], '(URL("http://host/a?b=1"))'],
    [[Buffer.from([1, 255]), new Uint8Array([1, 255])], '(Buffer(01ff),Uint8Array(01ff))'],
    [[new Int16Array([-1]), new Float64Array([0.5, -0])], '(Int16Array(-1),Float64Array(0.5,0))'],
    [[new ArrayBuffer(1), new DataView(new ArrayBuffer(3), 1)], '(ArrayBuffer(00),DataView(0000))'],
  ])('makes of %o the key %s', (args, key) => {
    expect(cacheKey(...args)).toBe(key)
  })

  it('takes 0 and -0 for one, as a Map does', () => {
    expect(cacheKey(-0)).toBe(cacheKey(0))
    expect(cacheKey([-0], { a: -0 })).toBe(cacheKey([0], { a: 0 }))
  })

  it('tells what is not there from what is undefined', () => {
    const keys = [[], [undefined], holed(1), [1], holed(2), holed(2, 1), holed(2, 0), {}, { a: undefined }]

    expect(new Set(keys.map((value) => cacheKey(value))).size).toBe(keys.length)
  })

  it('holds a list with a billion holes for what it is', () => {
    expect(cacheKey(new Array(1_000_000_000))).not.toBe(cacheKey(new Array(1_000_000_001)))
  })

  it('takes a property called __proto__ for one like any other', () => {
    const hostile = JSON.parse('{"__proto__":{"admin":true}}')

    expect(cacheKey(hostile)).toBe('({"__proto__":{"admin":true}})')
    expect(cacheKey(hostile)).not.toBe(cacheKey({}))
  })

  it('takes objects without a prototype, and of another realm, for plain ones', () => {
    const bare = Object.assign(Object.create(null), { a: [1] })

    expect(cacheKey(bare)).toBe(cacheKey({ a: [1] }))
    expect(cacheKey(runInNewContext('({ a: [1] })'))).toBe(cacheKey({ a: [1] }))
  })

  it('does not change with what is added to prototypes', () => {
    const args = [{ a: holed(3, 0, 2) }, new Map([[1, 2]])]
    const before = cacheKey(...args)
    const pollute = (value: unknown): void => {
      for (const [prototype, name] of [
        [Object.prototype, 'extra'],
        [Object.prototype, 'toJSON'],
        [Array.prototype, '1'],
      ] as const) {
        if (value === undefined) Reflect.deleteProperty(prototype, name)
        else Object.defineProperty(prototype, name, { value, enumerable: true, configurable: true, writable: true })
      }
    }

    pollute(() => 'polluted')
    let during: string
    try {
      during = cacheKey(...args)
    } finally {
      pollute(undefined)
    }

    expect(during).toBe(before)
  })

  it('reads a getter once', () => {
    let reads = 0
    const value = {
      get at(): number {
        return ++reads
      },
    }

    expect(cacheKey(value)).toBe('({"at":1})')
    expect(reads).toBe(1)
  })

  it('unfolds what is shared, as far as that is not endless', () => {
    const shared = { a: 1 }

    expect(cacheKey(shared, [shared, shared])).toBe('({"a":1},[{"a":1},{"a":1}])')
  })
})

class User {
  id = 1
}

describe('cacheKey refuses', () => {
  it.each<[string, unknown, string, RegExp]>([
    ['a function', { user: { load: User } }, 'args[0].user.load', /got User\(\) \(function\)$/],
    ['a symbol', [Symbol('x')], 'args[0][0]', /got Symbol\(x\) \(symbol\)$/],
    [
      'an instance of a class',
      { user: new User() },
      'args[0].user',
      /must be a primitive, .*, got an instance of User$/,
    ],
    ['one derived from a kind that it knows', new (class Tags extends Set {})(), 'args[0]', /an instance of Tags$/],
    ['one derived from an array', new (class Rows extends Array {})(), 'args[0]', /an instance of Rows$/],
    ['one with a prototype by hand', Object.create(Object.create(null)), 'args[0]', /a prototype of its own$/],
    ['a boxed primitive', { 'a b': new String('x') }, 'args[0]["a b"]', /an instance of String$/],
    ['a promise', Promise.resolve(1), 'args[0]', /an instance of Promise$/],
    ['an error', new Error('x'), 'args[0]', /an instance of Error$/],
    ['a WeakMap', new WeakMap(), 'args[0]', /an instance of WeakMap$/],
    ['an invalid date', [new Date(Number.NaN)], 'args[0][0]', /must be a valid Date$/],
    [
      'a property with a symbol for a key',
      { [Symbol('s')]: 1 },
      'args[0][Symbol(s)]',
      /must be an enumerable property/,
    ],
    ['a hidden property', Object.defineProperty({ a: 1 }, 'b', { value: 1 }), 'args[0].b', /must be an enumerable/],
    ['an array with a name', Object.assign([1], { total: 5 }), 'args[0].total', /must be an enumerable/],
    ['holes and a name', Object.assign(holed(2, 0), { total: 5 }), 'args[0].total', /must be an enumerable/],
    ['a map with a name', Object.assign(new Map(), { total: 5 }), 'args[0].total', /must be an enumerable/],
    ['bytes with a name', Object.assign(new Uint8Array(1), { total: 5 }), 'args[0].total', /must be an enumerable/],
    [
      'bytes that lie',
      Object.defineProperty(new Uint8Array(1), 'length', { value: 2 }),
      'args[0].length',
      /enumerable/,
    ],
    ['a function in a map', new Map([[{ id: 1 }, { load: User }]]), 'args[0].get({"id":1}).load', /function/],
    ['a function in a key of a map', new Map([[{ load: User }, 1]]), 'args[0].keys()[0].load', /function/],
    ['a function in a set', new Set([1, User]), 'args[0].values()[1]', /function/],
    ['a proxy of a map', new Proxy(new Map(), {}), 'args[0]', /must be readable, but reading it threw TypeError/],
  ])('%s', (_what, value, field, message) => {
    const error = refusal(value)

    expect(error.field).toBe(field)
    expect(error.message.startsWith(`${field} must be `)).toBe(true)
    expect(error.message).toMatch(message)
  })

  it('what throws when it is read', () => {
    const hostile = {
      get user(): never {
        throw new Error('not yours')
      },
    }
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()

    expect(refusal(1, [hostile]).message).toBe(
      'args[1][0].user must be readable, but reading it threw Error: not yours',
    )
    expect(refusal({ proxy }).message).toMatch(/^args\[0\]\.proxy must be readable, but reading it threw TypeError/)
  })

  it('what contains itself', () => {
    const parent: { children: unknown[] } = { children: [] }
    parent.children.push({ parent })

    expect(refusal(parent).message).toBe('args[0].children[0].parent must not contain itself')
  })

  it('what is nested deeper than 100 levels, without filling the stack', () => {
    expect(cacheKey(nested(100))).toBe(`(${'['.repeat(100)}1${']'.repeat(100)})`)
    expect(refusal(nested(101)).message).toMatch(/^args\[0\]\[0\].*… must not be nested deeper than 100 levels$/)
    expect(refusal(nested(100_000)).message).toMatch(/deeper than 100 levels$/)
  })

  it('what would make a key of more than a million characters, at once', () => {
    let unfolding: unknown = []
    for (let i = 0; i < 90; i++) unfolding = [unfolding, unfolding]
    const tooLong = 'args must make a key of at most 1000000 characters'

    expect(refusal(unfolding).message).toBe(tooLong)
    expect(refusal('x'.repeat(1_000_001)).message).toBe(tooLong)
    expect(refusal(new Uint8Array(500_001)).message).toBe(tooLong)
    expect(refusal(new Array(1_000_001).fill(1)).message).toBe(tooLong)
    expect(cacheKey('x'.repeat(999_000), [1]).length).toBe(999_008)
  })
})
