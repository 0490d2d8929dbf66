import { inspect } from 'node:util'
import * as grpc from '@grpc/grpc-js'
import { TokenCache } from 'spillway'
import { GrpcChannelPool, tokenInterceptor } from 'spillway/grpc'
import { describe, expect, test } from 'vitest'
import { type CounterClient, clientOf, type Handlers, startServer, statusError } from './support/counter-service.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

/** Tokens `t1`, `t2` and so on, a new one for each that a server refused. */
function source(): TokenCache {
  let fetches = 0
  return new TokenCache(async () => ({ token: `t${++fetches}` }))
}

const refusal = statusError(grpc.status.UNAUTHENTICATED, 'the token has expired')

/** A server that refuses some tokens, and notes what it was sent. */
async function startApi(refuses: (token: string | undefined) => boolean = () => false, more: Handlers = {}) {
  const seen: { token: string | undefined; request: unknown; metadata: grpc.Metadata }[] = []
  const note = (metadata: grpc.Metadata, request: unknown): string | undefined => {
    const token = metadata.get('authorization')[0] as string | undefined
    seen.push({ token, request, metadata })
    return token
  }
  const server = await startServer({
    increment: (call, callback) => {
      const token = note(call.metadata, call.request)
      if (refuses(token)) callback(refusal as grpc.ServiceError)
      else callback(null, { value: call.request.delta * 2 })
    },
    watch: (call) => {
      const token = note(call.metadata, call.request)
      if (refuses(token)) call.emit('error', refusal)
      else {
        call.write({ value: 1 })
        call.write({ value: 2 })
        call.end()
      }
    },
    increments: (call) => {
      const token = note(call.metadata, undefined)
      if (refuses(token)) {
        call.emit('error', refusal)
        return
      }
      call.on('data', ({ id }: { id: string }) => call.write({ id, value: 1 }))
      call.on('end', () => call.end())
    },
    ...more,
  })
  cleanUp(() => server.kill())
  return { seen, address: server.address }
}

function connect(address: string, interceptor: grpc.Interceptor): CounterClient {
  const client = clientOf(address)({ interceptors: [interceptor] } as grpc.ChannelOptions)
  cleanUp(() => client.close())
  return client
}

interface Answer {
  readonly value: number | undefined
  readonly error: grpc.ServiceError | null
}

function increment(client: CounterClient, metadata = new grpc.Metadata(), options: Partial<grpc.CallOptions> = {}) {
  return new Promise<Answer>((resolve) => {
    client.increment({ key: 'a', delta: 2 }, metadata, options, (error, response) =>
      resolve({ value: response?.value, error }),
    )
  })
}

const refusesFirst = (token: string | undefined): boolean => token === 'Bearer t1'

