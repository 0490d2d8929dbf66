import fc from 'fast-check'
import { cacheKey } from 'spillway'
import { expect, test } from 'vitest'
import { argument, isEqual, isSameList, rebuilt } from './support/arguments.js'

const list = fc.array(argument, { maxLength: 3 })

/** Two keys agree just where the lists do. */
function expectFaithful(a: readonly unknown[], b: readonly unknown[]): void {
  expect(cacheKey(...a) === cacheKey(...b), `${cacheKey(...a)} and ${cacheKey(...b)}`).toBe(isSameList(a, b))
}

test('two lists of arguments have one key just where they are equal', () => {
  fc.assert(fc.property(list, list, expectFaithful), { numRuns: 5000 })
})

test('of thousands of lists, those that share a key are equal', () => {
  const seen = new Map<string, readonly unknown[]>()
  let met = 0
  fc.assert(
    fc.property(list, (args) => {
      const key = cacheKey(...args)
      const other = seen.get(key)
      if (other !== undefined) met++
      expect(other === undefined || isSameList(other, args), key).toBe(true)
      seen.set(key, args)
    }),
    { numRuns: 10_000 },
  )
  expect(met).toBeGreaterThan(100)
  expect(seen.size).toBeGreaterThan(1000)
})

test('a key that another list has for a string is not that of the list', () => {
  fc.assert(
    fc.property(list, argument, (args, other) => {
      const key = cacheKey(...args)
      for (const near of [[key], [key.slice(1, -1)], [args], [...args, undefined], [[...args]], [other, key]]) {
        expectFaithful(args, near)
      }
    }),
    { numRuns: 2000 },
  )
})

test('what is nested otherwise, or in another kind of collection, has another key', () => {
  fc.assert(
    fc.property(argument, argument, argument, (a, b, c) => {
      const near = [
        [a, b, c],
        [[a, b], c],
        [a, [b, c]],
        [[a, b, c]],
        [new Set([a, b, c])],
        [new Map([[a, new Map([[b, c]])]])],
        [{ a, b }, c],
        [{ a, b, c }],
        [Object.entries({ a, b, c })],
        [new Map(Object.entries({ a, b, c }))],
        [cacheKey(a), cacheKey(b), cacheKey(c)],
        [`${cacheKey(a)},${cacheKey(b)}`, c],
      ]
      for (const one of near) for (const other of near) expectFaithful(one, other)
    }),
    { numRuns: 150 },
  )
})

test('a value that is made anew in another order has the same key', () => {
  fc.assert(
    fc.property(list, (args) => {
      const again = args.map(rebuilt)

      expect(isSameList(args, again)).toBe(true)
      expect(cacheKey(...again)).toBe(cacheKey(...args))
    }),
    { numRuns: 3000 },
  )
})

test('a structured clone has the same key', () => {
  fc.assert(
    fc.property(list, (args) => {
      // It can't clone a URL, and makes a Buffer a Uint8Array.
      fc.pre(!/URL\(|Buffer\(/.test(cacheKey(...args)))
      const clone: unknown[] = structuredClone(args)

      expect(isEqual(args, clone)).toBe(true)
      expect(cacheKey(...clone)).toBe(cacheKey(...args))
    }),
    { numRuns: 3000 },
  )
})

test('a key stays what it is in UTF-8, and has no control characters', () => {
  fc.assert(
    fc.property(list, (args) => {
      const key = cacheKey(...args)

      expect(Buffer.from(key, 'utf8').toString('utf8')).toBe(key)
      expect([...key].every((character) => character >= ' ')).toBe(true)
    }),
    { numRuns: 2000 },
  )
})
