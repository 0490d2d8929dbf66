// A bidirectional stream that survives its server: each message is acknowledged, and applied once.
import assert from 'node:assert/strict'
import { promisify } from 'node:util'
import * as grpc from '@grpc/grpc-js'
import { AckedStream } from 'spillway/grpc'

type Message = { id: string; key: string }
type Ack = { id: string; value: number }
const serialize = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))
const parse = (bytes: Buffer): never => JSON.parse(`${bytes}`) as never
const path = '/counter.v1.Counter/Increments'
const method = {
  path,
  requestStream: true,
  responseStream: true,
  requestSerialize: serialize,
  requestDeserialize: parse,
}
const increments = { ...method, responseSerialize: serialize, responseDeserialize: parse }

// The service's own memory, which outlives a process: counters, and the answer that each id got.
const counters = new Map<string, number>()
const answered = new Map<string, Ack>()

async function startServer(port: number): Promise<[grpc.Server, number]> {
  const server = new grpc.Server()
  const apply = ({ id, key }: Message): Ack => {
    const ack = answered.get(id) ?? { id, value: (counters.get(key) ?? 0) + 1 }
    if (!answered.has(id)) counters.set(key, ack.value)
    answered.set(id, ack)
    return ack
  }
  const handler: grpc.handleBidiStreamingCall<Message, Ack> = (call) =>
    void call.on('data', (message) => call.write(apply(message))).on('end', () => call.end())
  server.addService({ increments }, { increments: handler })
  const bind = promisify(server.bindAsync.bind(server))
  return [server, await bind(`127.0.0.1:${port}`, grpc.ServerCredentials.createInsecure())]
}
const [first, port] = await startServer(0)
const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure())
const likes = new AckedStream(() => client.makeBidiStreamRequest<Message, Ack>(path, serialize, parse), {
  message: (key: string, id) => ({ id, key }),
  idOf: (ack) => ack.id,
})
likes.on('lost', ({ unacknowledged }) => console.log(`stream lost, ${unacknowledged} to send again`))

const before = Array.from({ length: 100 }, () => likes.send('post:1'))
await before[50]
first.forceShutdown() // a crash, with half of them on their way
const [second] = await startServer(port)
const acks = await Promise.all([...before, likes.send('post:1')])
console.log(`acknowledged ${acks.length}, counted ${counters.get('post:1')}`)
assert.deepEqual(
  acks.map(({ value }) => value),
  Array.from({ length: 101 }, (_, i) => i + 1),
)
assert.deepEqual(await likes.close({ timeoutMs: 1000 }), { drained: true, abandoned: 0 })
client.close()
second.forceShutdown()
