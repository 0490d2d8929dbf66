import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { seededRandom } from 'spillway/testing'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { bundleScript } from './support/bundled-script.js'

/** What may wait, and what may be in flight beside it: `capacity`, and `concurrency * maxBatchSize`. */
const mostPending = 200 + 2 * 25

let directory: string
let script: string

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'quota-consumer-'))
  script = await bundleScript(new URL('./support/memory-process.ts', import.meta.url), directory)
})

afterAll(() => rmSync(directory, { recursive: true, force: true }))

interface Life {
  readonly code: number | null
  readonly signal: string | null
  /** Requests whose `publish` resolved, or whose `offer` was true. */
  readonly done: ReadonlySet<number>
  /** The requests in the ledger, as often as they are there. */
  readonly counted: readonly number[]
}

/** Runs a process, and sends it a signal so long after it was ready. */
async function live(
  seed: string,
  mode: 'publish' | 'end' | 'idle',
  end?: { signal: NodeJS.Signals; afterMs: number },
): Promise<Life> {
  const ledger = join(directory, `${seed}-${mode}.txt`)
  const child = spawn(process.execPath, [script, ledger, seed, mode], { stdio: ['ignore', 'pipe', 'inherit'] })
  const tooLong = setTimeout(() => child.kill('SIGABRT'), 60_000)
  const done = new Set<number>()
  createInterface({ input: child.stdout }).on('line', (line) => {
    const [what, id] = line.split(' ')
    if (what === 'done') done.add(Number(id))
    // Real time: another process's clock can't be faked.
    else if (what === 'ready' && end !== undefined) setTimeout(() => child.kill(end.signal), end.afterMs)
  })
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
  clearTimeout(tooLong)
  const text = existsSync(ledger) ? readFileSync(ledger, 'utf8') : ''
  return { code, signal, done, counted: text.split(/\s/).filter(Boolean).map(Number) }
}

function lostOf({ done, counted }: Life): number[] {
  const known = new Set(counted)
  return [...done].filter((request) => !known.has(request))
}

test('kill -9 loses at most what was pending, and counts nothing twice', { timeout: 120_000 }, async () => {
  const random = seededRandom('kill')
  let lost = 0
  let published = 0
  for (let n = 0; n < 12; n++) {
    const life = await live(`kill-${n}`, 'publish', { signal: 'SIGKILL', afterMs: random() * 150 })

    expect(life.signal).toBe('SIGKILL')
    expect(new Set(life.counted).size).toBe(life.counted.length)
    expect(lostOf(life).length).toBeLessThanOrEqual(mostPending)
    lost += lostOf(life).length
    published += life.done.size
  }

  // Something was, so that the bound is about something; and not all.
  expect(lost).toBeGreaterThan(0)
  expect(published).toBeGreaterThan(lost)
})

test('SIGTERM with closeOnExit loses nothing', { timeout: 120_000 }, async () => {
  const random = seededRandom('term')
  for (let n = 0; n < 5; n++) {
    const life = await live(`term-${n}`, 'publish', { signal: 'SIGTERM', afterMs: random() * 150 })

    expect(life.signal).toBe('SIGTERM')
    expect(life.done.size).toBeGreaterThan(0)
    expect(lostOf(life)).toEqual([])
    expect(new Set(life.counted).size).toBe(life.counted.length)
  }
})

test('a process that ends by itself writes first what it has, though nobody closes the consumer', async () => {
  const life = await live('end', 'end')

  expect(life).toMatchObject({ code: 0, signal: null })
  expect(life.done.size).toBe(25)
  expect([...life.counted].sort((a, b) => a - b)).toEqual([...life.done])
})

test('a process is not kept alive by a thousand consumers that have nothing', async () => {
  const life = await live('idle', 'idle')

  expect(life).toMatchObject({ code: 0, signal: null, counted: [] })
})
