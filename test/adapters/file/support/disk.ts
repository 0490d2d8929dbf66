import {
  copyFileSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'

type FileSystem = typeof import('node:fs/promises')
type Handle = Awaited<ReturnType<FileSystem['open']>>

/** Something that is done to the disk. */
export interface Step {
  readonly operation: 'mkdir' | 'open' | 'write' | 'datasync' | 'sync' | 'truncate' | 'rename' | 'link' | 'unlink'
  readonly path: string
}

/** What becomes of a step instead: it fails, a write after some of its bytes. */
export interface Fault {
  readonly code: 'ENOSPC' | 'EIO' | 'EACCES'
  readonly after?: number
}

/** A file by whatever name. */
interface File {
  /** What a power failure leaves for certain. */
  durable: Buffer
  /** Bytes that a failed sync left in memory only, where no later sync writes them. */
  lost: Set<number>
  /** What it had when its last name went. */
  final?: Buffer
}

/** A directory's names and whose they are. */
type Names = ReadonlyMap<string, File>

/**
 * Stands between the code and the real file system: takes note of every step, makes steps fail, and knows what a power failure would
 * leave. It takes the place of `node:fs/promises`:
 *
 *     vi.mock('node:fs/promises', async (original) => (await import('./support/disk.js')).disk.wrap(await original()))
 */
export class Disk {
  /** What was done, oldest first. */
  steps: Step[] = []
  /** Asked before each step. */
  fault: (step: Step) => Fault | undefined = () => undefined
  /** Told before each step. */
  onStep: (step: Step) => void = () => undefined
  #directory = ''
  #names = new Map<string, File>()
  /** What a power failure may leave of the names: all that they were since they were last synced. */
  #versions: Names[] = [new Map()]

  /** Forgets everything, and from now on knows about a directory, of which all that is there is durable. */
  watch(directory: string): void {
    this.#directory = directory
    this.#names = new Map(
      readdirSync(directory)
        .filter((name) => !isLock(name))
        .map((name) => [name, { durable: readFileSync(join(directory, name)), lost: new Set() }]),
    )
    this.#versions = [new Map(this.#names)]
    this.steps = []
    this.rest()
  }

  /** Makes nothing fail any more, and tells nobody. */
  rest(): void {
    this.fault = () => undefined
    this.onStep = () => undefined
  }

  /**
   * Writes into another directory what a power failure would leave now: synced bytes, of the others any; names as they were at
   * some time since they were synced.
   */
  imageAfterPowerFailure(into: string, random: () => number): void {
    mkdirSync(into, { recursive: true })
    const names = this.#versions[Math.floor(random() * this.#versions.length)] as Names
    for (const [name, file] of names) {
      if (!isLock(name)) writeFileSync(join(into, name), this.#leftOf(file, random))
    }
  }

  /** Writes into another directory what the death of the process would leave now: all that was written. */
  imageAfterKill(into: string): void {
    mkdirSync(into, { recursive: true })
    for (const name of this.#names.keys()) {
      if (!isLock(name)) copyFileSync(join(this.#directory, name), join(into, name))
    }
  }

  /** How many steps there were on paths that match. */
  count(operation: Step['operation'], path: RegExp = /./): number {
    return this.steps.filter((step) => step.operation === operation && path.test(step.path)).length
  }

  wrap(real: FileSystem): FileSystem {
    // In one go, so that no other step sees the names half changed.
    const change =
      (operation: 'rename' | 'link' | 'unlink', act: (path: string, to: string) => void) =>
      async (path: string, to = ''): Promise<void> => {
        this.#step(operation, path)
        const replaced = operation === 'unlink' ? path : to
        const content = operation !== 'link' && this.#has(replaced) ? readFileSync(replaced) : undefined
        act(path, to)
        if (content !== undefined) (this.#names.get(basename(replaced)) as File).final = content
        this.#rename(operation, path, to)
      }
    return {
      ...real,
      mkdir: (async (path: string, options: object) => {
        this.#step('mkdir', path)
        return real.mkdir(path, options)
      }) as FileSystem['mkdir'],
      open: (async (path: string, flags: string, mode?: number) => {
        if (flags !== 'r') this.#step('open', path)
        const handle = await real.open(path, flags, mode)
        if (flags !== 'r' && dirname(path) === this.#directory && !this.#names.has(basename(path))) {
          this.#names.set(basename(path), { durable: Buffer.alloc(0), lost: new Set() })
          this.#changed()
        }
        return this.#wrapHandle(handle, path)
      }) as FileSystem['open'],
      rename: change('rename', renameSync) as FileSystem['rename'],
      link: change('link', linkSync) as FileSystem['link'],
      unlink: change('unlink', unlinkSync) as FileSystem['unlink'],
    }
  }

  #wrapHandle(handle: Handle, path: string): Handle {
    const own: Record<string, (...args: never[]) => Promise<unknown>> = {
      write: async (bytes: Buffer, from: number, length: number, at: number) => {
        const fault = this.#faultOf('write', path)
        const count = Math.min(length, fault?.after ?? length)
        if (fault !== undefined && count === 0) throw failure(fault, 'write')
        const written = await handle.write(bytes, from, count, at)
        this.#rewritten(path, at, count)
        if (fault !== undefined && fault.after === undefined) throw failure(fault, 'write')
        return written
      },
      appendFile: async (data: Buffer | string) => {
        const fault = this.#faultOf('write', path)
        const bytes = Buffer.from(data as string)
        await handle.appendFile(bytes.subarray(0, fault === undefined ? bytes.length : (fault.after ?? 0)))
        if (fault !== undefined) throw failure(fault, 'write')
      },
      truncate: async (length: number) => {
        this.#step('truncate', path)
        await handle.truncate(length)
      },
      sync: () => this.#sync('sync', handle, path),
      datasync: () => this.#sync('datasync', handle, path),
    }
    return new Proxy(handle, {
      get(target, name) {
        const value = own[name as string] ?? Reflect.get(target, name, target)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
  }

  async #sync(operation: 'sync' | 'datasync', handle: Handle, path: string): Promise<void> {
    const isDirectory = path === this.#directory
    const file = this.#has(path) ? this.#names.get(basename(path)) : undefined
    const content = file === undefined ? undefined : readFileSync(path)
    try {
      this.#step(operation, path)
    } catch (error) {
      for (let at = file?.durable.length ?? 0; at < (content?.length ?? 0); at++) file?.lost.add(at)
      throw error
    }
    await handle[operation]()
    if (isDirectory) this.#versions = [new Map(this.#names)]
    if (file === undefined || content === undefined) return
    for (const at of file.lost) if (at < content.length) content[at] = 0
    file.durable = content
  }

  #rewritten(path: string, at: number, length: number): void {
    const file = this.#names.get(basename(path))
    if (file !== undefined && this.#has(path)) for (let i = at; i < at + length; i++) file.lost.delete(i)
  }

  #rename(operation: 'rename' | 'link' | 'unlink', path: string, to: string): void {
    if (dirname(path) !== this.#directory) return
    const file = this.#names.get(basename(path))
    if (operation !== 'unlink' && file !== undefined) this.#names.set(basename(to), file)
    if (operation !== 'link') this.#names.delete(basename(path))
    this.#changed()
  }

  #changed(): void {
    this.#versions.push(new Map(this.#names))
  }

  #has(path: string): boolean {
    return dirname(path) === this.#directory && this.#names.has(basename(path))
  }

  #step(operation: Step['operation'], path: string): void {
    const fault = this.#faultOf(operation, path)
    if (fault !== undefined) throw failure(fault, operation)
  }

  #faultOf(operation: Step['operation'], path: string): Fault | undefined {
    const step = { operation, path }
    this.onStep(step)
    this.steps.push(step)
    return this.fault(step)
  }

  /** Of what isn't synced: nothing, all, a part, or all but some sectors. */
  #leftOf(file: File, random: () => number): Buffer {
    const name = [...this.#names].find(([, other]) => other === file)?.[0]
    const content = name === undefined ? (file.final ?? file.durable) : readFileSync(join(this.#directory, name))
    const { durable } = file
    if (random() < 0.3) return durable
    if (content.length <= durable.length) return content
    if (random() < 0.3) return content.subarray(0, durable.length + Math.floor(random() * content.length))
    const left = Buffer.from(content)
    for (const at of file.lost) if (at < left.length) left[at] = 0
    const sectorBytes = 512
    for (let at = durable.length; at < left.length; at++) {
      const end = Math.min(left.length, at - (at % sectorBytes) + sectorBytes)
      if (random() < 0.3) left.fill(0, at, end)
      at = end - 1
    }
    return left
  }
}

/** Locks end with their process. */
function isLock(name: string): boolean {
  return name.startsWith('lock')
}

function failure({ code }: Fault, operation: string): Error {
  return Object.assign(new Error(`${code}: ${operation} fails in this test`), { code })
}

/** The one that stands in for `node:fs/promises`. */
export const disk: Disk = new Disk()
