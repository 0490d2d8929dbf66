import { connect, createServer, type Socket } from 'node:net'
import { AckedStream, type AckedStreamOptions, GrpcChannelPool, type GrpcChannelPoolOptions } from 'spillway/grpc'
import { describe, expect, it, vi } from 'vitest'
import {
  type CounterClient,
  clientOf,
  type Handlers,
  type StreamAck,
  type StreamMessage,
  startServer,
  statusError,
} from '../adapters/grpc/support/counter-service.js'
import { cleanUp, tidyUp } from '../adapters/grpc/support/tidy.js'

tidyUp()

const streamOptions: AckedStreamOptions<string, StreamMessage, StreamAck> = {
  message: (key, id) => ({ id, key }),
  idOf: ({ id }) => id,
  retry: { attempts: 3, delayMs: 1, maxDelayMs: 5 },
}

function makePool(address: string, options: GrpcChannelPoolOptions = {}): GrpcChannelPool<CounterClient> {
  const pool = new GrpcChannelPool(clientOf(address), { channels: 1, ...options })
  cleanUp(() => pool.close({ timeoutMs: 0 }))
  return pool
}

async function serve(handlers: Handlers): Promise<GrpcChannelPool<CounterClient>> {
  const server = await startServer(handlers)
  cleanUp(() => server.kill())
  return makePool(server.address)
}

function streamOn(pool: GrpcChannelPool<CounterClient>): AckedStream<string, StreamMessage, StreamAck> {
  const stream = new AckedStream(() => pool.openStream('increments'), streamOptions)
  cleanUp(() => stream.close({ timeoutMs: 0 }))
  return stream
}

const errorOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error) => error,
  )

describe('a message on a stream', () => {
  it('that was applied is not called unapplied because of the status that a later one ends the stream with', async () => {
    const applied: string[] = []
    const pool = await serve({
      increments: (call) => {
        call.on('error', () => undefined)
        call.on('data', ({ key }: StreamMessage) => {
          if (key === 'bad') call.emit('error', statusError(3, 'bad key'))
          else applied.push(key)
        })
      },
    })
    const failures: unknown[] = []
    pool.on('failed', ({ error }) => failures.push(error))
    const stream = streamOn(pool)

    const [error] = await Promise.all([errorOf(stream.send('good')), errorOf(stream.send('bad'))])

    expect(applied).toEqual(['good'])
    expect(error).toMatchObject({ statusName: 'INVALID_ARGUMENT', outcomeUnknown: true })
    expect(failures).toMatchObject([{ statusName: 'INVALID_ARGUMENT', outcomeUnknown: true }])
  })

  it('that was applied is not called unapplied because no further stream can be opened', async () => {
    const applied: string[] = []
    const pool = await serve({
      increments: (call) => {
        call.on('data', ({ key }: StreamMessage) => {
          applied.push(key)
          call.end()
        })
      },
    })
    const stream = streamOn(pool)
    stream.on('lost', () => void pool.close({ timeoutMs: 0 }))

    const error = await errorOf(stream.send('a'))

    expect(applied).toEqual(['a'])
    expect(error).toMatchObject({ code: 'ERR_STORE', outcomeUnknown: true, cause: { code: 'ERR_CLOSED' } })
  })

  it('is refused, and nothing is thrown, where open gives no stream', async () => {
    const open = (() => ({})) as unknown as ConstructorParameters<
      typeof AckedStream<string, StreamMessage, StreamAck>
    >[0]
    const stream = new AckedStream(open, streamOptions)
    cleanUp(() => stream.close({ timeoutMs: 0 }))

    const answer = stream.send('a')

    await expect(answer).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'open' })
  })
})

describe("a lease's cancel", () => {
  it('that throws ends neither the process nor the close that calls it', async () => {
    const pool = await serve({})
    const next = vi.fn()
    pool.lease({
      cancel: () => {
        throw new Error('thrown')
      },
    })
    pool.lease({ cancel: next })

    const report = await pool.close({ timeoutMs: 10 })

    expect(report).toEqual({ drained: false, abandoned: 2 })
    expect(next).toHaveBeenCalledOnce()
  })

  it('that rejects leaves no unhandled rejection', async () => {
    const pool = await serve({})
    pool.lease({ cancel: () => Promise.reject(new Error('rejected')) })

    const report = await pool.close({ timeoutMs: 10 })

    // tidyUp holds that there was none.
    expect(report).toEqual({ drained: false, abandoned: 1 })
  })
})

describe('what is not a method of the service, or not one of that kind,', () => {
  const own = ['close', 'getChannel', 'toString', 'waitForReady', 'makeUnaryRequest']
  const echo: Handlers = { get: (_call, callback) => callback(null, { value: 1 }) }

  it.each([...own, 'increments', 'upload', 'watch'])('is not called: %s', async (name) => {
    const pool = await serve(echo)

    const answer = pool.call(name as 'get', { key: 'a' }, { timeoutMs: 1000 })

    await expect(answer).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'method' })
    expect(await pool.call('get', { key: 'a' })).toEqual({ value: 1 })
    expect(pool.stats().pending).toBe(0)
  })

  it.each([...own, 'increment', 'upload', 'watch'])('is not opened: %s', async (name) => {
    const pool = await serve(echo)

    const open = () => pool.openStream(name as 'increments')

    expect(open).toThrow(expect.objectContaining({ code: 'ERR_OPTION', field: 'method' }))
    expect(await pool.call('get', { key: 'a' })).toEqual({ value: 1 })
    expect(pool.stats().pending).toBe(0)
  })
})

it('a deadline while the second attempt waits for a connection leaves open what the first one did', async () => {
  let applied = 0
  const server = await startServer({
    increment: () => {
      applied++
      relay.cut()
    },
  })
  cleanUp(() => server.kill())
  const relay = await startRelayOfOneConnection(server.port)
  const pool = makePool(relay.address, {
    retry: { maxAttempts: 3, initialBackoffMs: 10 },
    channelOptions: { 'grpc.initial_reconnect_backoff_ms': 20 },
  })
  await pool.warmUp()

  const error = await errorOf(pool.call('increment', { key: 'a', delta: 1 }, { timeoutMs: 500 }))

  expect(applied).toBe(1)
  expect(error).toMatchObject({ statusName: 'DEADLINE_EXCEEDED', outcomeUnknown: true })
})

/** Lets the first connection through until it is cut; later ones are accepted and never answered. */
async function startRelayOfOneConnection(target: number): Promise<{ address: string; cut(): void }> {
  const sockets: Socket[] = []
  const track = (socket: Socket): Socket => {
    sockets.push(socket)
    return socket.on('error', () => undefined)
  }
  const cut = (): void => {
    for (const socket of sockets.splice(0)) socket.destroy()
  }
  let connections = 0
  const relay = createServer((incoming) => {
    track(incoming)
    if (++connections === 1) incoming.pipe(track(connect(target, '127.0.0.1'))).pipe(incoming)
  })
  await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve))
  cleanUp(() => {
    relay.close()
    cut()
  })
  const address = relay.address()
  return { address: `127.0.0.1:${typeof address === 'object' ? address?.port : 0}`, cut }
}