describe('a unary call', () => {
  test('carries the token, which is fetched once', async () => {
    const { seen, address } = await startApi()
    const tokens = source()
    const client = connect(address, tokenInterceptor(grpc, tokens))
    const metadata = new grpc.Metadata()
    metadata.set('x-own', '1')

    const answers = await Promise.all([increment(client, metadata), increment(client), increment(client)])

    expect(answers.map(({ value }) => value)).toEqual([4, 4, 4])
    expect(seen.map(({ token }) => token)).toEqual(['Bearer t1', 'Bearer t1', 'Bearer t1'])
    expect(seen[0]?.metadata.get('x-own')).toEqual(['1'])
    // The caller's own is left as it was.
    expect(metadata.get('authorization')).toEqual([])
    expect(tokens.stats().fetches).toBe(1)
  })

  test('that is refused is sent once more with a new token', async () => {
    const { seen, address } = await startApi(refusesFirst)
    const tokens = source()
    const client = connect(address, tokenInterceptor(grpc, tokens))

    const { value, error } = await increment(client)

    expect(error).toBeNull()
    expect(value).toBe(4)
    expect(seen.map(({ token }) => token)).toEqual(['Bearer t1', 'Bearer t2'])
    expect(seen.map(({ request }) => request)).toEqual([
      { key: 'a', delta: 2 },
      { key: 'a', delta: 2 },
    ])
    expect(tokens.stats()).toMatchObject({ fetches: 2, invalidated: 1 })
  })

  test('whose second token is refused too fails with the server’s word; the next ones cost no fetch', async () => {
    const { seen, address } = await startApi(() => true)
    const tokens = source()
    const client = connect(address, tokenInterceptor(grpc, tokens))

    const first = await increment(client)
    expect(first.error).toMatchObject({ code: grpc.status.UNAUTHENTICATED, details: 'the token has expired' })
    expect(seen).toHaveLength(2)

    const others = await Promise.all(Array.from({ length: 20 }, () => increment(client)))
    expect(others.every(({ error }) => error?.code === grpc.status.UNAUTHENTICATED)).toBe(true)
    expect(seen).toHaveLength(22)
    expect(tokens.stats()).toMatchObject({ fetches: 2, invalidated: 1, invalidationsHeld: 20 })
  })

  test('that fails otherwise fails as it did, once', async () => {
    const { seen, address } = await startApi(() => false, {
      get: (call, callback) => {
        const trailers = new grpc.Metadata()
        trailers.set('x-why', 'because')
        callback(statusError(grpc.status.PERMISSION_DENIED, call.request.key, trailers) as grpc.ServiceError)
      },
    })
    const client = connect(address, tokenInterceptor(grpc, source()))

    const error = await new Promise<grpc.ServiceError | null>((resolve) => client.get({ key: 'no' }, resolve))

    expect(error).toMatchObject({ code: grpc.status.PERMISSION_DENIED, details: 'no' })
    expect(error?.metadata.get('x-why')).toEqual(['because'])
    expect(seen).toEqual([])
  })

  test('hears the server’s metadata before its end', async () => {
    const { address } = await startApi(() => false, {
      get: (call, callback) => {
        const head = new grpc.Metadata()
        head.set('x-head', '1')
        call.sendMetadata(head)
        callback(null, { value: 7 })
      },
    })
    const client = connect(address, tokenInterceptor(grpc, source()))
    const heard: unknown[] = []

    await new Promise<void>((resolve) => {
      const call = client.get({ key: 'a' }, (_error, response) => heard.push(response))
      call.on('metadata', (metadata) => heard.push(metadata.get('x-head')))
      call.on('status', ({ code }) => {
        heard.push(code)
        resolve()
      })
    })

    expect(heard).toEqual([['1'], { value: 7 }, 0])
  })

  test('with a token of the caller’s own goes out as it is', async () => {
    const { seen, address } = await startApi(() => true)
    const tokens = source()
    const client = connect(address, tokenInterceptor(grpc, tokens))
    const metadata = new grpc.Metadata()
    metadata.set('authorization', 'Basic abc')

    const { error } = await increment(client, metadata)

    expect(error?.code).toBe(grpc.status.UNAUTHENTICATED)
    expect(seen.map(({ token }) => token)).toEqual(['Basic abc'])
    expect(tokens.stats().offered).toBe(0)
  })

  test('may carry the token of a key, under a name and with a scheme of one’s own', async () => {
    const { seen, address } = await startApi()
    const tokens = new TokenCache(async (key) => ({ token: `of-${key}` }))
    const client = connect(address, tokenInterceptor(grpc, tokens, { key: 'billing', header: 'x-key', scheme: '' }))
    await increment(client)
    await increment(connect(address, tokenInterceptor(grpc, tokens.forKey('billing'), { scheme: 'Token' })))

    expect(seen.map(({ metadata }) => metadata.get('x-key'))).toEqual([['of-billing'], []])
    expect(seen[1]?.token).toBe('Token of-billing')
  })
})

