import { spawnSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, rmdirSync, rmSync, unlinkSync, writeSync } from 'node:fs'
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

/** A real file system, where this process may mount one; undefined elsewhere. */
export function mountDisk(kilobytes: number): SmallDisk | undefined {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return undefined
  const path = mkdtempSync(join(tmpdir(), 'spillway-chaos-disk-'))
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${kilobytes}k`, 'tmpfs', path])
  if (status !== 0) {
    rmdirSync(path)
    return undefined
  }
  const ballast = join(path, 'ballast')
  let mounted = true
  const unmount = (): void => {
    if (!mounted) return
    mounted = false
    // Also from under a process that should not be there any more: that is told by who looks for it.
    spawnSync('umount', ['--lazy', path])
    rmSync(path, { recursive: true, force: true })
  }
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
    [Symbol.dispose]: unmount,
  }
}
