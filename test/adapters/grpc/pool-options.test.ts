import { GrpcChannelPool } from 'spillway/grpc'
import { describe, expect, it } from 'vitest'
import { clientOf } from './support/counter-service.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

const make = (options?: object) => new GrpcChannelPool(clientOf('127.0.0.1:1'), options)

describe('the options of a pool', () => {
  it.each([
    [{ channels: 0 }, 'channels must be a whole number between 1 and 20, got 0 (number)'],
    [{ channels: 21 }, 'channels must be a whole number between 1 and 20, got 21 (number)'],
    [{ channels: null }, 'channels must be an object, got null (null)'],
    [{ channels: { min: 3, max: 2 } }, 'channels.min must be a whole number between 1 and 2, got 3 (number)'],
    [{ channels: { max: 21 } }, 'channels.max must be a whole number between 1 and 20, got 21 (number)'],
    [{ channels: { maxStreamsPerChannel: 0 } }, /^channels\.maxStreamsPerChannel must be a whole number/],
    [{ keepalive: 'rude' }, `keepalive must be one of 'gentle', 'aggressive', got "rude" (string)`],
    [{ keepalive: true }, "keepalive must be 'gentle', 'aggressive', an object or false, got true (boolean)"],
    [{ keepalive: { timeMs: 0, timeoutMs: 1, withoutCalls: true } }, /^keepalive\.timeMs must be a number between 1/],
    [{ keepalive: { timeMs: 1, timeoutMs: 0, withoutCalls: true } }, /^keepalive\.timeoutMs must be a number/],
    [{ keepalive: { timeMs: 1, timeoutMs: 1, withoutCalls: 1 } }, /^keepalive\.withoutCalls must be true or false/],
    [{ maxMessageBytes: 0 }, /^maxMessageBytes must be a whole number between 1/],
    [{ timeoutMs: 0 }, /^timeoutMs must be a number between 1/],
    [{ retry: 3 }, 'retry must be an object, got 3 (number)'],
    [{ retry: { maxAttempts: 6 } }, 'retry.maxAttempts must be a whole number between 2 and 5, got 6 (number)'],
    [{ retry: { maxAttempts: 2, initialBackoffMs: 0 } }, /^retry\.initialBackoffMs must be a number between 1/],
    [{ retry: { maxAttempts: 2, maxBackoffMs: 0 } }, /^retry\.maxBackoffMs must be a number between 1/],
    [{ retry: { maxAttempts: 2, backoffMultiplier: 0 } }, /^retry\.backoffMultiplier must be a number between 1/],
    [{ retry: { maxAttempts: 2, retryableStatusCodes: [] } }, /^retry\.retryableStatusCodes must be an array/],
    [{ retry: { maxAttempts: 2, retryableStatusCodes: ['OK'] } }, /^retry\.retryableStatusCodes must be one of/],
    [{ retry: { maxAttempts: 2, methods: ['a/b/c'] } }, /^retry\.methods must be an array of `package\.Service`/],
    [{ retry: { maxAttempts: 2, methods: [] } }, /^retry\.methods must be an array/],
    [{ retry: { maxAttempts: 2, methods: ['a.B', 'a.B'] } }, /^retry\.methods must not name one twice/],
    [{ retry: { maxAttempts: 2, throttling: true } }, /^retry\.throttling must be an object or false/],
    [{ retry: { maxAttempts: 2, throttling: { maxTokens: 1001, tokenRatio: 1 } } }, /^retry\.throttling\.maxTokens/],
    [{ retry: { maxAttempts: 2, throttling: { maxTokens: 1, tokenRatio: 0 } } }, /^retry\.throttling\.tokenRatio/],
    [{ channelOptions: 1 }, 'channelOptions must be an object, got 1 (number)'],
    [{ channelOptions: { 'grpc.keepalive_permit_without_calls': true } }, /must be 0 or 1, got true \(boolean\)$/],
    [{ channelOptions: { 'grpc.use_local_subchannel_pool': 0 } }, /must be 1, so that each channel has a connection/],
    [{ retry: { maxAttempts: 2 }, channelOptions: { 'grpc.service_config': '{}' } }, /can't be given beside retry/],
    [{ name: 7 }, 'name must be a string, got 7 (number)'],
  ])('refuse %j', (options, message) => {
    expect(() => make(options)).toThrow(message)
    expect(() => make(options)).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
  })

  it('take an explicit undefined for the default', () => {
    const pool = make({
      channels: undefined,
      keepalive: undefined,
      maxMessageBytes: undefined,
      timeoutMs: undefined,
      retry: undefined,
      channelOptions: { 'grpc.max_send_message_length': undefined },
    })
    cleanUp(() => pool.close())

    expect(pool.stats().channels).toHaveLength(4)
  })

  it('reach grpc-js as it wants them, the caller’s own last', () => {
    let given: Record<string, unknown> = {}
    const pool = new GrpcChannelPool(
      (channelOptions) => {
        given = channelOptions
        return clientOf('127.0.0.1:1')(channelOptions)
      },
      {
        channels: 1,
        maxMessageBytes: 1000,
        retry: { maxAttempts: 3, methods: ['a.B', 'a.B/C'] },
        channelOptions: { 'grpc.max_send_message_length': 2000, 'grpc.primary_user_agent': 'mine' },
      },
    )
    cleanUp(() => pool.close())

    expect(given).toMatchObject({
      'grpc.max_send_message_length': 2000,
      'grpc.max_receive_message_length': 1000,
      'grpc.primary_user_agent': 'mine',
      'grpc.use_local_subchannel_pool': 1,
      'grpc.service_config_disable_resolution': 1,
    })
    expect(JSON.parse(given['grpc.service_config'] as string)).toEqual({
      methodConfig: [
        {
          name: [{ service: 'a.B' }, { service: 'a.B', method: 'C' }],
          retryPolicy: {
            maxAttempts: 3,
            initialBackoff: '0.100000s',
            maxBackoff: '2.000000s',
            backoffMultiplier: 2,
            retryableStatusCodes: ['UNAVAILABLE'],
          },
        },
      ],
      retryThrottling: { maxTokens: 10, tokenRatio: 0.1 },
    })
  })
})
