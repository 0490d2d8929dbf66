import { spawnSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, rmdirSync, unlinkSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isSpillwayError } from 'spillway'
import { describe, expect, test } from 'vitest'
import { openJournal, range, readAgain, use } from './support/usage.js'

const long = { metadata: { text: 'x'.repeat(1000) } }

describe('a full disk', () => {
  const mounted = mountSmall()

  test.skipIf(mounted === undefined)('refuses uses and loses none: as soon as there is room, all goes on', async () => {
    const { path, fill, unmount } = mounted as NonNullable<typeof mounted>
    try {
      const directory = `${path}/journal`
      const { journal } = await openJournal(directory)
      const kept = [await journal.append(use(0, long))]
      const values = [0]
      const free = fill()
      let refused = 0
      for (const value of range(40)) {
        try {
          kept.push(await journal.append(use(value, long)))
          values.push(value)
        } catch (error) {
          expect(isSpillwayError(error, 'ERR_STORE') && error.retryable && error.outcomeUnknown === false).toBe(true)
          expect((error as Error).message).toContain('ENOSPC')
          refused++
        }
      }
      expect(refused).toBeGreaterThan(0)
      free()
      kept.push(await journal.append(use(41, long)))
      await journal.assign('batch', kept)
      await journal.close()

      expect(await readAgain(directory)).toEqual({ batches: { batch: [...values, 41] }, events: [] })
    } finally {
      unmount()
    }
  })
})

/** A real file system of 256 KB, where this process may mount one. */
function mountSmall(): { path: string; fill: () => () => void; unmount: () => void } | undefined {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return undefined
  const path = mkdtempSync(join(tmpdir(), 'spillway-small-disk-'))
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', path])
  if (status !== 0) {
    rmdirSync(path)
    return undefined
  }
  const ballast = join(path, 'ballast')
  return {
    path,
    fill: () => {
      const descriptor = openSync(ballast, 'w')
      try {
        for (;;) writeSync(descriptor, Buffer.alloc(4096))
      } catch {
        // It is full.
      } finally {
        closeSync(descriptor)
      }
      return () => unlinkSync(ballast)
    },
    unmount: () => {
      spawnSync('umount', [path])
      rmdirSync(path)
    },
  }
}
