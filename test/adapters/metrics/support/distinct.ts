/** The same stats with a number of its own in each place, so that no two can be mistaken for each other. */
export function distinctNumbers<T>(stats: T): { stats: T; numbers: Map<string, number> } {
  const numbers = new Map<string, number>()
  let last = 1000
  const walk = (value: unknown, path: string): unknown => {
    if (typeof value === 'number') {
      last += 7
      numbers.set(path, last)
      return last
    }
    if (Array.isArray(value)) return value.map((one, index) => walk(one, `${path}[${index}]`))
    if (typeof value !== 'object' || value === null) return value
    const entries = Object.entries(value).map(([key, one]) => [key, walk(one, path === '' ? key : `${path}.${key}`)])
    return Object.fromEntries(entries)
  }
  return { stats: walk(stats, '') as T, numbers }
}
