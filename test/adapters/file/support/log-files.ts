import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A directory for the logs of one test. */
export function logDirectory(): { readonly path: string; [Symbol.dispose](): void } {
  const path = mkdtempSync(join(tmpdir(), 'spillway-logs-'))
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) }
}

/** The log files of a directory that begin so, oldest first: `app.log.2`, `app.log.1`, `app.log`. */
export function rotatedFiles(directory: string, name: string): string[] {
  const number = (file: string): number => Number(file.slice(name.length + 1) || 0)
  return readdirSync(directory)
    .filter((file) => file === name || (file.startsWith(`${name}.`) && /^[1-9]\d*$/.test(file.slice(name.length + 1))))
    .sort((a, b) => number(b) - number(a))
}

/** What those have, one behind the other. */
export function textOfAll(directory: string, name: string): string {
  return rotatedFiles(directory, name)
    .map((file) => readFileSync(join(directory, file), 'utf8'))
    .join('')
}

/** `1 xxx`, `2 xxx`, …, a line each. */
export function numberedLines(from: number, count: number, text: string): string {
  return Array.from({ length: count }, (_, i) => `${from + i} ${text}\n`).join('')
}

/** The descriptors of this process that lead to a path or below it. */
export function descriptorsOf(path: string): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith(path)
    } catch {
      return false // It was open for reading the list.
    }
  }).length
}
