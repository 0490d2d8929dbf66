import { existsSync, readFileSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { FileSink } from 'spillway/file'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { mountSmallDisk, type SmallDisk } from '../../servers/small-disk.ts'
import { numberedLines, textOfAll } from './support/log-files.js'

// Real time: a real disk has no other. Delays are short, and nothing here waits for a fixed time.
const options = { retryDelayMs: 1, maxRetryDelayMs: 5, syncTimeoutMs: 20 }

describe('a full disk', () => {
  let disk: SmallDisk | undefined
  beforeAll(() => {
    disk = mountSmallDisk(256)
  })
  afterAll(() => disk?.[Symbol.dispose]())

  /** A test on that disk, where this process may mount one. */
  const onDisk = (name: string, run: (disk: SmallDisk) => Promise<void>): void => {
    test(name, async (context) => {
      if (disk === undefined) context.skip('this process may not mount a file system')
      else await run(disk)
    })
  }

  onDisk('takes everything as soon as there is room, whole and in order', async ({ path, fill, free }) => {
    await using sink = new FileSink({ path: join(path, 'app.log'), ...options })
    const told: string[] = []
    const stalled = new Promise<void>((resolve) => {
      sink.on('stalled', ({ error }) => {
        told.push(`stalled ${(error as NodeJS.ErrnoException).code}`)
        resolve()
      })
    })
    sink.on('resumed', () => void told.push('resumed'))
    sink.on('failed', ({ error }) => void told.push(error.message))
    await sink.write(numberedLines(0, 10, 'before'))
    fill()
    const writes = [sink.write(numberedLines(10, 1000, '€'.repeat(10))), sink.write(numberedLines(1010, 10, 'behind'))]
    await stalled
    const rest = sink.writeSync(numberedLines(1020, 10, 'at the end'))
    expect(rest).toBeInstanceOf(Promise)
    free()
    await Promise.all([...writes, rest])

    expect(readFileSync(join(path, 'app.log'), 'utf8')).toBe(
      numberedLines(0, 10, 'before') +
        numberedLines(10, 1000, '€'.repeat(10)) +
        numberedLines(1010, 10, 'behind') +
        numberedLines(1020, 10, 'at the end'),
    )
    expect(told).toEqual(['stalled ENOSPC', 'resumed'])
    await sink.close()
    unlinkSync(join(path, 'app.log'))
  })

  onDisk('goes on by a reopening when the log that filled it was removed', async ({ path }) => {
    const file = join(path, 'app.log')
    await using sink = new FileSink({ path: file, ...options })
    const chunk = numberedLines(0, 3000, '€'.repeat(10))
    await sink.write(chunk)
    const stalled = new Promise((resolve) => sink.on('stalled', resolve))
    const write = sink.write(numberedLines(3000, 6000, '€'.repeat(10)))
    await stalled
    unlinkSync(file)
    await sink.reopen()
    await write

    const lines = readFileSync(file, 'utf8').split('\n')
    const first = Number.parseInt(lines[0] as string, 10)
    expect(first).toBeGreaterThan(3000)
    // What went before is in the file that was removed; from a whole line on, all is in this one.
    expect(`${lines.join('\n')}`).toBe(numberedLines(first, 9000 - first, '€'.repeat(10)))
    await sink.close()
    unlinkSync(file)
  })

  onDisk('never fills up with rotation', async ({ path }) => {
    await using sink = new FileSink({
      path: join(path, 'app.log'),
      ...options,
      rotate: { maxBytes: 30_000, maxFiles: 3 },
    })
    for (let i = 0; i < 100; i++) await sink.write(numberedLines(i * 100, 100, '€'.repeat(20)))
    const kept = textOfAll(path, 'app.log')
    const first = Number.parseInt(kept, 10)
    expect(kept).toBe(numberedLines(first, 10_000 - first, '€'.repeat(20)))
    expect(sink.stats()).toMatchObject({ failures: 0, retries: 0 })
  })
})

test.skipIf(!existsSync('/dev/full'))('/dev/full is waited for, until close gives up', async () => {
  const sink = new FileSink({ path: '/dev/full', ...options })
  const stalled = new Promise((resolve) => sink.on('stalled', resolve))
  const write = sink.write('one\n')
  await stalled
  await sink.close({ timeoutMs: 10 })

  await expect(write).rejects.toMatchObject({ code: 'ERR_CLOSED' })
  expect(sink.stats()).toMatchObject({ failed: 1, pending: 0, stalled: true })
})
