import { checkOptions, failOption, valueOr } from '../../core/options.js'
import { attempt } from '../../internal/tasks.js'
import type { GrpcMetadata } from './grpc-client.js'
import {
  checkToken,
  type GrpcCallMetadata,
  type GrpcInterceptedCall,
  type GrpcInterceptedOptions,
  statusWithoutToken,
  TokenCall,
} from './token-call.js'

/** Where calls get their tokens: a `TokenCache`, what its `forKey` gives, or anything of that shape. */
export interface GrpcTokenSource<K> {
  /** The token to use now. */
  get(key: K, options?: { signal?: AbortSignal | undefined }): string | PromiseLike<string>
  /** Learns that a server refused a token. */
  invalidate(token: string): void | PromiseLike<void>
}

/** Options of `tokenInterceptor` and `tokenCredentials`. */
export interface GrpcTokenOptions<K> {
  /** Whose token it is that calls carry. */
  key?: K | undefined
  /**
   * The metadata key that carries the token.
   * @defaultValue 'authorization'
   */
  header?: string | undefined
  /**
   * What stands before the token, a space between; nothing if it is empty.
   * @defaultValue 'Bearer'
   */
  scheme?: string | undefined
}

/** The defaults of {@link GrpcTokenOptions}. */
export const grpcTokenDefaults = { header: 'authorization', scheme: 'Bearer' } as const

/** What `tokenInterceptor` and `tokenCredentials` take beside their tokens: the key may be left out where the source needs none. */
export type GrpcTokenSetting<K> = undefined extends K
  ? [options?: GrpcTokenOptions<K>]
  : [options: GrpcTokenOptions<K> & { key: K }]

/** What `tokenInterceptor` needs of the module @grpc/grpc-js. */
export interface GrpcInterceptingModule<Call> {
  /** Makes a call that others can intercept. */
  readonly InterceptingCall: new (
    call: never,
  ) => Call
  /** Makes metadata. */
  readonly Metadata: new () => GrpcMetadata
}

/** What `tokenCredentials` needs of the module @grpc/grpc-js. */
export interface GrpcCredentialsModule<Credentials> {
  /** Makes credentials. */
  readonly credentials: {
    /** Makes call credentials of a function that gives metadata. */
    createFromMetadataGenerator(
      generator: (
        parameters: { readonly service_url: string },
        callback: (error: Error | null, metadata?: never) => void,
      ) => void,
    ): Credentials
  }
  /** Makes metadata. */
  readonly Metadata: new () => GrpcMetadata
}

/**
 * An interceptor for clients of @grpc/grpc-js, whose calls then carry a token. A unary call that a server refuses with
 * UNAUTHENTICATED is sent once more with a new token, under the same deadline; of a stream, the token is invalidated and the next one
 * has a new one. A call whose metadata has the key already goes out as it is.
 *
 * A call for which there is no token ends with UNAVAILABLE, or with UNAUTHENTICATED where the source's error says `retryable: false`, and
 * has that error as its `cause`. The deadline, `cancel` and the end of a `parent` end the wait for a token too.
 *
 * @param grpc - the module @grpc/grpc-js.
 * @param tokens - where it gets them.
 * @param options - its {@link GrpcTokenOptions}.
 * @returns what goes into a client's or a call's `interceptors`.
 * @throws OptionError when an option is wrong.
 *
 * @example
 * ```ts
 * import * as grpc from '@grpc/grpc-js'
 * import { TokenCache } from 'spillway'
 * import { tokenInterceptor } from 'spillway/grpc'
 *
 * declare const tokens: TokenCache
 *
 * const client = new grpc.Client('127.0.0.1:50051', grpc.credentials.createInsecure(), {
 *   interceptors: [tokenInterceptor(grpc, tokens)],
 * })
 * ```
 */
