import { TokenCache, tokenAudienceKey } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { thrownBy } from '../batcher/support/outcomes.js'
import { unhandledDuring } from '../batcher/support/process-events.js'
import { Identity } from './support/identity.js'

const fetchToken = async () => ({ token: 't' })

const duration = (min: number): string => `must be a number between ${min} and 2147483647`

describe('a wrong option is an OptionError that names field, rule, value and type', () => {
  test.each<[string, unknown, string]>([
    ['defaultTtlMs', 0, 'must be a number between 1 and Infinity, got 0 (number)'],
    ['defaultTtlMs', '1h', 'must be a number between 1 and Infinity, got "1h" (string)'],
    ['refreshAheadMs', -1, `${duration(0)}, got -1 (number)`],
    ['refreshAheadMs', Number.NaN, `${duration(0)}, got NaN (number)`],
    ['mandatoryMs', null, `${duration(0)}, got null (null)`],
    ['timeoutMs', 0, `${duration(1)}, got 0 (number)`],
    ['timeoutMs', Number.POSITIVE_INFINITY, `${duration(1)}, got Infinity (number)`],
    ['invalidateCooldownMs', -5, `${duration(0)}, got -5 (number)`],
    ['terminalCooldownMs', '5', `${duration(0)}, got "5" (string)`],
    ['jitter', 1.1, 'must be a number between 0 and 1, got 1.1 (number)'],
    ['capacity', 0, 'must be a whole number between 1 and 2147483647, got 0 (number)'],
    ['keyOf', 'id', 'must be a function, got "id" (string)'],
    ['isTerminal', true, 'must be a function, got true (boolean)'],
    ['retry', 5, 'must be an object, got 5 (number)'],
    ['name', 7, 'must be a string, got 7 (number)'],
  ])('%s: %j', (field, value, rule) => {
    const error = thrownBy(() => new TokenCache(fetchToken, { [field]: value } as never))

    expect(error.message).toBe(`${field} ${rule}`)
    expect(error.field).toBe(field)
  })

  test('retry names its own fields', () => {
    const error = thrownBy(() => new TokenCache(fetchToken, { retry: { delayMs: -1 } }))

    expect(error.message).toBe(`retry.delayMs ${duration(0)}, got -1 (number)`)
  })

  test('fetchToken is required, and an explicit undefined means the default', () => {
    expect(thrownBy(() => new TokenCache(undefined as never)).message).toBe(
      'fetchToken must be a function, got undefined (undefined)',
    )
    const every = Object.fromEntries(Object.keys(TokenCache.defaults).map((option) => [option, undefined]))
    expect(() => new TokenCache(fetchToken, every)).not.toThrow()
  })
})

describe('a wrong argument', () => {
  test('of get rejects and counts as rejected', async () => {
    const tokens = new TokenCache(fetchToken, { clock: new FakeClock() })
    const wrong: [unknown, unknown, string][] = [
      [7, undefined, 'key must be a string where there is no keyOf, got 7 (number)'],
      [null, undefined, 'key must be a string where there is no keyOf, got null (null)'],
      ['a', 7, 'options must be an object, got 7 (number)'],
      ['a', { signal: 'stop' }, 'signal must be an AbortSignal, got "stop" (string)'],
    ]

    for (const [key, options, message] of wrong) {
      const answer = tokens.get(key as never, options as never)
      await expect(answer).rejects.toMatchObject({ code: 'ERR_OPTION', message })
    }
    expect(tokens.stats()).toMatchObject({ offered: 4, rejected: 4, fetches: 0, keys: 0 })
  })

  test('a keyOf that throws or gives no text rejects; forKey throws', async () => {
    const tokens = new TokenCache<{ id: unknown }>(fetchToken, {
      clock: new FakeClock(),
      keyOf: (key) => key.id as string,
    })

    await expect(tokens.get({ id: 7 })).rejects.toMatchObject({ message: 'keyOf must give a string, got 7 (number)' })
    await expect(tokens.get(null as never)).rejects.toBeInstanceOf(TypeError)
    expect(thrownBy(() => tokens.forKey({ id: 7 })).field).toBe('keyOf')
    expect(await tokens.get({ id: 'a' })).toBe('t')
    expect(tokens.stats()).toMatchObject({ offered: 3, rejected: 2, succeeded: 1 })
  })

  test('of invalidate throws without saying what it was', () => {
    const tokens = new TokenCache(fetchToken)

    expect(thrownBy(() => tokens.invalidate(undefined as never)).message).toBe('token must be a string, got undefined')
  })

  test('of tokenAudienceKey is named', () => {
    const of = (key: unknown) => thrownBy(() => tokenAudienceKey(key as never)).message

    expect(of(undefined)).toBe('key must be an object, got undefined (undefined)')
    expect(of('api')).toBe('key must be an object, got "api" (string)')
    expect(of({ audience: 7 })).toBe('audience must be a string, got 7 (number)')
    expect(of({ scopes: 'read write' })).toBe('scopes must be an array, got "read write" (string)')
    expect(of({ scopes: ['read', 7] })).toBe('scopes must be strings, got 7 (number)')
  })
})

test('a rejection that nobody looks at is no unhandledRejection', async () => {
  const unhandled = await unhandledDuring(async () => {
    const identity = new Identity()
    const tokens = new TokenCache(identity.fetchToken, { clock: identity.clock })
    void tokens.get('a')
    await identity.last.fail(new Error('down'))
    void tokens.get(7 as never)
    void tokens.get('b', { signal: AbortSignal.abort('early') })
    const patience = new AbortController()
    void tokens.get('c', { signal: patience.signal })
    patience.abort('enough')
    void tokens.get('d')
    void tokens.close({ timeoutMs: -1 })
    void tokens.close({ timeoutMs: 0 })
    await identity.clock.advance(0)
    void tokens.get('e')
  })

  expect(unhandled).toEqual([])
})

test('a listener that throws changes nothing', async () => {
  const warnings: string[] = []
  const note = (warning: Error): void => void warnings.push(warning.message)
  process.on('warning', note)
  const identity = new Identity()
  const tokens = new TokenCache(identity.fetchToken, { clock: identity.clock })
  tokens.on('refreshed', () => {
    throw new Error('listener')
  })
  const answer = tokens.get()
  await identity.last.give('t')

  expect(await answer).toBe('t')
  expect(await tokens.get()).toBe('t')
  await new Promise((resolve) => setImmediate(resolve))
  process.off('warning', note)
  expect(warnings).toEqual([expect.stringContaining("a listener of token-cache's 'refreshed' event failed")])
})
