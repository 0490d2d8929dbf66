// Four real connections to one server, calls by type, and a deadline that the server is told.
import assert from 'node:assert/strict'
import { promisify } from 'node:util'
import * as grpc from '@grpc/grpc-js'
import { isSpillwayError } from 'spillway'
import { GrpcChannelPool } from 'spillway/grpc'

// What a code generator writes for you: the service, and the client's types.
type Answer = { greeting: string; peer: string }
type Callback = (error: grpc.ServiceError | null, answer: Answer) => void
interface GreeterClient extends grpc.Client {
  greet(name: { name: string }, metadata: grpc.Metadata, options: object, callback: Callback): grpc.ClientUnaryCall
}
const json = {
  serialize: (value: unknown) => Buffer.from(JSON.stringify(value)),
  parse: (bytes: Buffer) => JSON.parse(`${bytes}`),
}
const greet = {
  path: '/greeter.v1.Greeter/Greet',
  requestStream: false,
  responseStream: false,
  requestSerialize: json.serialize,
  requestDeserialize: json.parse,
  responseSerialize: json.serialize,
  responseDeserialize: json.parse,
}
const Greeter = grpc.makeGenericClientConstructor({ greet }, 'Greeter')

const server = new grpc.Server()
server.addService(
  { greet },
  {
    greet: (call: grpc.ServerUnaryCall<{ name: string }, Answer>, callback: grpc.sendUnaryData<Answer>) => {
      if (call.request.name !== 'nobody')
        callback(null, { greeting: `Hello, ${call.request.name}`, peer: call.getPeer() })
    },
  },
)
const bind = promisify(server.bindAsync.bind(server))
const port = await bind('127.0.0.1:0', grpc.ServerCredentials.createInsecure())

const pool = new GrpcChannelPool<GreeterClient>(
  (options) => new Greeter(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), options) as unknown as GreeterClient,
  { channels: 4 },
)
await pool.warmUp({ deadlineMs: 5000 })

const answers = await Promise.all(['Ada', 'Alan', 'Grace', 'Edsger'].map((name) => pool.call('greet', { name })))
console.log(answers.map(({ greeting }) => greeting).join(', '))
assert.equal(new Set(answers.map(({ peer }) => peer)).size, 4)

const late = await pool.call('greet', { name: 'nobody' }, { timeoutMs: 50 }).catch((error: unknown) => error)
assert.ok(isSpillwayError(late, 'ERR_STORE') && late.outcomeUnknown)
console.log(late.message.slice(0, 60))

const { offered, succeeded, failed } = pool.stats()
assert.deepEqual({ offered, succeeded, failed }, { offered: 5, succeeded: 4, failed: 1 })
await pool.close({ timeoutMs: 1000 })
server.forceShutdown()
