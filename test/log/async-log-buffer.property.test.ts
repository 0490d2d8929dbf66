import fc from 'fast-check'
import { AsyncLogBuffer, type CloseReport, type FlushReport, type LogSink } from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'
import { expect, test } from 'vitest'
import { expectBalanced, type Watched, watch } from '../batcher/support/outcomes.js'
import { unhandledDuring } from '../batcher/support/process-events.js'
import { linesIn } from './support/sinks.js'

type Step =
  | { readonly do: 'write'; readonly lines: number; readonly length: number }
  | { readonly do: 'advance'; readonly ms: number }
  | { readonly do: 'flush' | 'flushSync' }
  | { readonly do: 'close'; readonly timeoutMs: number | undefined }

/** How the sink takes a chunk. */
type Ending = 'takes' | 'takes at once' | 'takes late' | 'throws' | 'rejects' | 'rejects late' | 'hangs'

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      do: fc.constant('write' as const),
      lines: fc.integer({ min: 1, max: 12 }),
      length: fc.constantFrom(0, 1, 5, 40),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant('advance' as const), ms: fc.constantFrom(0, 0, 1, 10, 60, 300) }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('flush' as const, 'flushSync' as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('close' as const), timeoutMs: fc.constantFrom(undefined, 0, 20, 200) }),
  },
)

const scenario = fc.record({
  seed: fc.nat(),
  steps: fc.array(step, { minLength: 1, maxLength: 40 }),
  endings: fc.array(
    fc.constantFrom<Ending>('takes', 'takes at once', 'takes late', 'throws', 'rejects', 'rejects late', 'hangs'),
    { minLength: 1, maxLength: 6 },
  ),
  syncEndings: fc.array(fc.constantFrom('takes' as const, 'throws' as const, 'goes on' as const), {
    minLength: 1,
    maxLength: 4,
  }),
  capacity: fc.integer({ min: 1, max: 10 }),
  overflow: fc.constantFrom('reject' as const, 'drop-newest' as const, 'drop-oldest' as const),
  levels: fc.boolean(),
  maxBatchBytes: fc.constantFrom(1, 10, 64, 65_536),
  maxWaitMs: fc.constantFrom(0, 5, 100),
  eager: fc.boolean(),
  attempts: fc.integer({ min: 1, max: 3 }),
  echoes: fc.boolean(),
})

type Scenario = typeof scenario extends fc.Arbitrary<infer T> ? T : never

