import { basename, dirname } from 'node:path'
import { type DoneCallback, type FileSystem, promised } from './file-system.js'

/**
 * Moves a log file out of the way: `path` becomes `path.1`, `path.1` becomes `path.2`, and so on up to `path.<maxFiles>`, which
 * goes. The oldest moves first, so that whenever this stops half-way there is a gap in the numbers and nothing is lost; the next
 * call fills the gap. Files beyond `maxFiles` are removed.
 *
 * @returns when `path` is moved away.
 */
export async function shiftFiles(fs: FileSystem, path: string, maxFiles: number): Promise<void> {
  const names: string[] = await promised((done) => fs.readdir(dirname(path), done))
  const numbers = new Set(names.map((name) => numberOf(name, basename(path))))
  for (const number of numbers) {
    if (number !== undefined && number > maxFiles) await remove(fs, `${path}.${number}`)
  }
  let free = 1
  while (free < maxFiles && numbers.has(free)) free++
  for (let number = free - 1; number >= 1; number--) await rename(fs, `${path}.${number}`, `${path}.${number + 1}`)
  await rename(fs, path, `${path}.1`)
}

/** The number of a rotated file: `app.log.12` of `app.log` has 12. */
function numberOf(name: string, base: string): number | undefined {
  if (!name.startsWith(`${base}.`)) return undefined
  const digits = name.slice(base.length + 1)
  return /^[1-9]\d{0,8}$/.test(digits) ? Number(digits) : undefined
}

function rename(fs: FileSystem, from: string, to: string): Promise<void> {
  return tolerating((done) => fs.rename(from, to, done))
}

function remove(fs: FileSystem, path: string): Promise<void> {
  return tolerating((done) => fs.unlink(path, done))
}

/** Somebody else may have moved or removed it meanwhile: then there is nothing left to do. */
async function tolerating(call: (done: DoneCallback) => void): Promise<void> {
  try {
    await promised((done) => call(done as DoneCallback))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
