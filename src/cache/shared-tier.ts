import { isSpillwayError, OptionError } from '../core/errors.js'
import { checkDuration, checkOptionalFunction } from '../core/options.js'
import type { CachedValue, CacheMark } from '../core/ports.js'
import { Deadline } from './deadline.js'
import { type ReplayEntry, ReplayQueue } from './replay-queue.js'
import { Replayer } from './replayer.js'
import { isCachedValue } from './shared-answers.js'
import { SharedCalls } from './shared-calls.js'
import { type MarkStates, SharedMarks } from './shared-marks.js'
import type {
  SharedFailure,
  SharedFill,
  SharedFillOutcome,
  SharedRead,
  SharedTierSettings,
  SharedTierStats,
  SharedWrite,
} from './shared-tier-settings.js'
import { SharedWrites } from './shared-writes.js'

/** By how much a moment is later than the one before, where the clock says that none has passed. */
const tickMs = 1e-6

/**
 * A cache's way to the store that it shares with others. Nothing here rejects: what the store fails at is counted, told, and made up
 * for later.
 *
 * Writes and deletes of one key go out one after the other. One that fails, or isn't answered in time, leaves the key in doubt: it is
 * neither read nor filled until a delete, or a later write, has reached the store. A mark is in doubt in the same way while its renewal
 * isn't acknowledged, and with it whatever depends on it.
 */
export class SharedTier {
  readonly #settings: SharedTierSettings
  readonly #calls: SharedCalls
  readonly #queue: ReplayQueue
  readonly #replayer: Replayer
  readonly #marks: SharedMarks
  readonly #writes: SharedWrites
  /** Fills and renewals under way. */
  readonly #underWay = new Set<Promise<unknown>>()
  #latestMoment = Number.NEGATIVE_INFINITY
  #reads = 0
  #hits = 0
  #failed = 0

