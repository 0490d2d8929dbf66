import type { Clock } from '../core/clock.js'
import { isSpillwayError } from '../core/errors.js'
import type { CacheMark, CacheStore, CurrentMark } from '../core/ports.js'
import { Remembered } from '../internal/remembered.js'
import type { ReplayQueue } from './replay-queue.js'
import { isMark } from './shared-answers.js'
import type { SharedCalls } from './shared-calls.js'

/** How many marks are remembered. */
const capacity = 10_000
/** How often one operation asks for a mark that changes, or is forgotten, while it is being read. */
const maxAsks = 3
/** How much the store's clock and ours may differ over a load, in milliseconds: it tells whole ones. */
const driftMs = 1

/** A mark, and since when it is known to be as it is. */
interface KnownMark {
  readonly mark: string
  /** The moment at which it was asked for. */
  readonly askedAt: number
  /** The moment at which the answer was there: it is known since. */
  readonly answeredAt: number
  /** The moment since which it has been so in the store, at the latest. */
  readonly since: number
  /** The moment before which it can't have been so. */
  readonly notBefore: number
  /** On the clock: until when it is believed. */
  readonly checkedUntil: number
  /** The moment at which this process asked for the renewal that made it, where one did. */
  readonly renewedAt: number | undefined
  /** How many changes there had been when it was learned. */
  readonly changes: number
}

/** A request for marks that isn't answered yet. */
interface MarkRequest {
  readonly askedAt: number
  readonly checkedUntil: number
  readonly names: ReadonlySet<string>
  /** Marks that changed since it began, so that its answers say nothing about them. */
  readonly outdated: Set<string>
  readonly found: Promise<ReadonlyMap<string, KnownMark>>
}

/** A renewal of this process that isn't acknowledged yet. */
interface Renewal {
  running: number
  /** Whether another one of the same mark ran at the same time: then nobody knows which came last. */
  overlapped: boolean
  latest: Promise<unknown>
}

/** What {@link SharedMarks} needs. */
export interface SharedMarksSettings {
  readonly store: CacheStore
  readonly calls: SharedCalls
  readonly queue: ReplayQueue
  readonly clock: Clock
  readonly ttlMs: number
  readonly moment: () => number
  /** Counts those of the answers that are errors, and tells of them, if they are news. */
  readonly onFailed: (names: readonly string[], answers: readonly unknown[], news: boolean) => void
}

/** The marks of the store, as far as they are known here. */
export class SharedMarks {
  readonly #settings: SharedMarksSettings
  #known = new Remembered<KnownMark>(capacity)
  readonly #requests = new Set<MarkRequest>()
  /** For each name the latest request. */
  readonly #joinable = new Map<string, MarkRequest>()
  readonly #renewals = new Map<string, Renewal>()
  /** The moments at which this process last asked for a renewal. */
  readonly #renewedHere = new Remembered<number>(capacity)
  /** What is to be read anew at the end of this run of synchronous code. */
  #checking: { readonly names: Set<string>; readonly found: Promise<ReadonlyMap<string, KnownMark>> } | undefined
  #changes = 0

  constructor(settings: SharedMarksSettings) {
    this.#settings = settings
  }

  /** How often marks changed or were forgotten. */
  get changes(): number {
    return this.#changes
  }

