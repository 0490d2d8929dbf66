import { Component } from '../../core/component.js'
import { CursorError, isSpillwayError, OptionError } from '../../core/errors.js'
import { checkBoolean, checkCount, checkOptions, checkSignal, failOption, valueOr } from '../../core/options.js'
import { orAbort } from '../../internal/abort.js'
import { handled } from '../../internal/deferred.js'
import { isPGlite, isPool, openSession, type PostgresDatabase, type RunQuery, type Session } from './database.js'
import { type KeyColumn, resolveOrder, turnedOrder } from './keyset-order.js'
import { type CursorPlace, CursorSeal, listingMark } from './page-cursor.js'
import { type PagePlan, pageStatement, placeStatement } from './page-statement.js'
import { type Comparison, canonicalWhere, fixedColumns, readWhere } from './page-where.js'
import type { Page, PageRequest, PaginatorEvents, PaginatorOptions, PaginatorStats } from './paginator-options.js'
import { sqlStateOf, storeError } from './postgres-error.js'
import { provenUnique, type Relation, type Relations, relationName, relationsOf } from './relation.js'
import { checkName, quoteName } from './table-name.js'

/**
 * Pages through a table or a view by its keys: a page begins where a row of the page before it stands, not after a number of rows. Whatever
 * is inserted and deleted meanwhile, no row that stays comes twice or is left out, and a page far behind costs what the first one costs,
 * where an index has the columns of the order.
 *
 * No SQL is taken from the caller: names are quoted and must be in the catalog, values are parameters.
 *
 * @typeParam Row - a row, as the client makes it of its columns.
 *
 * @example
 * ```ts
 * import { PGlite } from '@electric-sql/pglite'
 * import { Paginator } from 'spillway/postgres'
 *
 * const posts = new Paginator<{ id: number; title: string }>(new PGlite(), {
 *   from: 'posts',
 *   columns: ['id', 'title'],
 *   orderBy: [{ column: 'published_at', direction: 'desc' }, 'id'],
 * })
 * const first = await posts.page({ where: { author: 'ann' }, limit: 20 })
 * const second = await posts.page({ where: { author: 'ann' }, limit: 20, after: first.next })
 * console.log(second.rows, second.hasNext)
 * ```
 */
export class Paginator<Row = Record<string, unknown>> extends Component<PaginatorEvents, PaginatorStats> {
  /** The options' defaults. */
  static readonly defaults = {
    limit: 50,
    maxLimit: 1000,
    bindWhere: true,
    assumeUnique: false,
    prepared: true,
  } as const

  readonly #session: Session
  readonly #relations: Relations
  readonly #from: string
  readonly #columns: readonly string[] | undefined
  readonly #order: readonly KeyColumn[]
  readonly #turned: readonly KeyColumn[]
  readonly #limit: number
  readonly #maxLimit: number
  readonly #seal: CursorSeal
  readonly #bindWhere: boolean
  readonly #assumeUnique: boolean
  readonly #counts = { pages: 0, rows: 0, refused: 0, failed: 0, aborted: 0, pending: 0, catalogReads: 0 }

