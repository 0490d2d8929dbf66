/**
 * A text as a part of a key's name: without what Redis Cluster reads as a hash tag, and without the colon that parts such parts.
 * Different texts stay different.
 */
function partOf(text: string): string {
  return /[%{}:]/.test(text) ? text.replace(/[%{}:]/g, (sign) => codes[sign] as string) : text
}

const codes: Readonly<Record<string, string>> = { '%': '%25', '{': '%7B', '}': '%7D', ':': '%3A' }

/** The names of a store's keys. They say where data lies, so they never change. */
export class QuotaKeys {
  readonly #prefix: string

  /** @param prefix - a text without braces. */
  constructor(prefix: string) {
    this.#prefix = `${prefix}:quota`
  }

  /** The names of a user's keys: what is in their braces puts all of them into one slot of a cluster. */
  user(userId: string): UserKeys {
    return new UserKeys(`{${this.#prefix}:${partOf(userId)}}`)
  }

  /** What a batch over any users was answered. */
  batch(id: string): string {
    return `${this.#prefix}:batch:${partOf(id)}`
  }

  /** Whose reservation it is that has this id. */
  owner(reservationId: string): string {
    return `${this.#prefix}:hold:${partOf(reservationId)}`
  }
}

/** The names of a user's keys. */
export class UserKeys {
  readonly #tag: string

  constructor(tag: string) {
    this.#tag = tag
  }

  /** What was used in a period: a hash by quota type. */
  used(period: string): string {
    return `${this.#tag}:used:${period}`
  }

  /** Ids of requests and events that were counted: a sorted set by when to forget them. */
  get ids(): string {
    return `${this.#tag}:ids`
  }

  /** Reservations that hold something: a sorted set by their ends. */
  get holds(): string {
    return `${this.#tag}:holds`
  }

  /** What they hold together: a hash by quota type and period. */
  get held(): string {
    return `${this.#tag}:held`
  }

  /** A reservation, and what became of it: a hash. */
  hold(id: string): string {
    return `${this.#tag}:hold:${id}`
  }

  /** What the user's part of a batch was answered. */
  batch(id: string): string {
    return `${this.#tag}:batch:${id}`
  }
}

/** When a period is over, in milliseconds since the epoch, by its label: `2026-11-20` or `2026-11`; undefined where it has no end. */
export function endOf(period: string): number | undefined {
  const [, year, month, day] = /^(\d{4})-(\d\d)(?:-(\d\d))?$/.exec(period) ?? []
  if (month === undefined) return undefined
  return day === undefined
    ? Date.UTC(Number(year), Number(month))
    : Date.UTC(Number(year), Number(month) - 1, Number(day) + 1)
}
