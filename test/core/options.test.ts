import { AsyncBatcher, AsyncWriteBuffer, isSpillwayError, type OptionError } from 'spillway'
import { describe, expect, test } from 'vitest'

function refusalOf(make: () => unknown): OptionError {
  try {
    make()
  } catch (error) {
    if (isSpillwayError(error, 'ERR_OPTION')) return error as OptionError
    throw error
  }
  throw new Error('it was accepted')
}

const withOption = (field: string, value: unknown) => () =>
  new AsyncWriteBuffer(() => undefined, { merge: (old: number) => old, [field]: value } as never)

describe('a refusal reads: field, rule, value, type', () => {
  test.each<[unknown, string]>([
    ['10', '"10" (string)'],
    ['', '"" (string)'],
    ['say "ten"', '"say \\"ten\\"" (string)'],
    [-0.5, '-0.5 (number)'],
    [Number.NaN, 'NaN (number)'],
    [Number.NEGATIVE_INFINITY, '-Infinity (number)'],
    [true, 'true (boolean)'],
    [10n, '10 (bigint)'],
    [Symbol('ms'), 'Symbol(ms) (symbol)'],
    [[1, 'a'], '[1,"a"] (array)'],
    [{ ms: 10 }, '{"ms":10} (object)'],
    [function wait() {}, 'wait() (function)'],
    [
      (
        () => () =>
          undefined
      )(),
      'anonymous() (function)',
    ],
    [new Date(0), '"1970-01-01T00:00:00.000Z" (object)'],
    [{ big: 1n }, '[object Object] (object)'],
    [Object.create(null), '{} (object)'],
  ])('whatever the value is, case %#', (value, got) => {
    const error = refusalOf(withOption('maxWaitMs', value))

    expect(error.message).toBe(`maxWaitMs must be a number between 0 and 2147483647, got ${got}`)
    expect(error.field).toBe('maxWaitMs')
  })

  test('survives a value that can be neither turned into JSON nor into text', () => {
    const loop: Record<string, unknown> = {}
    loop['self'] = loop
    const hostile = {
      toJSON() {
        throw new Error('no JSON')
      },
      toString() {
        throw new Error('no text')
      },
    }

    for (const value of [loop, hostile]) {
      expect(refusalOf(withOption('maxWaitMs', value)).message).toMatch(/, got \[object Object\] \(object\)$/)
    }
  })

  test('is cut to a readable length', () => {
    const { message } = refusalOf(withOption('maxWaitMs', 'x'.repeat(10_000)))

    expect(message).toMatch(/, got "x+… \(string\)$/)
    expect(message.length).toBeLessThan(150)
  })
})

describe('the limits themselves are allowed', () => {
  test.each([
    ['maxWaitMs', 0],
    ['maxWaitMs', 0.5],
    ['maxWaitMs', 2_147_483_647],
    ['capacity', 2_147_483_647],
    ['concurrency', 1],
    ['concurrency', 2_147_483_647],
    ['timeoutGraceMs', 0],
  ])('%s: %d', (field, value) => {
    expect(withOption(field, value)).not.toThrow()
  })
})

test('what is wrong is told before anything is begun, and by every component alike', () => {
  const wrong = { maxBatchSize: '5', maxWaitMs: 'soon' } as never

  const messages = [
    refusalOf(() => new AsyncBatcher((items: number[]) => items, wrong)).message,
    refusalOf(() => new AsyncWriteBuffer(() => undefined, { merge: (old: number) => old, ...(wrong as object) }))
      .message,
  ]

  expect(messages[0]).toBe('maxBatchSize must be a whole number between 1 and 2147483647, got "5" (string)')
  expect(messages[1]).toBe(messages[0])
})
