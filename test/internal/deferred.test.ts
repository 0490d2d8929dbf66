import { afterEach, beforeEach, expect, test } from 'vitest'
import { deferred, handled, openPromise, rejected } from '../../src/internal/deferred.js'

const unhandled: unknown[] = []
const note = (reason: unknown): void => void unhandled.push(reason)
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

beforeEach(() => {
  unhandled.length = 0
  process.on('unhandledRejection', note)
})

afterEach(async () => {
  await turn()
  process.off('unhandledRejection', note)
  expect(unhandled).toEqual([])
})

test('each deferred settles its own promise', async () => {
  const [first, second, third] = [deferred<number>(), deferred<number>(), deferred<number>()]
  const trouble = new Error('third')

  second.resolve(2)
  third.reject(trouble)
  first.resolve(1)

  expect(await first.promise).toBe(1)
  expect(await second.promise).toBe(2)
  await expect(third.promise).rejects.toBe(trouble)
})

test('the first settling counts', async () => {
  const made = deferred<number>()

  made.resolve(1)
  made.resolve(2)
  made.reject(new Error('too late'))

  expect(await made.promise).toBe(1)
})

test('it may be resolved with a promise', async () => {
  const made = deferred<number>()

  made.resolve(Promise.resolve(5))

  expect(await made.promise).toBe(5)
})

test('an object can be given its own promise', async () => {
  const owner = { promise: undefined as never, resolve: undefined as never, reject: undefined as never }

  openPromise<string>(owner)
  const { promise, resolve } = owner as unknown as { promise: Promise<string>; resolve: (value: string) => void }
  resolve('mine')

  expect(await promise).toBe('mine')
})

test('a promise that is looked after may reject unseen, and is still the same promise', async () => {
  const promise = Promise.reject(new Error('seen by nobody'))

  expect(handled(promise)).toBe(promise)
  await turn()

  await expect(promise).rejects.toThrow('seen by nobody')
})

test('a rejected promise may be left alone, and rejects who waits', async () => {
  const reason = { any: 'reason' }

  const promise = rejected(reason)
  await turn()

  await expect(promise).rejects.toBe(reason)
})
