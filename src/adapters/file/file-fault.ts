import { constants } from 'node:os'
import { isSpillwayError, StoreError } from '../../core/errors.js'

/** What passes by itself: the reader of a pipe is slow, a file is locked, a signal came. */
const passing = new Set(['EAGAIN', 'EWOULDBLOCK', 'EBUSY', 'EINTR'])
const noSpace = new Set(['ENOSPC', 'EDQUOT'])

/** Why nothing could be written just now, when it is no error: the kernel took no byte. */
export const nothingWritten: Error = Object.assign(new Error('no byte was written'), { code: 'EAGAIN' })

/** The error's name in the words of the system, `ENOSPC`. */
export function faultCode(error: unknown): string | undefined {
  const { code, errno } = (error ?? {}) as NodeJS.ErrnoException
  // Node has no name for it: its code is then `Unknown system error -122`.
  if (errno !== undefined && errno === -constants.errno.EDQUOT) return 'EDQUOT'
  return code
}

/** Whether the disk or the quota is full: it may be a long time until that has changed. */
export function isSpaceFault(error: unknown): boolean {
  return noSpace.has(faultCode(error) ?? '')
}

/** Whether the same write is worth another try at the same byte, for as long as it takes. */
export function isPassingFault(error: unknown): boolean {
  return passing.has(faultCode(error) ?? '') || isSpaceFault(error)
}

/** A foreign error as the caller gets it. */
export function sinkError(sink: string, what: string, cause: unknown, outcomeUnknown = false): StoreError {
  if (isSpillwayError(cause, 'ERR_STORE')) return cause as StoreError
  const why = cause instanceof Error ? cause.message : String(cause)
  return new StoreError(`${sink}: ${what} failed: ${why}`, { cause, outcomeUnknown })
}
