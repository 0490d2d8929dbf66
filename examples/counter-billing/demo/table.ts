/** A line of a table: the first column to the left, numbers to the right. */
export function row(title: string, ...cells: readonly string[]): void {
  console.log(`  ${title.padEnd(14)}${cells.map((cell) => cell.padStart(11)).join('')}`)
}

export function sumOf(sums: Iterable<readonly [string, number]>): number {
  let sum = 0
  for (const [, value] of sums) sum += value
  return sum
}

export function ratio(a: number, b: number): number {
  return b === 0 ? 0 : a / b
}

export function whole(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

export function tenths(value: number): string {
  return value.toLocaleString('en-US', { minimumFractionDigits: 1, maximumFractionDigits: 1 })
}
