import { AsyncBatcher, ClosedError, FullError, StoreError, TimeoutError } from 'spillway'
import { describe, expect, test } from 'vitest'
import { isOutcomeUnknown } from '../../src/internal/outcome.js'

const coded = (code: unknown, message = `failed with ${String(code)}`): Error =>
  Object.assign(new Error(message), { code })
const named = (name: string): Error => Object.assign(new Error(name), { name })

describe('the work may have been done', () => {
  test.each<[string, unknown]>([
    ['our own timeout', new TimeoutError('slow', 50)],
    ['a store error that says so', new StoreError('lost', { outcomeUnknown: true })],
    ['a reset connection', coded('ECONNRESET')],
    ['an aborted connection', coded('ECONNABORTED')],
    ['a broken pipe', coded('EPIPE')],
    ['a socket timeout', coded('ETIMEDOUT')],
    ['a stream that ended early', coded('ERR_STREAM_PREMATURE_CLOSE')],
    ['undici: other side closed', coded('UND_ERR_SOCKET')],
    ['undici: no headers in time', coded('UND_ERR_HEADERS_TIMEOUT')],
    ['undici: no body in time', coded('UND_ERR_BODY_TIMEOUT')],
    ['a broken HTTP/2 stream', coded('ERR_HTTP2_STREAM_ERROR')],
    ['Postgres: connection failure', coded('08006')],
    ['Postgres: transaction resolution unknown', coded('08007')],
    ['Postgres: administrator shut it down', coded('57P01')],
    ['Postgres: crash shut it down', coded('57P02')],
    ['pg: a connection that broke', new Error('Connection terminated unexpectedly')],
    ['AbortSignal.timeout', named('TimeoutError')],
    ['an aborted request', new AbortController().signal.reason ?? AbortSignal.abort().reason],
    ['a wrapped lost connection', new Error('query failed', { cause: coded('ECONNRESET') })],
    ['a fetch that failed', new TypeError('fetch failed', { cause: coded('UND_ERR_SOCKET') })],
    ['a store error over a lost connection', new StoreError('redis', { cause: coded('ECONNRESET') })],
    [
      'three wrappings',
      new Error('a', { cause: new Error('b', { cause: new Error('c', { cause: coded('EPIPE') }) }) }),
    ],
    ['an object that is no Error', { code: 'ECONNRESET' }],
  ])('%s', (_, error) => {
    expect(isOutcomeUnknown(error)).toBe(true)
  })
})

describe('the work was not done', () => {
  test.each<[string, unknown]>([
    ['a plain error', new Error('no')],
    ['undefined', undefined],
    ['null', null],
    ['a string', 'ECONNRESET'],
    ['a number', 42],
    ['a refused connection', coded('ECONNREFUSED')],
    ['a host that is not found', coded('ENOTFOUND')],
    ['undici: could not connect in time', coded('UND_ERR_CONNECT_TIMEOUT')],
    ['Postgres: could not connect', coded('08001')],
    ['Postgres: rejected the connection', coded('08004')],
    ['Postgres: starting up', coded('57P03')],
    ['Postgres: unique violation', coded('23505')],
    ['Postgres: deadlock', coded('40P01')],
    ['Postgres: serialization failure', coded('40001')],
    ['a store error', new StoreError('down')],
    ['a closed component', new ClosedError('closed')],
    ['a full component', new FullError('full', 1)],
    ['a message that only mentions it', new Error('the Connection terminated')],
    ['a numeric code', coded(8006)],
  ])('%s', (_, error) => {
    expect(isOutcomeUnknown(error)).toBe(false)
  })
})

test('causes that go in a circle come to an end', () => {
  const error = new Error('a') as Error & { cause: unknown }
  error.cause = error

  expect(isOutcomeUnknown(error)).toBe(false)
})

test('the engine asks: a lost connection is not retried, a refused one is', async () => {
  const calls: Record<string, number> = {}
  const batcher = new AsyncBatcher<string, string>(
    ([code]) => {
      calls[String(code)] = (calls[String(code)] ?? 0) + 1
      throw coded(code)
    },
    { maxBatchSize: 1, retry: { attempts: 3, delayMs: 0 } },
  )

  await Promise.allSettled(['ECONNRESET', 'ECONNREFUSED'].map((code) => batcher.add(code)))
  await batcher.close()

  expect(calls).toEqual({ ECONNRESET: 1, ECONNREFUSED: 3 })
})

test('an error of ours that says so is believed over its cause, one that does not is judged by it', () => {
  const cause = coded('ECONNRESET')

  expect(isOutcomeUnknown(new StoreError('never sent', { cause, outcomeUnknown: false }))).toBe(false)
  expect(isOutcomeUnknown(new StoreError('lost', { cause }))).toBe(true)
  expect(isOutcomeUnknown(new StoreError('refused', { cause: coded('ECONNREFUSED') }))).toBe(false)
})
