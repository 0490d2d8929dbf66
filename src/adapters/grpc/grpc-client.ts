/** In the order of grpc-js's `connectivityState`. */
const connectivityStates = ['idle', 'connecting', 'ready', 'transient-failure', 'shutdown'] as const

/** The state of a channel, as gRPC's connectivity semantics name it. */
export type GrpcChannelState = (typeof connectivityStates)[number]

/** The name of one of grpc-js's `connectivityState` values. */
export function channelStateOf(channel: GrpcChannel, connect = false): GrpcChannelState {
  return connectivityStates[channel.getConnectivityState(connect)] ?? 'shutdown'
}

/** The number that grpc-js has for a state. */
export function connectivityOf(state: GrpcChannelState): number {
  return connectivityStates.indexOf(state)
}

/** What is needed of a channel of @grpc/grpc-js. */
export interface GrpcChannel {
  /** Where it leads, for instance `dns:counter:50051`. */
  getTarget(): string
  /** Its state; `true` starts connecting if it is idle. */
  getConnectivityState(tryToConnect: boolean): number
  /** Calls back once when the state is no longer the given one. */
  watchConnectivityState(currentState: number, deadline: Date | number, callback: (error?: Error) => void): void
}

/** What is needed of a client of @grpc/grpc-js: every generated client has it. */
export interface GrpcClient {
  /** Closes its channel. */
  close(): void
  /** Its channel. */
  getChannel(): GrpcChannel
}

/** What is needed of `Metadata` of @grpc/grpc-js. */
export interface GrpcMetadata {
  /** The values of a key. */
  get(key: string): readonly (string | Uint8Array)[]
  /** A copy. */
  clone(): GrpcMetadata
}

/** What is needed of a call of @grpc/grpc-js. */
export interface GrpcCall {
  /** Ends the call, here and at the server. */
  cancel(): void
  /** The server's address; the channel's target while the call has no connection. */
  getPeer(): string
}

/** What is needed of the call beneath a stream of @grpc/grpc-js. */
export interface GrpcStatusCancel {
  /** Ends the call with a status of one's own. */
  cancelWithStatus(status: number, details: string): void
}

/** What is needed of a bidirectional stream of @grpc/grpc-js. */
export interface GrpcDuplex<Message, Answer> extends GrpcCall {
  /** How it writes messages; here for its type alone. */
  readonly serialize?: (message: Message) => unknown
  /** How it reads answers; here for its type alone, from which `Answer` is inferred. */
  readonly deserialize?: (bytes: never) => Answer
  /** Sends a message; false asks to wait for `drain`. */
  write(message: Message): boolean
  /** Half-closes: no more messages follow. */
  end(): unknown
  /** Listens to what arrives. */
  on(event: 'data', listener: (answer: Answer) => void): unknown
  /** Listens to why it failed. */
  on(event: 'error', listener: (error: Error) => void): unknown
  /** Listens to the call's status, which comes last. */
  on(event: 'status', listener: (status: { readonly code: number; readonly details: string }) => void): unknown
  /** Listens to the end of what arrives, to when more can be written, or to the head of the answer. */
  on(event: 'end' | 'drain' | 'metadata', listener: () => void): unknown
  /** The call beneath it, where it shows that: what a stream is cancelled through when that is no wish of the caller's. */
  readonly call?: GrpcStatusCancel
}

/** The methods that a client has without being generated. */
type OwnMethod =
  | 'makeUnaryRequest'
  | 'makeClientStreamRequest'
  | 'makeServerStreamRequest'
  | 'makeBidiStreamRequest'
  | 'waitForReady'
  | 'getChannel'
  | 'close'

/** A unary method's request and response, by the last of its overloads; never for anything else. */
type Unary<Method> = Method extends (request: infer Request, ...rest: infer Rest) => infer Call
  ? Call extends { write: unknown } | { read: unknown }
    ? never
    : Call extends GrpcCall
      ? Rest extends readonly [...unknown[], infer Callback]
        ? Callback extends (error: never, response: infer Response) => void
          ? { request: Request; response: Exclude<Response, undefined> }
          : never
        : never
      : never
  : never

/** A bidirectional method's messages and answers, by the last of its overloads; never for anything else. */
type Bidi<Method> = Method extends (...parameters: never[]) => infer Call
  ? Call extends {
      write(message: infer Message, callback?: never): boolean
      read(size?: number): infer Answer
      cancel(): void
    }
    ? { message: Message; answer: Answer; stream: Call }
    : never
  : never

/** The names of a generated client's unary methods. */
export type UnaryMethod<Client> = {
  [Key in Exclude<keyof Client, OwnMethod> & string]: [Unary<Client[Key]>] extends [never] ? never : Key
}[Exclude<keyof Client, OwnMethod> & string]

/** The request that a unary method takes. */
export type RequestOf<Client, Method extends keyof Client> = Unary<Client[Method]>['request']

/** The response that a unary method gives. */
export type ResponseOf<Client, Method extends keyof Client> = Unary<Client[Method]>['response']

/** The names of a generated client's bidirectional methods. */
export type BidiMethod<Client> = {
  [Key in Exclude<keyof Client, OwnMethod> & string]: [Bidi<Client[Key]>] extends [never] ? never : Key
}[Exclude<keyof Client, OwnMethod> & string]

/** The stream that a bidirectional method opens. */
export type StreamOf<Client, Method extends keyof Client> = Bidi<Client[Method]>['stream']
