import { existsSync, readdirSync, readlinkSync } from 'node:fs'
import { cp, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Directories of a test, all of them gone at its end. */
export class Directories implements AsyncDisposable {
  readonly #made: string[] = []

  /** An empty directory. */
  async make(): Promise<string> {
    const path = await mkdtemp(join(tmpdir(), 'spillway-journal-'))
    this.#made.push(path)
    return path
  }

  /** A copy of a journal as another process would find it if that one's process died now: its lock is nobody's. */
  async crashed(path: string): Promise<string> {
    const copy = await this.make()
    await cp(path, copy, { recursive: true, filter: (source) => !/lock[^/]*$/.test(source) })
    return copy
  }

  /** Directories that something else has made. */
  adopt(paths: readonly string[]): void {
    this.#made.push(...paths)
  }

  /** What this process has open in them; nothing where the system doesn't tell. */
  stillOpen(): string[] {
    if (!existsSync('/proc/self/fd')) return []
    const targets = readdirSync('/proc/self/fd').map((name) => {
      try {
        return readlinkSync(`/proc/self/fd/${name}`)
      } catch {
        return '' // It was open for reading the list.
      }
    })
    return targets.filter((target) => this.#made.some((path) => target.startsWith(path)))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#made.map((path) => rm(path, { recursive: true, force: true })))
  }
}

/** The names of a journal's segments, oldest first. */
export async function segmentsOf(directory: string): Promise<string[]> {
  return (await readdir(directory)).filter((name) => /^segment-\d+$/.test(name)).sort()
}

/** All that an async iterable gives. */
export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}
