import { randomUUID } from 'node:crypto'
import { resolve } from 'node:path'
import { Component, type ComponentOptions } from '../../core/component.js'
import { ClosedError, StoreError } from '../../core/errors.js'
import { checkBoolean, checkCount, checkOneOf, failOption, valueOr } from '../../core/options.js'
import type { AcceptedUsage, DeadUsage, JournalRemains, UsageJournal } from '../../core/ports.js'
import type { LatencySnapshot } from '../../core/stats.js'
import { captureContext } from '../../internal/async-context.js'
import { handled, rejected } from '../../internal/deferred.js'
import { Histogram } from '../../internal/histogram.js'
import { acceptedText, checkAccepted } from './accepted-usage.js'
import { type DeadLetter, deadLetterFileName, deadLetterLine, readDeadLetters, reasonOf } from './dead-letter-file.js'
import { fileError } from './journal-directory.js'
import { AppendEntry, AssignEntry, type Entry, SettleEntry } from './journal-entry.js'
import { OpenJournal, requeueClosed } from './open-journal.js'

/** Options of {@link FileJournal}. */
export interface FileJournalOptions extends ComponentOptions {
  /**
   * How long a segment becomes before another one is begun, in bytes, from 4096 to 268 435 456. A segment is removed when nothing in it
   * counts any more, and is read whole when the journal is opened.
   * @defaultValue 16_777_216
   */
  segmentBytes?: number | undefined
  /**
   * Whether every group of calls is made durable (fdatasync) before it is answered. Without that, a crash of the process still loses
   * nothing, but a crash of the machine loses what its kernel hadn't written yet, some seconds of it.
   * @defaultValue true
   */
  sync?: boolean | undefined
  /**
   * What `open` does about something that had been durable and can't be read: `'fail'` rejects, and changes nothing; `'skip'` goes on
   * with all that can be read, and keeps the damaged files under the name `….damaged`.
   * @defaultValue 'fail'
   */
  damage?: 'fail' | 'skip' | undefined
}

/** Far more than an id has; what is longer than a record may be couldn't be read again. */
const maxIdChars = 1024

/** Events of {@link FileJournal}. */
export interface FileJournalEvents {
  /** It was opened, and gave back what it had kept. */
  opened: { readonly batches: number; readonly events: number; readonly segments: number }
  /** A group of calls became durable. */
  committed: { readonly records: number; readonly bytes: number; readonly durationMs: number }
  /** Something failed: a group of calls, whose callers were told, or the removal of what isn't needed any more. */
  failed: { readonly error: StoreError }
  /** The last write before a crash was incomplete, and was cut off; nobody had been told that it was durable. */
  tornTailCut: { readonly path: string; readonly offset: number; readonly bytes: number }
  /** Something that had been durable can't be read, and was passed over. */
  damageSkipped: { readonly path: string; readonly offset: number; readonly bytes: number }
  /** The lock was that of a process that lives no more. */
  lockTakenOver: { readonly pid: number; readonly host: string; readonly since: string }
  /** What still counted of a segment was written again further on. */
  segmentCompacted: { readonly path: string; readonly records: number }
  /** Nothing in a segment counted any more. */
  segmentRemoved: { readonly path: string }
  /** A batch was given up and kept as a dead letter. */
  deadLettered: { readonly batchId: string; readonly events: number; readonly error: unknown }
  /** Dead letters will come back at the next `open`. */
  requeued: { readonly letters: number; readonly events: number }
}

/**
 * Stats of {@link FileJournal}, since it was made: `appended + recovered = settled + pending`, in events.
 */
export interface FileJournalStats {
  /** The journal's name. */
  readonly name: string
  /** Events that became durable. */
  readonly appended: number
  /** Events that it found when it was opened. */
  readonly recovered: number
  /** Events of batches that were settled. */
  readonly settled: number
  /** Events that aren't settled. */
  readonly pending: number
  /** Batches whose assignment became durable. */
  readonly assigned: number
  /** Events that were given up and kept as dead letters. */
  readonly deadLettered: number
  /** Groups that became durable, each with one write, and with one sync where `sync` is on. */
  readonly syncs: number
  /** How long those took to become durable, in milliseconds. */
  readonly latencyMs: LatencySnapshot
  /** Bytes of records that were written. */
  readonly writtenBytes: number
  /** How long its segments are together, in bytes. */
  readonly bytes: number
  /** How many segments it has. */
  readonly segments: number
  /** Incomplete writes that were cut off. */
  readonly tornTailCuts: number
  /** What failed: groups of calls, removals, dead letters. */
  readonly failures: number
}

