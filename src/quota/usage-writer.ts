import { isSpillwayError, StoreError } from '../core/errors.js'
import { describeError, type Emitter, isThenable, warn } from '../core/events.js'
import type { AcceptedUsage, BatchContext, UsageSink } from '../core/ports.js'
import type { Portion } from '../internal/batch-run.js'
import { isOutcomeUnknown } from '../internal/outcome.js'
import { attempt, type Tasks } from '../internal/tasks.js'
import { refusalsOf } from '../internal/usage.js'
import type { ConsumerHealth } from './consumer-health.js'
import type { JournalKeeper } from './journal-keeper.js'
import type { QuotaConsumerEvents, UsageFailure } from './quota-consumer-events.js'
import type { QuotaConsumerOptions } from './quota-consumer-options.js'
import { EntryBatch, eventOf, formerIdOf, type Refusals, type TrackedUse, type UsageEntry } from './usage-entry.js'

/** What a writer has of its consumer. */
export interface UsageWriterSetting {
  readonly name: string
  readonly sink: UsageSink
  readonly keeper: JournalKeeper | undefined
  readonly health: ConsumerHealth
  /** Takes what goes on behind the events and must be waited for. */
  readonly tasks: Tasks
  readonly events: Emitter<QuotaConsumerEvents>
  /** Whether an error is worth a retry. */
  readonly retryable: (error: unknown) => boolean
  readonly onFailed: QuotaConsumerOptions['onFailed']
  readonly onApplied: QuotaConsumerOptions['onApplied']
}

/** Brings batches to the sink, and to whom it concerns what became of them. */
export class UsageWriter {
  /** How many events the sink refused. */
  refusedEvents = 0
  readonly #setting: UsageWriterSetting
  /** By the engine's own lists of their entries. */
  readonly #batches = new WeakMap<readonly UsageEntry[], EntryBatch>()
  #closing = false
  #abandoning = false
  #warnedOfLoss = false
  #warnedOfAnswer = false

  constructor(setting: UsageWriterSetting) {
    this.#setting = setting
  }

  /** From now on, nothing is waited for between attempts. */
  close(): void {
    this.#closing = true
  }

  /** From now on, what fails does so because the consumer gives up. */
  abandon(): void {
    this.#abandoning = true
  }

  // ── write ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Makes an attempt; answers which entries the sink refused, undefined for none. */
  write(entries: readonly UsageEntry[], context: BatchContext): unknown {
    const { keeper, sink } = this.#setting
    if (keeper !== undefined) return this.#writeJournalled(keeper, entries, context)
    const batch = this.#batchOf(entries, context.batchId)
    const answer = sink.write(batch.usage, context)
    // A thenable of foreign make may return nothing from its `then`.
    if (isThenable(answer)) return Promise.resolve(answer).then((refused) => this.#refusalsOf(batch, refused))
    return this.#refusalsOf(batch, answer)
  }

  /** Notes what the answer that counts was: late ones don't. */
  answered(entries: readonly UsageEntry[], refused: Refusals | undefined): void {
    const batch = this.#batches.get(entries)
    if (batch !== undefined) batch.refused = refused
  }

  async #writeJournalled(
    keeper: JournalKeeper,
    entries: readonly UsageEntry[],
    context: BatchContext,
  ): Promise<Refusals | undefined> {
    for (const entry of entries as readonly TrackedUse[]) if (entry.journalled !== undefined) await entry.journalled
    const batch = this.#batchOf(entries, context.batchId)
    // All of it failed in the journal, and its publishers know.
    if (batch.entries.length === 0) return undefined
    await keeper.assign(batch)
    context.signal.throwIfAborted()
    try {
      return this.#refusalsOf(batch, await this.#setting.sink.write(batch.usage, context))
    } catch (error) {
      throw batch.former ? doubtful(batch, error) : error
    }
  }

