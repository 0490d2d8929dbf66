import type { Invalidation } from '../../core/ports.js'

/** One message of a bus: in JSON, short, since every process of a fleet reads each of them. */
export interface InvalidationMessage {
  /** The bus that tells it. */
  readonly by: string
  /** Which of its messages it is, counted from 1; of a `'beat'`, which was its latest. */
  readonly seq: number
  /** `'news'`: invalidations. `'gap'`: some were lost before this. `'beat'`: nothing new. */
  readonly kind: 'news' | 'gap' | 'beat'
  /**
   * How long before it the message before it was sent, in milliseconds; of a `'beat'`, the latest. Undefined where there was none: so whoever
   * doesn't know the sender, and listens for longer, knows that it missed that one.
   */
  readonly agoMs: number | undefined
  /** The invalidations, in their order. */
  readonly invalidations: readonly Invalidation[]
}

/** What all messages begin with: whatever doesn't is somebody else's. */
const opening = '{"spillway":1,'

/** How an invalidation is written: its kind's first letter, then what it names. */
type Written = readonly ['k', string] | readonly ['k', string, string] | readonly ['t', string] | readonly ['c', string]

/** An invalidation's text within a message. */
export function writeInvalidation(invalidation: Invalidation): string {
  return JSON.stringify(written(invalidation))
}

/** A message's text, of its invalidations' texts. */
export function writeMessage(
  { by, seq, kind, agoMs }: Omit<InvalidationMessage, 'invalidations'>,
  texts: readonly string[] = [],
): string {
  const ago = agoMs === undefined ? '' : `,"ago":${Math.floor(agoMs)}`
  const head = `${opening}"by":${JSON.stringify(by)},"seq":${seq}${ago}`
  return kind === 'news' ? `${head},"news":[${texts.join(',')}]}` : `${head},"${kind}":true}`
}

/** Reads a message; undefined where it is none. Never throws. */
export function readMessage(text: string): InvalidationMessage | undefined {
  if (!text.startsWith(opening)) return undefined
  let value: { by?: unknown; seq?: unknown; ago?: unknown; news?: unknown; gap?: unknown; beat?: unknown }
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  const { by, seq, ago } = value
  if (typeof by !== 'string' || by === '' || by.length > 64) return undefined
  if (!Number.isSafeInteger(seq) || (seq as number) < 1) return undefined
  if (ago !== undefined && !(typeof ago === 'number' && ago >= 0)) return undefined
  const head = { by, seq: seq as number, agoMs: ago }
  if (value.gap === true) return { ...head, kind: 'gap', invalidations: [] }
  if (value.beat === true) return { ...head, kind: 'beat', invalidations: [] }
  if (!Array.isArray(value.news)) return undefined
  const invalidations: Invalidation[] = []
  for (const part of value.news) {
    const invalidation = invalidationOf(part)
    if (invalidation === undefined) return undefined
    invalidations.push(invalidation)
  }
  return { ...head, kind: 'news', invalidations }
}

/** A copy of an invalidation, with nothing in it but what it must have; undefined where something is none. */
export function copyInvalidation(value: Invalidation): Invalidation | undefined {
  return typeof value === 'object' && value !== null ? invalidationOf(written(value)) : undefined
}

function written(invalidation: Invalidation): Written {
  switch (invalidation.kind) {
    case 'key': {
      const { key, version } = invalidation
      return version === undefined ? ['k', key] : ['k', key, version]
    }
    case 'tag':
      return ['t', invalidation.tag]
    default:
      return ['c', invalidation.kind === 'clear' ? invalidation.namespace : (undefined as never)]
  }
}

function invalidationOf(part: unknown): Invalidation | undefined {
  if (!Array.isArray(part)) return undefined
  const [kind, name, version] = part as readonly unknown[]
  if (typeof name !== 'string') return undefined
  if (kind === 't') return { kind: 'tag', tag: name }
  if (kind === 'c') return { kind: 'clear', namespace: name }
  if (kind !== 'k') return undefined
  if (version === undefined) return { kind: 'key', key: name }
  return typeof version === 'string' ? { kind: 'key', key: name, version } : undefined
}
