import fc from 'fast-check'
import {
  type BatchContext,
  type HoldClaim,
  isSpillwayError,
  MemoryQuotaStore,
  type QuotaClaim,
  QuotaConsumer,
  type QuotaKey,
  QuotaService,
  type QuotaStore,
  type Reservation,
  StoreError,
  type UsageBatch,
} from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'
import { expect, test } from 'vitest'
import { expectServiceBooks } from './service/support/scene.js'

/** How a call of the store may go. */
type Ending = 'answer' | 'refuse' | 'lose' | 'commit-then-lose' | 'late' | 'commit-late' | 'hang'

const faults: readonly Ending[] = ['refuse', 'lose', 'commit-then-lose', 'late', 'commit-late', 'hang']

const value = fc.integer({ min: 0, max: 5 })
const user = fc.constantFrom('a', 'b')

const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('buffer' as const), user, value }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('consume' as const), user, value }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('again' as const), index: fc.nat(20) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('reserve' as const), user, value }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('settle' as const), index: fc.nat(20), actual: value }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('release' as const), index: fc.nat(20) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('check' as const), user, value }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('advance' as const), ms: fc.constantFrom(0, 1, 7, 40, 200) }) },
)

const scenario = fc.record({
  seed: fc.nat(),
  steps: fc.array(step, { minLength: 1, maxLength: 40 }),
  endings: fc.uniqueArray(fc.constantFrom(...faults), { maxLength: 4 }),
  limit: fc.integer({ min: 0, max: 25 }),
  timeoutMs: fc.constantFrom(15, 60),
  attempts: fc.integer({ min: 1, max: 4 }),
  usageTtlMs: fc.constantFrom(0, 50),
  capacity: fc.integer({ min: 1, max: 4 }),
  closeMs: fc.constantFrom(undefined, 30),
})

type Scenario = typeof scenario extends fc.Arbitrary<infer T> ? T : never

/** A store that fails in every way a network can fail it, and looks after its own limits at every moment. */
class FaultyStore implements QuotaStore {
  readonly idempotent = true
  readonly dedupe = 'batch'
  readonly inner: MemoryQuotaStore
  faulty = true
  /** What `consume`, `reserve` and `settle` have done beyond a limit. */
  readonly overspent: string[] = []
  readonly #clock: FakeClock
  readonly #random: () => number
  readonly #endings: readonly Ending[]
  readonly #limit: number

  constructor(clock: FakeClock, { seed, endings, limit }: Scenario) {
    this.#clock = clock
    this.#random = seededRandom(seed)
    this.#endings = endings
    this.#limit = limit
    this.inner = new MemoryQuotaStore({ clock })
  }

  write(batch: UsageBatch, context: BatchContext) {
    // Whatever the signal says by then: a server that has a statement carries it out.
    const deaf = { ...context, signal: new AbortController().signal }
    return this.#run(() => this.inner.write(batch, deaf))
  }

  readUsage(keys: readonly QuotaKey[]) {
    return this.#run(() => this.inner.readUsage(keys))
  }

  consume(claim: QuotaClaim) {
    return this.#run(() => this.#guarded(claim, () => this.inner.consume(claim)))
  }

  reserve(claim: HoldClaim) {
    return this.#run(() => this.#guarded(claim, () => this.inner.reserve(claim)))
  }

  settle(id: string, actual: number) {
    return this.#run(() => this.inner.settle(id, actual))
  }

  release(id: string) {
    return this.#run(() => this.inner.release(id))
  }