  /** The batch of entries, made at its first attempt. */
  #batchOf(entries: readonly UsageEntry[], id: string): EntryBatch {
    let batch = this.#batches.get(entries)
    if (batch === undefined) {
      const { keeper } = this.#setting
      batch = new EntryBatch(id, keeper === undefined ? entries : entries.filter((entry) => !entry.done))
      batch.former = keeper !== undefined && formerIdOf(entries) === id
      batch.assigned = batch.former
      this.#batches.set(entries, batch)
    }
    return batch
  }

  #refusalsOf(batch: EntryBatch, answer: unknown): Refusals | undefined {
    if (answer === undefined) return undefined
    const { entries } = batch
    const refused = refusalsOf(answer, entries.length, () => this.#warnOfAnswer())
    if (refused === undefined) return undefined
    return new Map([...refused].map(([index, error]) => [entries[index] as UsageEntry, error]))
  }

  #warnOfAnswer(): void {
    if (this.#warnedOfAnswer) return
    this.#warnedOfAnswer = true
    const { name } = this.#setting
    warn(`${name}: its sink answered with a list that isn't one of refused events, so nothing counts as refused`)
  }

  // ── record ──────────────────────────────────────────────────────────────────────────────────────────────────────

  recordRetry(portion: Portion<UsageEntry>, nextAttempt: number, delayMs: number, error: unknown): void {
    const { events, health } = this.#setting
    if (events.has('retried')) events.emit('retried', { batchId: portion.id, attempt: nextAttempt, delayMs, error })
    health.failed(error)
  }

  /** A batch is done, or it failed and that was recorded. */
  recordSettled(portion: Portion<UsageEntry>, durationMs: number): void {
    const batch = this.#batches.get(portion.entries)
    if (batch === undefined || batch.failed || batch.entries.length === 0) return
    const { events: emitter, health, keeper } = this.#setting
    health.wrote()
    const { usage, refused } = batch
    const events = batch.entries.length - (refused?.size ?? 0)
    if (events > 0) {
      const keys = usage.totals
      this.#tellApplied(keys)
      if (emitter.has('applied')) {
        emitter.emit('applied', { batchId: usage.id, keys, events, attempts: portion.attempts, durationMs })
      }
    }
    if (refused !== undefined) this.#recordRefused(batch, refused, portion.attempts)
    else keeper?.settle(usage.id)
  }

  recordFailed(portion: Portion<UsageEntry>, entries: readonly UsageEntry[], error: unknown): void {
    const { health, keeper } = this.#setting
    const { id: batchId, attempts } = portion
    const batch = this.#batches.get(portion.entries)
    if (batch !== undefined) batch.failed = true
    if (!this.#abandoning) health.failed(error)
    // Abandoned, cut short, or never noted as a batch: the journal has what it got of it still, and brings that back.
    const cutShort = this.#isCutShort(error) && entries.every(isJournalled)
    const comesBack = keeper?.isOpen === true && (this.#abandoning || !batch?.assigned || cutShort)
    const kept = comesBack ? entries.filter(isJournalled) : []
    const lost = kept.length === 0 ? entries : entries.filter((entry) => !isJournalled(entry))
    const failure = (id: string, given: readonly UsageEntry[], areKept: boolean): UsageFailure => {
      return { batchId: id, events: given.map(eventOf), attempts, error, kept: areKept }
    }
    // The id is that of what comes back: sent again under it too, one of the two would count as a repetition of the other.
    const lostId = kept.length === 0 ? batchId : `${batchId}/unjournalled`
    this.#giveUp(
      [failure(batchId, kept, true), failure(lostId, lost, false)].filter(({ events }) => events.length > 0),
      comesBack ? undefined : batchId,
    )
  }

  /** Whether its attempts only came to an end so soon because the consumer is being closed. */
  #isCutShort(error: unknown): boolean {
    if (!this.#closing) return false
    try {
      return Boolean(this.#setting.retryable(error))
    } catch {
      return false
    }
  }

  /** What the sink refused goes where failures go, each error's events together; the rest of the batch was applied. */
  #recordRefused(batch: EntryBatch, refused: Refusals, attempts: number): void {
    this.refusedEvents += refused.size
    const byError = new Map<Error, AcceptedUsage[]>()
    for (const [entry, error] of refused) {
      const same = byError.get(error)
      if (same === undefined) byError.set(error, [eventOf(entry)])
      else same.push(eventOf(entry))
    }
    const batchId = batch.usage.id
    const failures = [...byError].map(([error, events]) => ({
      batchId,
      events,
      attempts,
      error,
      kept: false,
      refused: true,
    }))
    this.#giveUp(failures, batchId)
  }

  // ── tell ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #tellApplied(keys: Parameters<NonNullable<QuotaConsumerOptions['onApplied']>>[0]): void {
    const { name, onApplied } = this.#setting
    if (onApplied === undefined) return
    attempt(() => onApplied(keys)).catch((error) => warn(`${name}: onApplied failed: ${describeError(error)}`))
  }

  /** @param batchId - the batch to be settled in the journal once its dead letters are there. */
  #giveUp(failures: readonly UsageFailure[], batchId: string | undefined): void {
    const { events, keeper, onFailed } = this.#setting
    for (const failure of failures) {
      if (events.has('failed')) events.emit('failed', failure)
      if (onFailed !== undefined) this.#tellFailed(onFailed, failure)
      else if (!keeper?.isOpen && !events.has('failed')) this.#warnOfLoss(failure)
    }
    keeper?.bury(
      failures.filter(({ kept }) => !kept),
      batchId,
    )
  }

  #tellFailed(onFailed: NonNullable<QuotaConsumerOptions['onFailed']>, failure: UsageFailure): void {
    const { name, tasks } = this.#setting
    tasks.run(
      () => onFailed(failure),
      (error) => warn(`${name}: onFailed failed, so ${lossOf(failure)}: ${describeError(error)}`),
    )
  }

  /** Said once: who doesn't look where the rest went is told at least that there was some. */
  #warnOfLoss(failure: UsageFailure): void {
    if (this.#warnedOfLoss) return
    this.#warnedOfLoss = true
    warn(
      `${this.#setting.name} gave up usage, and neither onFailed nor a listener of 'failed' takes it: ${lossOf(failure)}: ` +
        describeError(failure.error),
    )
  }
}

/**
 * A batch of an earlier process may have been written by that one, whatever becomes of it now. So it must not be halved: under the
 * ids of its halves it would be counted again, and the earlier process may have used those ids for other halves.
 */
function doubtful(batch: EntryBatch, error: unknown): unknown {
  if (isOutcomeUnknown(error)) return error
  const { id } = batch.usage
  const message = `batch ${id} failed, and may have been written before it came back from the journal`
  return new StoreError(message, {
    cause: error,
    retryable: !isSpillwayError(error) || error.retryable,
    outcomeUnknown: true,
  })
}

/** Whether the journal has it, or is about to. */
function isJournalled(entry: UsageEntry): boolean {
  const { position, journalled } = entry as TrackedUse
  return position !== undefined || journalled !== undefined
}

function lossOf({ batchId, events }: UsageFailure): string {
  const [count, verb] = events.length === 1 ? ['1 event', 'was'] : [`${events.length} events`, 'were']
  return `${count} of batch ${batchId} ${verb} not counted`
}
