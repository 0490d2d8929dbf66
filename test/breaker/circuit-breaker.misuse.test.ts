import { CircuitBreaker, type CircuitBreakerOptions, consecutive, countWindow, timeWindow } from 'spillway'
import { describe, expect, test } from 'vitest'
import { thrownBy } from '../batcher/support/outcomes.js'
import { unhandledDuring } from '../batcher/support/process-events.js'
import { fail } from './support/calls.js'

const count = 'must be a whole number between 1 and 2147483647'
const duration = 'must be a number between 1 and 2147483647'
const rate = 'must be a number above 0, at most 1'
const trip = 'must be made by consecutive, countWindow or timeWindow'

describe('a wrong option is an OptionError that names field, rule, value and type', () => {
  test.each<[string, unknown, string]>([
    ['failureThreshold', 0, `failureThreshold ${count}, got 0 (number)`],
    ['failureThreshold', 2.5, `failureThreshold ${count}, got 2.5 (number)`],
    ['failureThreshold', '5', `failureThreshold ${count}, got "5" (string)`],
    ['failureThreshold', null, `failureThreshold ${count}, got null (null)`],
    ['failureThreshold', Number.POSITIVE_INFINITY, `failureThreshold ${count}, got Infinity (number)`],
    ['recoveryTimeoutMs', 0, `recoveryTimeoutMs ${duration}, got 0 (number)`],
    ['recoveryTimeoutMs', -1, `recoveryTimeoutMs ${duration}, got -1 (number)`],
    ['recoveryTimeoutMs', Number.NaN, `recoveryTimeoutMs ${duration}, got NaN (number)`],
    ['recoveryTimeoutMs', '30s', `recoveryTimeoutMs ${duration}, got "30s" (string)`],
    ['recoveryTimeoutMs', null, `recoveryTimeoutMs ${duration}, got null (null)`],
    ['recoveryTimeoutMs', 2 ** 31, `recoveryTimeoutMs ${duration}, got 2147483648 (number)`],
    ['halfOpenRequests', 0, `halfOpenRequests ${count}, got 0 (number)`],
    ['halfOpenRequests', null, `halfOpenRequests ${count}, got null (null)`],
    ['successThreshold', 0, `successThreshold ${count}, got 0 (number)`],
    ['successThreshold', true, `successThreshold ${count}, got true (boolean)`],
    ['probeTimeoutMs', 0, `probeTimeoutMs ${duration}, got 0 (number)`],
    ['probeTimeoutMs', null, `probeTimeoutMs ${duration}, got null (null)`],
    ['timeoutMs', 0, `timeoutMs ${duration}, got 0 (number)`],
    ['timeoutMs', null, `timeoutMs ${duration}, got null (null)`],
    ['timeoutMs', [10], `timeoutMs ${duration}, got [10] (array)`],
    ['classifyError', 'failure', 'classifyError must be a function, got "failure" (string)'],
    ['classifyError', null, 'classifyError must be a function, got null (null)'],
    ['classifyResult', true, 'classifyResult must be a function, got true (boolean)'],
    ['probeGate', {}, 'probeGate must be a function, got {} (object)'],
    ['recovery', 2, 'recovery must be an object, got 2 (number)'],
    ['recovery', null, 'recovery must be an object, got null (null)'],
    ['trip', 'consecutive', `trip ${trip}, got "consecutive" (string)`],
    ['trip', null, `trip ${trip}, got null (null)`],
    ['trip', { kind: 'consecutive', slowCallMs: undefined }, `trip ${trip}, got {"kind":"consecutive"} (object)`],
    ['name', 7, 'name must be a string, got 7 (number)'],
    ['name', null, 'name must be a string, got null (null)'],
    ['random', 0.5, 'random must be a function, got 0.5 (number)'],
    ['clock', {}, 'clock must have a method now, got {} (object)'],
    ['clock', null, 'clock must have a method now, got null (null)'],
  ])('%s, case %#', (field, value, message) => {
    const error = thrownBy(() => new CircuitBreaker({ [field]: value } as CircuitBreakerOptions))

    expect(error.message).toBe(message)
    expect(error.field).toBe(field)
  })

  test.each<[string, object, string]>([
    ['factor', { factor: 0.9 }, 'recovery.factor must be a number of 1 or more, got 0.9 (number)'],
    ['factor', { factor: Number.NaN }, 'recovery.factor must be a number of 1 or more, got NaN (number)'],
    ['factor', { factor: '2' }, 'recovery.factor must be a number of 1 or more, got "2" (string)'],
    ['factor', { factor: null }, 'recovery.factor must be a number of 1 or more, got null (null)'],
    ['maxMs', { maxMs: 29_999 }, 'recovery.maxMs must be a number between 30000 and 2147483647, got 29999 (number)'],
    ['maxMs', { maxMs: null }, 'recovery.maxMs must be a number between 30000 and 2147483647, got null (null)'],
    ['jitter', { jitter: 1.5 }, 'recovery.jitter must be a number between 0 and 1, got 1.5 (number)'],
    ['jitter', { jitter: -0.1 }, 'recovery.jitter must be a number between 0 and 1, got -0.1 (number)'],
    ['jitter', { jitter: null }, 'recovery.jitter must be a number between 0 and 1, got null (null)'],
  ])('recovery.%s, case %#', (field, recovery, message) => {
    const error = thrownBy(() => new CircuitBreaker({ recovery }))

    expect(error.message).toBe(message)
    expect(error.field).toBe(`recovery.${field}`)
  })

  test('trip and failureThreshold together', () => {
    const error = thrownBy(() => new CircuitBreaker({ trip: consecutive(3), failureThreshold: 3 }))

    expect(error.message).toBe('failureThreshold must not be given with trip, got 3 (number)')
    expect(() => new CircuitBreaker({ trip: consecutive(3), failureThreshold: undefined })).not.toThrow()
    expect(() => new CircuitBreaker({ trip: undefined, failureThreshold: 3 })).not.toThrow()
  })

  test('options that are none', () => {
    for (const options of [null, 5, 'fast']) {
      expect(thrownBy(() => new CircuitBreaker(options as never)).message).toMatch(/^options must be an object, got/)
    }
  })
})

