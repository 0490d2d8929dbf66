import { StoreError } from '../core/errors.js'
import type { DeadUsage, JournalRemains, UsageJournal } from '../core/ports.js'
import { handled, rejected } from '../internal/deferred.js'
import { attempt, type Tasks } from '../internal/tasks.js'
import { type EntryBatch, eventOf, type TrackedUse } from './usage-entry.js'

/** At what a journal can fail without failing a batch. */
export type JournalAction = 'append' | 'settle' | 'dead-letter'

/** A consumer's side of its journal: what is told to it when, and what becomes of that. */
export class JournalKeeper {
  readonly #journal: UsageJournal
  readonly #tasks: Tasks
  readonly #onFailure: (action: JournalAction, error: unknown) => void
  #opening: Promise<JournalRemains> | undefined
  #open = false

  /** @param tasks - takes what its owner must wait for. */
  constructor(journal: UsageJournal, tasks: Tasks, onFailure: (action: JournalAction, error: unknown) => void) {
    this.#journal = journal
    this.#tasks = tasks
    this.#onFailure = onFailure
  }

  /** Whether it takes what it is given. */
  get isOpen(): boolean {
    return this.#open
  }

  /** Opens the journal. One that couldn't be opened may be again. */
  open(): Promise<JournalRemains> {
    const opening = attempt(() => this.#journal.open())
    this.#opening = opening
    return opening.then((remains) => {
      this.#open = true
      // It would keep all that came back.
      this.#opening = undefined
      return remains
    })
  }

  /**
   * Gives an accepted event to the journal.
   *
   * @param opened - settles once the journal is open, or can't be.
   * @param giveUp - what to do about the entry when that failed.
   */
  append(entry: TrackedUse, opened: () => Promise<unknown>, giveUp: (error: unknown) => void): Promise<void> {
    const append = (): PromiseLike<number> => this.#journal.append(eventOf(entry))
    const appended = this.#open ? attempt(append) : opened().then(() => (entry.done ? tooLate() : append()))
    const done = appended.then(
      (position) => {
        entry.position = position
        entry.journalled = undefined
      },
      (error: unknown) => {
        entry.journalled = undefined
        this.#onFailure('append', error)
        giveUp(error)
        throw error
      },
    )
    entry.journalled = done.catch(() => undefined)
    return handled(done)
  }

  /** Notes which events a batch has, before its first attempt; what isn't in the journal is left out. */
  async assign(batch: EntryBatch): Promise<void> {
    if (batch.assigned) return
    const positions: number[] = []
    for (const { position } of batch.entries as readonly TrackedUse[]) {
      if (position !== undefined) positions.push(position)
    }
    if (positions.length > 0) await this.#journal.assign(batch.usage.id, positions)
    batch.assigned = true
  }

  /** Forgets a batch that was dealt with. If that fails, it comes back and is counted once all the same. */
  settle(batchId: string): void {
    this.#tasks.run(
      () => this.#settle(batchId),
      () => undefined,
    )
  }

  /**
   * Keeps what was given up among the dead letters.
   *
   * @param batchId - the batch to be forgotten then. If the dead letters fail, it isn't, and comes back.
   */
  bury(failures: readonly DeadUsage[], batchId: string | undefined): void {
    if (failures.length === 0 || !this.#open) return
    const bury = async (): Promise<void> => {
      for (const { batchId: id, events, error, refused } of failures) {
        await this.#journal.deadLetter({ batchId: id, events, error, refused })
      }
      if (batchId !== undefined) await this.#settle(batchId)
    }
    this.#tasks.run(bury, (error) => this.#onFailure('dead-letter', error))
  }

  close(): void | PromiseLike<void> {
    if (this.#open) return this.#journal.close()
    // Still being opened at the deadline: nobody waits for that.
    this.#opening?.then(() => this.#journal.close()).catch(() => undefined)
  }

  #settle(batchId: string): Promise<void> {
    return attempt(() => this.#journal.settle(batchId)).catch((error) => this.#onFailure('settle', error))
  }
}

/** It was told by then that nobody keeps the event, so the journal mustn't bring it back. */
function tooLate(): Promise<never> {
  return rejected(new StoreError('the event was given up before its journal was open', { outcomeUnknown: true }))
}
