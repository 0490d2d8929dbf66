import type { ComponentOptions } from '../../core/component.js'
import type { CursorError } from '../../core/errors.js'
import type { OrderColumn } from './keyset-order.js'
import type { CursorSecret } from './page-cursor.js'
import type { PageWhere } from './page-where.js'

/** Options of {@link Paginator}: what is listed, and in which order. */
export interface PaginatorOptions extends ComponentOptions {
  /** The table or view. It is quoted: upper case and dots stay as they are. What takes SQL, a join or an expression, becomes a view. */
  from: string
  /** Its schema. The default is the connection's `search_path`. */
  schema?: string | undefined
  /** The columns of the rows. The default is all that the relation has. */
  columns?: readonly string[] | undefined
  /**
   * The order, of at most 8 columns. No two rows of a listing may be equal in all of them, or rows between two pages would be lost: a unique
   * index has to prove it, together with the columns that `where` fixes by equality.
   */
  orderBy: readonly (string | OrderColumn)[]
  /**
   * How many rows a page has that doesn't say it, or `maxLimit` where that is less.
   * @defaultValue 50
   */
  limit?: number | undefined
  /**
   * The most rows that a page may ask for.
   * @defaultValue 1000
   */
  maxLimit?: number | undefined
  /**
   * Signs cursors, so that clients can't make their own. At least 16 bytes; of an array, the first one signs and all are good, for a change of
   * secrets. Without any, cursors are checked for damage only.
   */
  secret?: CursorSecret | readonly CursorSecret[] | undefined
  /**
   * Whether a cursor is good only under the conditions under which it was made. `false` for conditions that move, such as a time limit
   * counted from now.
   * @defaultValue true
   */
  bindWhere?: boolean | undefined
  /**
   * Whether to trust that the order is unique where no index proves it, as for a view. Two rows that are equal in it fail their page
   * where they are seen.
   * @defaultValue false
   */
  assumeUnique?: boolean | undefined
  /**
   * Whether statements are prepared, once a connection. `false` for PgBouncer older than 1.21 in transaction mode. PGlite has
   * no use for it.
   * @defaultValue true
   */
  prepared?: boolean | undefined
}

/** Which page. */
export interface PageRequest {
  /** What its rows must be. A key whose value is `undefined` is an error, not no condition. */
  where?: PageWhere | undefined
  /** How many rows at the most. The default is the paginator's. */
  limit?: number | undefined
  /** A cursor of a page before: the rows that follow it. */
  after?: string | undefined
  /** A cursor of a page behind: the last rows that come before it, in the order of the listing. Not together with `after`. */
  before?: string | undefined
  /** Whether each row gets a cursor of its own. The default is `false`. */
  rowCursors?: boolean | undefined
  /** Gives the page up. A statement that was sent goes on unheard. */
  signal?: AbortSignal | undefined
}

/** A page. */
export interface Page<Row> {
  /** Its rows, in the order of the listing. */
  readonly rows: Row[]
  /** The cursor to give as `after` for the page that follows; undefined where none does. */
  readonly next: string | undefined
  /** The cursor to give as `before` for the page in front; undefined where there is none. */
  readonly previous: string | undefined
  /**
   * Whether rows follow. Exact in a page that was read forwards; in one read by `before`, it says that there was the row of the cursor.
   */
  readonly hasNext: boolean
  /** Whether rows come before. Exact in a page that was read by `before`; otherwise it says whether there was an `after`. */
  readonly hasPrevious: boolean
  /** The cursors of the rows, where `rowCursors` asks for them. */
  readonly cursors?: readonly string[]
}

/** Events of {@link Paginator}. */
export interface PaginatorEvents {
  /** A cursor was refused: one that is damaged, forged, or of another listing. */
  refused: { readonly error: CursorError }
}

/** Stats of {@link Paginator}. Every call of `page` is one of `pages`, `refused`, `failed`, `aborted` and `pending`. */
export interface PaginatorStats {
  /** The paginator's name. */
  readonly name: string
  /** Pages that were read. */
  readonly pages: number
  /** Rows of these. */
  readonly rows: number
  /** Calls whose cursor was refused. */
  readonly refused: number
  /** Calls that failed otherwise: a wrong argument, or the database. */
  readonly failed: number
  /** Calls whose signal aborted. */
  readonly aborted: number
  /** Calls that wait for their page. */
  readonly pending: number
  /** How often the catalog was read. */
  readonly catalogReads: number
}
