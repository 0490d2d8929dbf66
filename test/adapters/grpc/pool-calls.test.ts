import { Metadata, status } from '@grpc/grpc-js'
import { isSpillwayError } from 'spillway'
import { type GrpcCallError, GrpcChannelPool, type GrpcChannelPoolOptions } from 'spillway/grpc'
import { describe, expect, it, vi } from 'vitest'
import { freePort } from '../../servers/free-port.js'
import { type CounterClient, clientOf, type Handlers, startServer, statusError } from './support/counter-service.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

async function pooled(handlers: Handlers, options: GrpcChannelPoolOptions = {}) {
  const server = await startServer(handlers)
  cleanUp(() => server.kill())
  const pool = new GrpcChannelPool(clientOf(server.address), { channels: 1, ...options })
  cleanUp(() => pool.close({ timeoutMs: 0 }))
  return { server, pool }
}

const failure = (promise: Promise<unknown>): Promise<GrpcCallError> =>
  promise.then(
    () => Promise.reject(new Error('expected a rejection')),
    (error: GrpcCallError) => error,
  )

function balanced(pool: GrpcChannelPool<CounterClient>): void {
  const { offered, succeeded, failed, rejected, aborted, pending, channels } = pool.stats()
  expect(offered).toBe(succeeded + failed + rejected + aborted + pending)
  expect(channels.reduce((sum, { inFlight }) => sum + inFlight, 0)).toBe(pending)
}

