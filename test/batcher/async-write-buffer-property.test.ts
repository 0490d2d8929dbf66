import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import {
  AsyncWriteBuffer,
  type BatchContext,
  type CloseReport,
  type FlushReport,
  isSpillwayError,
  StoreError,
} from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'
import { expect, test } from 'vitest'

type Step =
  | { readonly do: 'put'; readonly key: number; readonly times: number }
  | { readonly do: 'flush' }
  | { readonly do: 'advance'; readonly ms: number }
  | { readonly do: 'close'; readonly timeoutMs: number | undefined }

/** How an attempt at a batch may go. */
type Ending = 'succeed' | 'throw' | 'reject' | 'refuse' | 'lose' | 'commit-then-lose' | 'hang' | 'late'

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({
      do: fc.constant('put' as const),
      key: fc.integer({ min: 0, max: 7 }),
      times: fc.integer({ min: 1, max: 3 }),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({ do: fc.constant('advance' as const), ms: fc.constantFrom(0, 1, 5, 20, 60, 300) }),
  },
  { weight: 2, arbitrary: fc.constant({ do: 'flush' } as const) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('close' as const),
      timeoutMs: fc.constantFrom(undefined, 0, 10, 100, 1000),
    }),
  },
)

const scenario = fc.record({
  seed: fc.nat(),
  steps: fc.array(step, { minLength: 1, maxLength: 30 }),
  endings: fc.uniqueArray(
    fc.constantFrom<Ending>('throw', 'reject', 'refuse', 'lose', 'commit-then-lose', 'hang', 'late'),
    {
      maxLength: 4,
    },
  ),
  maxBatchSize: fc.integer({ min: 1, max: 4 }),
  capacity: fc.integer({ min: 4, max: 8 }),
  overflow: fc.constantFrom('reject' as const, 'drop-newest' as const, 'drop-oldest' as const),
  concurrency: fc.integer({ min: 1, max: 4 }),
  maxWaitMs: fc.constantFrom(0, 5, 30),
  eager: fc.boolean(),
  timeoutMs: fc.constantFrom(undefined, 15, 40),
  timeoutGraceMs: fc.constantFrom(0, 20, 1000),
  attempts: fc.integer({ min: 1, max: 4 }),
  delayMs: fc.constantFrom(0, 10),
  idempotent: fc.boolean(),
  grouped: fc.boolean(),
})

type Scenario = typeof scenario extends fc.Arbitrary<infer T> ? T : never

/** What the buffer is given: numbers that add up, and how many puts they stand for. */
interface Sum {
  readonly value: number
  readonly writes: number
}

/** Endings that leave no doubt: what failed was not applied, and nothing is applied after the slot is free. */
const certain: ReadonlySet<Ending> = new Set<Ending>(['throw', 'reject', 'refuse'])

test('the books balance after every step, nothing is lost or counted twice, and no timer is left', async () => {
  await fc.assert(fc.asyncProperty(scenario, runSums), { numRuns: 2500 })
}, 60_000)

test('a last-write-wins store never goes back to an older version of a key', async () => {
  await fc.assert(fc.asyncProperty(scenario, runVersions), { numRuns: 1500 })
}, 60_000)

async function runSums(given: Scenario): Promise<void> {
  const random = seededRandom(given.seed)
  const clock = new FakeClock()
  const sink = new Sink<Sum>(given, clock, random)
  const buffer = new AsyncWriteBuffer<number, Sum>(sink.write, {
    ...optionsOf(given, clock, random),
    merge: (old, sum) => ({ value: old.value + sum.value, writes: old.writes + sum.writes }),
  })
  const totals = { written: 0, failed: zero(), abandoned: 0, dropped: zero(), offered: zero(), refused: zero() }
  const writtenIds = new Set<string>()
  buffer.on('written', ({ batchId, writes }) => {
    totals.written += writes
    writtenIds.add(batchId)
  })
  buffer.on('failed', ({ entries, writes, error }) => {
    if (isSpillwayError(error, 'ERR_CLOSED')) totals.abandoned += writes
    let inEntries = 0
    for (const sum of entries.values()) {
      plus(totals.failed, sum)
      inEntries += sum.writes
    }
    if (inEntries !== writes) sink.problems.push(`failed said ${writes} writes for ${inEntries}`)
  })
  buffer.on('dropped', ({ value, writes }) => {
    plus(totals.dropped, value)
    if (value.writes !== writes) sink.problems.push(`dropped said ${writes} writes for ${value.writes}`)
  })
  buffer.on('rejected', ({ value }) => plus(totals.refused, value))
  const run = new Run(buffer, clock)
  let putsTrue = 0

  for (const step of given.steps) {
    if (step.do === 'put') {
      for (let i = 0; i < step.times; i++) {
        const sum = { value: 1 + Math.floor(random() * 5), writes: 1 }
        plus(totals.offered, sum)
        if (buffer.put(step.key, sum)) putsTrue++
        run.check()
      }
    } else {
      await run.take(step)
    }
    run.check()
    expect(buffer.stats().pendingKeys).toBeLessThanOrEqual(given.capacity)
    expect(buffer.stats().inFlightBatches).toBeLessThanOrEqual(given.concurrency)
  }
  const { abandoned } = await run.end()

  expect(sink.problems).toEqual([])
  const stats = buffer.stats()
  expect(stats.offered).toBe(totals.offered.writes)
  expect(stats.rejected).toBe(totals.refused.writes)
  expect(stats.dropped).toBe(totals.dropped.writes)
  expect(stats.succeeded).toBe(totals.written)
  expect(stats.failed).toBe(totals.failed.writes)
  expect(abandoned).toBe(totals.abandoned)
  const newestDropped = given.overflow === 'drop-newest' ? totals.dropped.writes : 0
  expect(putsTrue).toBe(stats.offered - stats.rejected - newestDropped)

  // The same in values: what was written, by the batches' ids, and all the rest.
  const stored = zero()
  for (const id of writtenIds) for (const sum of sink.entriesOf(id).values()) plus(stored, sum)
  expect(stored.writes).toBe(totals.written)
  const known = stored.value + totals.failed.value + totals.dropped.value + totals.refused.value
  expect(known).toBe(totals.offered.value)
  // A batch that counts as written was applied, and by an idempotent sink once.
  for (const id of writtenIds) expect(sink.appliedTimes(id)).toBe(1)
  if (given.endings.every((ending) => certain.has(ending)) && abandoned === 0 && given.timeoutMs === undefined) {
    expect(sink.appliedIds).toEqual(writtenIds)
  }
}

