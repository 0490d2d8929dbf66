/**
 * What a `Retry-After` header asks for, in milliseconds from now: a number of seconds or a date (RFC 9110, 10.2.3).
 *
 * @param wallNow - the time, in milliseconds since the epoch.
 */
export function retryAfterMs(header: string | string[] | undefined, wallNow: number): number | undefined {
  const value = (Array.isArray(header) ? header[0] : header)?.trim()
  if (value === undefined || value === '') return undefined
  if (/^\d+$/.test(value)) return Number(value) * 1000
  // Date.parse reads "-5" and "1.5" as dates too.
  if (!/^[A-Za-z]{3}/.test(value)) return undefined
  const at = Date.parse(value)
  return Number.isNaN(at) ? undefined : Math.max(0, at - wallNow)
}