describe('a unary call', () => {
  it('gives the response of a typed method', async () => {
    const { pool } = await pooled({
      increment: ({ request }, callback) => callback(null, { value: request.delta + 1 }),
    })

    const { value } = await pool.call('increment', { key: 'a', delta: 4 })

    expect(value).toBe(5)
    expect(pool.stats()).toMatchObject({ offered: 1, succeeded: 1, pending: 0 })
    balanced(pool)
  })

  it('carries metadata and the deadline to the server', async () => {
    let seen: { tenant: unknown; leftMs: number } | undefined
    const { pool } = await pooled({
      increment: (call, callback) => {
        seen = { tenant: call.metadata.get('tenant')[0], leftMs: Number(call.getDeadline()) - Date.now() }
        callback(null, { value: 1 })
      },
    })
    const metadata = new Metadata()
    metadata.set('tenant', 'acme')

    await pool.call('increment', { key: 'a', delta: 1 }, { metadata, timeoutMs: 5000 })

    expect(seen?.tenant).toBe('acme')
    expect(seen?.leftMs).toBeGreaterThan(3000)
    expect(seen?.leftMs).toBeLessThanOrEqual(5000)
  })

  it('has the deadline of the pool unless it has its own', async () => {
    let leftMs = 0
    const { pool } = await pooled(
      {
        increment: (call, callback) => {
          leftMs = Number(call.getDeadline()) - Date.now()
          callback(null, { value: 1 })
        },
      },
      { timeoutMs: 60_000 },
    )

    await pool.call('increment', { key: 'a', delta: 1 })

    expect(leftMs).toBeGreaterThan(50_000)
    expect(leftMs).toBeLessThanOrEqual(60_000)
  })

  it('that passes its deadline fails with an unknown outcome, and the server sees it cancelled', async () => {
    const cancelled = vi.fn()
    const { pool, server } = await pooled({ increment: (call) => call.on('cancelled', cancelled) })
    await pool.warmUp()

    const error = await failure(pool.call('increment', { key: 'a', delta: 1 }, { timeoutMs: 50 }))

    expect(error).toMatchObject({ statusName: 'DEADLINE_EXCEEDED', status: 4, retryable: true, outcomeUnknown: true })
    expect(error.message).toContain(`increment to ${server.address} failed: DEADLINE_EXCEEDED (4)`)
    await vi.waitFor(() => expect(cancelled).toHaveBeenCalled())
    balanced(pool)
  })

  it('that is aborted rejects with the reason, is cancelled at the server, and takes its listener away', async () => {
    const started = vi.fn()
    const cancelled = vi.fn()
    const { pool } = await pooled({
      increment: (call) => {
        started()
        call.on('cancelled', cancelled)
      },
    })
    const controller = new AbortController()
    const remove = vi.spyOn(controller.signal, 'removeEventListener')
    const add = vi.spyOn(controller.signal, 'addEventListener')
    const answer = pool.call('increment', { key: 'a', delta: 1 }, { signal: controller.signal })
    await vi.waitFor(() => expect(started).toHaveBeenCalled())

    controller.abort(new Error('enough'))

    await expect(answer).rejects.toThrow('enough')
    await vi.waitFor(() => expect(cancelled).toHaveBeenCalled())
    expect(remove).toHaveBeenCalledTimes(add.mock.calls.length)
    expect(pool.stats()).toMatchObject({ offered: 1, aborted: 1, failed: 0, pending: 0 })
    balanced(pool)
  })

  it('that is answered takes its listener off the signal', async () => {
    const { pool } = await pooled({ increment: (_call, callback) => callback(null, { value: 1 }) })
    const { signal } = new AbortController()
    const remove = vi.spyOn(signal, 'removeEventListener')

    await pool.call('increment', { key: 'a', delta: 1 }, { signal })

    expect(remove).toHaveBeenCalledTimes(1)
  })

  it('with an aborted signal is refused and reaches nobody', async () => {
    const { pool } = await pooled({})

    await expect(pool.call('get', { key: 'a' }, { signal: AbortSignal.abort('late') })).rejects.toBe('late')

    expect(pool.stats()).toMatchObject({ offered: 1, rejected: 1 })
  })

  it('to nobody fails as UNAVAILABLE and known not to have been done', async () => {
    const address = `127.0.0.1:${await freePort()}`
    const pool = new GrpcChannelPool(clientOf(address), { channels: 1 })
    cleanUp(() => pool.close())

    const error = await failure(pool.call('get', { key: 'a' }))

    expect(error).toMatchObject({ statusName: 'UNAVAILABLE', retryable: true, outcomeUnknown: false, address })
    expect(isSpillwayError(error, 'ERR_STORE')).toBe(true)
    expect(error.cause).toMatchObject({ code: 14 })
  })

  it('on a connection that breaks fails as UNAVAILABLE with an unknown outcome', async () => {
    const { pool, server } = await pooled({ increment: () => setImmediate(() => server.kill()) })
    const failed = vi.fn()
    pool.on('failed', failed)

    const error = await failure(pool.call('increment', { key: 'a', delta: 1 }))

    expect(['UNAVAILABLE', 'CANCELLED']).toContain(error.statusName)
    expect(error).toMatchObject({ retryable: true, outcomeUnknown: true })
    expect(failed).toHaveBeenCalledExactlyOnceWith(
      expect.objectContaining({ method: 'increment', channel: 0, address: server.address, error }),
    )
  })

  it.each([
    ['INVALID_ARGUMENT', false, false],
    ['NOT_FOUND', false, false],
    ['ALREADY_EXISTS', false, false],
    ['PERMISSION_DENIED', false, false],
    ['UNAUTHENTICATED', false, false],
    ['FAILED_PRECONDITION', false, false],
    ['OUT_OF_RANGE', false, false],
    ['UNIMPLEMENTED', false, false],
    ['RESOURCE_EXHAUSTED', true, false],
    ['ABORTED', true, false],
    ['UNAVAILABLE', true, true],
    ['INTERNAL', false, true],
    ['UNKNOWN', false, true],
    ['DATA_LOSS', false, true],
  ] as const)('answered with %s: retryable %s, outcome unknown %s', async (name, retryable, outcomeUnknown) => {
    const { pool } = await pooled({
      get: (_call, callback) => callback(statusError(status[name], 'because')),
    })

    const error = await failure(pool.call('get', { key: 'a' }))

    expect(error).toMatchObject({
      name: 'GrpcCallError',
      code: 'ERR_STORE',
      statusName: name,
      status: status[name],
      details: 'because',
      retryable,
      outcomeUnknown,
    })
  })

  it('takes the wait that the server asks for', async () => {
    const metadata = new Metadata()
    metadata.set('grpc-retry-pushback-ms', '1500')
    const { pool } = await pooled({
      get: (_call, callback) => callback(statusError(status.RESOURCE_EXHAUSTED, 'slow down', metadata)),
    })

    const error = await failure(pool.call('get', { key: 'a' }))

    expect(error).toMatchObject({ retryable: true, retryAfterMs: 1500 })
    expect(error.metadata?.get('grpc-retry-pushback-ms')).toEqual(['1500'])
  })

  it('whose request can’t be serialized fails for good, and nothing was done', async () => {
    const { pool } = await pooled({})
    const loop: { key: string; self?: unknown } = { key: 'a' }
    loop.self = loop

    const error = await failure(pool.call('get', loop))

    expect(error).toMatchObject({ statusName: 'INTERNAL', retryable: false, outcomeUnknown: false })
  })

  it.each([
    ['a method that there isn’t', 'nope', undefined],
    ['a wrong timeoutMs', 'get', { timeoutMs: 0 }],
    ['a null timeoutMs', 'get', { timeoutMs: null }],
    ['a wrong signal', 'get', { signal: {} }],
    ['wrong metadata', 'get', { metadata: { tenant: 'acme' } }],
    ['wrong options', 'get', 7],
  ])('with %s rejects with an OptionError and is in the books', async (_name, method, options) => {
    const { pool } = await pooled({})

    const answer = pool.call(method as 'get', { key: 'a' }, options as never)

    await expect(answer).rejects.toMatchObject({ code: 'ERR_OPTION' })
    expect(pool.stats()).toMatchObject({ offered: 1, rejected: 1 })
    balanced(pool)
  })

  it('that nobody looks at is no unhandled rejection', async () => {
    const { pool } = await pooled({ get: (_call, callback) => callback(statusError(status.NOT_FOUND, 'no')) })
    void pool.call('get', { key: 'a' })

    await pool.flush()

    expect(pool.stats().failed).toBe(1)
  })
})

