import { isSpillwayError } from 'spillway'
import { FileSink } from 'spillway/file'
import { FakeClock, seededRandom } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { faultless, type Likelihoods, type SimulatedFile, SimulatedFiles } from './support/simulated-files.js'

const path = '/logs/app.log'
/** `SPILLWAY_SEED=123` runs one seed alone. */
const onlySeed = process.env['SPILLWAY_SEED']
const seeds = onlySeed === undefined ? Array.from({ length: 2500 }, (_, i) => i) : [Number(onlySeed)]

/** A chunk that was offered. */
interface Offer {
  readonly lines: readonly string[]
  outcome: 'pending' | 'written' | 'failed'
  error?: unknown
  /** Whether it came by `writeSync` and was done when that returned. */
  sync: boolean
}

describe('whatever goes wrong in whatever order, each line that was written is there once, whole and in order', () => {
  const batchSize = 250
  for (let from = 0; from < seeds.length; from += batchSize) {
    const batch = seeds.slice(from, from + batchSize)
    test(`seeds ${batch[0]} to ${batch.at(-1)}`, { timeout: 120_000 }, async () => {
      for (const seed of batch) {
        try {
          await simulate(seed)
        } catch (error) {
          throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error })
        }
      }
    })
  }
})

async function simulate(seed: number): Promise<void> {
  const random = seededRandom(seed)
  const chance = (likelihood: number): boolean => random() < likelihood
  const clock = new FakeClock()
  const files = new SimulatedFiles(random, clock, chance(0.8))
  const faults = someFaults(random)
  files.likelihoods = faults
  const sink = new FileSink({
    path,
    fs: files,
    clock,
    random,
    retryDelayMs: 5,
    maxRetryDelayMs: 40,
    syncTimeoutMs: chance(0.2) ? 0 : 0.4,
    ...(chance(0.7) ? { rotate: { maxBytes: 300, maxFiles: 3, ...(chance(0.3) ? { everyMs: 50 } : {}) } } : {}),
  })
  const offers: Offer[] = []
  const told = { failures: 0, stalled: 0, resumed: 0 }
  sink.on('failed', () => void told.failures++)
  sink.on('stalled', () => void told.stalled++)
  sink.on('resumed', () => void told.resumed++)
  for (const event of ['opened', 'rotated', 'stalled', 'resumed', 'failed'] as const) {
    sink.on(event, () => {
      // A listener may do anything.
      if (chance(0.15)) offer(sink, offers, random, 'write')
      if (chance(0.15)) offer(sink, offers, random, 'writeSync')
      if (chance(0.05)) sink.rotate().catch(() => undefined)
      if (chance(0.05)) sink.reopen().catch(() => undefined)
    })
  }
  let moves = 0

  for (let step = 0; step < 40; step++) {
    const dice = random()
    if (dice < 0.45) offer(sink, offers, random, 'write')
    else if (dice < 0.6) offer(sink, offers, random, 'writeSync')
    else if (dice < 0.66) sink.rotate().catch(() => undefined)
    else if (dice < 0.72) {
      if (chance(0.7) && files.names.has(path)) files.renameSync(path, `/logs/moved-${++moves}`)
      sink.reopen().catch(() => undefined)
    } else if (dice < 0.76) files.full = !files.full
    else await clock.advance(Math.floor(random() * 12))
    checkBooks(sink)
  }
  let settled = false
  const close = (): void => {
    const over = (): void => {
      settled = true
    }
    sink.close().then(over, over)
  }
  if (chance(0.5)) close()
  if (chance(0.5)) await clock.advance(20)
  files.full = false
  files.likelihoods = { ...faultless, EIO: faults.EIO }
  close()
  await clock.advance(5000)

  expect(settled, 'close settles').toBe(true)
  checkBooks(sink)
  expect(offers.filter(({ outcome }) => outcome === 'pending')).toEqual([])
  expect(sink.stats().pending).toBe(0)
  checkFiles(files.all, offers)
  expect(files.openDescriptors, 'descriptors').toBe(0)
  expect(clock.pending, 'timers').toBe(0)
  expect(told.failures).toBe(sink.stats().failures)
  expect(told.stalled - told.resumed).toBe(sink.stats().stalled ? 1 : 0)
  expect([...files.overwritten].filter((name) => name !== `${path}.3` && name !== `${path}.10`)).toEqual([])
  const rotated = [...files.names.keys()].filter((name) => /\.\d+$/.test(name)).sort()
  expect(rotated.length).toBeLessThanOrEqual(sink.stats().rotations + 1)
}

