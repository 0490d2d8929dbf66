import { Redis } from 'ioredis'
import { createClientPool, createSentinel } from 'redis'
import { CircuitBreaker, OptionError } from 'spillway'
import { RedisBreakerShare, type ShareableBreaker } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'

const client = new Redis({ lazyConnect: true })

afterAll(() => client.disconnect())

const share = (options?: object): RedisBreakerShare => new RedisBreakerShare(client, options)

describe('RedisBreakerShare refuses', () => {
  test.each([
    ['prefix', 7, 'prefix must be a string, got 7 (number)'],
    ['prefix', null, 'prefix must be a string, got null (null)'],
    ['prefix', 'a{b}', 'prefix must be a string without braces, got "a{b}" (string)'],
    ['instance', 7, 'instance must be a string, got 7 (number)'],
    ['instance', 'x'.repeat(500), /^instance must have at most 499 characters, got "xxx/],
    ['leaseTimeoutMs', 0, 'leaseTimeoutMs must be a number between 1 and 2147483647, got 0 (number)'],
    ['timeoutMs', '5', 'timeoutMs must be a number between 1 and 2147483647, got "5" (string)'],
    ['connectTimeoutMs', Number.NaN, 'connectTimeoutMs must be a number between 1 and 2147483647, got NaN (number)'],
    ['syncMs', null, 'syncMs must be a number between 1 and 2147483647, got null (null)'],
    ['rememberMs', -1, 'rememberMs must be a number between 1 and 2147483647, got -1 (number)'],
    ['name', 7, 'name must be a string, got 7 (number)'],
    ['clock', {}, /^clock must have a method now/],
  ])('%s: %j', (field, value, message) => {
    expect(() => share({ [field]: value })).toThrow(message)
    expect(() => share({ [field]: value })).toThrow(OptionError)
  })

  test('options that are none', () => {
    expect(() => share(7 as never)).toThrow('options must be an object, got 7 (number)')
    expect(() => share().probeGate('x', null as never)).toThrow('options must be an object, got null (null)')
  })

  test.each([
    ['probes', 0, 'probes must be a whole number between 1 and 2147483647, got 0 (number)'],
    ['leaseMs', '1', 'leaseMs must be a number between 1 and 2147483647, got "1" (string)'],
    ['idleMs', null, 'idleMs must be a number between 1 and 2147483647, got null (null)'],
  ])('a gate with %s: %j', (field, value, message) => {
    expect(() => share().probeGate('x', { [field]: value })).toThrow(message)
  })

  test('what is no client, or one without a connection for subscriptions', () => {
    for (const one of [undefined, null, {}, createClientPool(), createSentinel({ name: 'x', sentinelRootNodes: [] })]) {
      expect(() => new RedisBreakerShare(one as never)).toThrow('client must be a client of ioredis or node-redis')
    }
  })

  test('what is no breaker', () => {
    for (const one of [undefined, null, {}, { name: 'x' }]) {
      expect(() => share().join(one as never)).toThrow(/^breaker must have a method open/)
    }
    const named = (name: unknown) =>
      ({ name, open() {}, reset() {}, stats() {}, on() {} }) as unknown as ShareableBreaker
    expect(() => share().join(named(7))).toThrow('breaker.name must be a string, got 7 (number)')
    expect(() => share().probeGate(7 as never)).toThrow('circuit must be a string, got 7 (number)')
  })

  test('two breakers of one name at a time', () => {
    const one = share()
    const leave = one.join(new CircuitBreaker({ name: 'payments' }))

    expect(() => one.join(new CircuitBreaker({ name: 'payments' }))).toThrow(
      'breaker.name must be one under which no other breaker has joined, got "payments" (string)',
    )

    leave()
    one.join(new CircuitBreaker({ name: 'payments' }))
    leave()
    expect(one.stats().circuits).toBe(1)
  })

  test('to reset what has not joined', () => {
    expect(() => share().reset('payments')).toThrow(
      'circuit must be the name of a breaker that has joined, got "payments" (string)',
    )
  })
})

test('a share that is made and not started asks Redis for nothing', async () => {
  const one = share()
  const breaker = new CircuitBreaker({ name: 'payments', failureThreshold: 1, probeGate: one.probeGate('payments') })
  one.join(breaker)

  await breaker.execute(() => Promise.reject(new Error('down'))).catch(() => undefined)

  expect(breaker.state).toBe('open')
  expect(client.status).toBe('wait')
  expect(one.stats()).toEqual({
    name: 'redis-breaker-share',
    connected: false,
    subscribed: false,
    circuits: 1,
    offered: 0,
    succeeded: 0,
    failed: 0,
    pending: 0,
    joined: 0,
    outdated: 0,
    received: 0,
    applied: 0,
    late: 0,
    ignored: 0,
    leasesAsked: 0,
    leased: 0,
    denied: 0,
    leasesFailed: 0,
  })
  expect(await one.close()).toEqual({ drained: true, abandoned: 0 })
  expect(client.status).toBe('wait')
})
