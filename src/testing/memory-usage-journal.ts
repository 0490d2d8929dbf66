import { ClosedError, StoreError } from '../core/errors.js'
import { checkOptionalFunction, checkOptions, describeValue } from '../core/options.js'
import type { AcceptedUsage, DeadUsage, JournalledUsage, JournalRemains, UsageJournal } from '../core/ports.js'
import { handled, rejected } from '../internal/deferred.js'
import { usageFromJson, usageToJson } from '../internal/usage-json.js'

/** What a {@link MemoryUsageJournal} does for its caller, one call at a time. */
export type JournalOperation = 'open' | 'append' | 'assign' | 'settle' | 'deadLetter' | 'close'

/** Options of {@link MemoryUsageJournal}. */
export interface MemoryUsageJournalOptions {
  /**
   * Called before anything is done. What it throws or rejects with is what the call rejects with, and nothing of the call is kept;
   * a promise that never settles is a disk that hangs, for this call and for those behind it.
   */
  before?: ((operation: JournalOperation) => void | PromiseLike<void>) | undefined
  /** Called when it is done, and not yet answered: what it throws is an answer that got lost. */
  after?: ((operation: JournalOperation) => void | PromiseLike<void>) | undefined
}

/** What outlives an instance. */
interface Backing {
  nextPosition: number
  /** All that isn't settled, by position, in their order. */
  readonly events: Map<number, { readonly event: AcceptedUsage; batch?: string }>
  /** The positions of each batch, in the order in which they were assigned. */
  readonly batches: Map<string, Set<number>>
  readonly deadLetters: DeadUsage[]
  /** The instance that may still change it. */
  owner: MemoryUsageJournal
}

/**
 * A journal in memory, behaving as every {@link UsageJournal} must: for tests of crashes in virtual time. It passes
 * `usageJournalContract`.
 *
 * @example
 * ```ts
 * import { MemoryUsageJournal } from 'spillway/testing'
 *
 * const journal = new MemoryUsageJournal()
 * await journal.open()
 * await journal.append({ userId: 1, quotaType: 'api', value: 1, timestamp: Date.now(), period: 'total' })
 *
 * const afterCrash = journal.reopen()
 * const { events } = await afterCrash.open() // the one event
 * ```
 */
export class MemoryUsageJournal implements UsageJournal {
  #backing: Backing
  readonly #options: MemoryUsageJournalOptions
  #opened = false
  #closing: Promise<void> | undefined
  /** The call before the next one: calls are done one after the other, as a file's writes are. */
  #previous: Promise<unknown> = Promise.resolve()

  /** @throws OptionError when an option is wrong. */
  constructor(options: MemoryUsageJournalOptions = {}) {
    checkOptions('options', options)
    const before = checkOptionalFunction('before', options.before)
    this.#options = { before, after: checkOptionalFunction('after', options.after) }
    this.#backing = { nextPosition: 1, events: new Map(), batches: new Map(), deadLetters: [], owner: this }
  }

  /** How many events aren't settled. */
  get pending(): number {
    return this.#backing.events.size
  }

  /** What was given up, oldest first. */
  get deadLetters(): readonly DeadUsage[] {
    return this.#backing.deadLetters
  }

  /**
   * Another journal on the same data, not opened yet, as a process has it that starts after this one's crash. Calls of this one that
   * aren't answered by then never will be, and change nothing any more.
   *
   * @param options - those of the other journal; none are taken over.
   * @throws OptionError when one is wrong.
   */
  reopen(options: MemoryUsageJournalOptions = {}): MemoryUsageJournal {
    const journal = new MemoryUsageJournal(options)
    journal.#backing = this.#backing
    this.#backing.owner = journal
    return journal
  }