  async #guarded<T extends { status: string; used: number; held: number }>(
    { value, limit }: QuotaClaim,
    work: () => Promise<T>,
  ): Promise<T> {
    const outcome = await work()
    const { status, used, held } = outcome
    if ((status === 'applied' || status === 'held') && value > 0 && used + held > Math.min(limit, this.#limit)) {
      this.overspent.push(`${status} ${value}: ${used} used, ${held} held, limit ${limit}`)
    }
    return outcome
  }

  async #run<T>(work: () => Promise<T>): Promise<T> {
    const ending = this.#next()
    if (ending === 'refuse') throw new StoreError('refused')
    if (ending === 'lose') throw new StoreError('lost', { outcomeUnknown: true })
    if (ending === 'hang') return new Promise<never>(() => undefined)
    if (ending === 'late') await this.#wait()
    const answer = await work()
    if (ending === 'commit-late') await this.#wait()
    if (ending === 'commit-then-lose') throw new StoreError('lost', { outcomeUnknown: true })
    return answer
  }

  #next(): Ending {
    if (!this.faulty || this.#endings.length === 0 || this.#random() < 0.5) return 'answer'
    return this.#endings[Math.floor(this.#random() * this.#endings.length)] as Ending
  }

  #wait(): Promise<void> {
    const ms = Math.floor(this.#random() * 150)
    return new Promise((resolve) => void this.#clock.setTimer(resolve, ms))
  }
}

/** What is counted once or not at all, however many calls try to. */
interface Effect {
  readonly user: string
  readonly value: number
  /** Whether a call has said that it is counted. */
  counted: boolean
  /** How many calls may have counted it, or may yet. */
  chances: number
}

interface Held {
  readonly user: string
  readonly reservation: Promise<Reservation>
  /** Of these one is counted at the most. */
  readonly settles: Effect[]
}

/** The error of a call that surely had no effect. */
function isWithoutEffect(error: unknown): boolean {
  return isSpillwayError(error) && error.outcomeUnknown === false
}

/** The least and the most that effects may have come to of which one happens at the most. */
function rangeOf(effects: readonly Effect[]): readonly [least: number, most: number] {
  const values = effects.filter(({ chances }) => chances > 0).map((effect) => effect.value)
  return [effects.some(({ counted }) => counted) ? Math.min(...values) : 0, Math.max(0, ...values)]
}