async function runVersions(given: Scenario): Promise<void> {
  const random = seededRandom(given.seed)
  const clock = new FakeClock()
  // What answers late may apply late: its outcome can't be known.
  const endings = given.endings.filter((ending) => ending !== 'late')
  const sink = new Sink<number>(given, clock, random, endings)
  const buffer = new AsyncWriteBuffer<number, number>(sink.write, {
    ...optionsOf(given, clock, random),
    timeoutMs: undefined,
    merge: (_, version) => version,
  })
  const store = new Map<number, number>()
  sink.onApplied = (entries) => {
    for (const [key, version] of entries) {
      const older = store.get(key) ?? 0
      if (version <= older) sink.problems.push(`key ${key} went from version ${older} to ${version}`)
      store.set(key, version)
    }
  }
  const accepted = new Map<number, number>()
  let lost = false
  for (const event of ['failed', 'dropped'] as const)
    buffer.on(event, () => {
      lost = true
    })
  const run = new Run(buffer, clock)
  let version = 0

  for (const step of given.steps) {
    if (step.do === 'put') {
      for (let i = 0; i < step.times; i++) if (buffer.put(step.key, ++version)) accepted.set(step.key, version)
    } else {
      await run.take(step)
    }
    run.check()
  }
  await run.end()

  expect(sink.problems).toEqual([])
  if (!lost) expect(store).toEqual(accepted)
}

function optionsOf(given: Scenario, clock: FakeClock, random: () => number) {
  const { maxBatchSize, capacity, overflow, concurrency, maxWaitMs, eager, timeoutMs, timeoutGraceMs } = given
  return {
    maxBatchSize,
    capacity,
    overflow,
    concurrency,
    maxWaitMs,
    eager,
    timeoutMs,
    timeoutGraceMs,
    retry: { attempts: given.attempts, delayMs: given.delayMs },
    idempotent: given.idempotent,
    groupBy: given.grouped ? (key: number) => key % 2 : undefined,
    clock,
    random,
  }
}

/** Drives one buffer, and checks what must hold after every step. */
class Run<V> {
  readonly #buffer: AsyncWriteBuffer<number, V>
  readonly #clock: FakeClock
  readonly #flushes: { readonly pending: number; report: FlushReport | undefined }[] = []
  #closed: Promise<CloseReport> | undefined
  #before: Record<string, number> = {}

  constructor(buffer: AsyncWriteBuffer<number, V>, clock: FakeClock) {
    this.#buffer = buffer
    this.#clock = clock
  }

