import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { UsageTotal } from 'spillway'
import { seededRandom } from 'spillway/testing'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { bundleScript } from '../../quota/support/bundled-script.js'
import { Directories } from './support/directories.js'
import { readAgain } from './support/usage.js'

const directories = new Directories()
let script: string

beforeAll(async () => {
  script = await bundleScript(new URL('./support/usage-process.ts', import.meta.url), await directories.make())
})

afterAll(() => directories[Symbol.asyncDispose]())

/** Processes that come one after the other, with the same journal and the same ledger. */
class Service {
  readonly called = new Set<number>()
  /** Requests whose `publish` resolved. */
  readonly done = new Set<number>()
  /** How many batches came to the ledger that it had. */
  repeated = 0
  readonly journal: string
  readonly #ledger: string

  constructor(directory: string) {
    this.journal = join(directory, 'journal')
    this.#ledger = join(directory, 'ledger.jsonl')
  }

  /** Runs one process, and ends it so long after it was started, or after its journal was read. */
  async run(
    seed: string,
    mode: 'publish' | 'drain',
    end?: { signal: NodeJS.Signals; afterMs: number; ready?: boolean },
  ) {
    const first = this.called.size === 0 ? 1 : Math.max(...this.called) + 1
    const child = spawn(process.execPath, [script, this.journal, this.#ledger, seed, String(first), mode], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const kill = (): void => void setTimeout(() => child.kill(end?.signal), end?.afterMs)
    if (end !== undefined && !end.ready) kill()
    createInterface({ input: child.stdout }).on('line', (line) => {
      const [what, id] = line.split(' ')
      if (what === 'called') this.called.add(Number(id))
      else if (what === 'done') this.done.add(Number(id))
      else if (what === 'repeated') this.repeated++
      else if (what === 'ready' && end?.ready) kill()
    })
    const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
    return { code, signal }
  }

  /** The batches in the ledger. */
  batches(): { id: string; requests: number[]; totals: UsageTotal[] }[] {
    return readFileSync(this.#ledger, 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line))
  }
}

/** What the ledger has for each user and quota type, and what it should have for some requests. */
function sumsOf(totals: readonly UsageTotal[]): Map<string, number> {
  const sums = new Map<string, number>()
  for (const { userId, quotaType, value } of totals) {
    const key = `${userId} ${quotaType}`
    sums.set(key, (sums.get(key) ?? 0) + value)
  }
  return sums
}

function expectedSums(requests: Iterable<number>): Map<string, number> {
  const sums = new Map<string, number>()
  for (const request of requests) {
    const key = `${request % 20} ${request % 3 === 0 ? 'tokens' : 'calls'}`
    sums.set(key, (sums.get(key) ?? 0) + (request % 100) + 1)
  }
  return sums
}

function expectExact(service: Service): void {
  const batches = service.batches()
  const counted = batches.flatMap(({ requests }) => requests)
  const once = new Set(counted)
  expect(counted.length - once.size, 'counted twice').toBe(0)
  expect(
    [...service.done].filter((request) => !once.has(request)),
    'resolved and lost',
  ).toEqual([])
  expect(
    counted.filter((request) => !service.called.has(request)),
    'from nowhere',
  ).toEqual([])
  const sums = sumsOf(batches.flatMap(({ totals }) => totals))
  expect(Object.fromEntries(sums)).toEqual(Object.fromEntries(expectedSums(once)))
}

test('a process that is killed 25 times at any moment loses no use that publish resolved, and counts none twice', async () => {
  const service = new Service(await directories.make())
  const random = seededRandom('25 kills')

  for (let round = 0; round < 25; round++) {
    // Every third one soon after its start: while it reads what the one before it left.
    const afterMs = round % 3 === 0 ? 60 + random() * 150 : random() * 150
    await service.run(`round ${round}`, 'publish', { signal: 'SIGKILL', afterMs, ready: round % 3 !== 0 })
  }
  expect(await service.run('the last', 'drain')).toEqual({ code: 0, signal: null })

  expectExact(service)
  expect(await readAgain(service.journal)).toEqual({ batches: {}, events: [] })
  // Else nothing was killed at a moment that matters.
  expect(service.repeated).toBeGreaterThan(0)
  expect(service.done.size).toBeGreaterThan(1000)
}, 120_000)

test('a process that is asked to end leaves nothing in its journal', async () => {
  const service = new Service(await directories.make())

  for (let round = 0; round < 3; round++) {
    const end = { signal: 'SIGTERM', afterMs: 150, ready: true } as const
    expect(await service.run(`round ${round}`, 'publish', end)).toEqual({ code: null, signal: 'SIGTERM' })

    expectExact(service)
    expect(await readAgain(service.journal)).toEqual({ batches: {}, events: [] })
  }
  expect(service.done.size).toBeGreaterThan(100)
}, 60_000)
