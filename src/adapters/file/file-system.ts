import * as nodeFileSystem from 'node:fs'
import { failOption } from '../../core/options.js'

/** What a {@link FileSystem} tells about a file. */
export interface FileStatus {
  /** How long it is, in bytes. */
  readonly size: number
  /** The device that it is on. */
  readonly dev: number
  /** Its number on that device. */
  readonly ino: number
  /** When it was made, in milliseconds since the epoch; 0 where nobody knows. */
  readonly birthtimeMs: number
  /** When it was last written, in milliseconds since the epoch. */
  readonly mtimeMs: number
  /** Whether it is a file proper. */
  isFile(): boolean
  /** Whether it is a pipe with or without a name. */
  isFIFO(): boolean
  /** Whether it is a terminal or the like. */
  isCharacterDevice(): boolean
}

/** Told that something was done, or why not. */
export type DoneCallback = (error: Error | null) => void

/**
 * What a `FileSink` uses of `node:fs`, which is the default. Another one is for tests that need faults: short writes, full disks,
 * descriptors that run out.
 */
export interface FileSystem {
  /** As in `node:fs`. */
  open(path: string, flags: number, mode: number, callback: (error: Error | null, fd: number) => void): void
  /** As in `node:fs`. */
  openSync(path: string, flags: number, mode?: number): number
  /** As in `node:fs`. */
  close(fd: number, callback: DoneCallback): void
  /** As in `node:fs`. */
  closeSync(fd: number): void
  /** As in `node:fs`; `position` is always null: where the file ends. */
  write(
    fd: number,
    buffer: Uint8Array,
    offset: number,
    length: number,
    position: null,
    callback: (error: Error | null, written: number) => void,
  ): void
  /** As in `node:fs`; `position` is always null: where the file ends. */
  writeSync(fd: number, buffer: Uint8Array, offset: number, length: number, position: null): number
  /** As in `node:fs`. */
  readSync(fd: number, buffer: Uint8Array, offset: number, length: number, position: number): number
  /** As in `node:fs`. */
  fstatSync(fd: number): FileStatus
  /** As in `node:fs`. */
  stat(path: string, callback: (error: Error | null, status: FileStatus) => void): void
  /** As in `node:fs`. */
  mkdir(path: string, options: { recursive: true }, callback: DoneCallback): void
  /** As in `node:fs`. */
  mkdirSync(path: string, options: { recursive: true }): unknown
  /** As in `node:fs`. */
  rename(from: string, to: string, callback: DoneCallback): void
  /** As in `node:fs`. */
  unlink(path: string, callback: DoneCallback): void
  /** As in `node:fs`. */
  readdir(path: string, callback: (error: Error | null, names: string[]) => void): void
}

/** The platform's own. */
export const platformFileSystem: FileSystem = nodeFileSystem

const methods: readonly (keyof FileSystem)[] = [
  'open',
  'openSync',
  'close',
  'closeSync',
  'write',
  'writeSync',
  'readSync',
  'fstatSync',
  'stat',
  'mkdir',
  'mkdirSync',
  'rename',
  'unlink',
  'readdir',
]

/** Checks that it has all that is used. */
export function checkFileSystem(fs: FileSystem): FileSystem {
  for (const method of methods) {
    if (typeof fs?.[method] !== 'function') failOption('fs', `must have a method ${method}`, fs)
  }
  return fs
}

/** Makes a promise of a call that takes a callback. */
export function promised<T>(call: (callback: (error: Error | null, value: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    call((error, value) => (error === null || error === undefined ? resolve(value) : reject(error)))
  })
}
