/** Reads the value of a flag: a whole number from 1 to a most. */
export function wholeFlag(name: string, text: string, most: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : 0
  if (value < 1 || value > most) throw new Error(`--${name} must be a whole number from 1 to ${most}, got "${text}"`)
  return value
}