function someFaults(random: () => number): Likelihoods {
  const some = (likelihood: number): number => (random() < 0.4 ? likelihood : 0)
  return {
    short: some(0.5),
    EAGAIN: some(0.3),
    EINTR: some(0.2),
    EIO: some(0.08),
    EMFILE: some(0.2),
    EACCES: some(0.2),
    closeEIO: some(0.3),
  }
}

let lineNumber = 0

/** Offers some lines, of characters that take one to four bytes. */
function offer(sink: FileSink, offers: Offer[], random: () => number, how: 'write' | 'writeSync'): void {
  const lines = Array.from({ length: Math.floor(random() * 4) }, () => {
    const text = Array.from({ length: Math.floor(random() * 12) }, () => '€xß🙂'[Math.floor(random() * 3)] ?? 'x').join(
      '',
    )
    return `${++lineNumber}:${text}🙂`
  })
  const entry: Offer = { lines, outcome: 'pending', sync: false }
  const settle = (promise: Promise<void>): void => {
    promise.then(
      () => {
        entry.outcome = 'written'
      },
      (error) => {
        entry.outcome = 'failed'
        entry.error = error
      },
    )
  }
  const chunk = lines.map((line) => `${line}\n`).join('')
  offers.push(entry)
  if (how === 'write') {
    settle(sink.write(chunk))
    return
  }
  try {
    const rest = sink.writeSync(chunk)
    if (rest === undefined) {
      entry.outcome = 'written'
      entry.sync = true
    } else settle(rest)
  } catch (error) {
    entry.outcome = 'failed'
    entry.error = error
  }
}

function checkBooks(sink: FileSink): void {
  const { offered, succeeded, failed, rejected, pending } = sink.stats()
  expect(offered).toBe(succeeded + failed + rejected + pending)
}

function checkFiles(files: readonly SimulatedFile[], offers: readonly Offer[]): void {
  const raw = (line: string): string => Buffer.from(line).toString('latin1')
  const known = new Map(offers.flatMap((offer) => offer.lines.map((line) => [raw(line), offer] as const)))
  const seen: string[] = []
  for (const { bytes } of files) {
    const parts = bytes.toString('latin1').split('\n')
    const last = parts.pop() as string
    for (const part of parts) {
      if (known.has(part)) seen.push(part)
      else checkFragment(part, known, false)
    }
    if (last !== '') checkFragment(last, known, true)
  }
  const expected = offers.flatMap(({ lines, outcome }) => (outcome === 'written' ? lines.map(raw) : []))
  const seenOfWritten = seen.filter((line) => known.get(line)?.outcome === 'written')
  expect(seenOfWritten).toEqual(expected)
  // Lines of a chunk that failed may be there, in their place, and once.
  const numbers = seen.map((line) => Number.parseInt(line, 10))
  expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b))
  for (const { outcome, error } of offers) {
    if (outcome !== 'failed') continue
    expect(isSpillwayError(error, 'ERR_STORE') || isSpillwayError(error, 'ERR_CLOSED'), String(error)).toBe(true)
  }
}

/** A part of a line is there only where its chunk failed, or where the file was left in the middle of it. */
function checkFragment(part: string, known: ReadonlyMap<string, Offer>, atEnd: boolean): void {
  const lines = part === '' ? [] : [...known].filter(([line]) => line.startsWith(part))
  expect(lines.length, `${JSON.stringify(part)} is a part of a line`).toBeGreaterThan(0)
  if (atEnd) return
  const ofFailed = lines.some(([, { outcome }]) => outcome === 'failed')
  expect(ofFailed, `${JSON.stringify(part)} is a part of a line of a chunk that failed`).toBe(true)
}
