import type { ProblemCode, ProblemDetails } from './problems.ts'

/** Thrown where a request is refused before its handler: the error handler answers with the problem. */
export class ProblemError extends Error {
  readonly code: ProblemCode
  readonly details: ProblemDetails

  constructor(code: ProblemCode, message: string, details: ProblemDetails = {}) {
    super(message)
    this.code = code
    this.details = details
  }
}
