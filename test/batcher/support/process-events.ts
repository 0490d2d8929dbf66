/** Runs something, and returns the reasons of all rejections that nobody had looked at two turns later. */
export async function unhandledDuring(body: () => Promise<void>): Promise<unknown[]> {
  const reasons: unknown[] = []
  const collect = (reason: unknown): void => void reasons.push(reason)
  process.on('unhandledRejection', collect)
  try {
    await body()
    await turns(2)
  } finally {
    process.off('unhandledRejection', collect)
  }
  return reasons
}

/** Runs something, and returns the text of every warning of the process meanwhile. */
export async function warningsDuring(body: () => Promise<void>): Promise<string[]> {
  const warnings: string[] = []
  const collect = (warning: Error): void => void warnings.push(`${warning.name}: ${warning.message}`)
  process.on('warning', collect)
  try {
    await body()
    await turns(2)
  } finally {
    process.off('warning', collect)
  }
  return warnings
}

/** Both kinds of report come at the end of a turn. */
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve))
}