  /**
   * @param database - a `pg` Pool, or a PGlite; it stays the caller's.
   * @throws OptionError when an option is wrong, or the database is neither.
   */
  constructor(database: PostgresDatabase, options: PaginatorOptions) {
    super('paginator', options)
    if (!isPGlite(database) && !isPool(database)) failOption('database', 'must be a pg Pool or a PGlite', database)
    if (options === undefined) failOption('options', 'must be an object', options)
    const { defaults } = Paginator
    const schema = options.schema === undefined ? undefined : checkName('schema', options.schema)
    this.#from = relationName(schema, checkName('from', options.from))
    this.#columns = checkColumns(options.columns)
    this.#order = resolveOrder(options.orderBy)
    this.#turned = turnedOrder(this.#order)
    this.#maxLimit = checkCount('maxLimit', valueOr(options.maxLimit, defaults.maxLimit))
    const limit = valueOr(options.limit, Math.min(defaults.limit, this.#maxLimit))
    this.#limit = checkCount('limit', limit, 1, this.#maxLimit)
    this.#seal = new CursorSeal(options.secret)
    this.#bindWhere = checkBoolean('bindWhere', valueOr(options.bindWhere, defaults.bindWhere))
    this.#assumeUnique = checkBoolean('assumeUnique', valueOr(options.assumeUnique, defaults.assumeUnique))
    this.#session = openSession(database, checkBoolean('prepared', valueOr(options.prepared, defaults.prepared)))
    this.#relations = relationsOf(database, this.clock)
  }

  /**
   * Reads a page: the first one, the one after a cursor, or the one before it.
   *
   * @returns rejects with `CursorError` for a cursor that isn't of this listing, `OptionError` for what is wrong otherwise (a column that
   * isn't there, an order that no index proves to be unique), `StoreError`, or with the signal's reason.
   */
  page(request?: PageRequest): Promise<Page<Row>> {
    return handled(this.#page(request))
  }

  /**
   * Reads page after page, from the beginning or a cursor to the end, or from `before` to the beginning; at least one, which may be
   * empty. The next one is read when it is asked for.
   */
  async *pages(request: PageRequest = {}): AsyncGenerator<Page<Row>, void, undefined> {
    let page = await this.page(request)
    yield page
    const backwards = request.before !== undefined
    for (;;) {
      const { next, previous } = page
      const edge = backwards ? previous : next
      if (edge === undefined) return
      page = await this.page({ ...request, ...(backwards ? { before: edge } : { after: edge }) })
      yield page
    }
  }

  override stats(): PaginatorStats {
    return { name: this.name, ...this.#counts }
  }

  async #page(request: PageRequest | undefined): Promise<Page<Row>> {
    const counts = this.#counts
    counts.pending++
    let signal: AbortSignal | undefined
    try {
      checkOptions('request', request)
      signal = checkSignal(request?.signal)
      const wanted = this.#wanted(request ?? {})
      // One that has aborted doesn't wait for a connection.
      signal?.throwIfAborted()
      const work = this.#session.use((run) => this.#readAware(unlessAborted(run, signal), wanted), signal)
      const page = await orAbort(work, signal)
      counts.pages++
      counts.rows += page.rows.length
      return page
    } catch (error) {
      if (signal?.aborted && error === signal.reason) {
        counts.aborted++
        throw error
      }
      const known = isSpillwayError(error) ? error : storeError(`reading a page of ${this.#from}`, error)
      this.#recordFailure(known)
      throw known
    } finally {
      counts.pending--
    }
  }

  /** Checks a request, all of it before anything is sent. */
  #wanted(request: PageRequest): Wanted {
    const { after, before, rowCursors = false } = request
    const limit = checkCount('limit', valueOr(request.limit, this.#limit), 1, this.#maxLimit)
    const where = readWhere(request.where)
    checkBoolean('rowCursors', rowCursors)
    if (after !== undefined && before !== undefined) failOption('before', 'must not stand beside after', before)
    const listing = listingMark([this.#from, this.#order, this.#bindWhere ? canonicalWhere(where) : 'any'])
    const field = before === undefined ? 'after' : 'before'
    const cursor = before === undefined ? after : before
    const wanted = { where, limit, listing, field, rowCursors, backwards: before !== undefined } as const
    if (cursor === undefined) return { ...wanted, place: undefined }
    const { listing: madeBy, ...place } = this.#seal.open(field, cursor, this.#order.length)
    if (Buffer.compare(madeBy, listing) !== 0) {
      throw new CursorError(`${field} was made under another listing, order or condition`, field, 'listing')
    }
    return { ...wanted, place }
  }

  /** Reads a page by what is known of the relation; should that fail, and the relation be another one by now, by what it is now. */
  async #readAware(run: RunQuery, wanted: Wanted): Promise<Page<Row>> {
    const known = this.#relations.known(this.#from)
    const relation = known ?? (await this.#relation(run))
    try {
      return await this.#read(run, wanted, relation)
    } catch (error) {
      if (known === undefined || !mayBeAltered(error)) throw error
      const now = await this.#relation(run)
      if (now.mark === known.mark) throw error
      return await this.#read(run, wanted, now)
    }
  }

  #relation(run: RunQuery): Promise<Relation> {
    this.#counts.catalogReads++
    return this.#relations.read(run, this.#from)
  }

  async #read(run: RunQuery, wanted: Wanted, relation: Relation): Promise<Page<Row>> {
    const { where, place, limit } = wanted
    if (!this.#assumeUnique) this.#checkUnique(relation, where)
    const order = wanted.backwards ? this.#turned : this.#order
    const plan: PagePlan = { from: this.#from, relation, columns: this.#columns, where, order, place, rows: limit + 1 }
    const { text, values, keys } = pageStatement(plan)
    let found: readonly Record<string, unknown>[]
    try {
      found = await run<Record<string, unknown>>(text, values)
    } catch (error) {
      if (place !== undefined && isBadValue(error)) await this.#checkPlace(run, wanted.field, place, relation)
      throw error
    }
    const rows: Row[] = []
    const rowKeys: string[] = []
    for (const { [keys]: key, ...row } of found) {
      if (key === rowKeys.at(-1)) {
        throw new OptionError('orderBy', 'orderBy must be unique, but two rows are equal in all of its columns')
      }
      rowKeys.push(key as string)
      rows.push(row as Row)
    }
    return this.#pageOf(rows, rowKeys, wanted)
  }

  #pageOf(rows: Row[], rowKeys: string[], { place, limit, listing, backwards, rowCursors }: Wanted): Page<Row> {
    const more = rows.length > limit
    // The row that only says that there are more is the last one in the order in which they were read.
    rows.length = Math.min(rows.length, limit)
    if (backwards) rows.reverse()
    rowKeys.length = rows.length
    if (backwards) rowKeys.reverse()
    const cursorOf = (json: string): string =>
      this.#seal.seal(listing, { keys: JSON.parse(json) as (string | null)[], inclusive: false })
    // Of an empty page, the way back begins with the row that the way there left behind.
    const edge = (json: string | undefined): string | undefined =>
      json === undefined ? place && this.#seal.seal(listing, { ...place, inclusive: true }) : cursorOf(json)
    const hasNext = backwards || more
    const hasPrevious = backwards ? more : place !== undefined
    return {
      rows,
      next: hasNext ? edge(rowKeys.at(-1)) : undefined,
      previous: hasPrevious ? edge(rowKeys[0]) : undefined,
      hasNext,
      hasPrevious,
      ...(rowCursors && { cursors: rowKeys.map(cursorOf) }),
    }
  }

  #checkUnique(relation: Relation, where: readonly Comparison[]): void {
    const names = this.#order.map(({ name }) => name)
    if (provenUnique(relation, names, fixedColumns(where))) return
    const listed = names.map(quoteName).join(', ')
    throw new OptionError(
      'orderBy',
      `orderBy must be unique, and no index of ${this.#from} proves that of ${listed}: add a unique column that isn't null, such as the primary key, or say assumeUnique`,
    )
  }

  /** Throws a CursorError if the values of a cursor are what a statement failed for, and not those of the conditions. */
  async #checkPlace(run: RunQuery, field: 'after' | 'before', place: CursorPlace, relation: Relation): Promise<void> {
    const { text, values } = placeStatement(this.#order, place, relation)
    try {
      await run(text, values)
    } catch (cause) {
      if (!isBadValue(cause)) return
      throw new CursorError(`${field} holds values that the columns can't have`, field, 'value', { cause })
    }
  }

  #recordFailure(error: Error): void {
    if (!isSpillwayError(error, 'ERR_CURSOR')) {
      this.#counts.failed++
      return
    }
    this.#counts.refused++
    if (this.events.has('refused')) this.events.emit('refused', { error: error as CursorError })
  }
}

/** A request that was checked. */
interface Wanted {
  readonly where: readonly Comparison[]
  readonly limit: number
  readonly listing: Uint8Array
  readonly field: 'after' | 'before'
  readonly place: CursorPlace | undefined
  readonly backwards: boolean
  readonly rowCursors: boolean
}

function checkColumns(columns: readonly string[] | undefined): readonly string[] | undefined {
  if (columns === undefined) return undefined
  if (!Array.isArray(columns) || columns.length === 0) failOption('columns', 'must be an array of columns', columns)
  const names = columns.map((name, index) => checkName(`columns[${index}]`, name))
  if (new Set(names).size < names.length) failOption('columns', 'must have each column once', columns)
  return names
}

/** What was given up between two statements sends no further one. */
function unlessAborted(run: RunQuery, signal: AbortSignal | undefined): RunQuery {
  return async (text, values) => {
    signal?.throwIfAborted()
    return run(text, values)
  }
}

/**
 * What a value may lead to that its type doesn't have, or a domain doesn't take. Types with a grammar of their own say that the syntax is wrong
 * or too deep, those that are names in the catalog that nothing is called so.
 */
function isBadValue(error: unknown): boolean {
  return /^(?:0A|2[23]|3F|42(?!501)|54)/.test(sqlStateOf(error) ?? '')
}

/**
 * What a relation that was altered meanwhile leads to: columns that aren't there, a prepared statement whose rows have changed, names
 * and types that are gone, and values beyond a column's former range.
 */
function mayBeAltered(error: unknown): boolean {
  return isSpillwayError(error) || /^(?:0A|42|22003)/.test(sqlStateOf(error) ?? '')
}
