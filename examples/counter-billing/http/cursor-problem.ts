import { Metadata, type ServiceError, status } from '@grpc/grpc-js'
import { CursorError, isSpillwayError } from 'spillway'
import { statusError, statusOf } from '../counter/grpc-server.ts'

const trailer = 'cursor-problem'

/** What gRPC answers to an error of a listing: to a cursor that is none, what is wrong with which one, in a trailer. */
export function listingStatusOf(error: unknown): Partial<ServiceError> {
  if (!isSpillwayError(error, 'ERR_CURSOR')) return statusOf(error)
  const { field, reason, message } = error as CursorError
  const metadata = new Metadata()
  metadata.set(trailer, `${field} ${reason}`)
  return statusError(status.INVALID_ARGUMENT, message, metadata)
}

/** Throws what a counter service threw, if it was a cursor's fault. */
export function rethrowCursorProblem(error: unknown): never {
  const { metadata, details } = error as { metadata?: Pick<Metadata, 'get'>; details?: string }
  const [field, reason] = String(metadata?.get(trailer)[0] ?? '').split(' ') as [
    CursorError['field'],
    CursorError['reason'] | undefined,
  ]
  if (reason === undefined) throw error
  throw new CursorError(details ?? `${field} is no cursor`, field, reason, { cause: error })
}