  open(): Promise<JournalRemains> {
    if (this.#closing !== undefined) return rejected(new ClosedError('memory-usage-journal is closed'))
    if (this.#opened) return rejected(new StoreError('memory-usage-journal is open already', { retryable: false }))
    this.#opened = true
    const opening = this.#do('open', () => this.#remains())
    opening.catch(() => {
      this.#opened = false
    })
    return opening
  }

  append(event: AcceptedUsage): Promise<number> {
    const refused = this.#refusal()
    if (refused !== undefined) return refused
    let kept: AcceptedUsage
    try {
      kept = usageFromJson(JSON.parse(usageToJson(event)))
    } catch (error) {
      return rejected(error)
    }
    return this.#do('append', () => {
      const position = this.#backing.nextPosition++
      this.#backing.events.set(position, { event: kept })
      return position
    })
  }

  assign(batchId: string, positions: readonly number[]): Promise<void> {
    const refused = this.#refusal()
    if (refused !== undefined) return refused
    const wanted = [...positions]
    return this.#do('assign', () => {
      const { events } = this.#backing
      const unknown = wanted.find((position) => !events.has(position))
      if (unknown !== undefined) {
        const message = `memory-usage-journal has no unsettled event at ${describeValue(unknown)}`
        throw new StoreError(message, { retryable: false })
      }
      for (const position of wanted) this.#assign(batchId, position)
    })
  }

  settle(batchId: string): Promise<void> {
    return (
      this.#refusal() ??
      this.#do('settle', () => {
        const { batches, events } = this.#backing
        for (const position of batches.get(batchId) ?? []) events.delete(position)
        batches.delete(batchId)
      })
    )
  }

  deadLetter(usage: DeadUsage): Promise<void> {
    const kept = { ...usage, events: [...usage.events] }
    return this.#refusal() ?? this.#do('deadLetter', () => void this.#backing.deadLetters.push(kept))
  }

  close(): Promise<void> {
    this.#closing ??= this.#do('close', () => undefined)
    return this.#closing
  }

  #remains(): JournalRemains {
    const { events, batches } = this.#backing
    const journalled = (position: number): JournalledUsage => {
      return { position, event: events.get(position)?.event as AcceptedUsage }
    }
    return {
      batches: [...batches]
        .sort(([, a], [, b]) => oldest(a) - oldest(b))
        .map(([id, positions]) => ({ id, events: [...positions].map(journalled) })),
      events: [...events].filter(([, { batch }]) => batch === undefined).map(([position]) => journalled(position)),
    }
  }

  /** Moves an event to the end of a batch, away from the one in which it was. */
  #assign(batchId: string, position: number): void {
    const { events, batches } = this.#backing
    const entry = events.get(position)
    if (entry === undefined) return
    const before = entry.batch === undefined ? undefined : batches.get(entry.batch)
    before?.delete(position)
    if (before?.size === 0) batches.delete(entry.batch as string)
    entry.batch = batchId
    batches.set(batchId, (batches.get(batchId) ?? new Set()).add(position))
  }

  #refusal(): Promise<never> | undefined {
    if (this.#closing !== undefined) return rejected(new ClosedError('memory-usage-journal is closed'))
    if (!this.#opened) return rejected(new StoreError('memory-usage-journal is not open', { retryable: false }))
    return undefined
  }

  #do<T>(operation: JournalOperation, work: () => T): Promise<T> {
    const { before, after } = this.#options
    const done = this.#previous.then(async () => {
      if (this.#lost) return never
      await before?.(operation)
      if (this.#lost) return never
      const answer = work()
      await after?.(operation)
      return this.#lost ? never : answer
    })
    this.#previous = done.catch(() => undefined)
    return handled(done)
  }

  get #lost(): boolean {
    return this.#backing.owner !== this
  }
}

function oldest(positions: Iterable<number>): number {
  let least = Number.POSITIVE_INFINITY
  for (const position of positions) least = Math.min(least, position)
  return least
}

/** The answer that a crashed process gives. */
const never: Promise<never> = new Promise(() => {})
