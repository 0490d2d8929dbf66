import { constants } from 'node:os'
import type { FileStatus, FileSystem } from 'spillway/file'

type Callback<T> = (error: Error | null, value: T) => void

/** What may go wrong, each with its likelihood from 0 to 1. */
export interface Likelihoods {
  readonly short: number
  readonly EAGAIN: number
  readonly EINTR: number
  readonly EIO: number
  /** Of opening. */
  readonly EMFILE: number
  /** Of renaming, removing, listing and looking. */
  readonly EACCES: number
  /** Of closing. */
  readonly closeEIO: number
}

/** Everything works. */
export const faultless: Likelihoods = {
  short: 0,
  EAGAIN: 0,
  EINTR: 0,
  EIO: 0,
  EMFILE: 0,
  EACCES: 0,
  closeEIO: 0,
}

/** A file by whatever name, or by none. */
export interface SimulatedFile {
  readonly ino: number
  readonly birthtimeMs: number
  bytes: Buffer
}

interface Descriptor {
  readonly file: SimulatedFile
  /** Where it stands: behind its last write. */
  position: number
}

/** A call that the thread pool has: it is made at some time, and its callback is called at a later one. */
interface Work {
  run: (() => void) | undefined
}

/**
 * A file system in memory whose thread pool takes its time, and in which things go wrong as a random generator says. While a thread is
 * blocked, the pool goes on: whenever the position of a descriptor or the length of a file is asked for, work of the pool may have been done.
 */
export class SimulatedFiles implements FileSystem {
  likelihoods: Likelihoods = faultless
  /** While it is set, nothing takes any room. */
  full = false
  /** Every file there ever was, in the order in which they were made. */
  readonly all: SimulatedFile[] = []
  readonly names = new Map<string, SimulatedFile>()
  /** Names that were given to another file while they had one. */
  readonly overwritten = new Set<string>()
  readonly #random: () => number
  readonly #later: (callback: () => void, ms: number) => void
  readonly #wallNow: () => number
  /** Whether the kernel tells where descriptors stand. */
  readonly #hasProc: boolean
  readonly #descriptors = new Map<number, Descriptor | { readonly of: number }>()
  readonly #pool: Work[] = []

  constructor(
    random: () => number,
    clock: { setTimer(callback: () => void, ms: number): unknown; wallNow(): number },
    hasProc = true,
  ) {
    this.#random = random
    this.#later = (callback, ms) => void clock.setTimer(callback, ms)
    this.#wallNow = () => clock.wallNow()
    this.#hasProc = hasProc
  }

  get openDescriptors(): number {
    return this.#descriptors.size
  }

  open(path: string, flags: number, _mode: number, callback: Callback<number>): void {
    this.#inPool(() => this.openSync(path, flags), callback)
  }

  openSync(path: string, _flags: number): number {
    const [, of] = /^\/proc\/self\/fdinfo\/(\d+)$/.exec(path) ?? []
    if (of !== undefined) {
      if (!this.#hasProc) throw fault('ENOENT')
      return this.#add({ of: Number(of) })
    }
    this.#maybe('EMFILE', this.likelihoods.EMFILE)
    let file = this.names.get(path)
    if (file === undefined) {
      if (this.full) throw fault('ENOSPC')
      file = { ino: this.all.length + 1, birthtimeMs: this.#wallNow(), bytes: Buffer.alloc(0) }
      this.all.push(file)
      this.names.set(path, file)
    }
    return this.#add({ file, position: 0 })
  }

  close(fd: number, callback: (error: Error | null) => void): void {
    this.#inPool(() => {
      this.closeSync(fd)
      this.#maybe('EIO', this.likelihoods.closeEIO)
    }, callback)
  }

