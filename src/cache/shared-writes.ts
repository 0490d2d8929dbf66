import { isSpillwayError } from '../core/errors.js'
import type { CacheStore, CacheWrite } from '../core/ports.js'
import type { ReplayQueue } from './replay-queue.js'
import { isOutcome, isVersion, isWritten } from './shared-answers.js'
import type { SharedCalls } from './shared-calls.js'
import type { MarkStates, SharedMarks } from './shared-marks.js'
import type { SharedFailure, SharedFill, SharedFillOutcome, SharedWrite } from './shared-tier-settings.js'
import { StoreLanes } from './store-lanes.js'

/** What a user, or a replay, does to a key. */
type Operation =
  | { readonly kind: 'write'; readonly key: string; readonly write: SharedWrite; readonly since: number }
  | { readonly kind: 'delete' | 'replay'; readonly key: string }

type Write = Operation & { readonly kind: 'write' }

/** A version; undefined where a call failed. */
type Version = string | undefined

/** What {@link SharedWrites} needs. */
export interface SharedWritesSettings {
  readonly store: CacheStore
  readonly calls: SharedCalls
  readonly queue: ReplayQueue
  readonly marks: SharedMarks
  readonly moment: () => number
  /** What the store has of a key may be older than what was written here: it must go. */
  readonly onDoubt: (key: string) => void
  /** A call that was given up was answered after all. */
  readonly onAnswered: () => void
  /** Counts those of the answers that are errors, and tells of them, where they are news. */
  readonly onFailed: (
    operation: SharedFailure['operation'],
    keys: readonly string[],
    answers: readonly unknown[],
    isNews: boolean | ((i: number) => boolean),
  ) => void
}

const superseded: SharedFillOutcome = { kind: 'superseded' }
const failed: SharedFillOutcome = { kind: 'failed' }

/** Writes to the store: what users write and delete in lanes, what was loaded only where nothing came between. */
export class SharedWrites {
  /** Keys that were written or deleted, replays excluded. */
  writes = 0
  /** Fills that came too late. */
  superseded = 0
  readonly #settings: SharedWritesSettings
  readonly #lanes = new StoreLanes<Operation, Version>((operations) => this.#apply(operations))

  constructor(settings: SharedWritesSettings) {
    this.#settings = settings
  }

  /** Resolves once all that is under way for a key now has ended; undefined where nothing is. */
  ended(key: string): Promise<unknown> | undefined {
    return this.#lanes.ended(key)
  }

  /** Resolves once all that is under way in lanes now has ended. */
  settled(): Promise<void> {
    return this.#lanes.settled()
  }

  /** Writes keys, and answers with their versions. Never rejects. */
  write(writes: readonly SharedWrite[]): Promise<readonly Version[]> {
    const since = this.#settings.moment()
    return this.#lanes.submit(writes.map((write): Operation => ({ kind: 'write', key: write.key, write, since })))
  }

  /** Deletes keys, and answers with the versions of the tombstones. Never rejects. */
  delete(keys: readonly string[], replays: boolean): Promise<readonly Version[]> {
    return this.#lanes.submit(keys.map((key): Operation => ({ kind: replays ? 'replay' : 'delete', key })))
  }

  /** Writes what was loaded since a moment, where nobody wrote, deleted or invalidated. Never rejects. */
  async fill(fills: readonly SharedFill[], since: number): Promise<readonly SharedFillOutcome[]> {
    const { queue, marks } = this.#settings
    const states = marks.states()
    const learning = states.learn(fills.flatMap((fill) => fill.marks))
    if (learning !== undefined) await learning
    const outcomes: SharedFillOutcome[] = fills.map(() => failed)
    const sent: number[] = []
    for (const [i, fill] of fills.entries()) {
      if (queue.has('key', fill.key) || fill.marks.some((name) => states.get(name) === undefined)) continue
      if (!this.#isPastFence(since) && fill.marks.every((name) => states.wasSo(name, since))) sent.push(i)
      else outcomes[i] = superseded
    }
    const found = await this.#setIf(
      sent.map((i) => fills[i] as SharedFill),
      states,
      since,
    )
    for (const [n, i] of sent.entries()) outcomes[i] = found[n] ?? failed
    for (const { kind } of outcomes) if (kind === 'superseded') this.superseded++
    return outcomes
  }

  async #setIf(fills: readonly SharedFill[], states: MarkStates, since: number): Promise<readonly SharedFillOutcome[]> {
    if (fills.length === 0) return []
    const { store, calls, onDoubt, onAnswered, onFailed } = this.#settings
    const writes = fills.map((fill) => ({ ...writeOf(fill, states), ifVersion: fill.ifVersion }))
    const keys = fills.map(({ key }) => key)
    const answers = await calls.make({
      what: 'setMany',
      count: writes.length,
      make: () => store.setMany(writes),
      isAnswer: isOutcome,
      onLate: (late) => {
        for (const [i, key] of keys.entries()) {
          const answer = late[i]
          const isRefused = answer !== undefined && !(answer instanceof Error) && !answer.written
          // By now the store may have forgotten what would have kept it out.
          if (!isRefused && this.#isPastFence(since)) onDoubt(key)
        }
        if (isAnswered(late)) onAnswered()
      },
    })
    onFailed('write', keys, answers, true)
    return keys.map((key, i) => {
      const answer = answers[i]
      if (answer === undefined || answer instanceof Error) return failed
      if (!answer.written) return superseded
      if (!this.#isPastFence(since)) return { kind: 'written', version: answer.version }
      onDoubt(key)
      return superseded
    })
  }

  /** Whether the store may have forgotten what was written or deleted since a moment. */
  #isPastFence(since: number): boolean {
    return this.#settings.moment() - since > this.#settings.store.fenceMs
  }

