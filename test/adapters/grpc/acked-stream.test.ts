import { status } from '@grpc/grpc-js'
import { AckedStream, type AckedStreamOptions, GrpcChannelPool } from 'spillway/grpc'
import { describe, expect, it, vi } from 'vitest'
import {
  clientOf,
  type RunningServer,
  type StreamAck,
  type StreamMessage,
  startServer,
  statusError,
} from './support/counter-service.js'
import { startRelay } from './support/relay.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

type Options = AckedStreamOptions<string, StreamMessage, StreamAck>

/** What the service remembers across its restarts: which ids it has applied, and in which order. */
class Ledger {
  readonly applied: string[] = []
  readonly #values = new Map<string, number>()
  received = 0

  apply({ id, key }: StreamMessage): StreamAck {
    this.received++
    let value = this.#values.get(id)
    if (value === undefined) {
      this.applied.push(key)
      value = this.applied.length
      this.#values.set(id, value)
    }
    return { id, value }
  }
}

interface Behaviour {
  /** Acknowledges by itself; otherwise `acks` holds what would be sent. */
  readonly answers?: boolean
  readonly port?: number
}

async function startCounter(ledger: Ledger, { answers = true, port = 0 }: Behaviour = {}) {
  const acks: (() => void)[] = []
  const seen = { streams: 0, ended: 0, cancelled: 0 }
  const server: RunningServer = await startServer(
    {
      increments: (call) => {
        seen.streams++
        call.on('data', (message) => {
          const ack = ledger.apply(message)
          if (answers) call.write(ack)
          else acks.push(() => void call.write(ack))
        })
        call.on('end', () => {
          seen.ended++
          call.end()
        })
        call.on('cancelled', () => seen.cancelled++)
        call.on('error', () => undefined)
      },
    },
    { port },
  )
  cleanUp(() => server.kill())
  return { server, acks, seen, ackAll: () => acks.splice(0).forEach((ack) => void ack()) }
}

function streamTo(address: string, options: Partial<Options> = {}) {
  const pool = new GrpcChannelPool(clientOf(address), {
    channels: 1,
    channelOptions: { 'grpc.initial_reconnect_backoff_ms': 20, 'grpc.max_reconnect_backoff_ms': 20 },
  })
  cleanUp(() => pool.close({ timeoutMs: 0 }))
  const stream = new AckedStream<string, StreamMessage, StreamAck>(() => pool.openStream('increments'), {
    message: (key, id) => ({ id, key }),
    idOf: (ack) => ack.id,
    retry: { attempts: 100, delayMs: 10, maxDelayMs: 20 },
    ...options,
  })
  cleanUp(() => stream.close({ timeoutMs: 0 }))
  return { stream, pool }
}

function balanced(stream: AckedStream<string, StreamMessage, StreamAck>): void {
  const { offered, succeeded, failed, rejected, aborted, pending } = stream.stats()
  expect(offered).toBe(succeeded + failed + rejected + aborted + pending)
}

