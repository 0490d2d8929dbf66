import { readdirSync } from 'node:fs'

const everyMs = 10_000
/** What the collector leaves behind differs from look to look. */
const allowedGrowth = 16_000_000

interface Look {
  readonly heap: number
  readonly rss: number
  readonly descriptors: number
}

/** Looks at the process every ten seconds, and says in the end whether it has grown. */
export class Watch {
  readonly #stats: () => { readonly offered: number; readonly dropped: number; readonly pending: number }
  readonly #startedAt = performance.now()
  readonly #looks: Look[] = []
  #nextAt: number = this.#startedAt + everyMs

  constructor(stats: () => { readonly offered: number; readonly dropped: number; readonly pending: number }) {
    this.#stats = stats
  }

  /** Looks, if it is time. */
  look(): void {
    const now = performance.now()
    if (now < this.#nextAt) return
    this.#nextAt += everyMs
    // With --expose-gc, what is left is what is held.
    ;(globalThis as { gc?: () => void }).gc?.()
    const { heapUsed, rss } = process.memoryUsage()
    const descriptors = descriptorsOf()
    this.#looks.push({ heap: heapUsed, rss, descriptors })
    const { offered, dropped, pending } = this.#stats()
    const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`
    console.log(
      `${Math.round((now - this.#startedAt) / 1000)} s: heap ${mb(heapUsed)}, rss ${mb(rss)}, ${descriptors} descriptors, ` +
        `${offered} lines offered, ${dropped} dropped, ${pending} pending`,
    )
  }

  /** What has grown, from the first third of the time to the last. */
  problems(): string[] {
    const third = Math.floor(this.#looks.length / 3)
    if (third === 0) return []
    const [early, late] = [this.#looks.slice(0, third), this.#looks.slice(-third)]
    const problems: string[] = []
    for (const what of ['heap', 'rss'] as const) {
      // The least of each: what comes and goes is no growth.
      const grown = Math.min(...late.map((look) => look[what])) - Math.min(...early.map((look) => look[what]))
      if (grown > (what === 'heap' ? allowedGrowth : 4 * allowedGrowth)) problems.push(`${what} grew by ${grown} bytes`)
    }
    const [before, after] = [early, late].map((looks) => Math.max(...looks.map((look) => look.descriptors))) as [
      number,
      number,
    ]
    if (after > before + 2) problems.push(`descriptors went from ${before} to ${after}`)
    return problems
  }
}

/** How many descriptors are open, where the system says so. */
function descriptorsOf(): number {
  try {
    return readdirSync('/proc/self/fd').length
  } catch {
    return 0
  }
}
