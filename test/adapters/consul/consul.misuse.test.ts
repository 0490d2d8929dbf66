import { isSpillwayError } from 'spillway'
import {
  ConsulRegistration,
  type ConsulRegistrationOptions,
  type ConsulSourceOptions,
  consulSource,
} from 'spillway/consul'
import { FakeClock } from 'spillway/testing'
import { describe, expect, it } from 'vitest'

const own = { service: 'web', host: '127.0.0.1', port: 80 }

/** The message of the `OptionError` that a call throws. */
function refusal(call: () => unknown): string {
  try {
    call()
  } catch (error) {
    if (isSpillwayError(error, 'ERR_OPTION')) return error.message
    throw error
  }
  return 'nothing was thrown'
}

describe('consulSource refuses', () => {
  it.each<[object, string]>([
    [{ service: '' }, 'service must be a string that is not empty, got "" (string)'],
    [{ service: undefined }, 'service must be a string that is not empty, got undefined (undefined)'],
    [{ name: 5 }, 'name must be a string, got 5 (number)'],
    [{ clock: {} }, 'clock must have a method now, got {} (object)'],
    [{ random: 0.5 }, 'random must be a function, got 0.5 (number)'],
    [{ address: 'ftp://a' }, 'address must be an address such as http://127.0.0.1:8500, got "ftp://a" (string)'],
    [{ address: 8500 }, 'address must be an address such as http://127.0.0.1:8500, got 8500 (number)'],
    [
      { address: 'http://a?x=1' },
      'address must be an address such as http://127.0.0.1:8500, got "http://a?x=1" (string)',
    ],
    [{ address: 'http://' }, 'address must be an address such as http://127.0.0.1:8500, got "http://" (string)'],
    [{ address: 'http://me:secret@a' }, 'address must not carry a user or password; Consul takes a token'],
    [{ address: null }, 'address must be an address such as http://127.0.0.1:8500, got null (null)'],
    [{ token: 'a b' }, 'token must be a string of printable ASCII characters without spaces'],
    [{ token: '' }, 'token must be a string of printable ASCII characters without spaces'],
    [{ tls: true }, 'tls must be an object, got true (boolean)'],
    [{ timeoutMs: 0 }, 'timeoutMs must be a number between 1 and 2147483647, got 0 (number)'],
    [{ tags: 5 }, 'tags must be a string or an array of strings, got 5 (number)'],
    [{ tags: [''] }, 'tags must be a string that is not empty, got "" (string)'],
    [{ datacenter: '' }, 'datacenter must be a string that is not empty, got "" (string)'],
    [{ filter: 7 }, 'filter must be a string that is not empty, got 7 (number)'],
    [{ passingOnly: 'yes' }, 'passingOnly must be true or false, got "yes" (string)'],
    [{ consistency: 'weak' }, `consistency must be one of 'default', 'stale', 'consistent', got "weak" (string)`],
    [{ waitMs: 600_001 }, 'waitMs must be a number between 1 and 600000, got 600001 (number)'],
    [{ fallbackPollMs: 0 }, 'fallbackPollMs must be a number between 1 and 2147483647, got 0 (number)'],
    [{ burst: 0 }, 'burst must be a whole number between 1 and 2147483647, got 0 (number)'],
    [{ minIntervalMs: 0 }, 'minIntervalMs must be a number between 1 and 2147483647, got 0 (number)'],
    [{ retry: 3 }, 'retry must be an object, got 3 (number)'],
    [{ retry: { delayMs: 0 } }, 'retry.delayMs must be a number between 1 and 2147483647, got 0 (number)'],
    [{ retry: { maxDelayMs: null } }, 'retry.maxDelayMs must be a number between 1 and 2147483647, got null (null)'],
  ])('%j', (options, message) => {
    expect(refusal(() => consulSource({ service: 'web', ...options } as ConsulSourceOptions))).toBe(message)
  })

  it('certificates and keys that cannot be read, and tells none of them', () => {
    const address = 'https://127.0.0.1:8501'

    const messages = [{ cert: 'no certificate' }, { key: 'no key' }, { ca: 5 as never }].map((tls) =>
      refusal(() => consulSource({ service: 'web', address, tls })),
    )

    for (const message of messages) expect(message).toMatch(/^tls has something that TLS doesn't take: /)
    expect(messages.join()).not.toMatch(/no certificate|no key/)
    expect(refusal(() => new ConsulRegistration({ ...own, address, tls: { cert: 'none' } }))).toMatch(/^tls has/)
  })

  it('no options, and a watch without what it needs', () => {
    const source = consulSource({ service: 'web' })
    const signal = AbortSignal.abort()
    const onError = (): void => undefined

    expect(refusal(() => consulSource(undefined as never))).toBe('options must be an object, got undefined (undefined)')
    expect(refusal(() => source.watch(5 as never, { signal, onError }))).toMatch(/^onList must be a function/)
    expect(refusal(() => source.watch(onError, undefined as never))).toMatch(/^context must be an object/)
    expect(refusal(() => source.watch(onError, { onError } as never))).toMatch(/^signal must be an AbortSignal/)
    expect(refusal(() => source.watch(onError, { signal } as never))).toMatch(/^onError must be a function/)
  })

  it('nothing that is undefined, and starts nothing', () => {
    const clock = new FakeClock()
    const keys = ['address', 'token', 'tls', 'timeoutMs', 'tags', 'datacenter', 'filter', 'passingOnly', 'consistency']
    const more = ['waitMs', 'fallbackPollMs', 'burst', 'minIntervalMs', 'retry', 'name', 'random']
    const undefineds = Object.fromEntries([...keys, ...more].map((key) => [key, undefined]))

    consulSource({ service: 'web', clock, ...undefineds })

    expect(clock.pending).toBe(0)
  })
})

describe('ConsulRegistration refuses', () => {
  const check = { ttlMs: 10_000 }

  it.each<[object, string]>([
    [{ service: '' }, 'service must be a string that is not empty, got "" (string)'],
    [{ id: '' }, 'id must be a string that is not empty, got "" (string)'],
    [{ host: undefined }, 'host must be a string that is not empty, got undefined (undefined)'],
    [{ port: 0 }, 'port must be a whole number between 1 and 65535, got 0 (number)'],
    [{ port: '80' }, 'port must be a whole number between 1 and 65535, got "80" (string)'],
    [{ tags: 'grpc' }, 'tags must be an array of strings, got "grpc" (string)'],
    [{ meta: { zone: 1 } }, 'meta.zone must be a string, got 1 (number)'],
    [{ meta: null }, 'meta must be an object, got null (null)'],
    [{ weight: 0 }, 'weight must be a whole number between 1 and 2147483647, got 0 (number)'],
    [{ warningWeight: -1 }, 'warningWeight must be a whole number between 0 and 2147483647, got -1 (number)'],
    [{ check: null }, 'check must be an object, got null (null)'],
    [{ check: {} }, 'check must have one of ttlMs, http, tcp and grpc, got {} (object)'],
    [
      { check: { ttlMs: 1000, tcp: 'a:1' } },
      'check must have one of ttlMs, http, tcp and grpc, got {"ttlMs":1000,"tcp":"a:1"} (object)',
    ],
    [{ check: { ttlMs: 999 } }, 'check.ttlMs must be a number between 1000 and 2147483647, got 999 (number)'],
    [{ check: { ttlMs: 1000, health: 'ok' } }, 'check.health must be a function, got "ok" (string)'],
    [{ check: { http: 'a', intervalMs: 1000 } }, 'check.http must be a URL, got "a" (string)'],
    [
      { check: { http: 'http://a' } },
      'check.intervalMs must be a number between 1000 and 2147483647, got undefined (undefined)',
    ],
    [{ check: { tcp: '', intervalMs: 1000 } }, 'check.tcp must be a string that is not empty, got "" (string)'],
    [{ check: { grpc: 'a:1', intervalMs: 1000, tls: 1 } }, 'check.tls must be true or false, got 1 (number)'],
    [
      { check: { tcp: 'a:1', intervalMs: 1000, timeoutMs: 0 } },
      'check.timeoutMs must be a number between 1 and 2147483647, got 0 (number)',
    ],
    [
      { check, deregisterCriticalAfterMs: 59_999 },
      'deregisterCriticalAfterMs must be a number between 60000 and 2147483647, got 59999 (number)',
    ],
    [{ deregisterCriticalAfterMs: 60_000 }, 'deregisterCriticalAfterMs needs a check, got 60000 (number)'],
    [{ verifyMs: 999 }, 'verifyMs must be a number between 1000 and 2147483647, got 999 (number)'],
    [{ closeTimeoutMs: -1 }, 'closeTimeoutMs must be a number between 0 and 2147483647, got -1 (number)'],
    [{ timeoutMs: null }, 'timeoutMs must be a number between 1 and 2147483647, got null (null)'],
    [{ address: 'http://me:secret@a' }, 'address must not carry a user or password; Consul takes a token'],
  ])('%j', (options, message) => {
    expect(refusal(() => new ConsulRegistration({ ...own, ...options } as ConsulRegistrationOptions))).toBe(message)
  })

  it('no options', () => {
    expect(refusal(() => new ConsulRegistration(undefined as never))).toMatch(/^options must be an object/)
    expect(refusal(() => new ConsulRegistration(null as never))).toMatch(/^options must be an object/)
  })

  it('wrong arguments of its methods by a rejection', async () => {
    const registration = new ConsulRegistration(own)

    await expect(registration.start(5 as never)).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'options' })
    await expect(registration.start({ signal: 5 as never })).rejects.toMatchObject({ field: 'signal' })
    await expect(registration.start({ signal: AbortSignal.abort('why') })).rejects.toBe('why')
    await expect(registration.close(null as never)).rejects.toMatchObject({ field: 'options' })
    await expect(registration.close({ timeoutMs: -1 })).rejects.toMatchObject({ field: 'timeoutMs' })
    expect(await registration.flush()).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
    expect(registration.stats().state).toBe('idle')
  })

  it('nothing that is undefined, and starts nothing', async () => {
    const clock = new FakeClock()
    const keys = ['address', 'token', 'tls', 'timeoutMs', 'id', 'tags', 'meta', 'weight', 'warningWeight', 'check']
    const more = ['deregisterCriticalAfterMs', 'verifyMs', 'closeTimeoutMs', 'name', 'random']
    const undefineds = Object.fromEntries([...keys, ...more].map((key) => [key, undefined]))

    const registration = new ConsulRegistration({ ...own, clock, ...undefineds })

    expect(clock.pending).toBe(0)
    expect(await registration.close()).toEqual({ drained: true, abandoned: 0 })
    expect(clock.pending).toBe(0)
  })
})