  /** @throws OptionError when an option of the breaker is wrong, or the store says nothing of its fences. */
  constructor(settings: SharedTierSettings) {
    const { store, clock, random, markTtlMs } = settings
    checkDuration('l2.fenceMs', store.fenceMs, 0, Number.POSITIVE_INFINITY)
    checkOptionalFunction('l2.encode', store.encode)
    this.#settings = settings
    this.#calls = new SharedCalls(settings)
    this.#queue = new ReplayQueue(settings.replayCapacity)
    this.#marks = new SharedMarks({
      store,
      clock,
      calls: this.#calls,
      queue: this.#queue,
      ttlMs: markTtlMs,
      moment: () => this.moment(),
      onFailed: (names, answers, news) => this.#countFailed('marks', names, answers, news),
    })
    this.#writes = new SharedWrites({
      store,
      calls: this.#calls,
      queue: this.#queue,
      marks: this.#marks,
      moment: () => this.moment(),
      onDoubt: (key) => {
        this.#queue.add('key', key)
        // What was answered before says nothing about the store now.
        this.#calls.takeAnswered()
        this.#replayer.queued()
      },
      onAnswered: () => this.#replayer.storeAnswered(),
      onFailed: (operation, keys, answers, isNews) => this.#countFailed(operation, keys, answers, isNews),
    })
    this.#replayer = new Replayer({
      queue: this.#queue,
      clock,
      random,
      retryAfterMs: () => this.#calls.retryAfterMs,
      isFree: ({ kind, name }) =>
        kind === 'key' ? this.#writes.ended(name) === undefined : !this.#marks.isRenewing(name),
      replay: (batch) => this.#replay(batch),
    })
  }

  /**
   * A moment: `clock.now()`, except that no two are the same. Taken before a load's read begins, it says what came before the load and
   * what after.
   */
  moment(): number {
    this.#latestMoment = Math.max(this.#settings.clock.now(), this.#latestMoment + tickMs)
    return this.#latestMoment
  }

  /**
   * Turns a value into what the store takes.
   *
   * @throws OptionError - where the store can't carry it.
   */
  encode(value: unknown): unknown {
    const { store } = this.#settings
    if (store.encode === undefined) return value
    try {
      return store.encode(value)
    } catch (error) {
      if (isSpillwayError(error, 'ERR_OPTION')) throw error
      const refused = new OptionError('value', `value must be one that the store can encode: ${String(error)}`)
      refused.cause = error
      throw refused
    }
  }

  /**
   * Reads keys, in their order, within the time of one call: what isn't known by then couldn't be asked for. Never rejects.
   *
   * @param marks - names of marks that every one of these keys depends on: read at the same time, where they aren't known.
   */
  async read(keys: readonly string[], marks: readonly string[]): Promise<readonly SharedRead[]> {
    const { clock, timeoutMs } = this.#settings
    const deadline = new Deadline(clock, timeoutMs)
    const reads: SharedRead[] = keys.map(() => unknownRead)
    const free: number[] = []
    const busy: number[] = []
    const ends: Promise<unknown>[] = []
    for (const [i, key] of keys.entries()) {
      const end = this.#writes.ended(key)
      if (end !== undefined) ends.push(end)
      ;(end === undefined ? free : busy).push(i)
    }
    const work = { keys, needed: marks, reads, deadline }
    if (busy.length === 0) await this.#read(work, free, true)
    else await Promise.all([this.#read(work, free, true), this.#readAfter(Promise.all(ends), work, busy)])
    deadline.end()
    for (const read of reads) this.#countRead(read)
    this.#answered()
    return reads
  }

  /**
   * Reads one key, as `read` does. Where nothing stands in its way, which is the rule, it makes no promise beside the store's.
   *
   * @param done - hears what is known, once and not within this call. It must not throw.
   */
  readOne(key: string, needed: readonly string[], done: (read: SharedRead) => void): void {
    const states = this.#marks.states()
    if (this.#writes.ended(key) !== undefined || this.#queue.has('key', key) || !states.knows(needed)) {
      void this.read([key], needed).then(([read]) => done(read as SharedRead))
      return
    }
    const { clock, store, timeoutMs } = this.#settings
    const askedAt = clock.now()
    const keys = [key]
    const end = (read: SharedRead): void => {
      this.#countRead(read)
      this.#answered()
      done(read)
    }
    const onAnswers = (answers: readonly (CachedValue | Error)[]): void => {
      const answer = answers[0] as CachedValue | Error
      if (answer instanceof Error) {
        this.#countFailed('read', keys, answers, true)
        end(unknownRead)
        return
      }
      const answeredAt = this.moment()
      if (answer.marks.every((mark) => states.isAs(mark))) {
        end(readOf(answer, clock.now() - askedAt, verdictOn(answer, needed, states, answeredAt)))
        return
      }
      const deadline = new Deadline(clock, askedAt + timeoutMs - clock.now())
      void this.#learnMarksOf([answer], states, answeredAt, { learning: undefined, deadline }).then(() => {
        deadline.end()
        end(readOf(answer, clock.now() - askedAt, verdictOn(answer, needed, states, answeredAt)))
      })
    }
    this.#calls.begin(
      { what: 'getMany', count: 1, make: () => store.getMany(keys), isAnswer: isCachedValue },
      onAnswers,
    )
  }

  /** Writes keys; answers with their versions, undefined where it failed and the key waits to be deleted. Never rejects. */
  async write(writes: readonly SharedWrite[]): Promise<readonly (string | undefined)[]> {
    const versions = await this.#writes.write(writes)
    this.#answered()
    return versions
  }

  /**
   * Writes what was loaded, where nobody wrote, deleted or invalidated since. Never rejects.
   *
   * @param since - the moment before the read that brought the versions.
   */
  async fill(fills: readonly SharedFill[], since: number): Promise<readonly SharedFillOutcome[]> {
    const outcomes = await this.#track(this.#writes.fill(fills, since))
    this.#answered()
    return outcomes
  }

  /** Deletes keys; answers with the tombstones' versions, undefined where it failed and is made again. Never rejects. */
  async delete(keys: readonly string[]): Promise<readonly (string | undefined)[]> {
    const versions = await this.#writes.delete(keys, false)
    this.#answered()
    return versions
  }

  /** Renews marks, so that whatever depends on them is invalid from the call on. Never rejects; what failed is made again. */
  async renew(marks: readonly string[]): Promise<void> {
    await this.#track(this.#marks.renew(marks, false))
    this.#answered()
  }

  /** Forgets what it knows about marks that somebody else has renewed, or, without names, about all marks. */
  forget(marks?: readonly string[]): void {
    this.#marks.forget(marks)
  }

  /** Resolves once all writes under way are settled and one attempt was made at what waits for its replay. */
  async settled(): Promise<void> {
    await Promise.all([this.#writes.settled(), ...this.#underWay])
    await this.#replayer.attempt()
  }

  /** Stops its timers; nothing is replayed any more. */
  close(): void {
    this.#replayer.close()
  }

  /** How many deletes and renewals wait for their replay. */
  abandoned(): number {
    return this.#queue.size
  }

  stats(): SharedTierStats {
    const { state, timeouts, rejected } = this.#calls
    const { writes, superseded } = this.#writes
    const { size: pending, replayed, dropped } = this.#queue
    return {
      reads: this.#reads,
      hits: this.#hits,
      misses: this.#reads - this.#hits,
      writes,
      superseded,
      failed: this.#failed,
      timeouts,
      rejected,
      state,
      replay: { pending, replayed, dropped },
    }
  }

  /** Reads some of the keys when what is under way for them has ended, if there is time left then. */
  async #readAfter(ended: Promise<unknown>, work: ReadWork, indices: readonly number[]): Promise<void> {
    await work.deadline.within(ended)
    if (!work.deadline.isOver) await this.#read(work, indices, false)
  }

  /**
   * Reads some of the keys, and puts what it finds in their places.
   *
   * @param atOnce - whether this is the first that the whole read does, so that the call's own limit will do.
   */
  async #read({ keys, needed, reads, deadline }: ReadWork, indices: readonly number[], atOnce: boolean): Promise<void> {
    const { clock } = this.#settings
    // What is in the store of a key in doubt may be older than what was written here.
    const asked = indices.filter((i) => !this.#queue.has('key', keys[i] as string))
    if (asked.length === 0) return
    const states = this.#marks.states()
    const askedAt = clock.now()
    const learning = states.learn(needed)
    const asking = this.#ask(asked.map((i) => keys[i] as string))
    const answers = await (atOnce ? asking : deadline.within(asking))
    if (answers === undefined) return
    const answeredAt = this.moment()
    const values = answers.filter((answer): answer is CachedValue => !(answer instanceof Error))
    if (values.some(({ marks }) => marks.length > 0)) {
      await this.#learnMarksOf(values, states, answeredAt, { learning, deadline })
    }
    const elapsedMs = clock.now() - askedAt
    for (const [n, i] of asked.entries()) {
      const answer = answers[n]
      if (answer === undefined || answer instanceof Error) continue
      reads[i] = readOf(answer, elapsedMs, verdictOn(answer, needed, states, answeredAt))
    }
  }

  /** Asks for keys. Whatever becomes of it is counted and told, also when nobody waits for it any more. */
  async #ask(names: readonly string[]): Promise<readonly (CachedValue | Error)[]> {
    const { store } = this.#settings
    const answers = await this.#calls.make({
      what: 'getMany',
      count: names.length,
      make: () => store.getMany(names),
      isAnswer: isCachedValue,
    })
    this.#countFailed('read', names, answers, true)
    return answers
  }

  /**
   * Learns what says whether values are valid. A mark that says no is read again, unless it was asked for when the values were there:
   * what is known of it may be older than they are.
   */
  async #learnMarksOf(
    values: readonly CachedValue[],
    states: MarkStates,
    answeredAt: number,
    { learning, deadline }: { readonly learning: Promise<void> | undefined; readonly deadline: Deadline },
  ): Promise<void> {
    if (deadline.isOver) return
    const marks = values.flatMap((value) => value.marks)
    const names = marks.map(({ name }) => name)
    const further = states.learn(names)
    if (learning !== undefined || further !== undefined) await deadline.within(Promise.all([learning, further]))
    // What one of the two has learned may be forgotten when the other one has.
    const again = deadline.isOver ? undefined : states.learn(names)
    if (again !== undefined) await deadline.within(again)
    if (deadline.isOver) return
    const contradicting = new Set<string>()
    for (const { name, mark } of marks) {
      const known = states.get(name)
      if (known !== undefined && known.mark !== mark && known.askedAt < answeredAt) contradicting.add(name)
    }
    if (contradicting.size > 0) await deadline.within(states.learnAnew([...contradicting]))
  }

  /** Tries deletes and renewals again; says whether any reached the store. */
  async #replay(batch: readonly ReplayEntry[]): Promise<boolean> {
    const keys = batch.flatMap(({ kind, name }) => (kind === 'key' ? [name] : []))
    const marks = batch.flatMap(({ kind, name }) => (kind === 'mark' ? [name] : []))
    const [versions, renewed] = await Promise.all([this.#writes.delete(keys, true), this.#marks.renew(marks, true)])
    const deleted = keys.filter((_, i) => versions[i] !== undefined)
    const count = deleted.length + renewed.length
    this.#queue.replayed += count
    if (count > 0) this.#settings.onReplayed(deleted, renewed)
    return count > 0
  }

  #countRead({ value }: SharedRead): void {
    this.#reads++
    if (value !== undefined) this.#hits++
  }

  /** Counts answers that are errors, and tells of them: at once of all that have the same one. */
  #countFailed(
    operation: SharedFailure['operation'],
    names: readonly string[],
    answers: readonly unknown[],
    isNews: boolean | ((i: number) => boolean),
  ): void {
    if (!answers.some((answer) => answer instanceof Error)) return
    const failures = new Map<Error, string[]>()
    for (const [i, answer] of answers.entries()) {
      if (!(answer instanceof Error)) continue
      this.#failed++
      if (isNews === false || (isNews !== true && !isNews(i))) continue
      const keys = failures.get(answer) ?? []
      keys.push(names[i] as string)
      failures.set(answer, keys)
    }
    if (failures.size > 0 && operation === 'marks') this.#replayer.queued()
    for (const [error, keys] of failures) this.#settings.onFailed({ operation, keys, error })
  }

  /** What waits for its replay needn't wait any longer, if the store has answered anything; nor does the replayer, if nothing waits. */
  #answered(): void {
    if (this.#calls.takeAnswered() || this.#queue.size === 0) this.#replayer.storeAnswered()
  }

  #track<T>(work: Promise<T>): Promise<T> {
    this.#underWay.add(work)
    void work.then(() => this.#underWay.delete(work))
    return work
  }
}

