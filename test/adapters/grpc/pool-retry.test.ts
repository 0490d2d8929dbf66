import { status } from '@grpc/grpc-js'
import { type GrpcCallError, GrpcChannelPool, type GrpcRetry } from 'spillway/grpc'
import { describe, expect, it, vi } from 'vitest'
import { clientOf, startServer, statusError } from './support/counter-service.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

/** A server of which each method fails with a status a number of times, then answers. */
async function failing(failures: number, retry: GrpcRetry | undefined, code: number = status.UNAVAILABLE) {
  const calls = { get: 0, increment: 0 }
  const attempts: string[] = []
  const server = await startServer({
    get: (call, callback) => {
      attempts.push(String(call.metadata.get('grpc-previous-rpc-attempts')[0] ?? 'first'))
      if (calls.get++ < failures) callback(statusError(code, 'not now'))
      else callback(null, { value: calls.get })
    },
    increment: (_call, callback) => {
      if (calls.increment++ < failures) callback(statusError(code, 'not now'))
      else callback(null, { value: calls.increment })
    },
  })
  cleanUp(() => server.kill())
  const pool = new GrpcChannelPool(clientOf(server.address), { channels: 1, retry })
  cleanUp(() => pool.close({ timeoutMs: 0 }))
  return { pool, calls, attempts }
}

const quick = { initialBackoffMs: 1, maxBackoffMs: 5 }

describe('the retry policy', () => {
  it('is applied by grpc-js: two failures, then the answer', async () => {
    const { pool, attempts } = await failing(2, { maxAttempts: 3, ...quick })

    expect(await pool.call('get', { key: 'a' })).toEqual({ value: 3 })

    expect(attempts).toEqual(['first', '1', '2'])
    expect(pool.stats()).toMatchObject({ offered: 1, succeeded: 1 })
  })

  it('is absent by default', async () => {
    const { pool, calls } = await failing(1, undefined)

    await expect(pool.call('get', { key: 'a' })).rejects.toMatchObject({ statusName: 'UNAVAILABLE' })

    expect(calls.get).toBe(1)
  })

  it('ends with its last attempt, of which there are at most five', async () => {
    const { pool, calls } = await failing(99, { maxAttempts: 5, throttling: false, ...quick })

    await expect(pool.call('get', { key: 'a' })).rejects.toMatchObject({ outcomeUnknown: true })

    expect(calls.get).toBe(5)
  })

  it('applies to the statuses that it names alone', async () => {
    const policy: GrpcRetry = { maxAttempts: 3, retryableStatusCodes: ['ABORTED'], ...quick }
    const aborted = await failing(1, policy, status.ABORTED)
    const unavailable = await failing(1, policy)

    await aborted.pool.call('get', { key: 'a' })
    await expect(unavailable.pool.call('get', { key: 'a' })).rejects.toMatchObject({ statusName: 'UNAVAILABLE' })

    expect(aborted.calls.get).toBe(2)
    expect(unavailable.calls.get).toBe(1)
  })

  it('applies to the methods that it names alone', async () => {
    const { pool, calls } = await failing(1, { maxAttempts: 3, methods: ['counter.v1.Counter/Get'], ...quick })

    await pool.call('get', { key: 'a' })
    await expect(pool.call('increment', { key: 'a', delta: 1 })).rejects.toMatchObject({ statusName: 'UNAVAILABLE' })

    expect(calls).toEqual({ get: 2, increment: 1 })
  })

  it('applies to the services that it names', async () => {
    const { pool, calls } = await failing(1, { maxAttempts: 3, methods: ['counter.v1.Counter'], ...quick })

    await pool.call('increment', { key: 'a', delta: 1 })

    expect(calls.increment).toBe(2)
  })

  it('waits between attempts, longer each time', async () => {
    const times: number[] = []
    const server = await startServer({
      get: (_call, callback) => {
        times.push(performance.now())
        callback(statusError(status.UNAVAILABLE, 'not now'))
      },
    })
    cleanUp(() => server.kill())
    const retry = { maxAttempts: 4, initialBackoffMs: 40, maxBackoffMs: 160, backoffMultiplier: 2 }
    const pool = new GrpcChannelPool(clientOf(server.address), { channels: 1, retry })
    cleanUp(() => pool.close())

    await expect(pool.call('get', { key: 'a' })).rejects.toThrow()

    // 40, 80 and 160 ms, give or take 20 %, and never early.
    const waits = times.slice(1).map((time, i) => time - (times[i] as number))
    expect(waits[0]).toBeGreaterThan(30)
    expect(waits[1]).toBeGreaterThan(62)
    expect(waits[2]).toBeGreaterThan(126)
  })

  it('is throttled: with half the tokens gone, calls fail at their first failure', async () => {
    const throttling = { maxTokens: 4, tokenRatio: 0.1 }
    const { pool, calls } = await failing(Number.POSITIVE_INFINITY, { maxAttempts: 5, throttling, ...quick })

    // Each failed attempt costs a token: after the second one 2 of 4 are left, and that is not more than half.
    await expect(pool.call('get', { key: 'a' })).rejects.toThrow()
    expect(calls.get).toBe(2)
    await expect(pool.call('get', { key: 'a' })).rejects.toThrow()
    expect(calls.get).toBe(3)
  })

  it('is throttled by default, with 10 tokens', async () => {
    const { pool, calls } = await failing(Number.POSITIVE_INFINITY, { maxAttempts: 5, ...quick })

    await expect(pool.call('get', { key: 'a' })).rejects.toThrow()
    expect(calls.get).toBe(5)
    await expect(pool.call('get', { key: 'a' })).rejects.toThrow()
    expect(calls.get).toBe(6)
  })

  it('tries a cancelled call no more', async () => {
    const { pool, calls } = await failing(99, { maxAttempts: 5, initialBackoffMs: 300, throttling: false })
    const controller = new AbortController()
    const answer = pool.call('get', { key: 'a' }, { signal: controller.signal })
    await vi.waitFor(() => expect(calls.get).toBe(1))

    controller.abort(new Error('enough'))

    await expect(answer).rejects.toThrow('enough')
    await new Promise((resolve) => setTimeout(resolve, 450))
    expect(calls.get).toBe(1)
  })

  it('leaves the outcome open when an attempt was made before the connection was gone', async () => {
    const server = await startServer({
      get: () => setImmediate(() => server.kill()),
    })
    const retry = { maxAttempts: 2, retryableStatusCodes: ['UNAVAILABLE', 'CANCELLED'], ...quick } as const
    const pool = new GrpcChannelPool(clientOf(server.address), { channels: 1, retry })
    cleanUp(() => pool.close())

    const error = await pool.call('get', { key: 'a' }).then(
      () => undefined,
      (reason: GrpcCallError) => reason,
    )

    expect(error).toMatchObject({ retryable: true, outcomeUnknown: true })
  })
})
