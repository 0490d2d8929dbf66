import type { Query } from './database.ts'

/** A page of a resource's counters. */
export interface ListRequest {
  readonly resourceId: string
  /** The counter type after which the page begins; empty for the first page. */
  readonly after: string
  /** The most counters of the page. */
  readonly limit: number
}

export interface ListedCounter {
  readonly counterType: string
  readonly value: number
}

export interface CounterPage {
  /** In the order of their types, by code point. */
  readonly counters: readonly ListedCounter[]
  /** Whether there are counters behind it. */
  readonly more: boolean
}

/** Lists the counters of a resource, as they are committed. */
export interface CounterListing {
  list(request: ListRequest): Promise<CounterPage>
}

/** The most counters of a page. */
export const maxPageSize = 1_000

/**
 * A page is a range of the table's primary key, which begins after the last one of the page before: whatever is inserted meanwhile, no
 * counter comes twice, and none that was there throughout is left out. A type has no colon, but a resource may: `a` isn't asked for
 * the counters of `a:b`.
 */
const statement = `SELECT substr(key, $4) AS type, value FROM spillway_counters
  WHERE key > $1 AND key < $2 AND strpos(substr(key, $4), ':') = 0
  ORDER BY key LIMIT $3`

/** Lists what a database has. */
export class DatabaseListing implements CounterListing {
  readonly #query: Query

  constructor({ query }: { readonly query: Query }) {
    this.#query = query
  }

  async list({ resourceId, after, limit }: ListRequest): Promise<CounterPage> {
    const prefix = `${resourceId}:`
    // The colon's successor ends the keys that begin with the prefix. Places in a text count code points.
    const values = [prefix + after, `${resourceId};`, limit + 1, [...prefix].length + 1]
    const rows = await this.#query<{ type: string; value: unknown }>(statement, values)
    const counters = rows.slice(0, limit).map(({ type, value }) => ({ counterType: type, value: Number(value) }))
    return { counters, more: rows.length > limit }
  }
}
