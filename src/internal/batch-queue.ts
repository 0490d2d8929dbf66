import type { Clock } from '../core/clock.js'
import type { FlushReport } from '../core/component.js'
import { ClosedError, FullError, type SpillwayError, TooLargeError } from '../core/errors.js'
import type { BatchContext, BatchTracer } from '../core/ports.js'
import { type ContextRunner, captureContext } from './async-context.js'
import { Batch, type Entry, Group, type GrowingEntry, type MergingEntry } from './batch.js'
import { Books, type Cohort } from './batch-books.js'
import { batchId } from './batch-id.js'
import type { BatchPolicy } from './batch-options.js'
import { BatchRun, Portion, type RunHost } from './batch-run.js'
import { BatchTracing } from './batch-tracing.js'
import { LinkedList } from './linked-list.js'
import { Room } from './room.js'
import { TurnClock } from './turn-clock.js'

/** How far apart the offers of an entry may be, in milliseconds. */
const sameAgeMs = 1

/** What a face of the engine supplies: what running a batch means, and how one entry is settled. */
export interface BatchFace<E extends Entry> {
  /** All offers of an entry came within a millisecond, so that each has its age, and a batch is as large as they are many. */
  readonly alike?: boolean
  /** Hands entries to the user's function, in the async context in which the component was made. */
  call(entries: readonly E[], context: BatchContext): unknown
  /** The id of entries that have been a batch before. */
  idOf?(entries: readonly E[]): string | undefined
  /** What is wrong with an answer as a whole; such a batch fails. */
  check?(entries: readonly E[], answer: unknown): Error | undefined
  /** Settles one entry of a batch that was done; returns whether this entry succeeded. */
  complete(entry: E, index: number, answer: unknown): boolean
  /** Settles one entry that failed, was dropped or abandoned. */
  fail(entry: E, error: unknown): void
  /** The entry was accepted and has its place. */
  entered?(entry: E): void
  /** Another entry of this key is in flight: keep this one back until that one settles. */
  hold?(entry: E): boolean
  /** How many offers the entries stand for, where that isn't one each. */
  unitsOf?(entries: readonly E[]): number
  /** The entry leaves the queue, for good or bad: from now on it takes nothing in. */
  left?(entry: E): void
  /** The slot of these entries is free; returns those that were kept back for them. */
  freed?(entries: readonly E[]): readonly E[]
  onDispatched?(portion: Portion<E>, size: number): void
  onRetried?(portion: Portion<E>, attempt: number, delayMs: number, error: unknown): void
  onSettled?(portion: Portion<E>, succeeded: number, failed: number, durationMs: number): void
  onFailed?(portion: Portion<E>, entries: readonly E[], error: unknown): void
  onDropped?(entry: E, reason: 'drop-newest' | 'drop-oldest'): void
}

/** The surroundings of a queue: what its component was made with. */
export interface QueueSetting {
  readonly name: string
  readonly clock: Clock
  readonly random: () => number
  /** Whether `random` was given by the user, so that ids must come from it too. */
  readonly seeded: boolean
  /** Who sees the batches in the light of a trace. */
  readonly tracer?: BatchTracer | undefined
}

/**
 * The engine under everything that batches: accept, hold, let go in batches, settle.
 *
 *     offer ──► open batch of the group ──due: full, maxWaitMs, flush, close, idle──► ready groups, in turn
 *                                                                                         │ a free slot
 *     settled ◄── release ◄── BatchRun: attempts, back-off, bisection ◄──────────────────┘
 *
 * Every way in from a caller's turn (the end of it, a timer, a microtask, an abort, a close) enters the component's own
 * async context before anything is dispatched; what follows from a batch is in that context already.
 *
 * Invariants: of a group's batches only the last can be not due; a group is in `#ready` exactly while its first batch is
 * due; the timer is armed only while a batch waits for `maxWaitMs`, and not where it waits for the only slot anyway.
 */
export class BatchQueue<E extends Entry> {
  readonly #books: Books = new Books()
  readonly #setting: QueueSetting
  readonly #policy: BatchPolicy
  readonly #face: BatchFace<E>
  readonly #turnClock: TurnClock
  readonly #inContext: ContextRunner = captureContext()
  readonly #host: RunHost<E>
  readonly #room: Room
  readonly #tracing: BatchTracing | undefined

