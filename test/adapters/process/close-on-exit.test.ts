import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isSpillwayError } from 'spillway'
import { type Closable, closeOnExit } from 'spillway/process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const script = fileURLToPath(new URL('./scripts/service.ts', import.meta.url))
const root = fileURLToPath(new URL('../../..', import.meta.url))

let folder: string
let runs = 0
const running = new Set<ChildProcess>()

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'close-on-exit-'))
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
  /** What reached the store, and what else the process wrote down. */
  readonly lines: readonly string[]
  /** How long it took from the first signal, or from being ready. */
  readonly tookMs: number
}

/** Starts the service, sends signals once it is ready, each so many milliseconds after the one before, and waits for its end. */
async function service(what: string, ...signals: { signal: NodeJS.Signals; afterMs?: number }[]): Promise<Ending> {
  const file = join(folder, `${++runs}.txt`)
  const child = spawn(process.execPath, ['--import', 'tsx', script, what, file], {
    cwd: root,
    env: { ...process.env, TSX_TSCONFIG_PATH: 'tsconfig.check.json' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  running.add(child)
  const tooLong = setTimeout(() => child.kill('SIGKILL'), 15_000)
  const ended = once(child, 'close') as Promise<[number | null, string | null]>
  let stderr = ''
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk
  })
  await Promise.race([once(child.stdout, 'data'), ended])
  const readyAt = performance.now()
  for (const { signal, afterMs = 0 } of signals) {
    // Real time: another process's clock can't be faked.
    if (afterMs > 0) await new Promise((resolve) => setTimeout(resolve, afterMs))
    child.kill(signal)
  }
  const [code, signal] = await ended
  clearTimeout(tooLong)
  running.delete(child)
  const tookMs = performance.now() - readyAt
  return { code, signal, stderr, lines: linesOf(file), tookMs }
}

function linesOf(file: string): string[] {
  try {
    return readFileSync(file, 'utf8').split('\n').filter(Boolean)
  } catch {
    return []
  }
}

describe.concurrent('a signal', () => {
  test.each(['SIGTERM', 'SIGINT'] as const)(
    '%s: what was accepted is written first, and the exit status tells of the signal',
    async (signal) => {
      const ending = await service('drain', { signal })

      expect(ending).toMatchObject({ code: null, signal, lines: ['likes hits 1000'], stderr: '' })
    },
  )

  test('that comes a second time ends the process at once', async () => {
    const ending = await service('slow-drain', { signal: 'SIGTERM' }, { signal: 'SIGTERM', afterMs: 300 })

    expect(ending).toMatchObject({ code: null, signal: 'SIGTERM', lines: [] })
    expect(ending.tookMs).toBeLessThan(4_000)
  })

  test('of another kind does not cut a drain short', async () => {
    const ending = await service('two-watches', { signal: 'SIGTERM' }, { signal: 'SIGINT', afterMs: 50 })

    expect(ending.lines.toSorted()).toEqual(['likes hits 1000', 'views hits 1000'])
  })

  test('closes the components one after the other in the given order', async () => {
    const ending = await service('order', { signal: 'SIGTERM' })

    expect(ending.lines).toEqual([
      'gateway closing',
      'gateway closed',
      'buffer closing',
      'buffer closed',
      'pool closing',
      'pool closed',
    ])
  })

  test('closes the others though one throws and one rejects, and reports both by name', async () => {
    const ending = await service('failing-close', { signal: 'SIGTERM' })

    expect(ending).toMatchObject({ code: null, signal: 'SIGTERM', lines: ['likes hits 1000'] })
    expect(ending.stderr).toContain('closing first failed: Error: valve stuck')
    expect(ending.stderr).toContain('closing second failed: Error: pipe burst')
  })

  test('is done at the deadline though a close hangs', async () => {
    const ending = await service('hanging-close', { signal: 'SIGTERM' })

    expect(ending).toMatchObject({ code: null, signal: 'SIGTERM', lines: ['likes hits 1000'] })
    expect(ending.tookMs).toBeGreaterThan(290)
    expect(ending.tookMs).toBeLessThan(3_000)
  })

  test('waits with the longest timeout too', async () => {
    const ending = await service('longest-timeout', { signal: 'SIGTERM' })

    expect(ending).toMatchObject({ code: null, signal: 'SIGTERM', lines: ['likes hits 1000'], stderr: '' })
  })

  test('that the application listens for is left to the application, once everything is closed', async () => {
    const ending = await service('own-listener', { signal: 'SIGTERM' })

    expect(ending).toMatchObject({
      code: 3,
      signal: null,
      lines: ['application: SIGTERM', 'likes hits 1000', 'application: done'],
    })
  })

  test('that the application listens for and that comes twice is given to it twice and no more', async () => {
    const ending = await service('own-listener', { signal: 'SIGTERM' }, { signal: 'SIGTERM', afterMs: 50 })

    expect(ending).toMatchObject({ code: 3, signal: null })
    expect(ending.lines.filter((line) => line === 'application: SIGTERM')).toHaveLength(2)
    expect(ending.lines).toContain('likes hits 1000')
  })

  test('ends the process though two parts of the application watch for it, once both have closed', async () => {
    const ending = await service('two-watches', { signal: 'SIGTERM' })

    expect(ending).toMatchObject({ code: null, signal: 'SIGTERM', stderr: '' })
    expect(ending.lines).toEqual(['likes hits 1000', 'views hits 1000'])
  })

  test('of one’s own choice is watched for, and the others are not', async () => {
    const [chosen, other] = await Promise.all([
      service('other-signal', { signal: 'SIGUSR2' }),
      service('other-signal', { signal: 'SIGTERM' }),
    ])

    expect(chosen).toMatchObject({ signal: 'SIGUSR2', lines: ['likes hits 1000'] })
    expect(other).toMatchObject({ signal: 'SIGTERM', lines: [] })
  })

  test('does what it always did after everything was taken off again', async () => {
    const ending = await service('disposed', { signal: 'SIGTERM' })

    expect(ending).toMatchObject({
      code: null,
      signal: 'SIGTERM',
      lines: ['on: 1,1,1,1', 'off: 0,0,0,0'],
    })
  })
})

describe.concurrent('an error that nobody catches', () => {
  test('is printed, everything is closed, and the exit code is 1', async () => {
    const ending = await service('uncaught')

    expect(ending).toMatchObject({ code: 1, signal: null, lines: ['likes hits 1000', 'close', 'flushSync'] })
    expect(ending.stderr).toContain('Error: the dam broke')
    expect(ending.stderr).toContain('service.ts')
  })

  test('makes the exit code 1 though the application had set it to 0', async () => {
    const ending = await service('uncaught-with-exit-code-0')

    expect(ending).toMatchObject({ code: 1, signal: null, lines: ['likes hits 1000'] })
  })

  test('as a rejection is treated alike', async () => {
    const ending = await service('unhandled-rejection')

    expect(ending).toMatchObject({ code: 1, signal: null, lines: ['likes hits 1000'] })
    expect(ending.stderr).toContain('nobody caught this')
  })

  test('is printed when it comes during the close, and does not cut that short', async () => {
    const ending = await service('uncaught-twice')

    expect(ending).toMatchObject({ code: 1, signal: null, lines: ['likes hits 1000'] })
    expect(ending.stderr).toContain('first break')
    expect(ending.stderr).toContain('second break')
  })

  test('is printed once and closes all when two parts of the application watch for it', async () => {
    const ending = await service('uncaught-two-watches')

    expect(ending).toMatchObject({ code: 1, signal: null, lines: ['likes hits 1000', 'views hits 1000'] })
    expect(ending.stderr.match(/Error: the dam broke/g)).toHaveLength(1)
  })

  test('is left to the application where that listens for it', async () => {
    const ending = await service('uncaught-own-listener')

    expect(ending).toMatchObject({ code: 4, signal: null, lines: ['application: the dam broke'], stderr: '' })
  })
})

describe.concurrent('an end without waiting', () => {
  test('process.exit keeps its code, and flushSync has run, once', async () => {
    const ending = await service('process-exit')

    expect(ending).toMatchObject({ code: 7, signal: null, lines: ['flushSync'] })
  })

  test('a flushSync that throws is reported and hinders no other', async () => {
    const ending = await service('exit-with-failing-flush')

    expect(ending).toMatchObject({ code: 7, signal: null, lines: ['flushSync'] })
    expect(ending.stderr).toContain('flushing leaky failed: Error: leak')
  })

  test('a natural end keeps the exit code, and flushSync has run', async () => {
    const ending = await service('natural-end')

    expect(ending).toMatchObject({ code: 5, signal: null, lines: ['flushSync'], stderr: '' })
  })

  test('a buffer that is being flushed keeps the process until it is written', async () => {
    const ending = await service('natural-end-of-a-buffer')

    expect(ending).toMatchObject({ code: 0, signal: null, lines: ['likes hits 1000'], stderr: '' })
  })
})

describe('misuse', () => {
  const listeners = (): number[] =>
    ['SIGTERM', 'SIGINT', 'uncaughtException', 'exit'].map((name) => process.listenerCount(name))
  const closable: Closable = { close: () => undefined }

  test.each<[unknown, unknown, string]>([
    [undefined, undefined, 'components must be an array, got undefined (undefined)'],
    [closable, undefined, 'components must be an array, got {} (object)'],
    [[closable, {}], undefined, 'components must have a close method each, got {} (object)'],
    [[null], undefined, 'components must have a close method each, got null (null)'],
    [[], { timeoutMs: '10' }, 'timeoutMs must be a number between 0 and 2147483647, got "10" (string)'],
    [[], { timeoutMs: -1 }, 'timeoutMs must be a number between 0 and 2147483647, got -1 (number)'],
    [[], 'soon', 'options must be an object, got "soon" (string)'],
    [[], null, 'options must be an object, got null (null)'],
    [
      [],
      { signals: 'SIGTERM' },
      'signals must be an array of signals that can be listened for, got "SIGTERM" (string)',
    ],
    [
      [],
      { signals: ['SIGTRM'] },
      'signals must be an array of signals that can be listened for, got ["SIGTRM"] (array)',
    ],
    [
      [],
      { signals: ['SIGKILL'] },
      'signals must be an array of signals that can be listened for, got ["SIGKILL"] (array)',
    ],
    [[], { signals: [15] }, 'signals must be an array of signals that can be listened for, got [15] (array)'],
  ])('is an OptionError and leaves no listener, case %#', (components, options, message) => {
    const before = listeners()
    let error: unknown
    try {
      closeOnExit(components as Closable[], options as object)
    } catch (thrown) {
      error = thrown
    }

    expect(isSpillwayError(error, 'ERR_OPTION')).toBe(true)
    expect((error as Error).message).toBe(message)
    expect(listeners()).toEqual(before)
  })

  test('an explicit undefined means the default, and the disposer takes off what was put on', () => {
    const before = listeners()

    const dispose = closeOnExit([closable], { timeoutMs: undefined, signals: undefined })
    const during = listeners()
    dispose()

    expect(during).toEqual(before.map((count) => count + 1))
    expect(listeners()).toEqual(before)
  })

  test('a list of components that changes later changes nothing', () => {
    const components = [closable]

    const dispose = closeOnExit(components)
    components.push({} as Closable)

    expect(dispose).not.toThrow()
  })
})
