/** One thing that an implementation of a port must do. */
export interface ContractCase {
  /** What must hold, as a sentence. */
  readonly name: string
  /** Tries it; rejects when it doesn't hold. */
  run(): Promise<void>
}

/** Throws unless two values are the same in structure: numbers, strings, arrays and plain objects of them, whose order doesn't matter. */
export function expectEqual(actual: unknown, expected: unknown, what: string): void {
  const [got, wanted] = [show(actual), show(expected)]
  if (got !== wanted) throw new Error(`${what}: expected ${cut(wanted)}, got ${cut(got)}`)
}

/** Throws unless a condition holds. */
export function expectThat(condition: boolean, what: string): void {
  if (!condition) throw new Error(what)
}

function show(value: unknown): string {
  return JSON.stringify(value, function (this: unknown, _, part: unknown) {
    // In a list, JSON would have null in its place.
    if (part === undefined) return Array.isArray(this) ? '(undefined)' : part
    if (part instanceof Error) return `${part.name}: ${part.message}`
    if (typeof part === 'number' && !Number.isFinite(part)) return String(part)
    if (typeof part !== 'object' || part === null || Array.isArray(part)) return part
    return Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
  })
}

function cut(text: string): string {
  return text.length > 400 ? `${text.slice(0, 399)}…` : text
}
