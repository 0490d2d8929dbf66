import { handled, rejected } from '../../internal/deferred.js'
import type { PostgresDatabase } from './database.js'
import { Paginator } from './paginator.js'
import type { Page, PageRequest, PaginatorOptions } from './paginator-options.js'

/** Options of {@link paginate}: a listing, and which page of it. */
export interface PaginateOptions extends PaginatorOptions, PageRequest {
  /** How many rows at the most. The default is 50, or `maxLimit` where that is less. */
  limit?: number | undefined
}

/**
 * Reads one page of a listing that is described on the spot. Where the same listing is paged again and again, a {@link Paginator} says it
 * once, and has stats and events.
 *
 * @typeParam Row - a row, as the client makes it of its columns.
 * @param database - a `pg` Pool, or a PGlite.
 * @returns rejects as `Paginator.page` does; wrong options reject too.
 *
 * @example
 * ```ts
 * import { PGlite } from '@electric-sql/pglite'
 * import { paginate } from 'spillway/postgres'
 *
 * const { rows, next } = await paginate(new PGlite(), { from: 'posts', orderBy: ['id'], where: { author: 'ann' }, limit: 20 })
 * console.log(rows, next)
 * ```
 */
export function paginate<Row = Record<string, unknown>>(
  database: PostgresDatabase,
  options: PaginateOptions,
): Promise<Page<Row>> {
  try {
    return handled(new Paginator<Row>(database, options).page(options))
  } catch (error) {
    return rejected(error)
  }
}
