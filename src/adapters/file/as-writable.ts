import { Writable } from 'node:stream'
import { StringDecoder } from 'node:string_decoder'
import { checkCount, checkOptions, failOption, valueOr } from '../../core/options.js'

/** What takes lines without waiting: an `AsyncLogBuffer`, or anything like it. */
export interface LineBuffer {
  /** Takes a text of one or more lines. Answers whether it was accepted. */
  write(line: string): boolean
  /** Resolves once what was accepted is written. */
  flush(): PromiseLike<unknown>
}

/** Options of {@link asWritable}. */
export interface AsWritableOptions {
  /**
   * How much text without a newline is held until its line ends, in UTF-16 units. What is over goes on as lines of that length.
   * @defaultValue 1_048_576
   */
  maxHeldChars?: number | undefined
}

/** The defaults of {@link AsWritableOptions}. */
export const asWritableDefaults = { maxHeldChars: 1_048_576 } as const

/**
 * Makes a Node stream of a log buffer, for `new Console(stream)`, `child.stdout.pipe(stream)` and loggers that write to streams.
 *
 * The text of one `write` up to its last newline is one item of the buffer, so that a stack trace stays together. What comes after that
 * newline, and a character that isn't whole, is held until its line ends. `end()` writes what is held and waits for the buffer's `flush`
 * before `'finish'`; the buffer stays open. The stream never slows its writers down, and a line that the buffer drops is no error of
 * the stream's: the buffer counts it.
 *
 * @example
 * ```ts
 * import { Console } from 'node:console'
 * import { AsyncLogBuffer } from 'spillway'
 * import { asWritable, FileSink } from 'spillway/file'
 *
 * const log = new AsyncLogBuffer(new FileSink({ path: 'app.log' }))
 * const console = new Console(asWritable(log))
 * console.log('a line that nobody waits for')
 * ```
 *
 * @throws OptionError when the buffer lacks `write` or `flush`, or an option is wrong.
 */
export function asWritable(buffer: LineBuffer, options?: AsWritableOptions): Writable {
  for (const method of ['write', 'flush'] as const) {
    if (typeof buffer?.[method] !== 'function') failOption('buffer', `must have a method ${method}`, buffer)
  }
  checkOptions('options', options)
  const maxHeldChars = checkCount('maxHeldChars', valueOr(options?.maxHeldChars, asWritableDefaults.maxHeldChars))
  const lines = new LineSplitter((text) => buffer.write(text), maxHeldChars)
  return new Writable({
    decodeStrings: false,
    write: (chunk: string | Uint8Array, encoding, done) => attempt(() => lines.add(chunk, encoding), done),
    final: (done) => {
      attempt(
        () => lines.end(),
        done,
        () => {
          void Promise.resolve()
            .then(() => buffer.flush())
            .then(() => done(), done)
        },
      )
    },
    destroy: (error, done) => {
      attempt(
        () => lines.end(),
        (failure) => done(error ?? failure ?? null),
      )
    },
  })
}

type Done = (error?: Error | null) => void

/** Calls back with what a call throws; when it throws nothing, `next` goes on. */
function attempt(call: () => void, done: Done, next: () => void = done): void {
  let failure: Error | undefined
  try {
    call()
  } catch (error) {
    failure = error instanceof Error ? error : new Error(String(error))
  }
  if (failure === undefined) next()
  else done(failure)
}

/** Cuts what comes in pieces at the ends of lines. */
class LineSplitter {
  readonly #write: (text: string) => void
  readonly #maxHeldChars: number
  readonly #decoder = new StringDecoder('utf8')
  #held = ''

  constructor(write: (text: string) => void, maxHeldChars: number) {
    this.#write = write
    this.#maxHeldChars = maxHeldChars
  }

  add(chunk: string | Uint8Array, encoding: string): void {
    const text = this.#textOf(chunk, encoding)
    // What is held has no newline; to search all of it again with each piece would take quadratic time.
    const end = text.lastIndexOf('\n') + 1
    const whole = this.#held + text.slice(0, end)
    this.#held = end > 0 ? text.slice(end) : whole + text
    if (end > 0) this.#write(whole)
    while (this.#held.length > this.#maxHeldChars) {
      const at = wholeCharacters(this.#held, this.#maxHeldChars)
      const piece = this.#held.slice(0, at)
      this.#held = this.#held.slice(at)
      this.#write(piece)
    }
  }

  /** Gives away what is held. */
  end(): void {
    const rest = this.#held + this.#decoder.end()
    this.#held = ''
    if (rest !== '') this.#write(rest)
  }

  #textOf(chunk: string | Uint8Array, encoding: string): string {
    if (typeof chunk !== 'string') return this.#decoder.write(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length))
    if (!/^utf-?8$/i.test(encoding)) return this.#decoder.write(Buffer.from(chunk, encoding as BufferEncoding))
    // A character that bytes had begun isn't gone on with by text.
    return this.#decoder.end() + chunk
  }
}

/** Where to cut, at `length` or before it, so that no surrogate pair is halved. */
function wholeCharacters(text: string, length: number): number {
  const unit = text.charCodeAt(length - 1)
  return length > 1 && unit >= 0xd800 && unit <= 0xdbff ? length - 1 : length
}
