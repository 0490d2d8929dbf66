import { fileURLToPath } from 'node:url'
import {
  type CallOptions,
  type Client,
  type ClientDuplexStream,
  type ClientOptions,
  type ClientUnaryCall,
  credentials,
  loadPackageDefinition,
  type Metadata,
  type ServiceClientConstructor,
  type ServiceDefinition,
  type ServiceError,
} from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import type { CounterPage, ListRequest } from './listing.ts'

export type StoreName = 'LIVE' | 'DURABLE'

export interface IncrementRequest {
  readonly key: string
  readonly delta: number
  readonly acknowledgement: 'ACCEPTED' | 'REDIS' | 'COMMITTED'
}

export interface IncrementReply {
  readonly value?: number
}

export interface BatchIncrementRequest {
  readonly batchId: string
  readonly store: StoreName
  readonly keys: readonly string[]
  readonly deltas: readonly number[]
  readonly answers: boolean
}

export interface Refusal {
  readonly index: number
  readonly message: string
}

export interface BatchIncrementReply {
  readonly values: readonly number[]
  readonly refusals: readonly Refusal[]
}

export interface GetRequest {
  readonly store: StoreName
  readonly keys: readonly string[]
}

export interface GetReply {
  readonly values: readonly number[]
}

export interface StreamIncrement {
  readonly id: string
  readonly keys: readonly string[]
  readonly deltas: readonly number[]
}

export interface StreamAcknowledgement {
  readonly id: string
  readonly refusals: readonly Refusal[]
  readonly error: string
}

/** A unary method of a client. */
export type Unary<Request, Reply> = (
  request: Request,
  metadata: Metadata,
  options: CallOptions,
  callback: (error: ServiceError | null, reply?: Reply) => void,
) => ClientUnaryCall

/** What `counter.proto` makes a client. */
export interface CounterClient extends Client {
  increment: Unary<IncrementRequest, IncrementReply>
  batchIncrement: Unary<BatchIncrementRequest, BatchIncrementReply>
  get: Unary<GetRequest, GetReply>
  list: Unary<ListRequest, CounterPage>
  streamIncrements(
    metadata?: Metadata,
    options?: CallOptions,
  ): ClientDuplexStream<StreamIncrement, StreamAcknowledgement>
}

const definition = loadSync(fileURLToPath(new URL('./counter.proto', import.meta.url)), {
  longs: Number,
  enums: String,
  defaults: true,
  arrays: true,
})
const loaded = loadPackageDefinition(definition) as unknown as {
  spillway: { counter: { v1: { CounterService: ServiceClientConstructor } } }
}
const { CounterService } = loaded.spillway.counter.v1

/** The service, for a server. */
export const counterService: ServiceDefinition = CounterService.service

/** A client with a channel of its own. */
export function counterClient(address: string, options?: ClientOptions): CounterClient {
  return new CounterService(address, credentials.createInsecure(), options) as unknown as CounterClient
}
