import {
  type Metadata,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServiceError,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js'
import { type GrpcService, statusError } from '../counter/grpc-server.ts'
import type { Scope } from './permissions.ts'
import { AccessError, type TokenVerifier } from './token-verifier.ts'

type UnaryHandler = (call: ServerUnaryCall<unknown, unknown>, callback: sendUnaryData<unknown>) => void
type BidiHandler = (call: ServerDuplexStream<unknown, unknown>) => void

/**
 * Lets in only calls whose metadata have a token that is valid and allows them.
 *
 * @param scopes - what each method needs: all of them are named.
 */
export function guardGrpc(
  service: GrpcService,
  verifier: TokenVerifier | undefined,
  scopes: Readonly<Record<string, Scope>>,
): GrpcService {
  if (verifier === undefined) return service
  const { definition } = service
  // A definition has methods by the names of the .proto file, and handlers go by those of JavaScript.
  const answersByStream = new Set(
    Object.values(definition).flatMap(({ responseStream, originalName }) => (responseStream ? [originalName] : [])),
  )
  const handlers = Object.fromEntries(
    Object.entries(service.handlers).map(([name, handler]) => {
      const scope = scopes[name]
      if (scope === undefined) throw new Error(`nothing says what ${name} needs`)
      const check = (metadata: Metadata): unknown => verifier.check(authorizationIn(metadata), scope)
      return [
        name,
        answersByStream.has(name)
          ? guardedStream(handler as BidiHandler, check)
          : guardedUnary(handler as UnaryHandler, check),
      ]
    }),
  )
  return { definition, handlers: handlers as GrpcService['handlers'] }
}

function guardedUnary(handle: UnaryHandler, check: (metadata: Metadata) => unknown): UnaryHandler {
  return (call, callback) => {
    // Within the chain: what the check throws at once must be answered, too.
    Promise.resolve(call.metadata)
      .then(check)
      .then(
        () => handle(call, callback),
        (error: unknown) => callback(statusOfRefusal(error)),
      )
  }
}

/** Its token is looked at when it opens; messages wait until then. A refusal ends it, and there is no callback to tell. */
function guardedStream(handle: BidiHandler, check: (metadata: Metadata) => unknown): BidiHandler {
  return (call) => {
    Promise.resolve(call.metadata)
      .then(check)
      .then(
        () => handle(call),
        (error: unknown) => call.emit('error', statusOfRefusal(error)),
      )
  }
}

function authorizationIn(metadata: Metadata): string | undefined {
  const values = metadata.get('authorization')
  return values.length === 1 ? String(values[0]) : undefined
}

function statusOfRefusal(error: unknown): Partial<ServiceError> {
  if (!(error instanceof AccessError)) return statusError(status.INTERNAL, 'something went wrong here')
  if (error.code === 'unavailable') return statusError(status.UNAVAILABLE, error.message)
  const code = error.code === 'insufficient_scope' ? status.PERMISSION_DENIED : status.UNAUTHENTICATED
  return statusError(code, error.message)
}
