import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SonicBoom } from 'sonic-boom'
import { AsyncLogBuffer } from 'spillway'
import { FileSink } from 'spillway/file'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'

// What docs/coming-from/sonic-boom.md says, held against both libraries, on real files.

let folder: string
let theirs: string
let ours: string
let files = 0

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'coming-from-'))
})

beforeEach(() => {
  files++
  theirs = join(folder, `${files}.sonic.log`)
  ours = join(folder, `${files}.spillway.log`)
})

afterAll(() => rmSync(folder, { recursive: true, force: true }))

const linesOf = (path: string): string[] => readFileSync(path, 'utf8').split('\n').slice(0, -1)

/** Ends a stream and waits until its file is closed. */
async function ended(sonic: SonicBoom): Promise<void> {
  const closed = once(sonic, 'close')
  sonic.end()
  await closed
}

test('false means "slow down" there, and "this line is not accepted" here', async () => {
  const long = `${'x'.repeat(20_000)}\n`
  const sonic = new SonicBoom({ dest: theirs, sync: false })
  const sink = new FileSink({ path: ours })
  const log = new AsyncLogBuffer(sink, { capacity: 1 })

  const answers = { sonic: sonic.write(long), first: log.write(long), second: log.write(long) }
  await ended(sonic)
  await log.close()
  await sink.close()

  expect(answers).toEqual({ sonic: false, first: true, second: false })
  expect(linesOf(theirs)).toEqual([long.trimEnd()])
  expect(linesOf(ours)[0]).toBe(long.trimEnd())
})

test('what is dropped is an event there, and an event and a line in the log here', async () => {
  const line = `${'x'.repeat(99)}\n`
  const dropped = { sonic: 0, spillway: 0 }
  const sonic = new SonicBoom({ dest: theirs, sync: false, maxLength: 500 })
  sonic.on('drop', () => void dropped.sonic++)
  const sink = new FileSink({ path: ours })
  const log = new AsyncLogBuffer(sink, { capacity: 5 })
  log.on('dropped', () => void dropped.spillway++)

  for (let i = 0; i < 8; i++) {
    sonic.write(line)
    log.write(line)
  }
  await ended(sonic)
  await log.close()
  await sink.close()

  expect(dropped).toEqual({ sonic: 3, spillway: 3 })
  expect(linesOf(theirs)).toHaveLength(5)
  expect(linesOf(ours)).toHaveLength(6)
  expect(linesOf(ours).at(-1)).toMatch(/\b3\b/)
  expect(log.stats()).toMatchObject({ dropped: 3, dropLines: 1, untoldDrops: 0 })
})

test('a write after the end throws there, and is refused here', async () => {
  const sonic = new SonicBoom({ dest: theirs, sync: true })
  const sink = new FileSink({ path: ours })
  const log = new AsyncLogBuffer(sink)

  await ended(sonic)
  await log.close()
  await sink.close()

  expect(() => sonic.write('late\n')).toThrow('SonicBoom destroyed')
  expect(log.write('late\n')).toBe(false)
  expect(log.stats()).toMatchObject({ rejected: 1 })
})

test('text without a newline stays without one there, and gets one here', async () => {
  const sonic = new SonicBoom({ dest: theirs, sync: true })
  const sink = new FileSink({ path: ours })
  const log = new AsyncLogBuffer(sink)

  for (const text of ['one', 'two']) {
    sonic.write(text)
    log.write(text)
  }
  await ended(sonic)
  await log.close()
  await sink.close()

  expect(readFileSync(theirs, 'utf8')).toBe('onetwo')
  expect(readFileSync(ours, 'utf8')).toBe('one\ntwo\n')
})
