import type { Book } from './evidence.ts'

/** The books as a table, and under it what doesn't add up. */
export function booksTable(books: readonly Book[]): string {
  const lines = books.map(({ name, compared, problems }) => [
    name,
    problems.length === 0 ? 'right' : `${problems.length} WRONG`,
    compared,
  ])
  const all = [['book', 'is', 'compared'], ...lines]
  const widths = [0, 1].map((column) => Math.max(...all.map((line) => (line[column] as string).length)))
  const table = all.map(([name = '', is = '', compared = '']) => {
    return `  ${name.padEnd(widths[0] as number)}  ${is.padEnd(widths[1] as number)}  ${compared}`
  })
  const problems = books.flatMap(({ name, problems }) => listed(name, problems))
  return [...table, ...problems].join('\n')
}

const shown = 8

/** The first problems of a kind, and how many more there are. */
export function listed(name: string, problems: readonly string[]): string[] {
  const lines = problems.slice(0, shown).map((problem) => `  WRONG ${name}: ${problem}`)
  return problems.length > shown ? [...lines, `  WRONG ${name}: and ${problems.length - shown} more`] : lines
}

/** `+12.3 s`, as wide as any. */
export function since(startedAt: number, now = Date.now()): string {
  return `+${((now - startedAt) / 1_000).toFixed(1)} s`.padStart(9)
}
