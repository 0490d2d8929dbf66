import { Metadata, type ServiceError, status } from '@grpc/grpc-js'
import { statusError, statusOf } from '../counter/grpc-server.ts'

/** Why a request was refused, without any effect. */
export type ProblemCode =
  | 'invalid_request'
  | 'unknown_service'
  | 'unknown_reservation'
  | 'insufficient_balance'
  | 'quota_exceeded'
  | 'balance_limit'
  | 'request_conflict'
  | 'reservation_settled'
  | 'reservation_released'
  | 'reservation_expired'

/** What is told about a refusal: whose request it was, for how much of what, and what there is instead. */
export interface ProblemDetails {
  readonly user_id?: string | undefined
  readonly service?: string | undefined
  readonly count?: number | undefined
  readonly request_id?: string | undefined
  /** Which field of the request is wrong. */
  readonly field?: string | undefined
  /** What it would cost; what there is; what of that is held. In minor units. */
  readonly charged?: number | undefined
  readonly balance?: number | undefined
  readonly held?: number | undefined
  /** Uses that are free in the period, and what of them was used. */
  readonly limit?: number | undefined
  readonly used?: number | undefined
  /** When the next period begins, as ISO 8601. */
  readonly resets_at?: string | undefined
}

/** Each refusal's status in gRPC. None of them speaks against the instance that gave it. */
const statuses: Readonly<Record<ProblemCode, status>> = {
  invalid_request: status.INVALID_ARGUMENT,
  unknown_service: status.NOT_FOUND,
  unknown_reservation: status.NOT_FOUND,
  insufficient_balance: status.FAILED_PRECONDITION,
  quota_exceeded: status.FAILED_PRECONDITION,
  balance_limit: status.FAILED_PRECONDITION,
  request_conflict: status.ALREADY_EXISTS,
  reservation_settled: status.FAILED_PRECONDITION,
  reservation_released: status.FAILED_PRECONDITION,
  reservation_expired: status.FAILED_PRECONDITION,
}

const trailer = 'billing-problem-bin'

/** A request that was refused, without any effect. */
export class BillingProblem extends Error {
  readonly code: ProblemCode
  readonly details: ProblemDetails

  constructor(code: ProblemCode, message: string, details: ProblemDetails) {
    super(message)
    this.code = code
    this.details = details
  }

  /** What the trailer of gRPC has. */
  toJSON(): Record<string, unknown> {
    return { error: this.code, message: this.message, ...this.details }
  }
}

/** What gRPC answers to an error: a problem with its details in a trailer. */
export function billingStatusOf(error: unknown): Partial<ServiceError> {
  if (!(error instanceof BillingProblem)) return statusOf(error)
  const metadata = new Metadata()
  metadata.set(trailer, Buffer.from(JSON.stringify(error)))
  return statusError(statuses[error.code], error.message, metadata)
}

/** The problem that a billing service answered a call with, if that is what went wrong. */
export function problemOf(error: unknown): BillingProblem | undefined {
  const { metadata } = error as { metadata?: { get(key: string): readonly (string | Uint8Array)[] } }
  const [json] = metadata?.get(trailer) ?? []
  if (json === undefined) return undefined
  const {
    error: code,
    message,
    ...details
  } = JSON.parse(Buffer.from(json as Uint8Array).toString()) as { error: ProblemCode; message: string }
  return new BillingProblem(code, message, details)
}
