import { inspect } from 'node:util'
import {
  BatchResultError,
  ClosedError,
  CursorError,
  FullError,
  isSpillwayError,
  OptionError,
  SpillwayError,
  StoreError,
  TimeoutError,
  TokenError,
  TooLargeError,
} from 'spillway'
import { describe, expect, test, vi } from 'vitest'

const cause = new Error('the original')

/** One of each kind, with what it must say of itself. */
const kinds = [
  { error: new ClosedError('it is closed', { cause }), name: 'ClosedError', code: 'ERR_CLOSED', retryable: false },
  { error: new FullError('it is full', 10, { cause }), name: 'FullError', code: 'ERR_FULL', retryable: true },
  { error: new TimeoutError('too slow', 50, { cause }), name: 'TimeoutError', code: 'ERR_TIMEOUT', retryable: true },
  {
    error: new BatchResultError('no array', { cause }),
    name: 'BatchResultError',
    code: 'ERR_BATCH_RESULT',
    retryable: false,
  },
  {
    error: new TooLargeError('too large', 100, { cause }),
    name: 'TooLargeError',
    code: 'ERR_TOO_LARGE',
    retryable: false,
  },
  { error: new StoreError('store down', { cause }), name: 'StoreError', code: 'ERR_STORE', retryable: true },
  { error: new TokenError('token', 'no token', { cause }), name: 'TokenError', code: 'ERR_TOKEN', retryable: false },
  {
    error: new CursorError('no cursor', 'after', 'malformed', { cause }),
    name: 'CursorError',
    code: 'ERR_CURSOR',
    retryable: false,
  },
] as const

describe.each(kinds)('$name', ({ error, name, code, retryable }) => {
  test('tells its name, its code, whether it is retryable, and its cause', () => {
    expect(error).toMatchObject({ name, code, retryable })
    expect(error.cause).toBe(cause)
    expect(error).toBeInstanceOf(SpillwayError)
    expect(error).toBeInstanceOf(Error)
  })

  test('shows its name in the stack, in a string and when it is inspected', () => {
    expect(error.stack?.split('\n')[0]).toBe(`${name}: ${error.message}`)
    expect(String(error)).toBe(`${name}: ${error.message}`)
    expect(inspect(error)).toContain(`${name}: ${error.message}`)
    expect(inspect(error)).toContain(code)
    expect(inspect(error)).toContain('the original')
  })

  test('is a SpillwayError of its own code and of no other', () => {
    expect(isSpillwayError(error)).toBe(true)
    expect(isSpillwayError(error, code)).toBe(true)
    expect(isSpillwayError(error, 'ERR_NO_INSTANCE')).toBe(false)
  })

  test('keeps neither name nor brand among its own keys', () => {
    expect(Object.keys(error)).toContain('code')
    expect(Object.keys(error)).not.toContain('name')
    expect(Object.getOwnPropertySymbols(error)).toEqual([])
  })
})

test('an OptionError names the field', () => {
  const error = new OptionError('maxWaitMs', 'maxWaitMs must be a number')

  expect(error).toMatchObject({
    name: 'OptionError',
    code: 'ERR_OPTION',
    field: 'maxWaitMs',
    message: 'maxWaitMs must be a number',
    retryable: false,
  })
})

test('the limits stand on the errors that are about limits', () => {
  expect(new FullError('full', 7).capacity).toBe(7)
  expect(new TimeoutError('slow', 8).timeoutMs).toBe(8)
  expect(new TooLargeError('large', 9).maxBytes).toBe(9)
})

describe('what an error says by default', () => {
  test('a timeout leaves the outcome open, other errors do not', () => {
    expect(new TimeoutError('slow', 1).outcomeUnknown).toBe(true)
    expect(new StoreError('down').outcomeUnknown).toBe(false)
    expect(new ClosedError('closed').outcomeUnknown).toBe(false)
  })

  test('gives way to what its maker knows better', () => {
    expect(new StoreError('bad row', { retryable: false }).retryable).toBe(false)
    expect(new StoreError('lost', { outcomeUnknown: true }).outcomeUnknown).toBe(true)
    expect(new ClosedError('closed', { retryable: true }).retryable).toBe(true)
    expect(new StoreError('busy', { retryAfterMs: 250 }).retryAfterMs).toBe(250)
    expect(new StoreError('busy').retryAfterMs).toBeUndefined()
  })

  test('has no cause where none was given, and has one that is undefined where that was given', () => {
    expect('cause' in new StoreError('down')).toBe(false)
    expect('cause' in new StoreError('down', { cause: undefined })).toBe(true)
  })
})

describe('isSpillwayError', () => {
  test.each([
    ['undefined', undefined],
    ['null', null],
    ['a string', 'ERR_CLOSED'],
    ['a number', 0],
    ['a bigint', 1n],
    ['a symbol', Symbol('error')],
    ['a function', () => undefined],
    ['an array', []],
    ['a plain object with a code', { code: 'ERR_CLOSED', name: 'ClosedError' }],
    ['an object without a prototype', Object.create(null)],
    ['a foreign error with a code of ours', Object.assign(new Error('foreign'), { code: 'ERR_CLOSED' })],
    ['the class itself', ClosedError],
  ])('says no to %s', (_, value) => {
    expect(isSpillwayError(value)).toBe(false)
    expect(isSpillwayError(value, 'ERR_CLOSED')).toBe(false)
  })

  test('knows errors of another copy of the package, whose classes differ', async () => {
    vi.resetModules()
    const copy = await import('spillway')

    const theirs = new copy.ClosedError('from the other copy')

    expect(copy.ClosedError).not.toBe(ClosedError)
    expect(theirs).not.toBeInstanceOf(SpillwayError)
    expect(isSpillwayError(theirs)).toBe(true)
    expect(isSpillwayError(theirs, 'ERR_CLOSED')).toBe(true)
    expect(isSpillwayError(theirs, 'ERR_FULL')).toBe(false)
    expect(copy.isSpillwayError(new FullError('ours', 1), 'ERR_FULL')).toBe(true)
  })

  test('knows a subclass that an adapter or a user made', () => {
    class LedgerError extends SpillwayError {
      constructor() {
        super('ERR_STORE', 'the ledger is closed on Sundays', { retryAfterMs: 86_400_000 })
      }
      override get name(): string {
        return 'LedgerError'
      }
    }

    const error = new LedgerError()

    expect(isSpillwayError(error, 'ERR_STORE')).toBe(true)
    expect(error.stack).toMatch(/^LedgerError: the ledger/)
  })
})
