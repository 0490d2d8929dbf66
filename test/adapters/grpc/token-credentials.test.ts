import * as grpc from '@grpc/grpc-js'
import { TokenCache } from 'spillway'
import { tokenCredentials } from 'spillway/grpc'
import { expect, test } from 'vitest'
import { selfSigned } from '../http/support/certificate.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

const bytes = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))
const parsed = (buffer: Buffer): unknown => JSON.parse(buffer.toString())
const echo = {
  path: '/echo.v1.Echo/Say',
  requestStream: false,
  responseStream: false,
  requestSerialize: bytes,
  requestDeserialize: parsed,
  responseSerialize: bytes,
  responseDeserialize: parsed,
} as const

/** A TLS server that answers with the token that it was sent, and a function that calls it with credentials for the call or the channel. */
async function startEcho() {
  const { key, cert } = selfSigned()
  const server = new grpc.Server()
  server.addService({ say: echo }, {
    say: (call: grpc.ServerUnaryCall<unknown, unknown>, callback: grpc.sendUnaryData<unknown>) =>
      callback(null, { tokens: call.metadata.get('authorization'), other: call.metadata.get('x-key') }),
  } as never)
  const port = await new Promise<number>((resolve, reject) => {
    const secure = grpc.ServerCredentials.createSsl(null, [
      { private_key: Buffer.from(key), cert_chain: Buffer.from(cert) },
    ])
    server.bindAsync('localhost:0', secure, (error, bound) => (error === null ? resolve(bound) : reject(error)))
  })
  cleanUp(() => server.forceShutdown())
  const channel = grpc.credentials.createSsl(Buffer.from(cert))
  return (forCall: grpc.CallCredentials | undefined, forChannel?: grpc.CallCredentials) => {
    const secure = forChannel === undefined ? channel : grpc.credentials.combineChannelCredentials(channel, forChannel)
    const client = new grpc.Client(`localhost:${port}`, secure)
    cleanUp(() => client.close())
    return new Promise<{ answer: unknown; error: grpc.ServiceError | null }>((resolve) => {
      const options = forCall === undefined ? {} : { credentials: forCall }
      client.makeUnaryRequest(echo.path, bytes, parsed, {}, new grpc.Metadata(), options, (error, answer) =>
        resolve({ answer, error }),
      )
    })
  }
}

test('credentials give each call a token, by the channel or by the call', async () => {
  const say = await startEcho()
  let fetches = 0
  const tokens = new TokenCache(async () => ({ token: `t${++fetches}` }))

  expect((await say(undefined, tokenCredentials(grpc, tokens))).answer).toEqual({ tokens: ['Bearer t1'], other: [] })
  expect((await say(tokenCredentials(grpc, tokens))).answer).toEqual({ tokens: ['Bearer t1'], other: [] })
  tokens.invalidate('t1')
  const other = tokenCredentials(grpc, tokens, { key: '', header: 'x-key', scheme: '' })
  expect((await say(other)).answer).toEqual({ tokens: [], other: ['t2'] })
})

test.each([
  ['UNAVAILABLE', new Error('down: s3cret'), grpc.status.UNAVAILABLE],
  [
    'UNAUTHENTICATED where the error will come again',
    Object.assign(new Error('wrong s3cret'), { retryable: false }),
    grpc.status.UNAUTHENTICATED,
  ],
])('a call for which there is no token ends with %s, and doesn’t quote the source', async (_name, cause, code) => {
  const say = await startEcho()
  const tokens = new TokenCache(async () => {
    throw cause
  })

  const { error } = await say(tokenCredentials(grpc, tokens))

  expect(error?.code).toBe(code)
  expect(error?.details).toContain('there is no token')
  expect(String(error)).not.toContain('s3cret')
})

test.each([
  ['nothing', undefined, grpc.status.UNAVAILABLE],
  ['an empty text', '', grpc.status.UNAVAILABLE],
  ['what metadata can’t carry', 's3cret\n', grpc.status.UNAUTHENTICATED],
])('a call whose source gives %s ends, and no error quotes it', async (_name, token, code) => {
  const say = await startEcho()
  const tokens = { get: async () => token as string, invalidate: () => undefined }

  const { answer, error } = await say(tokenCredentials(grpc, tokens))

  expect(answer).toBeUndefined()
  expect(error?.code).toBe(code)
  expect(String(error)).not.toContain('s3cret')
})

test('a wrong argument is an OptionError', () => {
  const tokens = new TokenCache(async () => ({ token: 't' }))

  expect(() => tokenCredentials(undefined as never, tokens)).toThrow('grpc must be the module @grpc/grpc-js')
  expect(() => tokenCredentials(grpc, undefined as never)).toThrow('tokens must have the methods get and invalidate')
  expect(() => tokenCredentials(grpc, tokens, { header: 'X' })).toThrow('header must be the name of a metadata key')
})
