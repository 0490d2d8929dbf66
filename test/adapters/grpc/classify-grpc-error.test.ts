import { Metadata, status } from '@grpc/grpc-js'
import {
  CircuitBreaker,
  CircuitOpenError,
  ClosedError,
  NoInstanceError,
  OptionError,
  StoreError,
  TimeoutError,
} from 'spillway'
import { classifyGrpcError, GrpcCallError, GrpcChannelPool } from 'spillway/grpc'
import { describe, expect, it } from 'vitest'
import { clientOf, startServer, statusError } from './support/counter-service.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

/** Envoy's table (gRPC to HTTP, 5xx fails), but for UNIMPLEMENTED. */
const verdicts = {
  CANCELLED: 'ignore',
  UNKNOWN: 'failure',
  INVALID_ARGUMENT: 'success',
  DEADLINE_EXCEEDED: 'failure',
  NOT_FOUND: 'success',
  ALREADY_EXISTS: 'success',
  PERMISSION_DENIED: 'success',
  RESOURCE_EXHAUSTED: 'ignore',
  FAILED_PRECONDITION: 'success',
  ABORTED: 'success',
  OUT_OF_RANGE: 'success',
  UNIMPLEMENTED: 'ignore',
  INTERNAL: 'failure',
  UNAVAILABLE: 'failure',
  DATA_LOSS: 'failure',
  UNAUTHENTICATED: 'success',
} as const

/** What grpc-js rejects a call with. */
const raw = (code: number, details = 'because'): Error =>
  Object.assign(new Error(`${code}: ${details}`), { code, details, metadata: new Metadata() })

const ours = (code: number, details?: string): GrpcCallError =>
  new GrpcCallError(raw(code, details), { name: 'pool', method: 'get', address: 'a:1', sent: true })

describe('classifyGrpcError', () => {
  it.each(Object.entries(verdicts))('takes %s for %s, wrapped or not', (name, verdict) => {
    const code = status[name as keyof typeof status]

    expect(classifyGrpcError(raw(code))).toBe(verdict)
    expect(classifyGrpcError(ours(code))).toBe(verdict)
    expect(classifyGrpcError(new StoreError('the stream was lost', { cause: ours(code) }))).toBe(verdict)
  })

  it.each(Object.entries(verdicts))('takes %s of a real server for %s', async (name, verdict) => {
    const code = status[name as keyof typeof status]
    const server = await startServer({ get: (_call, callback) => callback(statusError(code, 'because')) })
    cleanUp(() => server.kill())
    const pool = new GrpcChannelPool(clientOf(server.address), { channels: 1 })
    cleanUp(() => pool.close())

    const error = await pool.call('get', { key: 'a' }).catch((reason: unknown) => reason)

    expect(classifyGrpcError(error)).toBe(verdict)
  })

  it('blames nobody for a request that can’t be sent', async () => {
    const pool = new GrpcChannelPool(clientOf('127.0.0.1:1'), { channels: 1 })
    cleanUp(() => pool.close())
    const loop: { key: string; self?: unknown } = { key: 'a' }
    loop.self = loop

    const error = await pool.call('get', loop).catch((reason: unknown) => reason)

    expect(classifyGrpcError(error)).toBe('ignore')
  })

  it.each([
    [new OptionError('timeoutMs', 'timeoutMs must be a number')],
    [new ClosedError('counters is closed')],
    [new CircuitOpenError('counters is open')],
    [new NoInstanceError('counters has no instance')],
  ])('blames nobody for %s', (error) => {
    expect(classifyGrpcError(error)).toBe('ignore')
  })

  it.each([
    [new TimeoutError('too late', 5)],
    [new Error('boom')],
    [Object.assign(new Error('no gRPC status'), { code: 5 })],
    [undefined],
    ['text'],
    [raw(99)],
    [
      new Proxy(new Error('unreadable'), {
        get: () => {
          throw new Error('not even this')
        },
      }),
    ],
  ])('takes anything else for a failure', (error) => {
    expect(classifyGrpcError(error)).toBe('failure')
  })

  it('fits a breaker: callers’ mistakes never open it, and a dead server does', async () => {
    const breaker = new CircuitBreaker({ failureThreshold: 3, classifyError: classifyGrpcError })
    const fail = (code: number) => breaker.execute(() => Promise.reject(ours(code))).catch(() => undefined)

    for (let i = 0; i < 10; i++) await fail(status.NOT_FOUND)
    expect(breaker.state).toBe('closed')
    for (let i = 0; i < 3; i++) await fail(status.UNAVAILABLE)

    expect(breaker.state).toBe('open')
  })
})
