import type { Path } from './faults.ts'

/** What is known of a write: it was done; it may have been; it wasn't. */
export type Fate = 'acked' | 'unknown' | 'refused'

/** Increments that were sent in one request. Times are milliseconds since the epoch. */
export interface AddEntry {
  readonly type: 'add'
  readonly sentAt: number
  readonly endedAt: number
  readonly gateway: string
  readonly ack: 'accepted' | 'redis' | 'committed'
  /** Whose use it is; none is metered without. */
  readonly user?: string | undefined
  /** Whether it was sent under an `Idempotency-Key`, again and again until it was answered: then it counts once. */
  readonly keyed?: boolean | undefined
  readonly status: number
  /** Each operation's key, delta, fate, and the value that was told. */
  readonly operations: readonly (readonly [key: string, delta: number, fate: Fate, value?: number])[]
}

/** A value that was read. */
export interface ReadEntry {
  readonly type: 'read'
  readonly sentAt: number
  readonly endedAt: number
  readonly gateway: string
  readonly source: 'live' | 'durable'
  readonly key: string
  readonly value: number
  readonly fresh: boolean
}

/** One attempt at a request that changes money; status 0 is no answer. */
export interface BillEntry {
  readonly type: 'bill'
  readonly endedAt: number
  readonly operation: 'recharge' | 'deduct' | 'reserve' | 'settle' | 'release'
  readonly user: string
  readonly request: string
  /** The uses, or the amount of a recharge. */
  readonly count: number
  readonly status: number
  readonly free?: number | undefined
  readonly charged?: number | undefined
  readonly balance?: number | undefined
  readonly state?: string | undefined
}

/** A use that a program of its own published: `sent` before, `acked` once the promise resolved. */
export interface UseEntry {
  readonly type: 'use'
  readonly request: string
  readonly fate: 'sent' | 'acked'
}

export type LedgerEntry = AddEntry | ReadEntry | BillEntry | UseEntry

/** A time within which a gateway's answers may be lost: it was killed, and what waited went with it. */
export interface Loss {
  readonly gateway: string
  readonly path: Path
  readonly from: number
  readonly to: number
}

/** A row of billing_requests. */
export interface RequestRow {
  readonly user: string
  readonly request: string
  readonly operation: string
  readonly state: string
  readonly due: boolean
  readonly count: number
  readonly usedCount: number
  readonly usedFree: number
  readonly usedCharged: number
}

/** What the stores hold in the end, read past all proxies. */
export interface Stored {
  readonly durable: ReadonlyMap<string, number>
  readonly live: ReadonlyMap<string, number>
  /** Uses of each user that were metered; what was published, each under an id of its own, and how often it was counted. */
  readonly metered: ReadonlyMap<string, number>
  readonly published: ReadonlyMap<string, number>
  readonly requests: readonly RequestRow[]
  readonly accounts: ReadonlyMap<string, { readonly balance: number; readonly held: number }>
  /** Free uses of each user: what is used, and what is held. */
  readonly free: ReadonlyMap<string, { readonly used: number; readonly held: number }>
}

/** All that the books are made of. */
export interface Evidence {
  readonly entries: readonly LedgerEntry[]
  readonly losses: readonly Loss[]
  /** When each gateway was not there, from the signal to the new start: what it told before, it doesn't know after. */
  readonly absences: readonly { readonly gateway: string; readonly from: number }[]
  readonly stored: Stored
}

/** One of the books: how much was compared, and what doesn't add up. */
export interface Book {
  readonly name: string
  /** What was compared, for people. */
  readonly compared: string
  /** How much of what was answered was held against what is stored: a book with nothing in it proves nothing. */
  readonly proved: number
  readonly problems: readonly string[]
}
