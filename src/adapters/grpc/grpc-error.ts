import { StoreError } from '../../core/errors.js'
import type { GrpcMetadata } from './grpc-client.js'

/** The status codes of gRPC, each at its number. */
const statusNames = [
  'OK',
  'CANCELLED',
  'UNKNOWN',
  'INVALID_ARGUMENT',
  'DEADLINE_EXCEEDED',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION',
  'ABORTED',
  'OUT_OF_RANGE',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DATA_LOSS',
  'UNAUTHENTICATED',
] as const

/** The name of a gRPC status. */
export type GrpcStatusName = (typeof statusNames)[number]

/** Every name but OK: what a retry policy may name. */
export const errorStatusNames: readonly GrpcStatusName[] = statusNames.slice(1)

/** Whether a call's status is grpc-js's word for its own `cancel()`. */
export function isCancelledHere(status: number, details: string): boolean {
  return status === 1 && details === 'Cancelled on client'
}

/** Which call failed, for a message and for whoever reads the error. */
export interface FailedCall {
  /** The component that made the call. */
  readonly name: string
  /** The method or, of a stream whose method isn't known, what it is. */
  readonly method: string
  /** Where the call went, or would have gone. */
  readonly address: string
  /** Whether anything can have reached the server. */
  readonly sent: boolean
  /** Whether an attempt before this one may have been done. */
  readonly maybeDone?: boolean
  /** Whether it was a stream: its status says nothing about the messages before the one that it is about. */
  readonly stream?: boolean
}

/** A `StoreError` (`ERR_STORE`) of a gRPC call; the original is in `cause`. */
export class GrpcCallError extends StoreError {
  /** The number of the status, for instance 14; 2 (UNKNOWN) where the error has none. */
  readonly status: number
  /** The name of the status, for instance `UNAVAILABLE`. */
  readonly statusName: GrpcStatusName
  /** What the server, or grpc-js, says about it. */
  readonly details: string
  /** The trailing metadata, where there is some. */
  readonly metadata: GrpcMetadata | undefined
  /** The method that was called. */
  readonly method: string
  /** The server's address. */
  readonly address: string

  /** @param cause - what grpc-js gave; anything else counts as UNKNOWN. */
  constructor(cause: unknown, call: FailedCall) {
    const { status, details, metadata } = readError(cause)
    const statusName = statusNames[status] ?? 'UNKNOWN'
    const verdict = judge(statusName, details, metadata, call.sent)
    const outcomeUnknown = (call.maybeDone ?? false) || (call.stream ? call.sent : verdict.outcomeUnknown)
    super(`${call.name}: ${call.method} to ${call.address} failed: ${statusName} (${status}): ${details}`, {
      cause,
      ...verdict,
      outcomeUnknown,
    })
    this.status = status
    this.statusName = statusName
    this.details = details
    this.metadata = metadata
    this.method = call.method
    this.address = call.address
  }
  override get name(): string {
    return 'GrpcCallError'
  }
}

function readError(cause: unknown): { status: number; details: string; metadata: GrpcMetadata | undefined } {
  const { code, details, metadata, message } = (cause ?? {}) as Record<string, unknown>
  return {
    status: typeof code === 'number' && Number.isInteger(code) && code > 0 ? code : 2,
    details: typeof details === 'string' ? details : typeof message === 'string' ? message : String(cause),
    metadata:
      typeof (metadata as GrpcMetadata | undefined)?.get === 'function' ? (metadata as GrpcMetadata) : undefined,
  }
}

interface Verdict {
  readonly retryable: boolean
  readonly outcomeUnknown: boolean
  readonly retryAfterMs?: number
}

/** Whether trying again makes sense and whether the work may have been done, by status (AIP-194, gRPC's status codes). */
function judge(
  statusName: GrpcStatusName,
  details: string,
  metadata: GrpcMetadata | undefined,
  sent: boolean,
): Verdict {
  const verdict = byStatus(statusName, details, sent)
  // The server's own word on when to come back (gRFC A6); a negative one means never.
  const [pushback] = metadata?.get('grpc-retry-pushback-ms') ?? []
  if (pushback === undefined || !verdict.retryable) return verdict
  const retryAfterMs = Number(pushback)
  return retryAfterMs >= 0 ? { ...verdict, retryAfterMs } : { ...verdict, retryable: false }
}

function byStatus(statusName: GrpcStatusName, details: string, sent: boolean): Verdict {
  switch (statusName) {
    // No connection, a lost one, or a server that is going away: only the first leaves no doubt.
    case 'UNAVAILABLE':
    case 'DEADLINE_EXCEEDED':
    case 'CANCELLED':
      return { retryable: true, outcomeUnknown: sent }
    case 'RESOURCE_EXHAUSTED':
      // A message over a limit is over it the next time too. A response that is too large was worked for.
      if (/larger than/.test(details)) {
        return { retryable: false, outcomeUnknown: sent && !details.startsWith('Attempted to send') }
      }
      // A stream that was reset to calm the client down may have been worked on; a status is the server's refusal.
      return { retryable: true, outcomeUnknown: sent && details.startsWith('Bandwidth exhausted') }
    case 'ABORTED':
      return { retryable: true, outcomeUnknown: false }
    case 'INTERNAL':
      if (details.startsWith('Request message serialization failure')) {
        return { retryable: false, outcomeUnknown: false }
      }
      // grpc-js's word for a stream that was reset without a status.
      return { retryable: details.startsWith('Received RST_STREAM'), outcomeUnknown: sent }
    case 'UNKNOWN':
    case 'DATA_LOSS':
      return { retryable: false, outcomeUnknown: sent }
    case 'UNIMPLEMENTED':
      // grpc-js's word for a status of OK without a message, or with two.
      return { retryable: false, outcomeUnknown: sent && /^(?:No message|Too many responses) received$/.test(details) }
    default:
      return { retryable: false, outcomeUnknown: false }
  }
}
