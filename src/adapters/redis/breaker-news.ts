/** What processes tell each other of one circuit, in JSON: as messages, and as what Redis keeps of the latest. */
export type BreakerNews = OpenedNews | ClosedNews

/** What a message can be: news, or that a lease was given back. */
export type BreakerMessage = BreakerNews | ReleasedMessage

interface News {
  /** When it was, by Redis' clock, in microseconds; each later news of a circuit has a greater one. */
  readonly epoch: number
  /** The circuit's name. */
  readonly circuit: string
  /** The instance that tells it. */
  readonly by: string
  /** Why. */
  readonly reason: string
}

/** A circuit was opened. */
export interface OpenedNews extends News {
  readonly kind: 'opened'
  /** For how long, in milliseconds. */
  readonly forMs: number
}

/** A circuit was closed. */
export interface ClosedNews extends News {
  readonly kind: 'closed'
  /** Up to which opening: the epoch of that. A later one isn't closed by it. */
  readonly trip: number
}

/** A probe's lease was given back. */
export interface ReleasedMessage {
  readonly kind: 'released'
  readonly circuit: string
}

/** What all news of one epoch begins with; scripts read it there. */
export const epochPrefix = '{"epoch":'

/** The longest message that is read, in UTF-16 code units. */
const maxLength = 16_384
/** The longest name of a circuit, an instance or a reason, in UTF-16 code units. */
export const maxNameLength = 512

/** What news says but its epoch, which a script puts before it. */
export function newsWithoutEpoch(news: Omit<OpenedNews, 'epoch'> | Omit<ClosedNews, 'epoch'>): string {
  return `,${JSON.stringify(news).slice(1)}`
}

/** Reads a message; undefined where it is none. */
export function readMessage(text: string): BreakerMessage | undefined {
  if (text.length > maxLength) return undefined
  let value: Partial<Record<keyof OpenedNews | keyof ClosedNews, unknown>> | null
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  if (typeof value !== 'object' || value === null || !isName(value.circuit)) return undefined
  if (value.kind === 'released') return { kind: 'released', circuit: value.circuit }
  const { epoch, circuit, by, reason, kind, forMs, trip } = value
  if (!isEpoch(epoch) || !isName(by) || !isName(reason)) return undefined
  if (kind === 'opened') {
    const valid = typeof forMs === 'number' && forMs >= 0 && forMs <= 2_147_483_647
    return valid ? { kind, epoch, circuit, by, reason, forMs } : undefined
  }
  return kind === 'closed' && isEpoch(trip) ? { kind, epoch, circuit, by, reason, trip } : undefined
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && value.length <= maxNameLength
}

function isEpoch(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