  /** Makes operations on different keys, and says the versions that they lead to. Never rejects. */
  async #apply(operations: readonly Operation[]): Promise<readonly Version[]> {
    const versions = new Map<string, string>()
    const writes = operations.filter((operation): operation is Write => operation.kind === 'write')
    const deletes = operations.filter(({ kind }) => kind !== 'write')
    await Promise.all([this.#delete(deletes, versions), this.#write(writes, versions)])
    return operations.map(({ key }) => versions.get(key))
  }

  async #write(operations: readonly Write[], versions: Map<string, string>): Promise<void> {
    if (operations.length === 0) return
    const { marks } = this.#settings
    const names = operations.flatMap(({ write }) => write.marks)
    // A write that comes after a renewal waits until it can say so.
    const renewed = marks.renewed(names)
    if (renewed !== undefined) await renewed
    const states = marks.states()
    const learning = states.learn(names)
    if (learning !== undefined) await learning
    await this.#send(operations, states, versions)
  }

  async #send(operations: readonly Write[], states: MarkStates, versions: Map<string, string>): Promise<void> {
    const sayable: Write[] = []
    const outdated: Operation[] = []
    for (const operation of operations) {
      const { key, write, since } = operation
      if (write.marks.some((name) => states.get(name) === undefined)) this.#settings.onDoubt(key)
      else if (write.marks.every((name) => states.maySay(name, since))) sayable.push(operation)
      // Invalidated since it was asked for: what was there before must go all the same.
      else outdated.push(operation)
    }
    await Promise.all([this.#delete(outdated, versions), this.#set(sayable, states, versions)])
  }

  async #set(operations: readonly Write[], states: MarkStates, versions: Map<string, string>): Promise<void> {
    if (operations.length === 0) return
    const { store, calls, queue, onDoubt, onAnswered, onFailed } = this.#settings
    const writes = operations.map(({ write }) => writeOf(write, states))
    const keys = operations.map(({ key }) => key)
    const tickets = keys.map((key) => queue.ticket('key', key))
    const answering = calls.make({
      what: 'setMany',
      count: writes.length,
      make: () => store.setMany(writes),
      isAnswer: isWritten,
      // It may have landed on what was written or deleted since.
      onLate: (late) => {
        for (const key of keys) onDoubt(key)
        if (isAnswered(late)) onAnswered()
      },
    })
    // Others may have renewed since what was known of a mark: then what is being written would be invalid from the start.
    const older = operations.flatMap(({ write, since }) => write.marks.filter((name) => states.isOlder(name, since)))
    const [answers] = await Promise.all([answering, older.length === 0 ? undefined : states.learnAnew(older)])
    const again: Write[] = []
    for (const [i, operation] of operations.entries()) {
      const { key } = operation
      const answer = answers[i]
      if (answer === undefined || answer instanceof Error) {
        onDoubt(key)
        continue
      }
      queue.settle('key', key, tickets[i])
      versions.set(key, answer.version)
      if (writes[i]?.marks.some(({ name, mark }) => (states.get(name)?.mark ?? mark) !== mark)) again.push(operation)
      else this.writes++
    }
    onFailed('write', keys, answers, true)
    if (again.length > 0) await this.#send(again, states, versions)
  }

  async #delete(operations: readonly Operation[], versions: Map<string, string>): Promise<void> {
    if (operations.length === 0) return
    const { store, calls, queue, onDoubt, onFailed } = this.#settings
    const keys = operations.map(({ key }) => key)
    const tickets = keys.map((key) => queue.ticket('key', key))
    const answers = await calls.make({
      what: 'deleteMany',
      count: keys.length,
      make: () => store.deleteMany(keys),
      isAnswer: isVersion,
    })
    for (const [i, { key, kind }] of operations.entries()) {
      const answer = answers[i]
      if (answer === undefined || answer instanceof Error) {
        // A key that the store can't carry isn't in it.
        if (isSpillwayError(answer, 'ERR_OPTION')) queue.settle('key', key, tickets[i])
        else if (kind !== 'replay') onDoubt(key)
        continue
      }
      queue.settle('key', key, tickets[i])
      versions.set(key, answer)
      if (kind !== 'replay') this.writes++
    }
    onFailed('delete', keys, answers, (i) => operations[i]?.kind !== 'replay')
  }
}

function isAnswered(answers: readonly unknown[]): boolean {
  return answers.some((answer) => !(answer instanceof Error))
}

function writeOf({ key, encoded, freshMs, keptMs, marks }: SharedWrite, states: MarkStates): CacheWrite {
  const known = marks.map((name) => ({ name, mark: states.get(name)?.mark ?? '' }))
  return { key, value: encoded, freshMs, keptMs, marks: known }
}