describe('a wrong policy throws where it is made', () => {
  test.each<[string, unknown, string]>([
    ['failures', 0, `failures ${count}, got 0 (number)`],
    ['failures', undefined, `failures ${count}, got undefined (undefined)`],
    ['failures', null, `failures ${count}, got null (null)`],
  ])('consecutive: %s, case %#', (_, value, message) => {
    expect(thrownBy(() => consecutive(value as number)).message).toBe(message)
  })

  test.each<[object | null, string]>([
    [{ size: 0 }, `size ${count}, got 0 (number)`],
    [{ size: null }, `size ${count}, got null (null)`],
    [{ failureRate: 0 }, `failureRate ${rate}, got 0 (number)`],
    [{ failureRate: 50 }, `failureRate ${rate}, got 50 (number)`],
    [{ failureRate: '0.5' }, `failureRate ${rate}, got "0.5" (string)`],
    [{ failureRate: null }, `failureRate ${rate}, got null (null)`],
    [{ minimumCalls: 0 }, 'minimumCalls must be a whole number between 1 and 100, got 0 (number)'],
    [{ size: 5, minimumCalls: 6 }, 'minimumCalls must be a whole number between 1 and 5, got 6 (number)'],
    [null, 'options must be an object, got null (null)'],
  ])('countWindow, case %#', (options, message) => {
    expect(thrownBy(() => countWindow(options as object)).message).toBe(message)
  })

  test.each<[object | null, string]>([
    [{ windowMs: 0 }, `windowMs ${duration}, got 0 (number)`],
    [{ windowMs: null }, `windowMs ${duration}, got null (null)`],
    [{ buckets: 0 }, 'buckets must be a whole number between 1 and 10000, got 0 (number)'],
    [{ buckets: 1.5 }, 'buckets must be a whole number between 1 and 10000, got 1.5 (number)'],
    [{ failureRate: 1.1 }, `failureRate ${rate}, got 1.1 (number)`],
    [{ minimumCalls: 0 }, `minimumCalls ${count}, got 0 (number)`],
    [{ slowCallMs: -1, slowCallRate: 0.5 }, 'slowCallMs must be a number between 0 and 2147483647, got -1 (number)'],
    [{ slowCallMs: 10, slowCallRate: 0 }, `slowCallRate ${rate}, got 0 (number)`],
    [{ slowCallMs: 10 }, 'slowCallRate must be given with slowCallMs, got undefined (undefined)'],
    [{ slowCallRate: 0.5 }, 'slowCallMs must be given with slowCallRate, got undefined (undefined)'],
    [{ slowCallMs: null, slowCallRate: 0.5 }, 'slowCallMs must be a number between 0 and 2147483647, got null (null)'],
    [null, 'options must be an object, got null (null)'],
  ])('timeWindow, case %#', (options, message) => {
    expect(thrownBy(() => timeWindow(options as object)).message).toBe(message)
  })

  test('a count window smaller than the default minimum asks for no more than it holds', async () => {
    const breaker = new CircuitBreaker({ trip: countWindow({ size: 2 }) })

    await fail(breaker)
    expect(breaker.state).toBe('closed')
    await fail(breaker)

    expect(breaker.state).toBe('open')
  })
})

