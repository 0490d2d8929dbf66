import { Redis } from 'ioredis'
import { OptionError } from 'spillway'
import { RedisLock } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'

const client = new Redis({ lazyConnect: true })

afterAll(() => client.disconnect())

const lock = (options?: object): RedisLock => new RedisLock(client, options)

describe('RedisLock refuses', () => {
  test.each([
    ['prefix', 7, 'prefix must be a string without braces, got 7 (number)'],
    ['prefix', 'a{b}', 'prefix must be a string without braces, got "a{b}" (string)'],
    ['ttlMs', 9, 'ttlMs must be a number between 10 and 2147483647, got 9 (number)'],
    ['extend', 'yes', 'extend must be true or false, got "yes" (string)'],
    ['maxHoldMs', 0, 'maxHoldMs must be a number between 10 and 2147483647, got 0 (number)'],
    ['timeoutMs', 0, 'timeoutMs must be a number between 1 and 2147483647, got 0 (number)'],
    ['pollMs', null, 'pollMs must be a number between 1 and 2147483647, got null (null)'],
    ['maxPollMs', '5', 'maxPollMs must be a number between 1 and 2147483647, got "5" (string)'],
    ['tokenMemoryMs', Number.NaN, 'tokenMemoryMs must be a number between 1 and 2147483647, got NaN (number)'],
    ['clock', {}, /^clock must have a method now/],
  ])('%s: %j', (field, value, message) => {
    expect(() => lock({ [field]: value })).toThrow(message)
    expect(() => lock({ [field]: value })).toThrow(OptionError)
  })

  test('what is no client', () => {
    expect(() => new RedisLock({} as never)).toThrow('client must be a client of ioredis or node-redis')
  })

  test.each([
    ['', {}, 'name must be a string that is not empty, got "" (string)'],
    [7, {}, 'name must be a string that is not empty, got 7 (number)'],
    ['a', null, 'options must be an object, got null (null)'],
    ['a', { waitMs: -1 }, 'waitMs must be a number between 0 and 2147483647, got -1 (number)'],
    ['a', { ttlMs: 1 }, 'ttlMs must be a number between 10 and 2147483647, got 1 (number)'],
    ['a', { signal: {} }, 'signal must be an AbortSignal, got {} (object)'],
  ])('acquire(%j, %j), by a rejection', async (name, options, message) => {
    const one = lock()

    await expect(one.acquire(name as never, options as never)).rejects.toThrow(message)
    await expect(one.run(name as never, () => 1, options as never)).rejects.toThrow(OptionError)

    expect(one.stats()).toMatchObject({ offered: 2, rejected: 2, pending: 0 })
  })

  test('run without a function', async () => {
    await expect(lock().run('a', 7 as never)).rejects.toThrow('fn must be a function, got 7 (number)')
  })
})

test('a lock that is made asks Redis for nothing', () => {
  expect(lock().stats()).toEqual({
    name: 'redis-lock',
    offered: 0,
    acquired: 0,
    busy: 0,
    failed: 0,
    rejected: 0,
    aborted: 0,
    pending: 0,
    held: 0,
    released: 0,
    releaseFailed: 0,
    lost: 0,
    extended: 0,
    extendFailed: 0,
    waitMs: { p50: 0, p95: 0, p99: 0, max: 0 },
  })
  expect(client.status).toBe('wait')
})