export function tokenInterceptor<Call, K = undefined>(
  grpc: GrpcInterceptingModule<Call>,
  tokens: GrpcTokenSource<K>,
  ...[options]: GrpcTokenSetting<K>
): (options: GrpcInterceptedOptions, nextCall: (options: never) => unknown) => Call {
  const { InterceptingCall, Metadata } = checkModule(grpc, ['InterceptingCall', 'Metadata'])
  const carrier = carrierOf(tokens, options)
  return (callOptions, nextCall) => {
    const call = new TokenCall({
      options: callOptions,
      next: () => nextCall(callOptions as never) as GrpcInterceptedCall,
      newMetadata: () => new Metadata(),
      ...carrier,
    })
    return new InterceptingCall(call as never)
  }
}

/**
 * Call credentials of @grpc/grpc-js that give each call a token, streams and retries by gRPC's own policy included. They hear of no
 * status: a token that a server refuses is not invalidated, for which there is `tokenInterceptor`. They go with channels that are
 * secure, by `credentials.combineChannelCredentials`, or with a call, by its `credentials`.
 *
 * A call for which there is no token ends with UNAVAILABLE, or with UNAUTHENTICATED where the source's error says `retryable: false`.
 *
 * @param grpc - the module @grpc/grpc-js.
 * @param tokens - where it gets them.
 * @param options - its {@link GrpcTokenOptions}.
 * @throws OptionError when an option is wrong.
 */
export function tokenCredentials<Credentials, K = undefined>(
  grpc: GrpcCredentialsModule<Credentials>,
  tokens: GrpcTokenSource<K>,
  ...[options]: GrpcTokenSetting<K>
): Credentials {
  const { credentials, Metadata } = checkModule(grpc, ['credentials', 'Metadata'])
  const { getToken, header, prefix } = carrierOf(tokens, options)
  return credentials.createFromMetadataGenerator((_parameters, callback) => {
    attempt(async () => checkToken(await getToken(undefined))).then(
      (token) => {
        const metadata = new Metadata() as GrpcCallMetadata
        metadata.set(header, prefix + token)
        callback(null, metadata as never)
      },
      (error: unknown) => callback(noToken(error)),
    )
  })
}

/** Without the source's message: @grpc/grpc-js puts it into the status, and it may quote what the source was sent. */
function noToken(cause: unknown): Error {
  return Object.assign(new Error('there is no token', { cause }), { code: statusWithoutToken(cause) })
}

/** How a token is asked for, carried and given up. */
interface TokenCarrier {
  readonly header: string
  readonly prefix: string
  readonly getToken: (signal: AbortSignal | undefined) => string | PromiseLike<string>
  readonly invalidate: (token: string) => void | PromiseLike<void>
}

function carrierOf<K>(tokens: GrpcTokenSource<K>, options: GrpcTokenOptions<K> | undefined): TokenCarrier {
  if (typeof tokens?.get !== 'function' || typeof tokens.invalidate !== 'function') {
    failOption('tokens', 'must have the methods get and invalidate', typeof tokens)
  }
  checkOptions('options', options)
  const header = valueOr(options?.header, grpcTokenDefaults.header)
  // gRPC's own rule for names; those that end in -bin carry bytes.
  if (typeof header !== 'string' || !/^(?!.*-bin$)[\da-z_.-]+$/.test(header)) {
    failOption('header', 'must be the name of a metadata key with a text', header)
  }
  const scheme = valueOr(options?.scheme, grpcTokenDefaults.scheme)
  if (typeof scheme !== 'string' || !/^[\x21-\x7e]*$/.test(scheme)) failOption('scheme', 'must be a word', scheme)
  const key = options?.key as K
  return {
    header,
    prefix: scheme === '' ? '' : `${scheme} `,
    getToken: (signal) => tokens.get(key, { signal }),
    invalidate: (token) => tokens.invalidate(token),
  }
}

function checkModule<Module extends object>(grpc: Module, names: readonly (keyof Module & string)[]): Module {
  for (const name of names) {
    const member: unknown = grpc?.[name]
    if (name === 'credentials' ? typeof member !== 'object' : typeof member !== 'function') {
      failOption('grpc', 'must be the module @grpc/grpc-js', typeof grpc)
    }
  }
  return grpc
}
