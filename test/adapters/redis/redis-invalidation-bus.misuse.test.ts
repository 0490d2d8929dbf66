import { Redis } from 'ioredis'
import { createClientPool, createSentinel } from 'redis'
import { OptionError } from 'spillway'
import { RedisInvalidationBus } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'
import { endOf } from './bus-fleet.ts'

const client = new Redis(1, '127.0.0.1', { lazyConnect: true, maxRetriesPerRequest: 0, retryStrategy: () => null })
client.on('error', () => undefined)

afterAll(() => client.disconnect())

const bus = (options?: object): RedisInvalidationBus => new RedisInvalidationBus(client, options)

describe('RedisInvalidationBus refuses', () => {
  test.each([
    ['channel', '', 'channel must be a string that is not empty, got "" (string)'],
    ['channel', null, 'channel must be a string that is not empty, got null (null)'],
    ['capacity', 0, 'capacity must be a whole number between 1 and 2147483647, got 0 (number)'],
    ['maxBatchSize', 1.5, 'maxBatchSize must be a whole number between 1 and 2147483647, got 1.5 (number)'],
    ['timeoutMs', 0, 'timeoutMs must be a number between 1 and 2147483647, got 0 (number)'],
    ['connectTimeoutMs', '5', 'connectTimeoutMs must be a number between 1 and 2147483647, got "5" (string)'],
    ['heartbeatMs', Number.NaN, 'heartbeatMs must be a number between 1 and 2147483647, got NaN (number)'],
    ['maxSenders', 0, 'maxSenders must be a whole number between 1 and 2147483647, got 0 (number)'],
    ['retry', 3, 'retry must be an object, got 3 (number)'],
    ['retry', { attempts: 0 }, 'retry.attempts must be a whole number between 1 and 2147483647, got 0 (number)'],
    ['name', 7, 'name must be a string, got 7 (number)'],
  ])('%s: %j', (field, value, message) => {
    expect(() => bus({ [field]: value })).toThrow(message)
    expect(() => bus({ [field]: value })).toThrow(OptionError)
  })

  test('options that are none', () => {
    expect(() => bus(7 as never)).toThrow('options must be an object, got 7 (number)')
  })

  test('what is no client, or one without a connection for subscriptions', () => {
    for (const one of [undefined, null, {}, createClientPool(), createSentinel({ name: 'x', sentinelRootNodes: [] })]) {
      expect(() => new RedisInvalidationBus(one as never)).toThrow('client must be a client of ioredis or node-redis')
    }
  })

  test('what is no listener', () => {
    for (const one of [undefined, null, {}, { onGap() {} }]) {
      expect(() => bus().connect(one as never)).toThrow(/^listener must have a method onInvalidations/)
    }
    expect(() => bus().connect({ onInvalidations() {} } as never)).toThrow(/^listener must have a method onGap/)
  })

  test('to close within no time at all', async () => {
    await expect(bus().close({ timeoutMs: -1 })).rejects.toThrow('timeoutMs must be a number between 0')
  })
})

test('what is no invalidation is left out, with a warning, and hurts nothing else', async () => {
  const warnings: string[] = []
  const onWarning = (warning: Error): void => void warnings.push(warning.message)
  process.on('warning', onWarning)
  const one = bus({ retry: { attempts: 1 } })
  const [first, second] = [endOf(one), endOf(one)]

  const wrong = [
    null,
    7,
    {},
    { kind: 'key' },
    { kind: 'key', key: 'a', version: 7 },
    { kind: 'tag' },
    { kind: 'other' },
  ]
  first.link.publish([...wrong, { kind: 'tag', tag: 'right' }] as never)
  const noLists = [undefined, null, 7, { kind: 'key', key: 'a' }, 'text']
  for (const one of noLists) first.link.publish(one as never)

  expect(second.heard).toEqual(['t:right'])
  expect(one.stats()).toMatchObject({ offered: 1 })
  await one.close({ timeoutMs: 0 })
  process.off('warning', onWarning)
  expect(warnings).toHaveLength(wrong.length + noLists.length)
})

test('a bus that is made and that nobody joins asks Redis for nothing', async () => {
  const idle = new Redis({ lazyConnect: true })
  const one = new RedisInvalidationBus(idle)

  expect(one.stats()).toEqual({
    name: 'redis-invalidation-bus',
    subscribed: false,
    links: 0,
    offered: 0,
    published: 0,
    merged: 0,
    lost: 0,
    pending: 0,
    batches: 0,
    failures: 0,
    received: 0,
    heard: 0,
    own: 0,
    malformed: 0,
    gaps: 0,
    holes: 0,
    senders: 0,
  })
  expect(await one.close()).toEqual({ drained: true, abandoned: 0 })
  expect(idle.status).toBe('wait')
})