  /** The group of all that has no key. */
  readonly #solo: Group<E> = new Group(undefined)
  readonly #groups = new Map<unknown, Group<E>>()
  /** Batches that aren't due, oldest first, so that the first one's deadline is the next. */
  readonly #waiting = new LinkedList<Batch<E>>()
  /** Groups with a due batch, served in turn. */
  readonly #ready = new LinkedList<Group<E>>()
  /** Batches that were opened in this turn and may leave at its end. */
  #fresh: Batch<E>[] = []
  readonly #runs = new Set<BatchRun<E>>()
  /** Entries that wait for their key's batch in flight. */
  readonly #held = new Map<E, Group<E>>()
  /** All that was accepted and hasn't left, oldest first; only kept where the oldest is dropped. */
  readonly #line: LinkedList<Entry> | undefined
  /** Entries accepted and not dispatched: what `capacity` bounds. */
  #depth = 0
  /** How many entries the latest batch had. */
  #latestSize = 0
  #cohort: Cohort | undefined
  /** Whether an entry needs no more than a place: no key, no size, no line, and nobody who is told. */
  readonly #simple: boolean
  /** How many simple entries can go straight into `#straightBatch`, with nothing else to look at, in this turn. */
  #straight = 0
  #shortWayTurn = 0
  #straightBatch: Batch<E> | undefined
  /** The entry that offers may join, the batch that it's in, how many may, and how many bytes that has room for. */
  #growing: (E & GrowingEntry) | undefined
  #growingBatch: Batch<E> | undefined
  #growingUnits = 0
  #growingRoom = 0
  /** The last two as they were when what had joined was counted. */
  #countedUnits = 0
  #countedRoom = 0
  #cancelTimer: (() => void) | undefined
  #pumpScheduled = false
  #endOfTurnScheduled = false
  #pumping = false
  #calling = 0
  #expelling = false
  #closed = false
  #drained: (() => void) | undefined