  async take(step: Exclude<Step, { do: 'put' }>): Promise<void> {
    if (step.do === 'advance') return this.#clock.advance(step.ms)
    if (step.do === 'close') {
      this.#closed = this.#buffer.close({ timeoutMs: step.timeoutMs })
      return
    }
    const flush: { pending: number; report: FlushReport | undefined } = {
      pending: this.#buffer.stats().pending,
      report: undefined,
    }
    this.#flushes.push(flush)
    this.#buffer.flush().then((report) => {
      flush.report = report
    })
  }

  check(): void {
    const stats = this.#buffer.stats()
    const { offered, succeeded, failed, dropped, rejected, aborted, pending, inFlight, pendingKeys } = stats
    expect(succeeded + failed + dropped + rejected + aborted + pending).toBe(offered)
    expect(inFlight).toBeLessThanOrEqual(pending)
    expect(pendingKeys).toBeLessThanOrEqual(pending - inFlight)
    expect(pendingKeys > 0).toBe(pending > inFlight)
    const { batches, retries, timeouts, overruns } = stats
    const counters = { offered, succeeded, failed, dropped, rejected, aborted, batches, retries, timeouts, overruns }
    for (const [name, value] of Object.entries(counters)) expect(value).toBeGreaterThanOrEqual(this.#before[name] ?? 0)
    this.#before = counters
  }

  /** Closes, lets the rest happen, and checks that nothing is left. */
  async end(): Promise<CloseReport> {
    const closed = this.#closed ?? this.#buffer.close()
    let report: CloseReport | undefined
    closed.then((answer) => {
      report = answer
    })
    await this.#clock.advance(2_000)
    this.check()
    // What hangs is cut off here; without a timeout nothing else would.
    if (report === undefined) void this.#buffer.close({ timeoutMs: 10 })
    await this.#clock.advance(10_000)

    this.check()
    if (report === undefined) throw new Error('close never answered')
    expect(report.drained).toBe(report.abandoned === 0)
    expect(this.#buffer.stats()).toMatchObject({ pending: 0, inFlight: 0, inFlightBatches: 0, pendingKeys: 0 })
    expect(this.#clock.pending).toBe(0)
    for (const flush of this.#flushes) {
      if (flush.report === undefined) throw new Error('a flush never answered')
      const { succeeded, failed, dropped } = flush.report
      expect(succeeded + failed + dropped).toBe(flush.pending)
    }
    return report
  }
}

/** A store whose attempts go well or in one of the given ways; it remembers what it applied by batch id. */
class Sink<V> {
  onApplied: ((entries: ReadonlyMap<number, V>) => void) | undefined
  readonly problems: unknown[] = []
  readonly #clock: FakeClock
  readonly #random: () => number
  readonly #endings: readonly Ending[]
  readonly #idempotent: boolean
  readonly #maxBatchSize: number
  readonly #seen = new Map<string, ReadonlyMap<number, V>>()
  readonly #applied = new Map<string, number>()

  constructor(given: Scenario, clock: FakeClock, random: () => number, endings: readonly Ending[] = given.endings) {
    this.#clock = clock
    this.#random = random
    this.#endings = ['succeed', ...endings]
    this.#idempotent = given.idempotent
    this.#maxBatchSize = given.maxBatchSize
  }

  get appliedIds(): ReadonlySet<string> {
    return new Set(this.#applied.keys())
  }

  appliedTimes(id: string): number {
    return this.#applied.get(id) ?? 0
  }

  entriesOf(id: string): ReadonlyMap<number, V> {
    const entries = this.#seen.get(id)
    if (entries === undefined) throw new Error(`batch ${id} never came`)
    return entries
  }

  readonly write = (
    entries: ReadonlyMap<number, V>,
    { batchId, attempt, signal }: BatchContext,
  ): void | Promise<void> => {
    const frozen = this.#seen.get(batchId)
    // An assertion that fails in here would only be one more failed attempt.
    if (frozen === undefined && attempt !== 1) this.problems.push(`attempt ${attempt} came first`)
    if (frozen !== undefined && !isDeepStrictEqual(entries, frozen)) this.problems.push({ frozen, entries })
    if (entries.size > this.#maxBatchSize) this.problems.push(`${entries.size} keys in one batch`)
    this.#seen.set(batchId, new Map(entries))
    const ending = this.#endings[Math.floor(this.#random() * this.#endings.length)]
    if (ending === 'throw') throw new Error('thrown')
    if (ending === 'succeed' && this.#random() < 0.3) return this.#apply(batchId)
    return this.#later(ending, batchId, signal)
  }

  async #later(ending: Ending | undefined, batchId: string, signal: AbortSignal): Promise<void> {
    if (ending === 'hang') return new Promise(() => {})
    await new Promise<void>((resolve) => this.#clock.setTimer(resolve, Math.floor(this.#random() * 50)))
    // A good client gives up when it is told to; a late one does its work all the same.
    if (signal.aborted && ending !== 'late') throw signal.reason
    if (ending === 'reject') throw new Error('rejected')
    if (ending === 'refuse') throw new StoreError('refused', { retryable: false })
    if (ending === 'lose') throw new StoreError('connection lost before', { outcomeUnknown: true })
    if (ending === 'late') await new Promise<void>((resolve) => this.#clock.setTimer(resolve, 100))
    this.#apply(batchId)
    if (ending === 'commit-then-lose') throw new StoreError('connection lost after', { outcomeUnknown: true })
  }

  #apply(id: string): void {
    if (this.#idempotent && this.#applied.has(id)) return
    this.#applied.set(id, this.appliedTimes(id) + 1)
    this.onApplied?.(this.entriesOf(id))
  }
}

interface MutableSum {
  value: number
  writes: number
}

function zero(): MutableSum {
  return { value: 0, writes: 0 }
}

function plus(total: MutableSum, sum: Sum): void {
  total.value += sum.value
  total.writes += sum.writes
}
