import { isSpillwayError } from '../../core/errors.js'

/** What a call says about the instance that it went to, in the terms of a circuit breaker. */
export type GrpcVerdict = 'success' | 'failure' | 'ignore'

const CANCELLED = 1
const INTERNAL = 13

/** By the number of the status. What isn't in here is a failure: unknown numbers count as UNKNOWN. */
const verdicts: Readonly<Record<number, GrpcVerdict>> = {
  [CANCELLED]: 'ignore',
  3: 'success', // INVALID_ARGUMENT
  5: 'success', // NOT_FOUND
  6: 'success', // ALREADY_EXISTS
  7: 'success', // PERMISSION_DENIED
  8: 'ignore', // RESOURCE_EXHAUSTED: to eject who is too busy puts his load on the others
  9: 'success', // FAILED_PRECONDITION
  10: 'success', // ABORTED
  11: 'success', // OUT_OF_RANGE
  12: 'ignore', // UNIMPLEMENTED: one caller with a wrong method would eject every instance
  16: 'success', // UNAUTHENTICATED
}

/** Errors of ours that were made before anything was sent, or because we stopped. */
const ownCodes: ReadonlySet<string> = new Set([
  'ERR_OPTION',
  'ERR_CLOSED',
  'ERR_FULL',
  'ERR_CIRCUIT_OPEN',
  'ERR_NO_INSTANCE',
])

/** How far a chain of causes is followed. */
const maxDepth = 4

/**
 * Whether a failed call speaks against the instance that it went to: for a breaker's `classifyError`, above all that of a
 * load balancer's `ejection`.
 *
 * - `'failure'`: UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL, UNKNOWN, DATA_LOSS, and every error that is none of gRPC's.
 * - `'success'`: INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, UNAUTHENTICATED, FAILED_PRECONDITION,
 *   ABORTED, OUT_OF_RANGE. The instance did its work; the fault is the caller's.
 * - `'ignore'`: CANCELLED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, a request that can't be serialized, and errors of this package
 *   that were made before anything was sent.
 *
 * That is how Envoy's outlier detection counts gRPC (by the HTTP status that each code stands for, where 5xx fails), but
 * for UNIMPLEMENTED: 501 fails there. gRPC's own outlier detection (gRFC A50) takes every status but OK for a failure.
 *
 * @param error - a `GrpcCallError`, an error of grpc-js, one that wraps either, or any other.
 * @see https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier
 */
export function classifyGrpcError(error: unknown): GrpcVerdict {
  try {
    let current = error
    for (let depth = 0; depth < maxDepth && typeof current === 'object' && current !== null; depth++) {
      const { status, code, details, cause } = current as Record<string, unknown>
      if (isSpillwayError(current) && ownCodes.has(current.code)) return 'ignore'
      const number = isSpillwayError(current) ? status : code
      // A small number is a status only on an error that looks like one of gRPC's.
      if (typeof number === 'number' && typeof details === 'string') return classifyStatus(number, details)
      current = cause
    }
  } catch {
    // An error that can't even be read.
  }
  return 'failure'
}

/** The same by number and words; 0 is a success. */
export function classifyStatus(status: number, details: string): GrpcVerdict {
  if (status === 0) return 'success'
  // grpc-js's word for a request that never left.
  if (status === INTERNAL && details.startsWith('Request message serialization failure')) return 'ignore'
  return verdicts[status] ?? 'failure'
}