describe('message limits', () => {
  it('hold for what is sent', async () => {
    const handler = vi.fn((_call, callback) => callback(null, { value: 1 }))
    const { pool } = await pooled({ increment: handler }, { maxMessageBytes: 1000 })

    const error = await failure(pool.call('increment', { key: 'a', delta: 1, padding: 'x'.repeat(1000) }))

    expect(error).toMatchObject({ statusName: 'RESOURCE_EXHAUSTED', retryable: false, outcomeUnknown: false })
    expect(handler).not.toHaveBeenCalled()
  })

  it('hold for what is received, when the work was done', async () => {
    const handler = vi.fn((_call, callback) => callback(null, { value: 1, padding: 'x'.repeat(1000) }))
    const { pool } = await pooled({ increment: handler }, { maxMessageBytes: 1000 })

    const error = await failure(pool.call('increment', { key: 'a', delta: 1 }))

    expect(error).toMatchObject({ statusName: 'RESOURCE_EXHAUSTED', retryable: false, outcomeUnknown: true })
    expect(handler).toHaveBeenCalledTimes(1)
  })

  it('are 4 MiB both ways by default, where grpc-js alone limits only what it receives', async () => {
    const { pool } = await pooled({ increment: (_call, callback) => callback(null, { value: 1 }) })

    const { value } = await pool.call('increment', { key: 'a', delta: 1, padding: 'x'.repeat(4_194_304 - 100) })
    const error = await failure(pool.call('increment', { key: 'a', delta: 1, padding: 'x'.repeat(4_194_304) }))

    expect(value).toBe(1)
    expect(error.details).toContain('Attempted to send message with a size larger than 4194304')
  })
})
