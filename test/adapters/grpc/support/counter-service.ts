import {
  type CallOptions,
  type ChannelOptions,
  type Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  type ClientUnaryCall,
  type ClientWritableStream,
  credentials,
  type handleBidiStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  type Metadata,
  makeGenericClientConstructor,
  Server,
  ServerCredentials,
  type ServiceDefinition,
  type ServiceError,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'

export interface IncrementRequest {
  key: string
  delta: number
  padding?: string
}
export interface IncrementResponse {
  value: number
  padding?: string
}
export interface StreamMessage {
  id: string
  key: string
}
export interface StreamAck {
  id: string
  value: number
  error?: string
}

type Callback<Response> = (error: ServiceError | null, response: Response) => void

/** A client as ts-proto generates it: three overloads of a unary method, two of a stream. */
export interface CounterClient extends Client {
  increment(request: IncrementRequest, callback: Callback<IncrementResponse>): ClientUnaryCall
  increment(request: IncrementRequest, metadata: Metadata, callback: Callback<IncrementResponse>): ClientUnaryCall
  increment(
    request: IncrementRequest,
    metadata: Metadata,
    options: Partial<CallOptions>,
    callback: Callback<IncrementResponse>,
  ): ClientUnaryCall
  get(request: { key: string }, callback: Callback<IncrementResponse>): ClientUnaryCall
  get(request: { key: string }, metadata: Metadata, callback: Callback<IncrementResponse>): ClientUnaryCall
  get(
    request: { key: string },
    metadata: Metadata,
    options: Partial<CallOptions>,
    callback: Callback<IncrementResponse>,
  ): ClientUnaryCall
  watch(request: { key: string }, options?: Partial<CallOptions>): ClientReadableStream<IncrementResponse>
  watch(
    request: { key: string },
    metadata?: Metadata,
    options?: Partial<CallOptions>,
  ): ClientReadableStream<IncrementResponse>
  upload(callback: Callback<IncrementResponse>): ClientWritableStream<IncrementRequest>
  upload(
    metadata: Metadata,
    options: Partial<CallOptions>,
    callback: Callback<IncrementResponse>,
  ): ClientWritableStream<IncrementRequest>
  increments(options?: Partial<CallOptions>): ClientDuplexStream<StreamMessage, StreamAck>
  increments(metadata?: Metadata, options?: Partial<CallOptions>): ClientDuplexStream<StreamMessage, StreamAck>
}

const toBytes = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))
const fromBytes = (bytes: Buffer): never => JSON.parse(bytes.toString()) as never
const method = (name: string, requestStream: boolean, responseStream: boolean) => ({
  path: `/counter.v1.Counter/${name}`,
  requestStream,
  responseStream,
  requestSerialize: toBytes,
  requestDeserialize: fromBytes,
  responseSerialize: toBytes,
  responseDeserialize: fromBytes,
})

/** What protoc would make of the service, with JSON for its messages. */
const service = {
  increment: method('Increment', false, false),
  get: method('Get', false, false),
  watch: method('Watch', false, true),
  upload: method('Upload', true, false),
  increments: method('Increments', true, true),
} satisfies ServiceDefinition

const CounterClientClass = makeGenericClientConstructor(service, 'Counter') as unknown as new (
  address: string,
  channelCredentials: ReturnType<typeof credentials.createInsecure>,
  channelOptions?: ChannelOptions,
) => CounterClient

export const clientOf =
  (address: string) =>
  (channelOptions: ChannelOptions): CounterClient =>
    new CounterClientClass(address, credentials.createInsecure(), channelOptions)

export interface Handlers {
  increment?: handleUnaryCall<IncrementRequest, IncrementResponse>
  get?: handleUnaryCall<{ key: string }, IncrementResponse>
  watch?: handleServerStreamingCall<{ key: string }, IncrementResponse>
  increments?: handleBidiStreamingCall<StreamMessage, StreamAck>
}

export interface RunningServer {
  readonly address: string
  readonly port: number
  /** Ends it as a crash would: every connection at once. */
  kill(): void
  /** Lets calls in flight finish; tells clients by GOAWAY. */
  shutDown(): Promise<void>
}

/** A real server on a loopback port. */
export async function startServer(
  handlers: Handlers,
  { port = 0, ...options }: ChannelOptions & { port?: number } = {},
): Promise<RunningServer> {
  const server = new Server(options)
  server.addService(service, handlers as UntypedServiceImplementation)
  const bound = await new Promise<number>((resolve, reject) => {
    server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error, actual) =>
      error === null ? resolve(actual) : reject(error),
    )
  })
  return {
    address: `127.0.0.1:${bound}`,
    port: bound,
    kill: () => server.forceShutdown(),
    shutDown: () => new Promise((resolve) => server.tryShutdown(() => resolve())),
  }
}

/** An error that a handler answers with. */
export function statusError(code: number, details: string, metadata?: Metadata): Partial<ServiceError> {
  return metadata === undefined ? { code, details } : { code, details, metadata }
}
