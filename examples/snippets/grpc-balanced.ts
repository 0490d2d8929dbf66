// Calls over three instances; one is killed, its breaker ejects it, and no caller notices.
import assert from 'node:assert/strict'
import { promisify } from 'node:util'
import * as grpc from '@grpc/grpc-js'
import { LoadBalancer } from 'spillway'
import { classifyGrpcError, GrpcBalancedPool } from 'spillway/grpc'

// What a code generator writes for you: the service, and the client's types.
type Callback = (error: grpc.ServiceError | null, answer: { by: string }) => void
interface GreeterClient extends grpc.Client {
  greet(name: object, metadata: grpc.Metadata, options: object, callback: Callback): grpc.ClientUnaryCall
}
const serialize = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))
const parse = (bytes: Buffer): unknown => JSON.parse(`${bytes}`)
const greet = {
  path: '/greeter.v1.Greeter/Greet',
  requestStream: false,
  responseStream: false,
  requestSerialize: serialize,
  requestDeserialize: parse,
  responseSerialize: serialize,
  responseDeserialize: parse,
}
const Greeter = grpc.makeGenericClientConstructor({ greet }, 'Greeter')

async function startInstance(id: string) {
  const server = new grpc.Server()
  server.addService({ greet }, { greet: (_call: unknown, answer: Callback) => answer(null, { by: id }) })
  const bind = promisify(server.bindAsync.bind(server))
  const port = await bind('127.0.0.1:0', grpc.ServerCredentials.createInsecure())
  return { id, address: `127.0.0.1:${port}`, server }
}
const instances = await Promise.all(['a', 'b', 'c'].map(startInstance))

const balancer = new LoadBalancer(instances, {
  ejection: { failureThreshold: 3, recoveryTimeoutMs: 60_000, classifyError: classifyGrpcError },
})
balancer.on('ejected', ({ instance }) => console.log(`${instance.id} is ejected`))
const pool = new GrpcBalancedPool(
  balancer,
  ({ address }, options) =>
    new Greeter(address, grpc.credentials.createInsecure(), options) as unknown as GreeterClient,
)
await pool.warmUp({ deadlineMs: 5000 })

const answeredBy = new Map<string, number>()
for (let i = 0; i < 300; i++) {
  if (i === 150) instances[1]?.server.forceShutdown() // a crash
  const { by } = await pool.call('greet', { name: 'Ada' }, { attempts: 2, idempotent: true, timeoutMs: 1000 })
  answeredBy.set(by, (answeredBy.get(by) ?? 0) + 1)
}
console.log(`answered by ${[...answeredBy].map(([id, count]) => `${id}: ${count}`).join(', ')}`)
assert.equal(answeredBy.get('b'), 50)
assert.equal(balancer.instances()[1]?.state, 'ejected')
const { succeeded, failed, attempts } = pool.stats()
assert.deepEqual({ succeeded, failed, attempts }, { succeeded: 300, failed: 0, attempts: 303 })
assert.deepEqual(await pool.close({ timeoutMs: 1000 }), { drained: true, abandoned: 0 })
await balancer.close()
for (const { server } of instances) server.forceShutdown()
