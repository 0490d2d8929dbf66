import { fstatSync, ftruncateSync, mkdtempSync, openSync, readSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const directories: string[] = []
const closing: (() => Promise<unknown> | undefined)[] = []

/** Removes every log file, once `close` of each has closed what writes to it. */
export async function removeLogFiles(): Promise<void> {
  for (const close of closing) await close()
  for (const path of directories) rmSync(path, { recursive: true, force: true })
}

/**
 * The file of a contender, seen from outside: whoever writes to it, it has arrived when it is there, and right when it is what was written,
 * byte for byte. Nobody pays for a sync: what the kernel has been given counts.
 */
export class LogFile {
  readonly path: string
  readonly #fd: number
  #read: Buffer = Buffer.alloc(0)

  constructor() {
    const directory = mkdtempSync(join(tmpdir(), 'spillway-bench-'))
    directories.push(directory)
    this.path = join(directory, 'app.log')
    this.#fd = openSync(this.path, 'a+')
  }

  /** Calls this when all contenders are through, before the file goes. */
  onRemoval(close: () => Promise<unknown> | undefined): void {
    closing.push(close)
  }

  /** Resolves when the file has so many bytes. */
  async has(bytes: number): Promise<void> {
    while (fstatSync(this.#fd).size < bytes) await new Promise((resolve) => setImmediate(resolve))
  }

  /** Throws unless the file is these bytes and no more, and empties it. */
  expect(bytes: Buffer): void {
    const { size } = fstatSync(this.#fd)
    if (size !== bytes.length) throw new Error(`wrong answer: the file has ${size} bytes, not ${bytes.length}`)
    if (this.#read.length < size) this.#read = Buffer.allocUnsafeSlow(size)
    for (let at = 0; at < size; ) {
      const got = readSync(this.#fd, this.#read, at, size - at, at)
      if (got === 0) throw new Error(`wrong answer: the file ended at ${at}`)
      at += got
    }
    const read = this.#read.subarray(0, size)
    if (!read.equals(bytes)) {
      const at = read.findIndex((byte, index) => byte !== bytes[index])
      const text = read.toString('utf8', Math.max(0, at - 60), at + 60)
      throw new Error(`wrong answer: the file differs at byte ${at}, around ${JSON.stringify(text)}`)
    }
    ftruncateSync(this.#fd, 0)
  }
}
