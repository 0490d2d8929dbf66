import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { linesIn } from './support/sinks.js'

const script = fileURLToPath(new URL('./scripts/logging-process.ts', import.meta.url))
const root = fileURLToPath(new URL('../..', import.meta.url))
const running = new Set<ChildProcess>()
let folder: string
let runs = 0

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'log-exits-'))
})

afterAll(() => {
  // Only what failed to end by itself is still here.
  for (const child of running) child.kill('SIGKILL')
  rmSync(folder, { recursive: true, force: true })
})

interface Ending {
  readonly code: number | null
  readonly signal: string | null
  readonly stderr: string
  /** How many lines it had logged. */
  readonly logged: number
  /** The numbers of the lines on disk. */
  readonly numbers: readonly number[]
}

/** Runs the service until it ends, and sends it a signal once it has logged. */
async function service(end: string, signal?: NodeJS.Signals): Promise<Ending> {
  const path = join(folder, `${++runs}.log`)
  const child = spawn(process.execPath, ['--import', 'tsx', script, end, path], {
    cwd: root,
    env: { ...process.env, TSX_TSCONFIG_PATH: 'tsconfig.check.json' },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 45_000,
    killSignal: 'SIGKILL',
  })
  running.add(child)
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk
    if (signal !== undefined) child.kill(signal)
  })
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk
  })
  const [code, endedBy] = await new Promise<[number | null, string | null]>((resolve) =>
    child.on('close', (...ended) => resolve(ended)),
  )
  running.delete(child)
  const numbers = linesIn(readFileSync(path, 'utf8')).map((line) => (JSON.parse(line) as { n: number }).n)
  const logged = Number(/lines (\d+)\n$/.exec(stdout)?.[1])
  return { code, signal: endedBy, stderr, logged, numbers }
}

/** The tail is on disk: every line once, whole and in order. */
function expectWhole({ logged, numbers }: Ending): void {
  expect(logged).toBeGreaterThan(20_000)
  expect(numbers).toHaveLength(logged)
  expect(numbers.every((number, index) => number === index)).toBe(true)
}

describe.each([
  ['idle', ''],
  ['saturated', 'busy-'],
])('with closeOnExit, while the thread pool is %s', (_, pool) => {
  test('process.exit keeps its code, and the log is whole', async () => {
    const ending = await service(`${pool}exit`)

    expect(ending).toMatchObject({ code: 3, signal: null, stderr: '' })
    expectWhole(ending)
  }, 60_000)

  test.each(['SIGTERM', 'SIGINT'] as const)(
    '%s ends the process, and the log is whole',
    async (signal) => {
      const ending = await service(`${pool}signal`, signal)

      expect(ending).toMatchObject({ code: null, signal, stderr: '' })
      expectWhole(ending)
    },
    60_000,
  )

  test('an uncaught exception ends it with 1, and the log is whole', async () => {
    const ending = await service(`${pool}uncaught`)

    expect(ending).toMatchObject({ code: 1, signal: null })
    expect(ending.stderr).toContain('the dam broke')
    expectWhole(ending)
  }, 60_000)

  test('an unhandled rejection ends it with 1, and the log is whole', async () => {
    const ending = await service(`${pool}rejection`)

    expect(ending).toMatchObject({ code: 1, signal: null })
    expect(ending.stderr).toContain('nobody caught this')
    expectWhole(ending)
  }, 60_000)

  test('a natural end keeps the exit code, and the log is whole', async () => {
    const ending = await service(`${pool}natural`)

    expect(ending).toMatchObject({ code: 5, signal: null, stderr: '' })
    expectWhole(ending)
  }, 60_000)

  test('a fatal line is on disk with all before it, though the process is killed right after', async () => {
    const ending = await service(`${pool}fatal-then-kill`)

    expect(ending).toMatchObject({ code: null, signal: 'SIGKILL', stderr: '' })
    expectWhole(ending)
  }, 60_000)
})