describe('a call for which there is no token', () => {
  test.each([
    ['UNAVAILABLE', new Error('identity provider down: s3cret'), grpc.status.UNAVAILABLE],
    [
      'UNAUTHENTICATED where the error will come again',
      Object.assign(new Error('wrong s3cret'), { retryable: false }),
      grpc.status.UNAUTHENTICATED,
    ],
  ])('ends with %s, and the source’s error is its cause', async (_name, cause, code) => {
    const { seen, address } = await startApi()
    const tokens = new TokenCache(async () => {
      throw cause
    })
    const client = connect(address, tokenInterceptor(grpc, tokens))

    const { error } = await increment(client)

    expect(error).toMatchObject({ code, details: 'No token for /counter.v1.Counter/Increment' })
    expect(error?.message).not.toContain('s3cret')
    expect(error?.cause).toBe(cause)
    expect(seen).toEqual([])
  })

  test.each([
    ['nothing', undefined, grpc.status.UNAVAILABLE],
    ['an empty text', '', grpc.status.UNAVAILABLE],
    ['what metadata can’t carry, for instance a file with its line break', 's3cret\n', grpc.status.UNAUTHENTICATED],
  ])('since its source gave %s, ends, and no error quotes it', async (_name, token, code) => {
    const { seen, address } = await startApi()
    const tokens = { get: () => token as string, invalidate: () => undefined }
    const client = connect(address, tokenInterceptor(grpc, tokens))

    const { error } = await increment(client)

    expect(error).toMatchObject({ code, details: 'No token for /counter.v1.Counter/Increment' })
    expect(inspect(error, { depth: 9 })).not.toContain('s3cret')
    expect(seen).toEqual([])
  })

  test('ends with the server’s word where the source’s second token can’t be carried', async () => {
    const { seen, address } = await startApi(() => true)
    const given = ['t1', 's3cret\n']
    const tokens = { get: () => given.shift() as string, invalidate: () => undefined }

    const { error } = await increment(connect(address, tokenInterceptor(grpc, tokens)))

    expect(error).toMatchObject({ code: grpc.status.UNAUTHENTICATED, details: 'the token has expired' })
    expect(seen).toHaveLength(1)
  })

  test('ends at its deadline, and the fetch is given up', async () => {
    const { seen, address } = await startApi()
    const tokens = new TokenCache(() => new Promise(() => undefined))
    const client = connect(address, tokenInterceptor(grpc, tokens))

    const { error } = await increment(client, undefined, { deadline: Date.now() + 30 })

    expect(error).toMatchObject({ code: grpc.status.DEADLINE_EXCEEDED })
    expect(tokens.stats()).toMatchObject({ aborted: 1, fetchesAborted: 1, fetching: 0 })
    expect(seen).toEqual([])
  })

  test('ends when it is cancelled, and nothing is sent', async () => {
    const { seen, address } = await startApi()
    const tokens = new TokenCache(() => new Promise(() => undefined))
    const client = connect(address, tokenInterceptor(grpc, tokens))

    const error = await new Promise<grpc.ServiceError | null>((resolve) => {
      const call = client.get({ key: 'a' }, resolve)
      expect(call.getPeer()).toBe(client.getChannel().getTarget())
      call.cancel()
    })

    expect(error).toMatchObject({ code: grpc.status.CANCELLED, details: 'Cancelled on client' })
    expect(tokens.stats()).toMatchObject({ aborted: 1, fetchesAborted: 1 })
    expect(seen).toEqual([])
  })

  test.each([
    ['is cancelled', grpc.status.CANCELLED, 'Cancelled by parent call'],
    ['was cancelled before', grpc.status.CANCELLED, 'Cancelled by parent call'],
    ['has no time left', grpc.status.DEADLINE_EXCEEDED, 'Deadline exceeded while waiting for a token'],
  ])('ends when the server’s call that it is part of %s', async (when, code, details) => {
    const { seen, address } = await startApi()
    const tokens = new TokenCache(() => new Promise(() => undefined))
    const inner = connect(address, tokenInterceptor(grpc, tokens))
    const timed = when === 'has no time left'
    const propagate_flags = timed ? grpc.propagate.DEADLINE : grpc.propagate.CANCELLATION
    let parent: grpc.ServerUnaryCall<unknown, unknown> | undefined
    let error: grpc.ServiceError | null | undefined
    const gateway = await startServer({
      increment: async (call) => {
        parent = call
        if (when === 'was cancelled before') await expect.poll(() => call.cancelled).toBe(true)
        inner.increment({ key: 'a', delta: 1 }, new grpc.Metadata(), { parent: call, propagate_flags }, (failure) => {
          error = failure
        })
      },
    })
    cleanUp(() => gateway.kill())
    const outer = clientOf(gateway.address)({} as grpc.ChannelOptions)
    cleanUp(() => outer.close())

    const options = timed ? { deadline: Date.now() + 200 } : {}
    const call = outer.increment({ key: 'a', delta: 1 }, new grpc.Metadata(), options, () => undefined)
    if (when === 'is cancelled') await expect.poll(() => tokens.stats().pending).toBe(1)
    await expect.poll(() => parent).toBeDefined()
    if (!timed) call.cancel()

    await expect.poll(() => error).toMatchObject({ code, details })
    expect(parent?.listenerCount('cancelled')).toBe(0)
    expect(tokens.stats()).toMatchObject({ pending: 0, fetching: 0 })
    expect(seen).toEqual([])
  })

  test('can be cancelled while another token is waited for; without one the server’s word stands', async () => {
    const { address } = await startApi(() => true)
    const hanging = new TokenCache((_key, { previous }) =>
      previous === undefined ? { token: 't1' } : new Promise(() => undefined),
    )
    const client = connect(address, tokenInterceptor(grpc, hanging))
    const cancelled = new Promise<grpc.ServiceError | null>((resolve) => {
      const call = client.increment({ key: 'a', delta: 1 }, resolve)
      void expect
        .poll(() => hanging.stats().fetches)
        .toBe(2)
        .then(() => call.cancel())
    })
    expect(await cancelled).toMatchObject({ code: grpc.status.CANCELLED })
    expect(hanging.stats()).toMatchObject({ fetchesAborted: 1, fetching: 0 })

    const failing = new TokenCache((_key, { previous }) => {
      if (previous === undefined) return { token: 't1' }
      throw new Error('down')
    })
    const { error } = await increment(connect(address, tokenInterceptor(grpc, failing)))
    expect(error).toMatchObject({ code: grpc.status.UNAUTHENTICATED, details: 'the token has expired' })
  })

  test('whose client was closed meanwhile ends with UNAVAILABLE', async () => {
    const { address } = await startApi()
    let give: (grant: { token: string }) => void = () => undefined
    const tokens = new TokenCache(
      () =>
        new Promise<{ token: string }>((resolve) => {
          give = resolve
        }),
    )
    const client = connect(address, tokenInterceptor(grpc, tokens))
    const answer = increment(client)
    client.close()
    give({ token: 't' })

    expect((await answer).error?.code).toBe(grpc.status.UNAVAILABLE)
  })
})

