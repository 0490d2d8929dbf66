import type {
  CallOptions,
  Client,
  ClientDuplexStream,
  ClientUnaryCall,
  GrpcObject,
  Metadata,
  requestCallback,
  ServiceClientConstructor,
} from '@grpc/grpc-js'
import type { CircuitBreakerOptions, ClosableComponent, CloseReport, LoadBalancer } from 'spillway'
import {
  AckedStream,
  type AckedStreamEvents,
  type AckedStreamStats,
  type BidiMethod,
  classifyGrpcError,
  GrpcBalancedPool,
  type GrpcBalancedPoolEvents,
  type GrpcBalancedPoolStats,
  type GrpcBalancer,
  type GrpcChannel,
  GrpcChannelPool,
  type GrpcChannelPoolEvents,
  type GrpcChannelPoolStats,
  type GrpcClient,
  type GrpcDuplex,
  type GrpcMetadata,
  type UnaryMethod,
} from 'spillway/grpc'
import { expectTypeOf } from 'vitest'
import type { CounterClient, IncrementResponse, StreamAck, StreamMessage } from './support/counter-service.js'

// What @grpc/grpc-js has fits the structures that are asked for.
expectTypeOf<Client>().toExtend<GrpcClient>()
expectTypeOf<ReturnType<Client['getChannel']>>().toExtend<GrpcChannel>()
expectTypeOf<Metadata>().toExtend<GrpcMetadata>()
expectTypeOf<ClientDuplexStream<StreamMessage, StreamAck>>().toExtend<GrpcDuplex<StreamMessage, StreamAck>>()

// As ts-proto and grpc-tools generate clients: the last overload has four parameters.
expectTypeOf<UnaryMethod<CounterClient>>().toEqualTypeOf<'increment' | 'get'>()
expectTypeOf<BidiMethod<CounterClient>>().toEqualTypeOf<'increments'>()

declare const makeClient: (options: object) => CounterClient
const pool = new GrpcChannelPool(makeClient, { channels: { min: 1, max: 20 }, keepalive: 'aggressive' })

expectTypeOf(pool).toExtend<ClosableComponent<GrpcChannelPoolEvents, GrpcChannelPoolStats>>()
expectTypeOf(pool).toExtend<AsyncDisposable>()
expectTypeOf(pool.close()).resolves.toEqualTypeOf<CloseReport>()
expectTypeOf(pool.call('increment', { key: 'a', delta: 1 })).resolves.toEqualTypeOf<IncrementResponse>()
expectTypeOf(
  pool.call('get', { key: 'a' }, { timeoutMs: 5, signal: undefined }),
).resolves.toEqualTypeOf<IncrementResponse>()
expectTypeOf(pool.openStream('increments')).toEqualTypeOf<ClientDuplexStream<StreamMessage, StreamAck>>()
expectTypeOf(pool.lease().client).toEqualTypeOf<CounterClient>()
expectTypeOf(pool.stats().pending).toEqualTypeOf<number>()

// @ts-expect-error the request's type
pool.call('increment', { key: 'a', delta: '1' })
// @ts-expect-error a field is missing
pool.call('increment', { key: 'a' })
// @ts-expect-error a method that streams is not called
pool.call('watch', { key: 'a' })
// @ts-expect-error nor one that takes a stream
pool.call('upload', {})
// @ts-expect-error nor one that every client has
pool.call('makeUnaryRequest', '')
// @ts-expect-error nor one that there isn't
pool.call('nope', {})
// @ts-expect-error a unary method is no stream
pool.openStream('increment')
// @ts-expect-error plain objects are no metadata
pool.call('get', { key: 'a' }, { metadata: { tenant: 'acme' } })
// @ts-expect-error a status that there isn't
new GrpcChannelPool(makeClient, { retry: { maxAttempts: 2, retryableStatusCodes: ['TEAPOT'] } })
// @ts-expect-error no client
new GrpcChannelPool(() => ({}))

