/** One thing that an implementation of a port must do. */
export interface ContractCase {
  /** What must hold, as a sentence. */
  readonly name: string
  /** Tries it; rejects when it doesn't hold. */
  run(): Promise<void>
}

/** Throws unless two values are the same in structure: numbers, strings, arrays of them. */
export function expectEqual(actual: unknown, expected: unknown, what: string): void {
  const [got, wanted] = [show(actual), show(expected)]
  if (got !== wanted) throw new Error(`${what}: expected ${cut(wanted)}, got ${cut(got)}`)
}

/** Throws unless a condition holds. */
export function expectThat(condition: boolean, what: string): void {
  if (!condition) throw new Error(what)
}

function show(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) => {
    if (part instanceof Error) return `${part.name}: ${part.message}`
    return typeof part === 'number' && !Number.isFinite(part) ? String(part) : part
  })
}

function cut(text: string): string {
  return text.length > 400 ? `${text.slice(0, 399)}…` : text
}
