const hex: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))
const bytesAnId = 10
const pool = new Uint8Array(bytesAnId * 128)
let used = pool.length

/**
 * A UUID of version 7 (RFC 9562): the wall clock's milliseconds, then 74 random bits, so that ids are unique across
 * processes and sort by time.
 *
 * @param random - a source of chance for a simulation; without it, the platform's cryptographic one.
 */
export function batchId(wallMs: number, random?: () => number): string {
  if (random !== undefined) {
    for (let i = 0; i < bytesAnId; i++) pool[i] = Math.floor(random() * 256)
    used = pool.length
    return format(wallMs, 0)
  }
  // Asking for random bytes costs far more than using them, so they are fetched for many ids at a time.
  if (used + bytesAnId > pool.length) {
    crypto.getRandomValues(pool)
    used = 0
  }
  const at = used
  used += bytesAnId
  return format(wallMs, at)
}

/** The latest millisecond that an id was made in, and how ids of it begin: under load that is many. */
let latestMs = -1
let beginning = ''

function beginningAt(wallMs: number): string {
  const ms = Math.max(0, Math.trunc(wallMs))
  if (ms !== latestMs) {
    const time = ms.toString(16).padStart(12, '0').slice(-12)
    latestMs = ms
    beginning = `${time.slice(0, 8)}-${time.slice(8)}-`
  }
  return beginning
}

function format(wallMs: number, at: number): string {
  const byte = (i: number): string => hex[pool[at + i] as number] as string
  const version = hex[0x70 | ((pool[at] as number) & 0x0f)] as string
  const variant = hex[0x80 | ((pool[at + 2] as number) & 0x3f)] as string
  return `${beginningAt(wallMs)}${version}${byte(1)}-${variant}${byte(3)}-${byte(4)}${byte(5)}${byte(6)}${byte(7)}${byte(8)}${byte(9)}`
}
