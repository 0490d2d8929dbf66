/** The answers of an OAuth token endpoint that the same request will get again (RFC 6749, 5.2). */
const terminalCodes: ReadonlySet<unknown> = new Set([
  'invalid_client',
  'invalid_grant',
  'unauthorized_client',
  'invalid_scope',
])
const terminalStatuses: ReadonlySet<unknown> = new Set([400, 401, 403])
/** How far a chain of causes is followed. */
const maxDepth = 4

/** What clients of OAuth and HTTP put on their errors, each in its own way. */
interface ReadableError {
  readonly retryable?: unknown
  readonly retryAfterMs?: unknown
  readonly error?: unknown
  readonly code?: unknown
  readonly status?: unknown
  readonly statusCode?: unknown
  readonly response?: { readonly status?: unknown; readonly data?: { readonly error?: unknown } | null } | null
  readonly cause?: unknown
}

/** Whether an error of a fetch will come again however often it is tried. */
export function isTerminalByDefault(error: unknown): boolean {
  return firstOf(error, terminalWord) ?? false
}

/** How long an error asks to wait, in milliseconds; 0 where it says nothing. */
export function retryAfterMsOf(error: unknown): number {
  return firstOf(error, ({ retryAfterMs }) => (isWait(retryAfterMs) ? retryAfterMs : undefined)) ?? 0
}

/** What one error says about coming again; undefined where only its cause may tell. */
function terminalWord({ retryable, error, code, status, statusCode, response }: ReadableError): boolean | undefined {
  if (typeof retryable === 'boolean') return !retryable
  if (terminalCodes.has(error) || terminalCodes.has(code) || terminalCodes.has(response?.data?.error)) return true
  const answered = [status, statusCode, response?.status, code].find((one) => typeof one === 'number')
  return answered === undefined ? undefined : terminalStatuses.has(answered)
}

/** What the outermost error says that says anything. Errors that can't be read say nothing. */
function firstOf<T>(error: unknown, read: (error: ReadableError) => T | undefined): T | undefined {
  try {
    let current = error
    for (let depth = 0; depth < maxDepth && typeof current === 'object' && current !== null; depth++) {
      const word = read(current)
      if (word !== undefined) return word
      current = (current as ReadableError).cause
    }
  } catch {
    // A getter that throws.
  }
  return undefined
}

function isWait(value: unknown): value is number {
  return typeof value === 'number' && value > 0 && value < Number.POSITIVE_INFINITY
}