describe('execute rejects and never throws', () => {
  const fn = (): string => 'fine'

  test.each<[string, unknown[], RegExp]>([
    ['no function', [], /^fn must be a function, got undefined/],
    ['a promise', [Promise.resolve()], /^fn must be a function, got/],
    ['options that are none', [fn, 'fast'], /^options must be an object, got "fast"/],
    ['options of null', [fn, null], /^options must be an object, got null/],
    ['a signal that is none', [fn, { signal: {} }], /^signal must be an AbortSignal, got/],
    ['a signal of null', [fn, { signal: null }], /^signal must be an AbortSignal, got null/],
    ['a controller for a signal', [fn, { signal: new AbortController() }], /^signal must be an AbortSignal, got/],
  ])('%s', async (_, args, message) => {
    const breaker = new CircuitBreaker()
    const execute = breaker.execute.bind(breaker) as unknown as (...args: unknown[]) => Promise<unknown>

    const answer = execute(...args)

    await expect(answer).rejects.toThrow(message)
    await expect(answer).rejects.toMatchObject({ code: 'ERR_OPTION' })
    expect(breaker.stats()).toMatchObject({ state: 'closed', failed: 0, pending: 0 })
  })

  test('an explicit undefined is no option', async () => {
    expect(await new CircuitBreaker().execute(fn, undefined)).toBe('fine')
    expect(await new CircuitBreaker().execute(fn, { signal: undefined })).toBe('fine')
  })

  test('wrap, on, open and a listener that is none throw at once', () => {
    const breaker = new CircuitBreaker()

    expect(thrownBy(() => breaker.wrap(undefined as never)).message).toMatch(/^fn must be a function, got/)
    expect(thrownBy(() => breaker.on('opened', null as never)).message).toMatch(/^listener must be a function, got/)
    expect(thrownBy(() => breaker.open(null as never)).message).toMatch(/^options must be an object, got null/)
    expect(thrownBy(() => breaker.open({ forMs: -1 })).field).toBe('forMs')
    expect(breaker.state).toBe('closed')
  })
})

test('hostile results and errors leave the books balanced and nothing unhandled', async () => {
  const throwingThenable = Object.defineProperty({}, 'then', {
    get: () => {
      throw new Error('a hostile then')
    },
  })
  const twice = {
    // biome-ignore lint/suspicious/noThenProperty: a thenable of foreign make
    then: (resolve: (value: string) => void, reject: (error: unknown) => void) => {
      resolve('first')
      reject(new Error('second'))
      resolve('third')
      throw new Error('fourth')
    },
  }
  const unreadable = new Proxy({}, { get: () => Promise.reject(new Error('never looked at')).catch(() => undefined) })
  const { signal } = new AbortController()

  const unhandled = await unhandledDuring(async () => {
    for (const timeoutMs of [undefined, 1000]) {
      for (const options of [undefined, { signal }]) {
        const breaker = new CircuitBreaker({ failureThreshold: 100, timeoutMs })
        await expect(breaker.execute(() => throwingThenable as string, options)).rejects.toThrow('a hostile then')
        expect(await breaker.execute(() => twice as unknown as string, options)).toBe('first')
        await breaker.execute(() => Promise.reject(unreadable), options).catch(() => undefined)
        await breaker.execute(() => Promise.reject(null), options).catch(() => undefined)
        expect(breaker.stats()).toMatchObject({ offered: 4, succeeded: 1, failed: 3, pending: 0 })
      }
    }
  })

  expect(unhandled).toEqual([])
})