describe('a stream', () => {
  test('carries the token, both ways', async () => {
    const { seen, address } = await startApi()
    const client = connect(address, tokenInterceptor(grpc, source()))

    const values: number[] = []
    for await (const { value } of client.watch({ key: 'a' })) values.push(value)
    const both = client.increments()
    const acks: string[] = []
    for (const id of ['1', '2', '3']) both.write({ id, key: 'a' })
    both.end()
    for await (const { id } of both) acks.push(id)

    expect(values).toEqual([1, 2])
    expect(acks).toEqual(['1', '2', '3'])
    expect(seen.map(({ token }) => token)).toEqual(['Bearer t1', 'Bearer t1'])
  })

  test('that is refused fails; the next one has a new token', async () => {
    const { seen, address } = await startApi(refusesFirst)
    const tokens = source()
    const client = connect(address, tokenInterceptor(grpc, tokens))
    const read = async (): Promise<number[]> => {
      const values: number[] = []
      for await (const { value } of client.watch({ key: 'a' })) values.push(value)
      return values
    }

    await expect(read()).rejects.toMatchObject({ code: grpc.status.UNAUTHENTICATED })
    expect(await read()).toEqual([1, 2])
    expect(seen.map(({ token }) => token)).toEqual(['Bearer t1', 'Bearer t2'])
    expect(tokens.stats()).toMatchObject({ invalidated: 1, fetches: 2 })
  })

  test('that is cancelled before there is a token ends', async () => {
    const { address } = await startApi()
    const tokens = new TokenCache(() => new Promise(() => undefined))
    const client = connect(address, tokenInterceptor(grpc, tokens))
    const stream = client.increments()
    stream.write({ id: '1', key: 'a' })
    const ended = new Promise((resolve) => stream.on('error', resolve))
    stream.cancel()

    expect(await ended).toMatchObject({ code: grpc.status.CANCELLED })
    expect(tokens.stats()).toMatchObject({ fetchesAborted: 1 })
  })
})

test('a pool’s calls carry tokens, and are made again with its own retries beneath', async () => {
  const { seen, address } = await startApi(refusesFirst)
  const tokens = source()
  const interceptors = [tokenInterceptor(grpc, tokens)]
  const pool = new GrpcChannelPool((channelOptions) =>
    clientOf(address)({ ...channelOptions, interceptors } as grpc.ChannelOptions),
  )
  cleanUp(() => pool.close({ timeoutMs: 0 }))

  expect(await pool.call('increment', { key: 'a', delta: 3 })).toEqual({ value: 6 })
  expect(seen.map(({ token }) => token)).toEqual(['Bearer t1', 'Bearer t2'])
})

test('a wrong argument is an OptionError', () => {
  const messageOf = (...args: unknown[]): string => {
    try {
      ;(tokenInterceptor as (...all: unknown[]) => unknown)(...args)
    } catch (error) {
      return (error as Error).message
    }
    throw new Error('nothing was thrown')
  }

  expect(messageOf(source())).toBe('grpc must be the module @grpc/grpc-js, got "object" (string)')
  expect(messageOf(undefined, source())).toBe('grpc must be the module @grpc/grpc-js, got "undefined" (string)')
  expect(messageOf(grpc, {})).toBe('tokens must have the methods get and invalidate, got "object" (string)')
  expect(messageOf(grpc, source(), 7)).toBe('options must be an object, got 7 (number)')
  for (const header of ['', 'X-Key', 'x-key-bin', 'x key', 7]) {
    expect(messageOf(grpc, source(), { header })).toMatch(
      /^header must be the name of a metadata key with a text, got /,
    )
  }
  expect(messageOf(grpc, source(), { scheme: 'a b' })).toBe('scheme must be a word, got "a b" (string)')
})