  closeSync(fd: number): void {
    if (!this.#descriptors.delete(fd)) throw fault('EBADF')
  }

  write(fd: number, buffer: Uint8Array, offset: number, length: number, _at: null, callback: Callback<number>): void {
    this.#inPool(() => this.writeSync(fd, buffer, offset, length), callback)
  }

  writeSync(fd: number, buffer: Uint8Array, offset: number, length: number): number {
    const descriptor = this.#descriptor(fd)
    const { short, EAGAIN, EINTR, EIO } = this.likelihoods
    this.#maybe('EAGAIN', EAGAIN)
    this.#maybe('EINTR', EINTR)
    if (this.full) throw fault(this.#random() < 0.5 ? 'ENOSPC' : 'EDQUOT')
    this.#maybe('EIO', EIO)
    const bytes = this.#random() < short ? Math.floor(this.#random() * length) : length
    const { file } = descriptor
    file.bytes = Buffer.concat([file.bytes, buffer.subarray(offset, offset + bytes)])
    if (bytes > 0) descriptor.position = file.bytes.length
    return bytes
  }

  readSync(fd: number, buffer: Uint8Array, offset: number, length: number, position: number): number {
    const descriptor = this.#descriptors.get(fd)
    if (descriptor === undefined) throw fault('EBADF')
    if ('of' in descriptor) {
      this.#poolGoesOn()
      const text = `pos:\t${this.#descriptor(descriptor.of).position}\nflags:\t0102001\n`
      return Buffer.from(text).copy(buffer, offset, 0, length)
    }
    return descriptor.file.bytes.copy(buffer, offset, position, position + length)
  }

  fstatSync(fd: number): FileStatus {
    this.#poolGoesOn()
    return this.#statusOf(this.#descriptor(fd).file)
  }

  stat(path: string, callback: Callback<FileStatus>): void {
    this.#inPool(() => this.#statusOf(this.#named(path)), callback)
  }

  mkdir(_path: string, _options: { recursive: true }, callback: (error: Error | null) => void): void {
    this.#inPool(() => undefined, callback)
  }

  mkdirSync(): void {}

  rename(from: string, to: string, callback: (error: Error | null) => void): void {
    this.#inPool(() => {
      this.renameSync(from, to)
    }, callback)
  }

  /** What an operator's tool does: without faults. */
  renameSync(from: string, to: string): void {
    const file = this.names.get(from)
    if (file === undefined) throw fault('ENOENT')
    this.names.delete(from)
    if (this.names.has(to)) this.overwritten.add(to)
    this.names.set(to, file)
  }

  unlink(path: string, callback: (error: Error | null) => void): void {
    this.#inPool(() => {
      this.#named(path)
      this.names.delete(path)
    }, callback)
  }

  readdir(path: string, callback: Callback<string[]>): void {
    this.#inPool(() => {
      this.#maybe('EACCES', this.likelihoods.EACCES)
      return [...this.names.keys()].map((name) => name.slice(path.length + 1))
    }, callback)
  }

  /** Somebody else appends. */
  append(path: string, text: string): void {
    const file = this.#named(path)
    file.bytes = Buffer.concat([file.bytes, Buffer.from(text)])
  }

  #named(path: string): SimulatedFile {
    this.#maybe('EACCES', this.likelihoods.EACCES)
    const file = this.names.get(path)
    if (file === undefined) throw fault('ENOENT')
    return file
  }

  #descriptor(fd: number): Descriptor {
    const descriptor = this.#descriptors.get(fd)
    if (descriptor === undefined || 'of' in descriptor) throw fault('EBADF')
    return descriptor
  }

  #statusOf({ bytes, ino, birthtimeMs }: SimulatedFile): FileStatus {
    return {
      size: bytes.length,
      dev: 1,
      ino,
      birthtimeMs,
      mtimeMs: birthtimeMs,
      isFile: () => true,
      isFIFO: () => false,
      isCharacterDevice: () => false,
    }
  }

  /** The lowest number that is free, as the system does it: what is used after it was closed is somebody else's. */
  #add(descriptor: Descriptor | { readonly of: number }): number {
    let fd = 3
    while (this.#descriptors.has(fd)) fd++
    this.#descriptors.set(fd, descriptor)
    return fd
  }

  #maybe(code: string, likelihood: number): void {
    if (likelihood > 0 && this.#random() < likelihood) throw fault(code)
  }

  #inPool<T>(call: () => T, callback: Callback<T>): void {
    let error: Error | null = null
    let value: T | undefined
    const work: Work = {
      run: () => {
        work.run = undefined
        try {
          value = call()
        } catch (thrown) {
          error = thrown as Error
        }
      },
    }
    this.#pool.push(work)
    const madeAt = Math.floor(this.#random() * 4)
    this.#later(() => work.run?.(), madeAt)
    this.#later(
      () => {
        this.#pool.splice(this.#pool.indexOf(work), 1)
        callback(error, value as T)
      },
      madeAt + Math.floor(this.#random() * 4),
    )
  }

  #poolGoesOn(): void {
    for (const work of [...this.#pool]) {
      if (this.#random() < 0.25) work.run?.()
    }
  }
}

/** An error as the system gives it. */
export function fault(code: string): NodeJS.ErrnoException {
  const errno = -(constants.errno[code as keyof typeof constants.errno] ?? 1)
  // Node has no name for this one.
  const known = code === 'EDQUOT' ? `Unknown system error ${errno}` : code
  return Object.assign(new Error(`${known}: simulated`), { code: known, errno })
}