async function run(given: Scenario): Promise<void> {
  const { seed, limit, timeoutMs, attempts, usageTtlMs, capacity, closeMs } = given
  const clock = new FakeClock()
  const store = new FaultyStore(clock, given)
  const random = seededRandom(`${seed}`)
  const consumer = new QuotaConsumer(store, {
    ...{ clock, random, capacity, maxBatchSize: Math.min(2, capacity), maxWaitMs: 30, concurrency: 2 },
    // Whatever was accepted is written in the end.
    ...{ timeoutMs, retry: { attempts: 1000, delayMs: 5, maxDelayMs: 20 } },
  })
  const quotas = new QuotaService({
    ...{ store, consumer, limitFor: () => limit, clock, random, timeoutMs, usageTtlMs },
    retry: { attempts, delayMs: 10 },
  })
  const effects: Effect[] = []
  const uses: { readonly requestId: string; readonly effect: Effect }[] = []
  const holds: Held[] = []
  const calls: Promise<unknown>[] = []
  const problems: string[] = []
  /** What was accepted here by now, of what nobody checks: the least that a check must see. */
  const accepted = new Map<string, number>()
  let ids = 0

  const effectOf = (userId: string, amount: number): Effect => ({
    ...{ user: userId, value: amount, counted: false, chances: 0 },
  })
  /** Learns from a call what it has come to. */
  const follow = (call: Promise<unknown>, effect: Effect): void => {
    effect.chances++
    calls.push(
      call.then(
        () => {
          effect.counted = true
        },
        (error: unknown) => {
          if (isWithoutEffect(error)) effect.chances--
        },
      ),
    )
  }
  const consume = ({ requestId, effect }: (typeof uses)[number]): void =>
    follow(quotas.consumeQuotaSync(effect.user, 'q', effect.value, { requestId }), effect)
  const ignoring = (call: Promise<unknown>): void => {
    calls.push(call.catch(() => undefined))
  }
  const settle = async ({ user: userId, reservation, settles }: Held, actual: number): Promise<void> => {
    const held = await reservation
    const effect = effectOf(userId, actual)
    settles.push(effect)
    follow(held.settle(actual), effect)
  }
  const check = async (userId: string, asked: number): Promise<void> => {
    const least = accepted.get(userId) ?? 0
    const { used, pending } = await quotas.checkQuota(userId, 'q', asked)
    if (used + pending < least) problems.push(`${userId}: ${used} + ${pending} seen of ${least} accepted`)
  }

  for (const step of given.steps) {
    if (step.do === 'advance') await clock.advance(step.ms)
    else if (step.do === 'buffer') {
      const { user: userId, value: used } = step
      const effect = effectOf(userId, used)
      effects.push(effect)
      const call = quotas.consumeQuota(userId, 'q', used)
      follow(call, effect)
      ignoring(call.then(() => accepted.set(userId, (accepted.get(userId) ?? 0) + used)))
    } else if (step.do === 'consume') {
      const use = { requestId: `u${ids++}`, effect: effectOf(step.user, step.value) }
      effects.push(use.effect)
      uses.push(use)
      consume(use)
    } else if (step.do === 'again') {
      const use = uses[step.index % Math.max(1, uses.length)]
      if (use !== undefined) consume(use)
    } else if (step.do === 'reserve') {
      const reservation = quotas.reserve(step.user, 'q', step.value, { id: `h${ids++}`, ttlMs: 300 })
      holds.push({ user: step.user, reservation, settles: [] })
      ignoring(reservation)
    } else if (step.do === 'settle' || step.do === 'release') {
      const hold = holds[step.index % Math.max(1, holds.length)]
      if (hold === undefined) continue
      ignoring(
        step.do === 'settle'
          ? settle(hold, step.actual)
          : hold.reservation.then((reservation) => reservation.release()),
      )
    } else ignoring(check(step.user, step.value))
    expectServiceBooks(quotas, {})
  }

  store.faulty = false
  const closing = quotas.close({ timeoutMs: closeMs })
  await clock.advance(5000)
  const report = await closing
  // Some of them are made only when others have been answered.
  for (let seen = 0; seen < calls.length; ) {
    seen = calls.length
    await Promise.all(calls)
  }
  const drained = consumer.close()
  await clock.advance(20_000)
  await drained

  expect(problems).toEqual([])
  expect(store.overspent).toEqual([])
  expectServiceBooks(quotas, { pending: 0 })
  if (given.endings.length === 0) {
    expect(effects.every(({ counted, chances }) => counted || chances === 0)).toBe(true)
  }
  expect(report.abandoned).toBeLessThanOrEqual(quotas.stats().failed)
  for (const userId of ['a', 'b']) {
    const [usage] = await store.inner.readUsage([{ userId, quotaType: 'q', period: '2026-01' }])
    const ranges = [
      ...effects.filter((effect) => effect.user === userId).map((effect) => rangeOf([effect])),
      ...holds.filter((hold) => hold.user === userId).map(({ settles }) => rangeOf(settles)),
    ]
    const sum = (at: 0 | 1): number => ranges.reduce((total, range) => total + range[at], 0)
    expect(usage?.used, JSON.stringify(ranges)).toBeGreaterThanOrEqual(sum(0))
    expect(usage?.used, JSON.stringify(ranges)).toBeLessThanOrEqual(sum(1))
    expect(usage?.held).toBe(0)
  }
  expect(clock.pending).toBe(0)
}

test('with a store that fails in every way: nothing is overspent, lost or counted twice, and the books balance', async () => {
  await fc.assert(fc.asyncProperty(scenario, run), { numRuns: 300 })
})

test('without faults everything is counted exactly', async () => {
  await fc.assert(
    fc.asyncProperty(scenario, (given) => run({ ...given, endings: [], closeMs: undefined, timeoutMs: 60 })),
    { numRuns: 100 },
  )
})
