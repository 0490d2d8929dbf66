import { failOption } from '../../core/options.js'

/** PostgreSQL cuts names beyond 63 bytes. */
const maxNameBytes = 63

/**
 * Checks a name of the user's: it is quoted, so it is taken as it stands, upper case and dots included.
 *
 * @param spareBytes - what is appended to it elsewhere.
 */
export function checkName(field: string, name: string, spareBytes = 0): string {
  const most = maxNameBytes - spareBytes
  const bytes = typeof name === 'string' ? new TextEncoder().encode(name).length : 0
  if (bytes < 1 || bytes > most || name.includes('\0')) {
    failOption(field, `must be a name of 1 to ${most} bytes without NUL`, name)
  }
  return name
}

/** Quotes an identifier. */
export function quoteName(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}