/**
 * A journal of usage in the files of a directory, for one process: what `append` resolved survives a crash of the process and, with
 * `sync`, of the machine.
 *
 * Events, batches and settlements are records at the end of one log of several segment files. While one group of calls is on its way to
 * the disk, the next one gathers, so thousands of concurrent calls cost one sync (group commit). A segment is removed once nothing in
 * it counts any more.
 *
 * @example
 * ```ts
 * import { QuotaConsumer, type UsageSink } from 'spillway'
 * import { FileJournal } from 'spillway/file'
 *
 * declare const sink: UsageSink
 *
 * const consumer = new QuotaConsumer(sink, { journal: new FileJournal('/var/lib/api/usage') })
 * await consumer.publish({ userId: 1, quotaType: 'api', value: 1 }) // durable
 * ```
 */
export class FileJournal
  extends Component<FileJournalEvents, FileJournalStats>
  implements UsageJournal, AsyncDisposable
{
  /** The options' defaults. */
  static readonly defaults = {
    segmentBytes: 16_777_216,
    sync: true,
    damage: 'fail',
  } as const

  /** Where it keeps its files, as an absolute path. */
  readonly directory: string
  readonly #segmentBytes: number
  readonly #sync: boolean
  readonly #damage: 'fail' | 'skip'
  readonly #context = captureContext()
  readonly #counts = {
    appended: 0,
    recovered: 0,
    settled: 0,
    assigned: 0,
    deadLettered: 0,
    syncs: 0,
    writtenBytes: 0,
    tornTailCuts: 0,
    failures: 0,
  }
  readonly #latency = new Histogram()
  /** Set once it was opened. */
  #journal: OpenJournal | undefined
  /** Whether it was opened, or is being. */
  #opened = false
  #closing: Promise<void> | undefined
  /** What needs the lock and has to be over before it can be opened or closed. */
  #before: Promise<unknown> = Promise.resolve()

  /**
   * @param directory - where it keeps its files; made by `open` if there is none, readable by nobody else. On a file system of this
   * machine: not NFS.
   * @throws OptionError when an option is wrong.
   */
  constructor(directory: string, options: FileJournalOptions = {}) {
    super('file-journal', options)
    if (typeof directory !== 'string' || directory === '' || directory.includes('\0')) {
      failOption('directory', 'must be a path', directory)
    }
    this.directory = resolve(directory)
    const { defaults } = FileJournal
    this.#segmentBytes = checkCount('segmentBytes', valueOr(options.segmentBytes, defaults.segmentBytes), 4096, 2 ** 28)
    this.#sync = checkBoolean('sync', valueOr(options.sync, defaults.sync))
    this.#damage = checkOneOf('damage', valueOr(options.damage, defaults.damage), ['fail', 'skip'])
  }

  /**
   * Takes the directory's lock, and reads what is in it. May be called again after it has failed.
   *
   * @returns the batches that were assigned and not settled, and the events that are in no batch, both oldest first; among them what
   * `requeue` gave back. Rejects with a `StoreError`: another process holds the directory (retryable), a file can't be read
   * or written, or something that had been durable is damaged (not retryable; the message names file and byte). Rejects with
   * `ClosedError` after `close`.
   */
  open(): Promise<JournalRemains> {
    if (this.#closing !== undefined) return this.#refuse()
    if (this.#opened) {
      return rejected(new StoreError(`${this.name} is open already`, { retryable: false }))
    }
    this.#opened = true
    const opening = this.#inTurn(() => this.#context(() => this.#open()))
    opening.catch(() => {
      this.#opened = false
    })
    return opening
  }

  /**
   * Adds an event, behind those of earlier calls.
   *
   * @returns its position, once it is durable. Rejects with `InvalidEventError` when the event is wrong, JSON can't carry its `metadata`
   * or its text is over a million characters long; with a retryable `StoreError` when it couldn't be written, and then it won't come
   * back, unless the error's `outcomeUnknown` is true; with `ClosedError` after `close`.
   */
  append(event: AcceptedUsage): Promise<number> {
    const journal = this.#usable
    if (journal === undefined) return this.#refuse()
    let json: string
    try {
      json = acceptedText(event)
    } catch (error) {
      return rejected(error)
    }
    return journal.log.append(json)
  }

  /**
   * Notes which events make up a batch, in their order. Each is taken out of the batch in which it was.
   *
   * @returns resolves once that is durable. Rejects as `append` does, and with a `StoreError` that isn't retryable when there is no
   * unsettled event at a position.
   */
  assign(batchId: string, positions: readonly number[]): Promise<void> {
    const journal = this.#usable
    if (journal === undefined) return this.#refuse()
    try {
      checkBatchId(batchId)
      if (!Array.isArray(positions)) failOption('positions', 'must be an array', positions)
    } catch (error) {
      return rejected(error)
    }
    if (positions.length === 0) return Promise.resolve()
    return journal.log.assign(batchId, positions)
  }

  /**
   * Forgets a batch and its events. One that is unknown is no error.
   *
   * @returns resolves once that is durable. Rejects with a `StoreError` when it couldn't be written; it is written then with the next
   * call that can be, and until it is, a crash brings the batch back.
   */
  settle(batchId: string): Promise<void> {
    const journal = this.#usable
    if (journal === undefined) return this.#refuse()
    try {
      checkBatchId(batchId)
    } catch (error) {
      return rejected(error)
    }
    return journal.log.settle(batchId)
  }

  /**
   * Keeps what was given up, or what the sink refused of a batch that it applied (`refused: true`), as one line of `dead-letters.jsonl`
   * in the directory. Call `settle` after it; a batch that isn't settled comes back after a crash, and its dead letter is dropped then.
   *
   * @returns resolves once that is durable. Rejects as `append` does.
   */
  deadLetter(usage: DeadUsage): Promise<void> {
    const journal = this.#usable
    if (journal === undefined) return this.#refuse()
    const { batchId, events, error, refused } = usage ?? {}
    let line: string
    try {
      checkBatchId(batchId)
      if (!Array.isArray(events) || events.length === 0) failOption('events', 'must be an array with events', events)
      for (const event of events) checkAccepted(event)
      const at = this.clock.wallNow()
      line = deadLetterLine({ batchId, at, error: reasonOf(error), refused: refused === true, events })
    } catch (error) {
      return rejected(error)
    }
    const count = events.length
    return handled(
      journal.deadLetters.append(line).then(
        () => {
          this.#counts.deadLettered += count
          this.events.emit('deadLettered', { batchId, events: count, error })
        },
        (error) => {
          this.#recordFailure(error)
          throw error
        },
      ),
    )
  }

  /**
   * The dead letters, oldest first, read from the file as it is then; whether the journal is open or not, and from any process.
   * Iterating rejects with a `StoreError` when the file can't be read; one that isn't retryable names the line that is no dead letter.
   */
  async *deadLetters(): AsyncGenerator<DeadLetter, void, undefined> {
    const path = resolve(this.directory, deadLetterFileName)
    try {
      yield* readDeadLetters(this.name, path)
    } catch (error) {
      throw fileError(this.name, `reading ${path}`, error)
    }
  }

  /**
   * Gives all dead letters back: the next `open`, of whatever process, returns them among its batches, under their ids and with their
   * events, so that a sink that applied one after all counts it once. Events that the sink had refused out of a batch that it applied
   * come back as events that are in no batch.
   *
   * It may be called before `open`, which then has them already, or while the journal is open. They are dead letters no more as soon as
   * it resolves, whatever crashes after it.
   *
   * @returns how much will come back. Rejects with a `StoreError` when another process holds the directory, or the file can't be read
   * or moved; with `ClosedError` after `close`.
   */
  requeue(): Promise<{ readonly letters: number; readonly events: number }> {
    if (this.#closing !== undefined) return this.#refuse()
    return this.#inTurn(async () => {
      const name = `requeued-${randomUUID()}.jsonl`
      try {
        const journal = this.#journal
        const moved = await (journal === undefined
          ? requeueClosed(this.#policy(), name)
          : journal.deadLetters.moveTo(name))
        if (moved.letters > 0) this.events.emit('requeued', moved)
        return moved
      } catch (error) {
        throw fileError(this.name, 'requeueing dead letters', error)
      }
    })
  }

  /**
   * Makes durable what was called so far, whose callers are told each for himself, gives the lock back, and refuses what comes after it
   * with a `ClosedError`. Calling it again changes nothing.
   *
   * @returns rejects with a `StoreError` when a file couldn't be closed.
   */
  close(): Promise<void> {
    this.#closing ??= handled(this.#close())
    return this.#closing
  }

  /** Closes it at the end of an `await using` block. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  override stats(): FileJournalStats {
    const { appended, recovered, settled, ...counts } = this.#counts
    const log = this.#journal?.log
    return {
      name: this.name,
      appended,
      recovered,
      settled,
      pending: log?.pending ?? 0,
      ...counts,
      latencyMs: latencyOf(this.#latency),
      bytes: log?.bytes ?? 0,
      segments: log?.segments ?? 0,
    }
  }

  async #open(): Promise<JournalRemains> {
    let opened: Awaited<ReturnType<typeof OpenJournal.open>>
    try {
      opened = await OpenJournal.open(this.#policy(), {
        onCommitted: (group, bytes, durationMs) => this.#recordCommit(group, bytes, durationMs),
        onFailed: (error) => this.#recordFailure(error),
        onSegmentRemoved: (path) => this.events.emit('segmentRemoved', { path }),
        onCompacted: (path, records) => this.events.emit('segmentCompacted', { path, records }),
      })
    } catch (error) {
      throw fileError(this.name, `opening ${this.directory}`, error)
    }
    const { journal, remains, found } = opened
    this.#journal = journal
    const inBatches = remains.batches.reduce((sum, { events }) => sum + events.length, 0)
    this.#counts.recovered = inBatches + remains.events.length
    const { takenFrom, tornTails, damage } = found
    if (takenFrom !== undefined) {
      const { pid, host, since } = takenFrom
      this.events.emit('lockTakenOver', { pid, host, since })
    }
    for (const tail of tornTails) {
      this.#counts.tornTailCuts++
      this.events.emit('tornTailCut', tail)
    }
    for (const part of damage) this.events.emit('damageSkipped', part)
    const [batches, events] = [remains.batches.length, this.#counts.recovered]
    this.events.emit('opened', { batches, events, segments: journal.log.segments })
    return remains
  }

  async #close(): Promise<void> {
    await this.#before
    try {
      await this.#journal?.close()
    } catch (error) {
      throw fileError(this.name, `closing ${this.directory}`, error)
    }
  }

  get #usable(): OpenJournal | undefined {
    return this.#closing === undefined ? this.#journal : undefined
  }

  #policy(): Parameters<typeof OpenJournal.open>[0] {
    return {
      journal: this.name,
      directory: this.directory,
      segmentBytes: this.#segmentBytes,
      sync: this.#sync,
      skipDamage: this.#damage === 'skip',
      random: this.random,
      context: this.#context,
      now: () => this.clock.now(),
    }
  }

  #recordCommit(group: readonly Entry[], bytes: number, durationMs: number): void {
    const counts = this.#counts
    counts.syncs++
    counts.writtenBytes += bytes
    this.#latency.record(durationMs)
    for (const entry of group) {
      if (entry instanceof AppendEntry) counts.appended++
      else if (entry instanceof AssignEntry) counts.assigned++
      else if (entry instanceof SettleEntry) counts.settled += entry.settled
    }
    if (this.events.has('committed')) this.events.emit('committed', { records: group.length, bytes, durationMs })
  }

  #recordFailure(error: StoreError): void {
    this.#counts.failures++
    this.events.emit('failed', { error })
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = handled(this.#before.then(work))
    const over = (): void => undefined
    // Not what it came to: that would keep all that `open` gave back.
    this.#before = done.then(over, over)
    return done
  }

  #refuse(): Promise<never> {
    if (this.#closing !== undefined) return rejected(new ClosedError(`${this.name} is closed`))
    return rejected(new StoreError(`${this.name} is not open`, { retryable: false }))
  }
}

function latencyOf(latency: Histogram): LatencySnapshot {
  const at = (share: number): number => latency.percentile(share)
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: latency.max }
}

function checkBatchId(batchId: string): void {
  if (typeof batchId === 'string' && batchId !== '' && batchId.length <= maxIdChars) return
  failOption('batchId', `must be a text of at most ${maxIdChars} characters`, batchId)
}
