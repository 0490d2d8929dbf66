import {
  type handleUnaryCall,
  type Metadata,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServiceDefinition,
  type ServiceError,
  status,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import { type BatchContext, isSpillwayError } from 'spillway'
import { isRefusal, Overload, text } from './counters.ts'

/** A service and what answers its calls. */
export interface GrpcService {
  readonly definition: ServiceDefinition
  readonly handlers: UntypedServiceImplementation
}

export interface GrpcServer {
  /** `host:port`. */
  readonly address: string
  /** Refuses new calls, waits for those that run, and ends those that are left after `timeoutMs`. */
  close(options?: { timeoutMs?: number }): Promise<void>
}

const usualMessageBytes = 4 * 1024 * 1024

/** Listens for the calls of gateways. */
export async function startGrpcServer(
  services: readonly GrpcService[],
  address: string,
  maxMessageBytes = usualMessageBytes,
): Promise<GrpcServer> {
  const server = new Server({ 'grpc.max_receive_message_length': maxMessageBytes })
  for (const { definition, handlers } of services) server.addService(definition, handlers)
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    )
  })
  return {
    address: `${address.slice(0, address.lastIndexOf(':'))}:${port}`,
    close: ({ timeoutMs } = {}) => closeServer(server, timeoutMs),
  }
}

function closeServer(server: Server, timeoutMs: number | undefined): Promise<void> {
  return new Promise((resolve) => {
    const timer = timeoutMs === undefined ? undefined : setTimeout(() => server.forceShutdown(), timeoutMs)
    server.tryShutdown(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}

/** Answers a unary call with what a promise brings. */
export function unary<Request, Reply>(
  handle: (call: ServerUnaryCall<Request, Reply>) => Promise<Reply>,
  errorOf: (error: unknown) => Partial<ServiceError> = statusOf,
): handleUnaryCall<Request, Reply> {
  return (call, callback) => {
    // Within the chain: what handle throws at once must be answered, too.
    Promise.resolve(call)
      .then(handle)
      .then(
        (reply) => callback(null, reply),
        (error: unknown) => callback(errorOf(error)),
      )
  }
}

/** A batch that a gateway retries is another attempt at the same one; which one it is, the gateway knows. */
export function contextOf(batchId: string, signalOf: () => AbortSignal): BatchContext {
  if (batchId === '') throw statusError(status.INVALID_ARGUMENT, 'a batch needs an id')
  return {
    batchId,
    attempt: 1,
    get signal() {
      return signalOf()
    },
  }
}

/** A signal that aborts when a call is cancelled; made when first asked for, and one for all of a stream's messages. */
export function signalOfCall(call: {
  cancelled: boolean
  once(event: 'cancelled', listener: () => void): unknown
}): () => AbortSignal {
  let controller: AbortController | undefined
  return () => {
    if (controller === undefined) {
      controller = new AbortController()
      const abort = (): void => controller?.abort(new Error('the caller has gone'))
      if (call.cancelled) abort()
      else call.once('cancelled', abort)
    }
    return controller.signal
  }
}

/** What the other side is to make of an error: whether the work may have been done is what matters most. */
export function statusOf(error: unknown): Partial<ServiceError> {
  if (typeof (error as ServiceError)?.code === 'number') return error as ServiceError
  if (error instanceof Overload || isSpillwayError(error, 'ERR_FULL')) {
    return statusError(status.RESOURCE_EXHAUSTED, text(error))
  }
  if (isSpillwayError(error, 'ERR_INVALID_EVENT') || isSpillwayError(error, 'ERR_OPTION')) {
    return statusError(status.INVALID_ARGUMENT, text(error))
  }
  if (isRefusal(error)) return statusError(status.FAILED_PRECONDITION, text(error))
  if (isSpillwayError(error, 'ERR_STORE') && !error.outcomeUnknown) return statusError(status.ABORTED, text(error))
  return statusError(status.UNAVAILABLE, text(error))
}

export function statusError(code: status, details: string, metadata?: Metadata): Error & Partial<ServiceError> {
  return Object.assign(new Error(details), { code, details, ...(metadata && { metadata }) })
}