  /** What one operation knows of marks. */
  states(): MarkStates {
    return new MarkStates(this, this.#settings.clock.now())
  }

  /** A mark that was learned of at a time or later; undefined where nothing is known, or this process is about to renew it. */
  current(name: string, at: number, own: KnownMark | undefined): KnownMark | undefined {
    if (this.isInDoubt(name)) return undefined
    const known = this.#known.get(name)
    if (known !== undefined && known.checkedUntil >= at) return known
    // Pushed out by others since: it still holds, unless something changed meanwhile.
    return own !== undefined && own.changes === this.#changes ? own : undefined
  }

  /** Whether a renewal of this process isn't acknowledged yet, or waits for its replay. */
  isInDoubt(name: string): boolean {
    return (this.#renewals.size > 0 && this.#renewals.has(name)) || this.#settings.queue.has('mark', name)
  }

  /** Whether a renewal is under way. */
  isRenewing(name: string): boolean {
    return this.#renewals.has(name)
  }

  /** Resolves once the renewals that run now have ended; undefined where none does. */
  renewed(names: Iterable<string>): Promise<unknown> | undefined {
    const running = Array.from(names, (name) => this.#renewals.get(name)?.latest).filter((one) => one !== undefined)
    return running.length === 0 ? undefined : Promise.all(running)
  }

  /** Whether this process has asked for a renewal since a moment. */
  isRenewedHereSince(name: string, moment: number): boolean {
    return (this.#renewedHere.get(name) ?? Number.NEGATIVE_INFINITY) > moment
  }

  /** Reads marks anew, known or not, together with those that others want to know anew just now. */
  check(names: Iterable<string>): Promise<ReadonlyMap<string, KnownMark>> {
    const all = this.#checking?.names ?? new Set()
    for (const name of names) all.add(name)
    this.#checking ??= {
      names: all,
      found: Promise.resolve().then(() => {
        this.#checking = undefined
        return this.read(all, true)
      }),
    }
    return this.#checking.found
  }

  /** Reads marks, those that others are reading just now together with them. */
  async read(names: ReadonlySet<string>, anew: boolean): Promise<ReadonlyMap<string, KnownMark>> {
    const now = this.#settings.clock.now()
    const requests = new Set<MarkRequest>()
    const missing = new Set<string>()
    for (const name of names) {
      if (this.isInDoubt(name)) continue
      const request = anew ? undefined : this.#joinable.get(name)
      if (request !== undefined && request.checkedUntil >= now && !request.outdated.has(name)) requests.add(request)
      else missing.add(name)
    }
    if (missing.size > 0) requests.add(this.#request(missing))
    const found = new Map<string, KnownMark>()
    for (const request of requests) for (const [name, known] of await request.found) found.set(name, known)
    return found
  }

  /**
   * Renews marks. Until it is acknowledged nobody knows their states. What fails is queued.
   *
   * @param replays - whether they are in the queue and stay there when it fails.
   * @returns those that were renewed.
   */
  async renew(names: readonly string[], replays: boolean): Promise<readonly string[]> {
    const { store, calls, queue, moment, onFailed } = this.#settings
    const distinct = [...new Set(names)]
    if (distinct.length === 0) return []
    const renewedAt = moment()
    for (const name of distinct) this.#renewedHere.add(name, renewedAt)
    this.forget(distinct)
    const tickets = distinct.map((name) => queue.ticket('mark', name))
    const work = calls.make({
      what: 'renewMarks',
      count: distinct.length,
      make: () => store.renewMarks(distinct),
      isAnswer: isMark,
    })
    for (const name of distinct) this.#beginRenewal(name, work)
    const answers = await work
    const done: string[] = []
    for (const [i, name] of distinct.entries()) {
      const answer = answers[i]
      const alone = this.#endRenewal(name)
      if (answer instanceof Error || answer === undefined) {
        // A name that the store can't carry has no mark that anything could depend on.
        if (isSpillwayError(answer, 'ERR_OPTION')) queue.settle('mark', name, tickets[i])
        else if (!replays) queue.add('mark', name)
        continue
      }
      queue.settle('mark', name, tickets[i])
      done.push(name)
      if (alone) this.#learn(name, answer, { askedAt: renewedAt, renewedAt, checkedUntil: this.#checkedUntil() })
    }
    onFailed(distinct, answers, !replays)
    return done
  }

  /** Forgets marks that somebody has renewed, or all of them. */
  forget(names?: readonly string[]): void {
    this.#changes++
    if (names === undefined) {
      this.#known = new Remembered(capacity)
      for (const request of this.#requests) for (const name of request.names) request.outdated.add(name)
      return
    }
    for (const name of names) {
      this.#known.delete(name)
      for (const request of this.#requests) if (request.names.has(name)) request.outdated.add(name)
    }
  }

  #request(names: ReadonlySet<string>): MarkRequest {
    const { moment } = this.#settings
    const outdated = new Set<string>()
    const asked = { askedAt: moment(), checkedUntil: this.#checkedUntil(), renewedAt: undefined }
    const request: MarkRequest = { ...asked, names, outdated, found: this.#ask([...names], asked, outdated) }
    this.#requests.add(request)
    for (const name of names) this.#joinable.set(name, request)
    void request.found.then(() => {
      this.#requests.delete(request)
      for (const name of names) if (this.#joinable.get(name) === request) this.#joinable.delete(name)
    })
    return request
  }

  async #ask(
    names: readonly string[],
    asked: Pick<KnownMark, 'askedAt' | 'checkedUntil' | 'renewedAt'>,
    outdated: ReadonlySet<string>,
  ): Promise<ReadonlyMap<string, KnownMark>> {
    const { calls, store, onFailed } = this.#settings
    const answers = await calls.make({
      what: 'readMarks',
      count: names.length,
      make: () => store.readMarks(names),
      isAnswer: isMark,
    })
    const found = new Map<string, KnownMark>()
    for (const [i, name] of names.entries()) {
      const answer = answers[i]
      if (answer === undefined || answer instanceof Error || outdated.has(name)) continue
      found.set(name, this.#learn(name, answer, asked))
    }
    onFailed(names, answers, true)
    return found
  }

  #learn(
    name: string,
    { mark, renewedMs }: CurrentMark,
    asked: Pick<KnownMark, 'askedAt' | 'checkedUntil' | 'renewedAt'>,
  ): KnownMark {
    const before = this.#known.get(name)
    // A request that began later may have been answered before.
    if (before !== undefined && before.askedAt > asked.askedAt) return before
    const answeredAt = this.#settings.moment()
    const same = before?.mark === mark ? before : undefined
    const known: KnownMark = {
      ...asked,
      mark,
      answeredAt: same?.answeredAt ?? answeredAt,
      since: same?.since ?? answeredAt - renewedMs + driftMs,
      notBefore: same?.notBefore ?? asked.askedAt - renewedMs - driftMs,
      renewedAt: same?.renewedAt ?? asked.renewedAt,
      changes: this.#changes,
    }
    this.#known.add(name, known)
    return known
  }

  #checkedUntil(): number {
    return this.#settings.clock.now() + this.#settings.ttlMs
  }

  #beginRenewal(name: string, work: Promise<unknown>): void {
    const renewal = this.#renewals.get(name)
    if (renewal === undefined) {
      this.#renewals.set(name, { running: 1, overlapped: false, latest: work })
      return
    }
    renewal.running++
    renewal.overlapped = true
    renewal.latest = Promise.all([renewal.latest, work])
  }

  /** Says whether no other one of the same mark ran meanwhile. */
  #endRenewal(name: string): boolean {
    const renewal = this.#renewals.get(name)
    if (renewal === undefined || --renewal.running > 0) return false
    this.#renewals.delete(name)
    return !renewal.overlapped
  }
}

/** Marks as one operation knows them. What changes while it runs is as unknown to it as what it hasn't asked for. */
export class MarkStates {
  readonly #marks: SharedMarks
  readonly #at: number
  #own: Map<string, KnownMark> | undefined
  /** How often each was asked for, and how many changes there had been when it was last. */
  #asked: Map<string, { readonly times: number; readonly changes: number }> | undefined

  constructor(marks: SharedMarks, at: number) {
    this.#marks = marks
    this.#at = at
  }

  get(name: string): KnownMark | undefined {
    return this.#marks.current(name, this.#at, this.#own?.get(name))
  }

  /** Whether all of them are known. */
  knows(names: readonly string[]): boolean {
    for (const name of names) if (this.get(name) === undefined) return false
    return true
  }

  /** Whether a mark is known to be as something says that depends on it. */
  isAs({ name, mark }: CacheMark): boolean {
    return this.get(name)?.mark === mark
  }

  /** Whether this process has renewed it, and the store doesn't know yet: whatever depends on it is invalid. */
  isInDoubt(name: string): boolean {
    return this.#marks.isInDoubt(name)
  }

  /** Whether what is known of it was asked for before a moment. */
  isOlder(name: string, moment: number): boolean {
    return (this.get(name)?.askedAt ?? moment) < moment
  }

  /**
   * Reads those that aren't known; undefined where there is nothing to ask. One that couldn't be told isn't asked for again, unless
   * something changed or was forgotten since.
   */
  learn(names: readonly string[]): Promise<void> | undefined {
    if (this.knows(names)) return undefined
    const missing = this.#missing(names)
    return missing.size === 0 ? undefined : this.#learn(names, missing)
  }

  /** Reads marks again, known or not. */
  async learnAnew(names: readonly string[]): Promise<void> {
    this.#take(await this.#marks.check(names))
    // Forgotten while it was being read again.
    await this.learn(names)
  }

  /** Whether a mark is as it was at a moment, so that what was loaded since may depend on it. */
  wasSo(name: string, moment: number): boolean {
    const known = this.get(name)
    return known !== undefined && (known.answeredAt < moment || known.since <= moment)
  }

  /**
   * Whether what a user wrote at a moment may depend on a mark: also if this process's own renewal began before and was acknowledged
   * after, since the write then follows it, and if another process's may have come before. A write that isn't acknowledged yet may
   * follow that; what was loaded may not, for it may be older.
   */
  maySay(name: string, moment: number): boolean {
    const known = this.get(name)
    if (known === undefined) return false
    if (this.wasSo(name, moment)) return true
    if (known.renewedAt !== undefined) return known.renewedAt < moment
    return known.notBefore <= moment && !this.#marks.isRenewedHereSince(name, moment)
  }

  async #learn(names: readonly string[], first: ReadonlySet<string>): Promise<void> {
    for (let missing = first; missing.size > 0; missing = this.#missing(names)) await this.#read(missing)
  }

  #missing(names: readonly string[]): Set<string> {
    const missing = new Set<string>()
    for (const name of names) {
      if (this.get(name) !== undefined || this.isInDoubt(name)) continue
      const asked = this.#asked?.get(name)
      const mayAsk = asked === undefined || (asked.times < maxAsks && asked.changes !== this.#marks.changes)
      if (mayAsk) missing.add(name)
    }
    return missing
  }

  async #read(names: ReadonlySet<string>): Promise<void> {
    const { changes } = this.#marks
    this.#asked ??= new Map()
    for (const name of names) this.#asked.set(name, { times: (this.#asked.get(name)?.times ?? 0) + 1, changes })
    this.#take(await this.#marks.read(names, false))
  }

  #take(found: ReadonlyMap<string, KnownMark>): void {
    this.#own ??= new Map()
    for (const [name, known] of found) this.#own.set(name, known)
  }
}
