import { Paginator } from 'spillway/postgres'
import type { Database } from './database.ts'

/** Which page of a resource's counters: the first one, or the one behind or in front of a cursor of another page. */
export interface ListRequest {
  readonly resourceId: string
  readonly after?: string | undefined
  /** Not together with `after`. */
  readonly before?: string | undefined
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
  /** The cursor of the page behind it, where there is one. */
  readonly next?: string | undefined
  /** The cursor of the page in front of it, where there is one. */
  readonly previous?: string | undefined
}

/** Lists the counters of a resource, as they are committed. */
export interface CounterListing {
  /** The most counters of a page, where it isn't the usual one. */
  readonly maxPageSize?: number | undefined
  /** @returns rejects with `ERR_CURSOR` for a cursor that isn't of this listing and this resource. */
  list(request: ListRequest): Promise<CounterPage>
}

/** The most counters of a page. */
export const maxPageSize = 1_000

/** A type has no colon, but a resource may: the last one is between them. */
const view = `SELECT pg_advisory_xact_lock(hashtext('counter_listing'));
CREATE OR REPLACE VIEW counter_listing AS
  SELECT key, value, type AS counter_type, left(key, -length(type) - 1) AS resource_id
  FROM (SELECT key, value, reverse(split_part(reverse(key), ':', 1)) AS type FROM spillway_counters) AS counters`

/**
 * Lists what a database has. A page is a range of the counters' primary key, which begins at the last counter of the page before:
 * whatever is inserted meanwhile, no counter comes twice, and none that was there throughout is left out.
 */
export class DatabaseListing implements CounterListing {
  readonly pages: Paginator<{ counter_type: string; value: unknown }>
  readonly maxPageSize: number
  readonly #database: Database

  /** @param secrets - the first one signs cursors, and those of all are good. */
  constructor(database: Database, secrets: readonly (string | Uint8Array)[], max = maxPageSize) {
    this.#database = database
    this.maxPageSize = max
    this.pages = new Paginator(database.client, {
      name: 'counter-listing',
      from: 'counter_listing',
      columns: ['counter_type', 'value'],
      orderBy: ['key'],
      // A view has no index that proves it, but the key is the counters' primary key.
      assumeUnique: true,
      maxLimit: max,
      secret: secrets,
    })
  }

  /** Makes the view that is paged. */
  async createSchema(): Promise<void> {
    const [found] = await this.#database.query<{ found: boolean }>(
      `SELECT to_regclass('counter_listing') IS NOT NULL AS found`,
    )
    if (found?.found !== true) await this.#database.script(view)
  }

  async list({ resourceId, after, before, limit }: ListRequest): Promise<CounterPage> {
    // The range is what the index knows; the colon's successor ends it. Within it are the counters of `a:b`, too, where `a` is asked for.
    const where = { key: { gt: `${resourceId}:`, lt: `${resourceId};` }, resource_id: resourceId }
    const { rows, next, previous } = await this.pages.page({ where, after, before, limit })
    const counters = rows.map(({ counter_type, value }) => ({ counterType: counter_type, value: Number(value) }))
    return { counters, next, previous }
  }
}
