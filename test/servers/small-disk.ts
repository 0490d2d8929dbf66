import { spawnSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, rmdirSync, unlinkSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A disk that is soon full. */
export interface SmallDisk extends Disposable {
  readonly path: string
  /** Takes all room that there is. */
  fill(): void
  /** Gives that back. */
  free(): void
}

/**
 * A real file system, where this process may mount one; undefined elsewhere.
 *
 * @param inUse - whether it is unmounted from under a process that still has a file of it open; without it that fails.
 */
export function mountSmallDisk(kilobytes: number, inUse = false): SmallDisk | undefined {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return undefined
  const path = mkdtempSync(join(tmpdir(), 'spillway-small-disk-'))
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${kilobytes}k`, 'tmpfs', path])
  if (status !== 0) {
    rmdirSync(path)
    return undefined
  }
  const ballast = join(path, 'ballast')
  let mounted = true
  return {
    path,
    fill: () => {
      const file = openSync(ballast, 'w')
      try {
        for (;;) writeSync(file, Buffer.alloc(4_096))
      } catch {
        // It is full.
      } finally {
        closeSync(file)
      }
    },
    free: () => unlinkSync(ballast),
    [Symbol.dispose]: () => {
      if (!mounted) return
      mounted = false
      spawnSync('umount', inUse ? ['--lazy', path] : [path])
      rmdirSync(path)
    },
  }
}