  constructor(setting: QueueSetting, policy: BatchPolicy, face: BatchFace<E>) {
    this.#setting = setting
    this.#policy = policy
    this.#face = face
    this.#turnClock = TurnClock.of(setting.clock)
    this.#tracing = setting.tracer === undefined ? undefined : new BatchTracing(setting.name, setting.tracer)
    this.#simple =
      !policy.keyed &&
      policy.maxBatchBytes === Number.POSITIVE_INFINITY &&
      face.entered === undefined &&
      this.#tracing === undefined
    this.#line = policy.overflow === 'drop-oldest' ? new LinkedList() : undefined
    this.#room = new Room(
      () => policy.capacity - this.#depth,
      (callback) => setting.clock.defer(callback),
    )
    this.#host = this.#makeHost()
  }

  /** What became of all that was offered. */
  get books(): Books {
    if (this.#growingUnits !== this.#countedUnits) this.#countJoined()
    return this.#books
  }

  /** Batches that hold a slot. */
  get running(): number {
    return this.#runs.size
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Whether the user's function is on the stack while it and its like hold every slot. */
  get saturatedByCaller(): boolean {
    return this.#calling > 0 && this.#runs.size >= this.#policy.concurrency
  }

  get room(): Room {
    // Whoever waits for room may be promised some.
    this.#straight = 0
    return this.#room
  }

  // ── accept ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** What leads back to whoever calls now, for an offer that comes later from the line. */
  origin(): unknown {
    return this.#tracing?.origin()
  }

  /**
   * Accepts an entry, or returns why not. Either way it is in the books.
   *
   * @param fromLine - it comes from the line of those who wait for room, to none of whom this room was promised.
   * @param origin - of one from the line, what `origin` answered when it got into line.
   */
  offer(entry: E, groupKey?: unknown, fromLine = false, origin?: unknown): SpillwayError | undefined {
    // What most entries find: the same turn, and room in the batch of the one before. It is most of what accepting costs.
    if (this.#straight > 0 && groupKey === undefined && this.#shortWayTurn === this.#turnClock.turn) {
      this.#straight--
      this.#depth++
      const { books } = this
      books.offered++
      books.queued++
      const cohort = this.#cohort as Cohort
      cohort.epoch.pending++
      entry.cohort = cohort
      ;(this.#straightBatch as Batch<E>).append(entry)
      return undefined
    }
    return this.#offer(entry, groupKey, fromLine, origin)
  }

  #offer(entry: E, groupKey: unknown, fromLine: boolean, origin: unknown): SpillwayError | undefined {
    this.#endGrowing()
    if (this.#closed) return this.#refuse(this.closedError())
    if (entry.bytes > this.#policy.maxBatchBytes) return this.#refuse(this.#tooLargeError(entry.bytes))
    let dropped: E | undefined
    if (this.#depth >= this.#policy.capacity) {
      dropped = this.#evictOldest()
      if (dropped === undefined) return this.#refuseFull(entry)
    }
    const { books } = this
    books.offered++
    books.queued++
    this.#depth++
    if (!fromLine && this.#room.promised > 0) this.#room.taken()
    const at = this.#turnClock.now()
    let cohort = this.#cohort
    if (cohort === undefined || cohort.at !== at) this.#cohort = cohort = { at, epoch: books.epoch }
    cohort.epoch.pending++
    entry.cohort = cohort
    if (this.#line !== undefined) entry.place = this.#line.push(entry)
    const group = groupKey === undefined ? this.#solo : this.#groupOf(groupKey)
    this.#place(entry, group)
    if (this.#tracing !== undefined) {
      this.#tracing.note(group.batches.last as Batch<E>, fromLine ? origin : this.#tracing.origin())
    }
    this.#face.entered?.(entry)
    // Told last: a listener that offers something finds the room taken that this made.
    if (dropped !== undefined) this.#tellDropped(dropped)
    else if (this.#simple && groupKey === undefined) this.#openStraight()
    return undefined
  }

  /** Finds out how many more entries can go the short way. */
  #openStraight(): void {
    const batch = this.#solo.batches.last
    if (batch === undefined || batch.due || this.#closed || this.#room.promised > 0 || this.#line !== undefined) return
    // The one that fills the batch goes the long way.
    this.#straight = Math.min(this.#policy.maxBatchSize - batch.size - 1, this.#policy.capacity - this.#depth)
    this.#straightBatch = batch
    this.#shortWayTurn = this.#turnClock.turn
  }

  /** Accepts entries that were accepted before, in an earlier life: as one batch, due at once, whatever the limits say. */
  adopt(entries: readonly E[]): void {
    this.#straight = 0
    const cohort: Cohort = { at: this.#turnClock.now(), epoch: this.books.epoch }
    // A group of its own, so that nothing joins it.
    const group = this.#groupOf(entries)
    const batch = this.#open(group, cohort.at)
    for (const entry of entries) {
      this.books.offered++
      this.books.queued++
      this.#depth++
      cohort.epoch.pending++
      entry.cohort = cohort
      if (this.#line !== undefined) entry.place = this.#line.push(entry)
      batch.add(entry)
      this.#face.entered?.(entry)
    }
    this.#becomeDue(batch)
  }

  /** Counts one more offer that was merged into an entry which hasn't left yet. */
  merge(entry: E & MergingEntry): void {
    const books = this.books
    books.offered++
    books.queued++
    books.epoch.pending++
    const { cohort } = entry
    if (cohort.epoch !== books.epoch) {
      entry.earlier ??= []
      const before = entry.earlier.reduce((sum, part) => sum + part.units, 0)
      entry.earlier.push({ epoch: cohort.epoch, units: entry.units - before })
      entry.cohort = { at: cohort.at, epoch: books.epoch }
    }
    entry.units++
    if (this.#tracing !== undefined && entry.batch !== undefined) {
      this.#tracing.note(entry.batch, this.#tracing.origin())
    }
  }

  /**
   * Takes one more offer that becomes part of the entry that was offered last, if that came in this turn or this millisecond, hasn't
   * left, and its batch has room for so many bytes; else the offer needs an entry of its own.
   *
   * It is counted together with others, before anybody reads what counts: that halves what a caller waits for.
   */
  join(entry: (E & GrowingEntry) | undefined, bytes: number): boolean {
    if (entry === undefined || entry !== this.#growing || bytes > this.#growingRoom || this.#growingUnits === 0)
      return false
    if (this.#shortWayTurn !== this.#turnClock.turn && !this.#growsOn(entry)) return false
    this.#growingUnits--
    this.#growingRoom -= bytes
    if (this.#growingRoom === 0) this.#becomeDue(this.#growingBatch as Batch<E>)
    return true
  }

  /** Whether what comes in this turn is as old as the entry, near enough. */
  #growsOn(entry: E): boolean {
    if (this.#turnClock.now() - entry.cohort.at >= sameAgeMs) return false
    this.#shortWayTurn = this.#turnClock.turn
    return true
  }

  /** Lets so many offers join this entry, which was offered last: also where its batch is due and waits for a slot. */
  grow(entry: E & GrowingEntry, units: number): void {
    this.#endGrowing()
    if (this.#closed) return
    const batch = entry.batch as unknown as Batch<E>
    this.#growing = entry
    this.#growingBatch = batch
    this.#growingUnits = this.#countedUnits = units
    this.#growingRoom = this.#countedRoom = this.#policy.maxBatchBytes - batch.bytes
    this.#shortWayTurn = this.#turnClock.turn
  }

  #countJoined(): void {
    const units = this.#countedUnits - this.#growingUnits
    const bytes = this.#countedRoom - this.#growingRoom
    this.#countedUnits = this.#growingUnits
    this.#countedRoom = this.#growingRoom
    const entry = this.#growing as E & GrowingEntry
    const batch = this.#growingBatch as Batch<E>
    const books = this.#books
    batch.bytes += bytes
    entry.bytes += bytes
    entry.units += units
    entry.cohort.epoch.pending += units
    books.offered += units
    books.queued += units
  }

  #endGrowing(): void {
    if (this.#growingUnits !== this.#countedUnits) this.#countJoined()
    this.#growing = undefined
  }

  /** Counts one offer of an entry that hasn't left as dropped, to make room. */
  dropOne(entry: E & GrowingEntry, bytes: number): void {
    const { books } = this
    const batch = entry.batch as unknown as Batch<E>
    if (entry.units === 1) {
      entry.done = true
      this.#unqueue(entry, batch)
      this.#settle(entry, 'dropped')
      return
    }
    entry.units--
    entry.bytes -= bytes
    batch.bytes -= bytes
    if (entry === this.#growing) this.#growingRoom = this.#countedRoom += bytes
    this.#growingUnits = ++this.#countedUnits
    books.queued--
    books.settle(entry.cohort.epoch, 'dropped', 1)
  }

  /** Counts an offer that the face itself drops for want of room. */
  dropNewcomer(): void {
    this.books.offered++
    this.books.droppedAtEntry++
  }

  /** Counts an offer that the face itself refuses. */
  reject(): void {
    this.books.offered++
    this.books.rejected++
  }

  /** Counts an offer whose caller gave up before it was accepted. */
  abortUnaccepted(): void {
    this.books.offered++
    this.books.accepted.aborted++
  }

  /** Takes an entry out because its caller gave up; returns whether there was still something to give up. */
  abort(entry: E, reason: unknown): boolean {
    if (entry.done) return false
    entry.done = true
    const batch = entry.batch as unknown as Batch<E>
    const { run } = batch
    if (run === undefined) {
      this.#unqueue(entry, batch)
      this.#settle(entry, 'aborted')
      this.#room.admit()
      this.#checkDrained()
    } else {
      this.books.inFlight -= entry.units
      this.#settle(entry, 'aborted')
      this.#inContext(() => run.forsake(reason))
    }
    return true
  }

  // ── let go ──────────────────────────────────────────────────────────────────────────────────────────────────────

  flush(): Promise<FlushReport> {
    this.#endShortWays()
    if (this.books.queued + this.books.inFlight === 0) {
      return Promise.resolve({ succeeded: 0, failed: 0, dropped: 0 })
    }
    this.#letAllGo()
    this.#cohort = undefined
    return this.books.flush()
  }

  /** Refuses more, lets all go, and resolves once every entry is settled and every slot free. */
  drain(): Promise<void> {
    this.#closed = true
    this.#endShortWays()
    return new Promise((resolve) => {
      this.#drained = resolve
      this.#room.refuseAll(() => this.closedError())
      this.#letAllGo()
      queueMicrotask(() =>
        this.#inContext(() => {
          for (const run of [...this.#runs]) run.hurry()
        }),
      )
      this.#checkDrained()
    })
  }

  /** Fails all that is left, and says how much that was. */
  abandon(): number {
    this.#closed = true
    this.#endShortWays()
    const message = `${this.#setting.name} was closed before this could finish`
    const neverDone = new ClosedError(message)
    const maybeDone = new ClosedError(message, { outcomeUnknown: true })
    const runs = [...this.#runs]
    const queued = [...this.#queuedBatches()].flatMap((batch) => batch.take())
    queued.push(...this.#held.keys())
    const lots = runs
      .flatMap((run) => run.open)
      .map(({ portion, inDoubt }) => ({
        portion,
        left: portion.entries.filter((entry) => !entry.done),
        error: inDoubt ? maybeDone : neverDone,
      }))
    // What never left is given up as if it had been one last batch.
    const rest = new Portion(queued, this.#setting.clock.now(), () => this.#host.newBatchId(queued))
    lots.push({ portion: rest, left: queued, error: neverDone })
    // First the books, all of them, then whoever may look at them.
    let abandoned = 0
    for (const entry of lots.flatMap(({ left }) => left)) {
      entry.done = true
      abandoned += entry.units
      this.#settle(entry, 'failed')
    }
    this.#clear()
    for (const entry of queued) this.#face.left?.(entry)
    for (const { portion, left, error } of lots) {
      for (const entry of left) this.#face.fail(entry, error)
      if (left.length > 0) this.#face.onFailed?.(portion, left, error)
    }
    for (const run of runs) run.abandon(maybeDone)
    return abandoned
  }

  /**
   * Lets all go within this call, whichever slots are taken: for a process that is about to end. What starts here has no further attempt,
   * which would run beside others.
   */
  expel(): void {
    this.#endShortWays()
    this.#inContext(() => {
      this.#expelling = true
      try {
        for (const run of [...this.#runs]) run.hurry()
        this.#letAllGo()
        for (let batch = this.#nextReady(); batch !== undefined; batch = this.#nextReady()) this.#dispatch(batch)
      } finally {
        this.#expelling = false
      }
    })
  }

  closedError(): ClosedError {
    return new ClosedError(`${this.#setting.name} is closed`)
  }

  /** What comes next takes the long way in, which looks at everything. */
  #endShortWays(): void {
    this.#straight = 0
    this.#endGrowing()
  }

  #letAllGo(): void {
    for (let batch = this.#waiting.first; batch !== undefined; batch = this.#waiting.first) this.#becomeDue(batch)
  }

  // ── hold ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #groupOf(key: unknown): Group<E> {
    let group = this.#groups.get(key)
    if (group === undefined) {
      group = new Group(key)
      this.#groups.set(key, group)
    }
    return group
  }

  #place(entry: E, group: Group<E>): void {
    const { maxBatchSize, maxBatchBytes } = this.#policy
    let batch = group.batches.last
    if (batch === undefined || !batch.fits(entry, maxBatchSize, maxBatchBytes)) {
      if (batch !== undefined && !batch.due) this.#becomeDue(batch)
      batch = this.#open(group, entry.cohort.at)
    }
    batch.add(entry)
    if (!batch.due && (batch.size >= maxBatchSize || batch.bytes >= maxBatchBytes)) this.#becomeDue(batch)
  }

  #open(group: Group<E>, openedAt: number): Batch<E> {
    const { eager, maxWaitMs, keyed } = this.#policy
    const batch = new Batch<E>(group, openedAt, keyed, group === this.#solo ? this.#latestSize : 0)
    batch.inGroup = group.batches.push(batch)
    batch.waiting = this.#waiting.push(batch)
    if (maxWaitMs === 0 || (eager && group.running === 0)) {
      this.#fresh.push(batch)
      if (!this.#endOfTurnScheduled) {
        this.#endOfTurnScheduled = true
        this.#setting.clock.defer(this.#endTurn)
      }
    } else if (this.#cancelTimer === undefined) {
      this.#armTimer()
    }
    return batch
  }

  readonly #endTurn = (): void => this.#inContext(this.#letFreshGo)

  readonly #letFreshGo = (): void => {
    this.#endOfTurnScheduled = false
    const fresh = this.#fresh
    this.#fresh = []
    for (const batch of fresh) {
      if (batch.waiting !== undefined && (this.#policy.maxWaitMs === 0 || batch.group.running === 0)) {
        this.#becomeDue(batch, false)
      }
    }
    this.#pump()
    // What gathers behind a batch in flight waits for that one, or for its own deadline.
    if (!this.#waiting.empty && this.#cancelTimer === undefined) this.#armTimer()
  }

  /** @param pump - false where the caller pumps right after. */
  #becomeDue(batch: Batch<E>, pump = true): void {
    batch.due = true
    this.#leaveShortWay(batch)
    this.#stopWaiting(batch)
    const { group } = batch
    if (group.ready === undefined && group.batches.first === batch) group.ready = this.#ready.push(group)
    if (pump) this.#schedulePump()
  }

  #leaveShortWay(batch: Batch<E>): void {
    if (batch === this.#straightBatch) this.#straight = 0
    if (batch === this.#growingBatch) this.#endGrowing()
  }

  #stopWaiting(batch: Batch<E>): void {
    if (batch.waiting === undefined) return
    this.#waiting.remove(batch.waiting)
    batch.waiting = undefined
    if (this.#waiting.empty) {
      this.#cancelTimer?.()
      this.#cancelTimer = undefined
    }
  }

  #armTimer(): void {
    const first = this.#waiting.first
    if (first === undefined || this.#leavesNext) return
    const leftMs = first.openedAt + this.#policy.maxWaitMs - this.#setting.clock.now()
    this.#cancelTimer = this.#setting.clock.setTimer(this.#onTimer, Math.max(0, leftMs))
  }

  /** What waits is due when the slot is free, and can't leave before: there is one slot, and nobody else to take turns with. */
  get #leavesNext(): boolean {
    const { eager, concurrency } = this.#policy
    return eager && concurrency === 1 && this.#groups.size === 0 && this.#solo.running > 0
  }

  readonly #onTimer = (): void => this.#inContext(this.#letOverdueGo)

  readonly #letOverdueGo = (): void => {
    this.#cancelTimer = undefined
    const now = this.#setting.clock.now()
    for (let batch = this.#waiting.first; batch !== undefined; batch = this.#waiting.first) {
      if (batch.openedAt + this.#policy.maxWaitMs > now) break
      this.#becomeDue(batch, false)
    }
    this.#armTimer()
    this.#pump()
  }

  // ── dispatch ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** A microtask later, so that the user's function never runs inside `add`, `put`, `flush` or `close`. */
  #schedulePump(): void {
    if (this.#pumpScheduled || this.#pumping || this.#runs.size >= this.#policy.concurrency) return
    this.#pumpScheduled = true
    queueMicrotask(this.#scheduledPump)
  }

  readonly #scheduledPump = (): void => {
    this.#pumpScheduled = false
    this.#inContext(this.#pump)
  }

  readonly #pump = (): void => {
    if (this.#pumping) return
    this.#pumping = true
    try {
      while (this.#runs.size < this.#policy.concurrency) {
        const batch = this.#nextReady()
        if (batch === undefined) break
        this.#dispatch(batch)
        this.#room.admit()
      }
    } finally {
      // Also when a clock or a random of the user's throws.
      this.#pumping = false
    }
    this.#checkDrained()
  }

  /** Takes the next due batch out of its group. */
  #nextReady(): Batch<E> | undefined {
    const group = this.#ready.shift()
    if (group === undefined) return undefined
    group.ready = undefined
    const batch = group.batches.shift() as Batch<E>
    batch.inGroup = undefined
    // To the end of the line: one group's backlog never starves another.
    if (group.batches.first?.due) group.ready = this.#ready.push(group)
    return batch
  }

  #dispatch(batch: Batch<E>): void {
    const { size } = batch
    this.#leaveShortWay(batch)
    const entries = this.#takeFree(batch)
    if (entries.length === 0) return this.#forgetIfIdle(batch.group)
    const units = this.#face.unitsOf?.(entries) ?? entries.length
    if (this.#line !== undefined) for (const entry of entries) this.#leaveLine(entry)
    this.#depth -= entries.length
    this.books.queued -= units
    this.books.inFlight += units
    this.books.batches++
    this.books.batchSizes.record(this.#policy.keyed ? size : this.#face.alike ? units : entries.length)
    this.#latestSize = entries.length
    batch.group.running++
    const run = new BatchRun(this.#host, batch, entries, this.#turnClock.now())
    batch.run = run
    this.#runs.add(run)
    this.#face.onDispatched?.(run.portion, this.#policy.keyed ? size : entries.length)
    run.start()
  }

  /** The batch's entries, less those that must wait for their key. */
  #takeFree(batch: Batch<E>): E[] {
    const entries = batch.take()
    const face = this.#face
    if (face.left === undefined) return entries
    return entries.filter((entry) => {
      if (face.hold?.(entry)) {
        this.#held.set(entry, batch.group)
        entry.batch = undefined
        return false
      }
      face.left?.(entry)
      return true
    })
  }

  #leaveLine(entry: E): void {
    if (entry.place === undefined) return
    this.#line?.remove(entry.place)
    entry.place = undefined
  }

  #release(run: BatchRun<E>): void {
    const { batch } = run
    const { group } = batch
    this.#runs.delete(run)
    group.running--
    for (const entry of this.#face.freed?.(run.entries) ?? []) {
      // Its own group, which may not be that of the batch which it waited for, and may have been forgotten meanwhile.
      const { key } = this.#held.get(entry) as Group<E>
      const own = key === undefined ? this.#solo : this.#groupOf(key)
      this.#held.delete(entry)
      this.#place(entry, own)
      // It was due when it was kept back.
      const { last } = own.batches
      if (last !== undefined && !last.due) this.#becomeDue(last, false)
    }
    const open = group.batches.last
    if (this.#policy.eager && group.running === 0 && open !== undefined && !open.due) this.#becomeDue(open, false)
    this.#forgetIfIdle(group)
    this.#pump()
  }

  #forgetIfIdle(group: Group<E>): void {
    if (group !== this.#solo && group.running === 0 && group.batches.empty) this.#groups.delete(group.key)
  }

  // ── settle ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #recordSuccess(portion: Portion<E>, answer: unknown): void {
    const now = this.#setting.clock.now()
    const { entries } = portion
    const face = this.#face
    let cohort: Cohort | undefined
    let succeeded = 0
    let failed = 0
    let allSucceeded = 0
    let allFailed = 0
    // Neighbours mostly came in the same turn: the books take them together, a cohort at a time.
    for (let index = 0; index < entries.length; index++) {
      const entry = entries[index] as E
      if (entry.done) continue
      entry.done = true
      if (entry.cohort !== cohort) {
        if (cohort !== undefined) this.#credit(cohort, succeeded, failed, now)
        allSucceeded += succeeded
        allFailed += failed
        succeeded = 0
        failed = 0
        cohort = entry.cohort
      }
      let success = false
      try {
        success = face.complete(entry, index, answer)
      } catch (error) {
        face.fail(entry, error)
      }
      if (entry.units !== 1) {
        this.#creditMerged(entry, success, now)
        if (success) allSucceeded += entry.units
        else allFailed += entry.units
      } else if (success) succeeded++
      else failed++
    }
    // Nobody waited for it any more.
    if (cohort === undefined) return
    this.#credit(cohort, succeeded, failed, now)
    face.onSettled?.(portion, allSucceeded + succeeded, allFailed + failed, now - portion.startedAt)
  }

  /** Records entries of one cohort, each of which stands for one offer. */
  #credit(cohort: Cohort, succeeded: number, failed: number, now: number): void {
    const { books } = this
    books.inFlight -= succeeded + failed
    if (succeeded > 0) books.settle(cohort.epoch, 'succeeded', succeeded)
    if (failed > 0) books.settle(cohort.epoch, 'failed', failed)
    if (succeeded + failed > 0) books.latencyUs.record((now - cohort.at) * 1000, succeeded + failed)
  }

  #creditMerged(entry: E, success: boolean, now: number): void {
    this.books.inFlight -= entry.units
    this.#settle(entry, success ? 'succeeded' : 'failed')
    this.#recordLatency(entry, now)
  }

  #recordLatency(entry: E, now: number): void {
    this.books.latencyUs.record((now - entry.cohort.at) * 1000, this.#face.alike ? entry.units : 1)
  }

  #recordFailure(portion: Portion<E>, error: unknown): void {
    const now = this.#setting.clock.now()
    const failed: E[] = []
    let units = 0
    for (const entry of portion.entries) {
      if (entry.done) continue
      entry.done = true
      failed.push(entry)
      units += entry.units
      this.books.inFlight -= entry.units
      this.#settle(entry, 'failed')
      this.#recordLatency(entry, now)
      this.#face.fail(entry, error)
    }
    if (failed.length === 0) return
    this.#face.onFailed?.(portion, failed, error)
    this.#face.onSettled?.(portion, 0, units, now - portion.startedAt)
  }

  /** Records one entry's end, in each of the epochs in which parts of it were accepted. */
  #settle(entry: E, outcome: 'succeeded' | 'failed' | 'dropped' | 'aborted'): void {
    let left = entry.units
    if (entry.earlier !== undefined) {
      for (const { epoch, units } of entry.earlier) {
        this.books.settle(epoch, outcome, units)
        left -= units
      }
    }
    this.books.settle(entry.cohort.epoch, outcome, left)
  }

  // ── full ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Takes out what was accepted first of all that hasn't left, where the policy says so. */
  #evictOldest(): E | undefined {
    const oldest = this.#line?.first as E | undefined
    if (oldest === undefined) return undefined
    oldest.done = true
    if (oldest.batch === undefined) this.#unhold(oldest)
    else this.#unqueue(oldest, oldest.batch as unknown as Batch<E>)
    this.#settle(oldest, 'dropped')
    return oldest
  }

  #tellDropped(oldest: E): void {
    this.#face.fail(oldest, this.#fullError('is full and dropped the oldest'))
    this.#face.onDropped?.(oldest, 'drop-oldest')
  }

  #refuseFull(newcomer: E): SpillwayError {
    if (this.#policy.overflow === 'reject') return this.#refuse(this.#fullError('is full'))
    this.books.offered++
    this.books.droppedAtEntry++
    this.#face.onDropped?.(newcomer, 'drop-newest')
    return this.#fullError('is full and dropped the newest')
  }

  /** Takes an entry, already marked as done, out of a batch that hasn't left. */
  #unqueue(entry: E, batch: Batch<E>): void {
    this.#depth--
    this.books.queued -= entry.units
    this.#leaveLine(entry)
    this.#face.left?.(entry)
    batch.withdraw(entry)
    if (batch.live > 0) return
    this.#leaveShortWay(batch)
    const { group } = batch
    this.#stopWaiting(batch)
    if (batch.inGroup !== undefined) group.batches.remove(batch.inGroup)
    batch.inGroup = undefined
    if (group.ready !== undefined && !group.batches.first?.due) {
      this.#ready.remove(group.ready)
      group.ready = undefined
    }
    this.#forgetIfIdle(group)
  }

  #unhold(entry: E): void {
    this.#depth--
    this.books.queued -= entry.units
    this.#leaveLine(entry)
    this.#held.delete(entry)
    this.#face.left?.(entry)
  }

  #refuse(error: SpillwayError): SpillwayError {
    this.reject()
    return error
  }

  /** Made without a stack trace: when the load is too high, errors must be cheap. */
  #fullError(what: string): FullError {
    const { capacity } = this.#policy
    const limit = Error.stackTraceLimit
    try {
      Error.stackTraceLimit = 0
      return new FullError(`${this.#setting.name} ${what} (capacity ${capacity})`, capacity)
    } finally {
      Error.stackTraceLimit = limit
    }
  }

  #tooLargeError(bytes: number): TooLargeError {
    const { maxBatchBytes } = this.#policy
    return new TooLargeError(
      `${this.#setting.name}: an item of ${bytes} bytes is over maxBatchBytes (${maxBatchBytes})`,
      maxBatchBytes,
    )
  }

  // ── close ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #checkDrained(): void {
    if (this.#drained === undefined || this.#depth > 0 || this.#runs.size > 0) return
    const drained = this.#drained
    this.#drained = undefined
    this.#clear()
    drained()
  }

  *#queuedBatches(): IterableIterator<Batch<E>> {
    yield* this.#solo.batches
    for (const group of this.#groups.values()) yield* group.batches
  }

  /** Forgets everything that was held; who calls it has settled it. */
  #clear(): void {
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
    for (let batch = this.#waiting.shift(); batch !== undefined; batch = this.#waiting.shift())
      batch.waiting = undefined
    for (let group = this.#ready.shift(); group !== undefined; group = this.#ready.shift()) group.ready = undefined
    while (this.#solo.batches.shift() !== undefined);
    this.#groups.clear()
    this.#held.clear()
    while (this.#line?.shift() !== undefined);
    this.#fresh = []
    this.#runs.clear()
    this.#depth = 0
    this.books.queued = 0
    this.books.inFlight = 0
  }

  #makeHost(): RunHost<E> {
    const { clock, random, seeded, name } = this.#setting
    const { timeoutMs, timeoutGraceMs, retry, idempotent, bisect, keyed } = this.#policy
    const face = this.#face
    const tracing = this.#tracing
    const books = this.books
    const isClosed = (): boolean => this.#closed
    const isExpelling = (): boolean => this.#expelling
    return {
      policy: { name, timeoutMs, timeoutGraceMs, retry, idempotent, bisect, keyed },
      now: () => clock.now(),
      inContext: (fn) => this.#inContext(fn),
      setTimer: (callback, delayMs) => clock.setTimer(() => this.#inContext(callback), delayMs),
      random,
      get closing() {
        return isClosed()
      },
      get expelling() {
        return isExpelling()
      },
      newBatchId: (entries) => face.idOf?.(entries) ?? batchId(clock.wallNow(), seeded ? random : undefined),
      call: (entries, context, batch) => {
        this.#calling++
        try {
          if (tracing === undefined) return face.call(entries, context)
          return tracing.run(batch, entries.length, () => face.call(entries, context))
        } finally {
          this.#calling--
        }
      },
      check: (entries, answer) => face.check?.(entries, answer),
      recordTimeout: () => {
        books.timeouts++
      },
      recordOverrun: () => {
        books.overruns++
      },
      recordRetry: (portion, attempt, delayMs, error) => {
        books.retries++
        face.onRetried?.(portion, attempt, delayMs, error)
      },
      recordSuccess: (portion, answer) => this.#recordSuccess(portion, answer),
      recordFailure: (portion, error) => this.#recordFailure(portion, error),
      release: (run) => this.#release(run),
    }
  }
}