// As proto-loader-gen-types generates clients: the last overload has two parameters.
interface LoadedClient extends Client {
  Get(
    argument: { key: string },
    metadata: Metadata,
    options: CallOptions,
    callback: requestCallback<StreamAck>,
  ): ClientUnaryCall
  Get(argument: { key: string }, metadata: Metadata, callback: requestCallback<StreamAck>): ClientUnaryCall
  Get(argument: { key: string }, options: CallOptions, callback: requestCallback<StreamAck>): ClientUnaryCall
  Get(argument: { key: string }, callback: requestCallback<StreamAck>): ClientUnaryCall
  Push(metadata: Metadata, options?: CallOptions): ClientDuplexStream<StreamMessage, StreamAck>
  Push(options?: CallOptions): ClientDuplexStream<StreamMessage, StreamAck>
}
expectTypeOf<UnaryMethod<LoadedClient>>().toEqualTypeOf<'Get'>()
expectTypeOf<BidiMethod<LoadedClient>>().toEqualTypeOf<'Push'>()
declare const loaded: GrpcChannelPool<LoadedClient>
expectTypeOf(loaded.call('Get', { key: 'a' })).resolves.toEqualTypeOf<StreamAck>()

// A client that was loaded without types is typed by its maker.
declare const loadedPackage: GrpcObject
const Untyped = loadedPackage['Counter'] as ServiceClientConstructor
new GrpcChannelPool((options) => new Untyped('a:1', undefined as never, options) as unknown as CounterClient)

const stream = new AckedStream(() => pool.openStream('increments'), {
  message: (key: string, id) => {
    expectTypeOf(id).toEqualTypeOf<string>()
    return { id, key }
  },
  idOf: (ack) => ack.id,
  errorOf: (ack) => (ack.error === undefined ? undefined : new Error(ack.error)),
})
expectTypeOf(stream).toEqualTypeOf<AckedStream<string, StreamMessage, StreamAck>>()
expectTypeOf(stream).toExtend<ClosableComponent<AckedStreamEvents<string>, AckedStreamStats>>()
expectTypeOf(stream.send('a')).resolves.toEqualTypeOf<StreamAck>()
expectTypeOf(stream.ready()).resolves.toEqualTypeOf<void>()
stream.on('failed', ({ items }) => expectTypeOf(items).toEqualTypeOf<readonly string[]>())

// @ts-expect-error the item's type
stream.send(1)
// @ts-expect-error message and idOf are required
new AckedStream(() => pool.openStream('increments'), {})
// @ts-expect-error a message of another type than the stream's
new AckedStream(() => pool.openStream('increments'), { message: (key: string) => ({ key }), idOf: ({ id }) => id })

// A LoadBalancer is what a balanced pool asks for.
interface Place {
  readonly id: string
  readonly address: string
}
declare const balancer: LoadBalancer<Place>
expectTypeOf(balancer).toExtend<GrpcBalancer<Place>>()
expectTypeOf(classifyGrpcError).toExtend<NonNullable<CircuitBreakerOptions['classifyError']>>()

const balanced = new GrpcBalancedPool(balancer, ({ address }, options): CounterClient => {
  expectTypeOf(address).toEqualTypeOf<string>()
  return makeClient(options)
})
expectTypeOf(balanced).toEqualTypeOf<GrpcBalancedPool<Place, CounterClient>>()
expectTypeOf(balanced).toExtend<ClosableComponent<GrpcBalancedPoolEvents<Place>, GrpcBalancedPoolStats>>()
expectTypeOf(
  balanced.call('increment', { key: 'a', delta: 1 }, { attempts: 2, idempotent: true, key: 'a' }),
).resolves.toEqualTypeOf<IncrementResponse>()
expectTypeOf(balanced.openStream('increments', { key: 'a' })).toEqualTypeOf<
  ClientDuplexStream<StreamMessage, StreamAck>
>()
expectTypeOf(balanced.lease().client).toEqualTypeOf<CounterClient>()
expectTypeOf(balanced.lease().instance).toEqualTypeOf<Place>()
expectTypeOf(balanced.poolOf({ id: 'a', address: 'a:1' })).toEqualTypeOf<GrpcChannelPool<CounterClient>>()
new AckedStream(() => balanced.openStream('increments'), {
  message: (key: string, id) => ({ id, key }),
  idOf: (ack) => ack.id,
})

// @ts-expect-error the request's type
balanced.call('increment', { key: 'a', delta: '1' })
// @ts-expect-error a method that streams is not called
balanced.call('watch', { key: 'a' })
// @ts-expect-error no client
new GrpcBalancedPool(balancer, () => ({}))
// @ts-expect-error no balancer
new GrpcBalancedPool([{ id: 'a', address: 'a:1' }], ({ address }: Place, options) => makeClient({ address, options }))