/** One read: what is asked for, and where the answers go. */
interface ReadWork {
  readonly keys: readonly string[]
  /** The marks that each of the keys depends on. */
  readonly needed: readonly string[]
  readonly reads: SharedRead[]
  readonly deadline: Deadline
}

/** What is known of a key that can't be asked for. */
const unknownRead: SharedRead = {
  value: undefined,
  version: undefined,
  ageMs: 0,
  freshMs: 0,
  keptMs: 0,
  marks: [],
  checkedUntil: -Infinity,
}

/** What marks say of a value: until when that counts as checked; or that it is invalid; or nothing, as they couldn't be asked. */
type Verdict = number | 'invalid' | 'unknown'

function readOf(answer: CachedValue, elapsedMs: number, verdict: Verdict): SharedRead {
  const { value, version, marks } = answer
  const keptMs = answer.keptMs - elapsedMs
  if (value === undefined || keptMs <= 0 || verdict === 'invalid') return { ...unknownRead, version }
  // It may well be valid, so it isn't to be replaced, and nothing follows for what memory has.
  if (verdict === 'unknown') return unknownRead
  return {
    value,
    version,
    ageMs: answer.ageMs + elapsedMs,
    freshMs: answer.freshMs - elapsedMs,
    keptMs,
    marks: marks.map(({ name }) => name),
    checkedUntil: verdict,
  }
}

function bears(marks: readonly CacheMark[], name: string): boolean {
  for (const mark of marks) if (mark.name === name) return true
  return false
}

/** @param answeredAt - the moment at which the value was there. */
function verdictOn({ marks }: CachedValue, needed: readonly string[], states: MarkStates, answeredAt: number): Verdict {
  for (const name of needed) if (!bears(marks, name)) return 'invalid'
  let verdict: Verdict = Number.POSITIVE_INFINITY
  for (const { name, mark } of marks) {
    const known = states.get(name)
    if (known?.mark === mark) {
      if (verdict !== 'unknown') verdict = Math.min(verdict, known.checkedUntil)
    } else if (states.isInDoubt(name) || (known !== undefined && known.askedAt >= answeredAt)) {
      return 'invalid'
    } else {
      verdict = 'unknown'
    }
  }
  return verdict
}
