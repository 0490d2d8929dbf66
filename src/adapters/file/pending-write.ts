import { type Deferred, handled, openPromise } from '../../internal/deferred.js'

const newline = 10
const newlineText = '\n'
/** UTF-8 has at most so many bytes for one unit of a string. */
const maxBytesPerUnit = 3
const smallestKeptBytes = 16 * 1024
const largestKeptBytes = 1024 * 1024

/** A chunk that was accepted, and how far it has got. */
export class PendingWrite implements Deferred<void> {
  readonly promise!: Promise<void>
  readonly resolve!: (value: void | PromiseLike<void>) => void
  readonly reject!: (reason: unknown) => void
  /** Its place among all that were accepted. */
  readonly order: number
  next: PendingWrite | undefined
  state: 'pending' | 'written' | 'failed' = 'pending'
  /** Why it failed. */
  error: unknown
  /** Its text in UTF-8, once it is at the head; shared with the ones after it. */
  bytes: Uint8Array | undefined
  /** How many of `bytes` are written, and how many there are. */
  offset = 0
  length = 0
  readonly #chunk: string
  /** What is left of it, from the beginning of a line, where some of it is in the file that was before this one. */
  #rest: Buffer | undefined

  constructor(chunk: string, order: number) {
    this.#chunk = chunk
    this.order = order
    openPromise(this)
  }

  get empty(): boolean {
    return this.#chunk === ''
  }

  /** Whether a part of it is in a file. */
  get begun(): boolean {
    return this.#rest !== undefined || this.offset > 0
  }

  /** How many bytes it still has to write. */
  get leftBytes(): number {
    if (this.bytes !== undefined) return this.length - this.offset
    return this.#rest?.length ?? Buffer.byteLength(this.#chunk)
  }

  /** Turns it into bytes. Behind a torn line it begins with the newline which that lacks. */
  encode(encoder: ChunkEncoder, torn: boolean): void {
    if (this.bytes !== undefined) return
    const rest = this.#rest
    if (rest === undefined) {
      this.length = encoder.encode(torn ? newlineText + this.#chunk : this.#chunk)
      this.bytes = encoder.bytes
    } else {
      this.bytes = torn ? Buffer.concat([Buffer.of(newline), rest]) : rest
      this.length = this.bytes.length
    }
  }

  /** The target was opened anew: where that is another file, it goes on there with the line that was begun in the one before. */
  moveTo(sameFile: boolean): void {
    const { bytes, offset } = this
    if (bytes === undefined || (sameFile && offset > 0)) return
    if (offset > 0) this.#rest = Buffer.from(bytes.subarray(bytes.lastIndexOf(newline, offset - 1) + 1, this.length))
    this.bytes = undefined
    this.offset = 0
  }

  /** Whether it stopped within a line. */
  get stoppedWithinLine(): boolean {
    return this.offset > 0 && this.bytes?.[this.offset - 1] !== newline
  }

  succeed(): void {
    this.state = 'written'
    this.bytes = undefined
    this.resolve()
  }

  fail(error: unknown): void {
    this.state = 'failed'
    this.error = error
    this.bytes = undefined
    handled(this.promise)
    this.reject(error)
  }
}

/** Turns chunks into bytes, one at a time, in memory that it keeps: that costs a fifth of making a buffer for each. */
export class ChunkEncoder {
  #kept: Buffer | undefined
  /** Where the last chunk is, until the next one. */
  bytes: Uint8Array = new Uint8Array(0)

  /** @returns how many bytes the chunk has. */
  encode(chunk: string): number {
    const needed = chunk.length * maxBytesPerUnit
    if (needed > largestKeptBytes) {
      this.bytes = Buffer.from(chunk)
      return this.bytes.length
    }
    let kept = this.#kept
    if (kept === undefined || kept.length < needed) {
      let size = kept?.length ?? smallestKeptBytes
      while (size < needed) size *= 2
      kept = this.#kept = Buffer.allocUnsafeSlow(size)
    }
    this.bytes = kept
    return kept.write(chunk)
  }

  /** Leaves the memory of the last chunk to whoever may still read it. */
  abandon(): void {
    this.#kept = undefined
  }
}