/** What a line says: its number, and its level in front. */
const numberOf = (line: string): number => Number(/#(\d+)/.exec(line)?.[1])
const levelOf = (line: string): number => Number(line[0])

/** A sink that keeps the order of what it was given, as the port says, and ends each chunk in one of the given ways. */
class Sink implements LogSink {
  /** What got through. */
  readonly log: string[] = []
  /** A write that may be tried again was overtaken by a synchronous one. */
  overtaken = false
  open = 0
  widest = 0
  readonly #given: Scenario
  readonly #clock: FakeClock
  readonly #random: () => number
  readonly #waiting = new Set<() => void>()
  #writes = 0
  #syncs = 0
  #taking = false

  constructor(given: Scenario, clock: FakeClock, random: () => number) {
    this.#given = given
    this.#clock = clock
    this.#random = random
  }

  readonly write = (chunk: string): void | Promise<void> => {
    const { endings } = this.#given
    const ending = endings[this.#writes++ % endings.length] as Ending
    if (ending === 'throws') throw new Error('thrown')
    if (ending === 'takes at once') return void this.log.push(chunk)
    this.widest = Math.max(this.widest, ++this.open)
    const lateMs = ending.endsWith('late') ? 1 + Math.floor(this.#random() * 100) : 0
    return new Promise<void>((resolve, reject) => {
      const settle = (takes: boolean): void => {
        if (!this.#waiting.delete(now)) return
        this.open--
        if (takes) this.log.push(chunk)
        if (takes) resolve()
        else reject(new Error('rejected'))
        this.overtaken ||= this.#taking && !takes
      }
      const now = (): void => settle(!ending.startsWith('rejects'))
      this.#waiting.add(now)
      if (ending !== 'hangs') this.#clock.setTimer(now, lateMs)
    })
  }

  readonly writeSync = (chunk: string): void | Promise<void> => {
    const { syncEndings } = this.#given
    const ending = syncEndings[this.#syncs++ % syncEndings.length]
    this.#taking = true
    for (const settle of [...this.#waiting]) settle()
    this.#taking = false
    if (ending === 'throws') throw new Error('thrown')
    // It keeps the order itself: what it goes on with, it has.
    this.log.push(chunk)
    if (ending === 'goes on') return new Promise((resolve) => void this.#clock.setTimer(resolve, 20))
  }

  /** What hangs will never come to anything. */
  forget(): void {
    this.#waiting.clear()
  }
}

test('the books balance at every moment, and each line is in the log once, in order and whole, or counted', async () => {
  const reasons = await unhandledDuring(() => fc.assert(fc.asyncProperty(scenario, run), { numRuns: 2000 }))

  expect(reasons).toEqual([])
}, 120_000)

async function run(given: Scenario): Promise<void> {
  const random = seededRandom(given.seed)
  const clock = new FakeClock()
  const sink = new Sink(given, clock, random)
  const { capacity, overflow, maxBatchBytes, maxWaitMs, eager, attempts } = given
  const log = new AsyncLogBuffer(sink, {
    capacity,
    overflow,
    maxBatchBytes,
    maxWaitMs,
    eager,
    retry: { attempts, delayMs: 20 },
    levelOf: given.levels && overflow !== 'reject' ? levelOf : undefined,
    onDropLine: (count) => `lost ${count}`,
    clock,
    random,
  })
  const heard = { written: 0, failed: [] as string[], dropped: [] as string[], rejected: [] as string[] }
  let count = 0
  const offered = new Map<number, string>()
  const accepted = new Set<number>()
  const write = (length: number): void => {
    const number = count++
    // Some bring their newline.
    const line = `${Math.floor(random() * 4)}#${number}${'x'.repeat(length)}${random() < 0.5 ? '\n' : ''}`
    offered.set(number, line)
    if (log.write(line)) accepted.add(number)
  }
  log.on('written', ({ lines }) => {
    heard.written += lines
    if (given.echoes) write(2)
  })
  log.on('failed', ({ lines }) => {
    heard.failed.push(...lines)
    if (given.echoes) write(3)
  })
  log.on('dropped', ({ line }) => {
    heard.dropped.push(line)
    if (given.echoes) write(4)
  })
  log.on('rejected', ({ line }) => {
    heard.rejected.push(line as string)
    if (given.echoes) write(5)
  })
  const flushes: { readonly pending: number; readonly report: Watched<FlushReport> }[] = []
  const closes: Watched<CloseReport>[] = []
  const check = (): void => {
    const stats = log.stats()
    expectBalanced(stats)
    expect(stats.offered).toBe(count)
    expect(stats.pending - stats.inFlight).toBeLessThanOrEqual(capacity)
    expect(sink.widest).toBeLessThanOrEqual(1)
    expect(stats.untoldDrops).toBeGreaterThanOrEqual(0)
    expect(toldIn(sink.log)).toBeGreaterThanOrEqual(stats.dropped + stats.failed - stats.untoldDrops)
  }

  for (const action of given.steps) {
    if (action.do === 'write') for (let i = 0; i < action.lines; i++) write(action.length)
    else if (action.do === 'advance') await clock.advance(action.ms)
    else if (action.do === 'close') closes.push(watch(log.close({ timeoutMs: action.timeoutMs })))
    else if (action.do === 'flush') flushes.push({ pending: log.stats().pending, report: watch(log.flush()) })
    else {
      try {
        log.flushSync()
      } catch {
        // What it says is tested elsewhere.
      }
    }
    check()
  }
  closes.push(watch(log.close()))
  await clock.advance(2000)
  check()
  closes.push(watch(log.close({ timeoutMs: 10 })))
  await clock.advance(10)
  sink.forget()
  await clock.advance(1000)

  check()
  const stats = log.stats()
  expect(stats).toMatchObject({ pending: 0, inFlight: 0, inFlightBatches: 0 })
  expect(clock.pending).toBe(0)
  for (const closed of closes) expect(closed).toMatchObject({ status: 'fulfilled', times: 1, value: closes[0]?.value })
  for (const { pending, report } of flushes) {
    expect(report.times).toBe(1)
    const { succeeded, failed, dropped } = report.value as FlushReport
    expect(succeeded + failed + dropped).toBe(pending)
  }
  checkLog(given, sink, offered, stats, closes[0]?.value?.abandoned ?? 0)
  // Lines that listeners write have no events; all others have one each.
  if (!given.echoes) {
    expect(heard.written).toBe(stats.succeeded)
    expect(heard.failed).toHaveLength(stats.failed)
    expect(heard.dropped).toHaveLength(stats.dropped)
    expect(heard.rejected).toHaveLength(stats.rejected)
    expect(accepted.size).toBe(stats.succeeded + stats.failed + heard.dropped.filter(in_(accepted)).length)
    const fates = [...heard.failed, ...heard.dropped, ...heard.rejected].map(numberOf)
    expect(new Set(fates).size).toBe(fates.length)
  }
}

const in_ =
  (numbers: ReadonlySet<number>) =>
  (line: string): boolean =>
    numbers.has(numberOf(line))

function toldIn(chunks: readonly string[]): number {
  return [...chunks.join('').matchAll(/^lost (\d+)$/gm)].reduce((sum, [, lost]) => sum + Number(lost), 0)
}

/** Each line that succeeded is in the log once, whole and in its place; what is lost is told of once. */
function checkLog(
  given: Scenario,
  sink: Sink,
  offered: ReadonlyMap<number, string>,
  stats: { succeeded: number; dropped: number; failed: number; untoldDrops: number },
  abandoned: number,
): void {
  const lines = linesIn(sink.log.join('')).filter((line) => !line.startsWith('lost '))
  const numbers = lines.map(numberOf)
  expect(new Set(numbers).size).toBe(numbers.length)
  for (const line of lines) expect(offered.get(numberOf(line))?.trimEnd()).toBe(line)
  // What was given up while the sink went on with it may be in the log, and counts as failed.
  if (abandoned === 0) {
    expect(lines).toHaveLength(stats.succeeded)
    expect(toldIn(sink.log)).toBe(stats.dropped + stats.failed - stats.untoldDrops)
  } else {
    expect(lines.length).toBeGreaterThanOrEqual(stats.succeeded)
  }
  // What was in flight, fails, and is tried again comes behind what was written synchronously meanwhile.
  if (!sink.overtaken || given.attempts === 1) expect(numbers).toEqual(numbers.toSorted((a, b) => a - b))
}