describe('an acked stream', () => {
  it('gives each caller its acknowledgement, over one stream, in order', async () => {
    const ledger = new Ledger()
    const { server, seen } = await startCounter(ledger)
    const { stream } = streamTo(server.address)
    const keys = Array.from({ length: 500 }, (_, i) => `key ${i}`)

    const acks = await Promise.all(keys.map((key) => stream.send(key)))

    expect(acks.map(({ value }) => value)).toEqual(keys.map((_, i) => i + 1))
    expect(ledger.applied).toEqual(keys)
    expect(seen.streams).toBe(1)
    expect(stream.stats()).toMatchObject({ offered: 500, succeeded: 500, pending: 0, inFlight: 0, streams: 1, lost: 0 })
    balanced(stream)
  })

  it('applies each message once and in order though the server is killed and restarted under it', async () => {
    const ledger = new Ledger()
    let { server } = await startCounter(ledger)
    const { stream } = streamTo(server.address)
    const lost = vi.fn()
    const opened = vi.fn()
    stream.on('lost', lost)
    stream.on('opened', opened)
    const keys = Array.from({ length: 2000 }, (_, i) => `key ${i}`)
    const answers: Promise<StreamAck>[] = []

    for (const [i, key] of keys.entries()) {
      await stream.ready()
      answers.push(stream.send(key))
      if (i % 500 === 250) {
        server.kill()
        server = (await startCounter(ledger, { port: server.port })).server
      }
    }
    const acks = await Promise.all(answers)

    expect(ledger.applied).toEqual(keys)
    expect(acks.map(({ value }) => value)).toEqual(keys.map((_, i) => i + 1))
    expect(stream.stats()).toMatchObject({ offered: 2000, succeeded: 2000, failed: 0, pending: 0 })
    expect(lost.mock.calls.length).toBeGreaterThanOrEqual(1)
    expect(opened.mock.calls.length).toBe(stream.stats().streams)
    balanced(stream)
  })

  it('sends again, under the same ids, what was applied but not acknowledged', async () => {
    const ledger = new Ledger()
    const first = await startCounter(ledger, { answers: false })
    const { stream } = streamTo(first.server.address)
    const answers = ['a', 'b', 'c'].map((key) => stream.send(key))
    await vi.waitFor(() => expect(ledger.received).toBe(3))

    first.server.kill()
    await startCounter(ledger, { port: first.server.port })

    expect((await Promise.all(answers)).map(({ value }) => value)).toEqual([1, 2, 3])
    expect(ledger).toMatchObject({ applied: ['a', 'b', 'c'], received: 6 })
    expect(stream.stats()).toMatchObject({ resent: 3, streams: 2, lost: 1 })
  })

  it('survives a connection that breaks without a word', async () => {
    const ledger = new Ledger()
    const { server } = await startCounter(ledger)
    const relay = await startRelay(server.port)
    cleanUp(() => relay.stop())
    const { stream } = streamTo(relay.address)

    const answers: Promise<StreamAck>[] = []
    for (let i = 0; i < 300; i++) {
      answers.push(stream.send(`key ${i}`))
      if (i % 100 === 50) {
        await answers[i - 10]
        relay.cut()
      }
    }
    await Promise.all(answers)

    expect(ledger.applied).toEqual(Array.from({ length: 300 }, (_, i) => `key ${i}`))
    expect(relay.connections).toBeGreaterThan(1)
  })

  it('holds its bound on what is unacknowledged', async () => {
    const ledger = new Ledger()
    const { server, ackAll, acks } = await startCounter(ledger, { answers: false })
    const { stream } = streamTo(server.address, { capacity: 3, name: 'likes' })
    const answers = ['a', 'b', 'c'].map((key) => stream.send(key))

    await expect(stream.send('d')).rejects.toMatchObject({
      code: 'ERR_FULL',
      message: 'likes is full (capacity 3)',
      capacity: 3,
    })
    let room = false
    const ready = stream.ready().then(() => {
      room = true
    })
    await vi.waitFor(() => expect(acks).toHaveLength(3))
    expect(room).toBe(false)
    ackAll()
    await ready
    await Promise.all(answers)

    expect(stream.stats()).toMatchObject({ offered: 4, succeeded: 3, rejected: 1 })
  })

  it('waits for drain when the transport is full', async () => {
    const writes: number[] = []
    let drain: () => void = () => undefined
    const ledger = new Ledger()
    const { server } = await startCounter(ledger)
    const { pool } = streamTo(server.address)
    const stream = new AckedStream<string, StreamMessage, StreamAck>(
      () => {
        const real = pool.openStream('increments')
        const write = real.write.bind(real) as (message: StreamMessage) => boolean
        let blocked = false
        real.write = ((message: StreamMessage) => {
          expect(blocked).toBe(false)
          const more = write(message)
          writes.push(1)
          blocked = !more
          return more
        }) as typeof real.write
        drain = () => {
          blocked = false
        }
        real.prependListener('drain', drain)
        return real
      },
      { message: (key, id) => ({ id, key }), idOf: ({ id }) => id },
    )
    cleanUp(() => stream.close({ timeoutMs: 0 }))

    const answers = Array.from({ length: 200 }, (_, i) => stream.send(`${i}`))

    // Node takes 16 objects before it asks to wait.
    expect(writes).toHaveLength(16)
    await Promise.all(answers)
    expect(writes).toHaveLength(200)
  })

  it('never sends what was aborted before it left, and keeps the place of what had left', async () => {
    const ledger = new Ledger()
    const { server, ackAll, acks } = await startCounter(ledger, { answers: false })
    const { stream } = streamTo(server.address, { capacity: 2 })
    const controller = new AbortController()
    const remove = vi.spyOn(controller.signal, 'removeEventListener')
    const sent = stream.send('sent', { signal: controller.signal })
    await vi.waitFor(() => expect(acks).toHaveLength(1))
    const kept = stream.send('kept')

    controller.abort(new Error('enough'))

    await expect(sent).rejects.toThrow('enough')
    expect(remove).toHaveBeenCalledTimes(1)
    // The server still holds it: there is no room yet.
    await expect(stream.send('more')).rejects.toMatchObject({ code: 'ERR_FULL' })
    await vi.waitFor(() => expect(acks).toHaveLength(2))
    ackAll()
    await kept
    await stream.ready()
    expect(stream.stats()).toMatchObject({ aborted: 1, succeeded: 1, rejected: 1, unmatched: 1, pending: 0 })
    await expect(stream.send('late', { signal: AbortSignal.abort('late') })).rejects.toBe('late')
    balanced(stream)
  })

  it('does not send again what was aborted', async () => {
    const ledger = new Ledger()
    const first = await startCounter(ledger, { answers: false })
    const { stream } = streamTo(first.server.address)
    const controller = new AbortController()
    const aborted = stream.send('a', { signal: controller.signal })
    const kept = stream.send('b')
    await vi.waitFor(() => expect(ledger.received).toBe(2))
    controller.abort('enough')
    await expect(aborted).rejects.toBe('enough')

    first.server.kill()
    // While there is no stream, nothing has left.
    await vi.waitFor(() => expect(stream.stats().lost).toBeGreaterThan(0))
    const second = new AbortController()
    const unsent = stream.send('c', { signal: second.signal })
    second.abort('enough')
    await expect(unsent).rejects.toBe('enough')
    await startCounter(ledger, { port: first.server.port })

    await kept
    expect(ledger).toMatchObject({ applied: ['a', 'b'], received: 3 })
  })

  it('rejects one message that the server refuses, and no other', async () => {
    const server = await startServer({
      increments: (call) => {
        call.on('data', ({ id, key }) => call.write(key === 'bad' ? { id, value: 0, error: 'no' } : { id, value: 1 }))
        call.on('end', () => call.end())
      },
    })
    cleanUp(() => server.kill())
    const { stream } = streamTo(server.address, {
      errorOf: (ack) => (ack.error === undefined ? undefined : new Error(ack.error)),
    })
    const failed = vi.fn()
    stream.on('failed', failed)

    const outcomes = await Promise.allSettled(['a', 'bad', 'b'].map((key) => stream.send(key)))

    expect(outcomes.map(({ status: outcome }) => outcome)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect(failed).toHaveBeenCalledExactlyOnceWith({ items: ['bad'], error: new Error('no') })
    expect(stream.stats()).toMatchObject({ succeeded: 2, failed: 1 })
  })

  it('fails everything at once when the stream fails for good, each caller with its own error', async () => {
    const server = await startServer({
      increments: (call) => {
        call.on('data', () => call.emit('error', statusError(status.PERMISSION_DENIED, 'not you')))
      },
    })
    cleanUp(() => server.kill())
    const { stream } = streamTo(server.address, { name: 'likes' })

    const [a, b] = await Promise.allSettled([stream.send('a'), stream.send('b')])

    const expected = {
      code: 'ERR_STORE',
      statusName: 'PERMISSION_DENIED',
      retryable: false,
      message: `likes: the stream to ${server.address} failed: PERMISSION_DENIED (7): not you`,
    }
    expect(a).toMatchObject({ reason: expected })
    expect(b).toMatchObject({ reason: expected })
    expect((a as PromiseRejectedResult).reason).not.toBe((b as PromiseRejectedResult).reason)
    expect(stream.stats()).toMatchObject({ failed: 2, streams: 1, pending: 0 })
  })

  it('gives up after its attempts, and starts anew with the next message', async () => {
    const ledger = new Ledger()
    const first = await startCounter(ledger)
    first.server.kill()
    const { stream } = streamTo(first.server.address, { retry: { attempts: 3, delayMs: 1, maxDelayMs: 1 } })

    await expect(stream.send('a')).rejects.toMatchObject({ statusName: 'UNAVAILABLE' })
    expect(stream.stats()).toMatchObject({ streams: 3, lost: 3, failed: 1, pending: 0, state: 'idle' })

    await startCounter(ledger, { port: first.server.port })
    await vi.waitFor(async () => expect(await stream.send('b')).toMatchObject({ value: 1 }), 5000)
    balanced(stream)
  })

  it('takes a stream without acknowledgements for lost', async () => {
    const ledger = new Ledger()
    const { server, seen } = await startCounter(ledger, { answers: false })
    const { stream, pool } = streamTo(server.address, {
      ackTimeoutMs: 50,
      retry: { attempts: 2, delayMs: 1, maxDelayMs: 1 },
    })

    await expect(stream.send('a')).rejects.toMatchObject({
      statusName: 'DEADLINE_EXCEEDED',
      details: 'no acknowledgement for 50 ms',
      outcomeUnknown: true,
    })

    await vi.waitFor(() => expect(seen).toMatchObject({ streams: 2, cancelled: 2 }), 10_000)
    // For the pool that is a failure of the server's, not a wish of the caller's.
    expect(pool.stats()).toMatchObject({ offered: 2, failed: 2, aborted: 0 })
  })

  it('opens another stream when the server ends one early', async () => {
    const ledger = new Ledger()
    let streams = 0
    const server = await startServer({
      increments: (call) => {
        const last = streams++ > 0
        call.on('data', (message) => {
          if (last) call.write(ledger.apply(message))
          else call.end()
        })
        call.on('end', () => call.end())
      },
    })
    cleanUp(() => server.kill())
    const { stream } = streamTo(server.address)

    expect(await stream.send('a')).toMatchObject({ value: 1 })
    expect(streams).toBe(2)
  })

  it('ends an idle stream, and opens one again when there is something to send', async () => {
    const ledger = new Ledger()
    const { server, seen } = await startCounter(ledger)
    const { stream, pool } = streamTo(server.address, { idleMs: 20 })
    const ended = vi.fn()
    stream.on('ended', ended)

    await stream.send('a')
    await vi.waitFor(() => expect(seen.ended).toBe(1))
    await pool.flush()
    expect(stream.stats()).toMatchObject({ state: 'idle', streams: 1 })
    expect(pool.stats()).toMatchObject({ succeeded: 1, pending: 0 })
    expect(ended).toHaveBeenCalledExactlyOnceWith({ reason: 'idle' })

    await stream.send('b')
    expect(seen.streams).toBe(2)
    expect(stream.stats().lost).toBe(0)
  })

  it('takes an id of the caller’s, so that a message outlives its process', async () => {
    const ledger = new Ledger()
    const { server } = await startCounter(ledger)
    const { stream } = streamTo(server.address)

    const [first] = await Promise.all([
      stream.send('a', { id: 'order-1' }),
      expect(stream.send('a', { id: 'order-1' })).rejects.toThrow(/^id must not be in flight already/),
    ])
    const again = await stream.send('a', { id: 'order-1' })

    expect(again).toEqual(first)
    expect(ledger.applied).toEqual(['a'])
  })

  it('ignores answers that acknowledge nothing, and fails when they can’t be read', async () => {
    const server = await startServer({
      increments: (call) => {
        call.on('data', ({ id, key }) => {
          call.write({ id: 'heartbeat', value: 0 })
          call.write({ id: 'stranger', value: 0 })
          call.write({ id: key === 'torn' ? 'torn' : id, value: 1 })
        })
        call.on('end', () => call.end())
        call.on('error', () => undefined)
      },
    })
    cleanUp(() => server.kill())
    const { stream } = streamTo(server.address, {
      idOf: ({ id }) => {
        if (id === 'torn') throw new TypeError('unreadable')
        return id === 'heartbeat' ? undefined : id
      },
    })

    await stream.send('a')
    expect(stream.stats().unmatched).toBe(1)
    await expect(stream.send('torn')).rejects.toMatchObject({
      code: 'ERR_STORE',
      cause: new TypeError('unreadable'),
      outcomeUnknown: true,
    })
  })
})

describe('close', () => {
  it('waits for acknowledgements, half-closes, and waits for the server’s end', async () => {
    const ledger = new Ledger()
    const { server, seen, ackAll, acks } = await startCounter(ledger, { answers: false })
    const { stream, pool } = streamTo(server.address, { name: 'likes' })
    const answers = [stream.send('a'), stream.send('b')]
    await vi.waitFor(() => expect(acks).toHaveLength(2))

    const waiting = stream.ready()
    await waiting
    const closing = stream.close()
    await expect(stream.send('c')).rejects.toMatchObject({ code: 'ERR_CLOSED', message: 'likes is closed' })
    await expect(stream.ready()).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    ackAll()

    expect(await closing).toEqual({ drained: true, abandoned: 0 })
    expect((await Promise.all(answers)).map(({ value }) => value)).toEqual([1, 2])
    expect(seen.ended).toBe(1)
    // It ended with OK: a cancelled one would be aborted.
    expect(pool.stats()).toMatchObject({ succeeded: 1, pending: 0 })
    balanced(stream)
  })

  it('gives up at the deadline what is unacknowledged, and says whether it was sent', async () => {
    const ledger = new Ledger()
    const { server, seen, acks } = await startCounter(ledger, { answers: false })
    const { stream } = streamTo(server.address)
    const answer = stream.send('a')
    await vi.waitFor(() => expect(acks).toHaveLength(1))

    const report = await stream.close({ timeoutMs: 20 })

    expect(report).toEqual({ drained: false, abandoned: 1 })
    await expect(answer).rejects.toMatchObject({ code: 'ERR_CLOSED', outcomeUnknown: true })
    await vi.waitFor(() => expect(seen.cancelled).toBe(1))
    expect(stream.stats()).toMatchObject({ offered: 1, failed: 1, pending: 0, state: 'idle' })
  })

  it('cuts a wait between two streams short', async () => {
    const ledger = new Ledger()
    const first = await startCounter(ledger)
    first.server.kill()
    const { stream } = streamTo(first.server.address, {
      retry: { attempts: 5, delayMs: 600_000, maxDelayMs: 600_000 },
      random: () => 0.9,
    })
    const answer = stream.send('a')
    await vi.waitFor(() => expect(stream.stats().state).toBe('waiting'))
    await startCounter(ledger, { port: first.server.port })
    await new Promise((resolve) => setTimeout(resolve, 50))

    const report = await stream.close()

    expect(report).toEqual({ drained: true, abandoned: 0 })
    expect(await answer).toMatchObject({ value: 1 })
  })

  it('of what never sent anything is done at once', async () => {
    const { stream } = streamTo('127.0.0.1:1')

    expect(await stream.close()).toEqual({ drained: true, abandoned: 0 })
    expect(await stream.close({ timeoutMs: 5 })).toEqual({ drained: true, abandoned: 0 })
  })
})

describe('misuse', () => {
  const open = () => {
    throw new Error('never')
  }
  const good = { message: (key: string, id: string) => ({ id, key }), idOf: (ack: StreamAck) => ack.id }

  it.each([
    [undefined, good, /^open must be a function/],
    [open, undefined, /^message must be a function/],
    [open, { ...good, message: 1 }, /^message must be a function/],
    [open, { ...good, idOf: null }, /^idOf must be a function/],
    [open, { ...good, errorOf: null }, /^errorOf must be a function/],
    [open, { ...good, capacity: 0 }, /^capacity must be a whole number between 1/],
    [open, { ...good, retry: { attempts: 0 } }, /^retry\.attempts must be a whole number/],
    [open, { ...good, ackTimeoutMs: 0 }, /^ackTimeoutMs must be a number between 1/],
    [open, { ...good, idleMs: -1 }, /^idleMs must be a number between 0/],
  ])('of the constructor throws', (first, options, message) => {
    expect(() => new AckedStream(first as never, options as never)).toThrow(message)
  })

  it('of send rejects and is in the books', async () => {
    const { stream } = streamTo('127.0.0.1:1', {
      message: (key, id) => {
        if (key === 'throws') throw new Error('no message')
        return (key === 'null' ? null : { id, key }) as StreamMessage
      },
    })

    await expect(stream.send('throws')).rejects.toThrow('no message')
    await expect(stream.send('null')).rejects.toThrow(/^message must make a message, got null/)
    await expect(stream.send('a', { id: '' })).rejects.toThrow(/^id must be a string that is not empty/)
    await expect(stream.send('a', { signal: {} as AbortSignal })).rejects.toThrow(/^signal must be an AbortSignal/)
    await expect(stream.send('a', 3 as never)).rejects.toThrow(/^options must be an object/)
    await expect(stream.ready(3 as never)).rejects.toThrow(/^options must be an object/)
    expect(stream.stats()).toMatchObject({ offered: 5, rejected: 5, streams: 0 })
  })

  it('of retryable, which throws, means no', async () => {
    const stream = new AckedStream(open, {
      ...good,
      retry: {
        retryable: () => {
          throw new Error('no idea')
        },
      },
    })

    await expect(stream.send('a')).rejects.toMatchObject({ cause: new Error('never') })
  })

  it('of message, which aborts its own caller, sends nothing', async () => {
    const controller = new AbortController()
    const stream = new AckedStream(open, {
      ...good,
      message: (key: string, id) => {
        controller.abort('enough')
        return { id, key }
      },
    })

    await expect(stream.send('a', { signal: controller.signal })).rejects.toBe('enough')
    expect(stream.stats()).toMatchObject({ rejected: 1, streams: 0 })
  })

  it('of open, which throws, fails like a stream', async () => {
    const stream = new AckedStream(open, { ...good, retry: { attempts: 2, delayMs: 1 } })

    await expect(stream.send('a')).rejects.toMatchObject({ code: 'ERR_STORE', cause: new Error('never') })
  })
})
