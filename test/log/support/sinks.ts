import type { LogSink } from 'spillway'

/** One write that waits for the test. */
export interface HeldWrite {
  readonly chunk: string
  /** Settle it by hand. */
  readonly take: () => void
  readonly fail: (error: unknown) => void
}

/** A sink that holds every write until the test settles it, and takes over what it holds when it has to write synchronously. */
export class HeldSink implements LogSink {
  /** What was written, in the order in which it got there. */
  readonly log: string[] = []
  readonly writes: HeldWrite[] = []
  /** Texts of the calls of `writeSync`. */
  readonly syncCalls: string[] = []
  #open: (() => void)[] = []

  readonly write = (chunk: string): Promise<void> =>
    new Promise((resolve, reject) => {
      const take = (): void => {
        if (!this.#open.includes(take)) return
        this.#open = this.#open.filter((other) => other !== take)
        this.log.push(chunk)
        resolve()
      }
      const fail = (error: unknown): void => {
        this.#open = this.#open.filter((other) => other !== take)
        reject(error)
      }
      this.#open.push(take)
      this.writes.push({ chunk, take, fail })
    })

  readonly writeSync = (chunk: string): void => {
    this.syncCalls.push(chunk)
    this.takeAll()
    this.log.push(chunk)
  }

  at(index: number): HeldWrite {
    const write = this.writes[index]
    if (write === undefined) throw new Error(`there were only ${this.writes.length} writes, not ${index + 1}`)
    return write
  }

  takeAll(): void {
    for (const take of [...this.#open]) take()
  }

  get text(): string {
    return this.log.join('')
  }

  get lines(): string[] {
    return linesIn(this.text)
  }
}

/** A sink that takes everything at once. */
export class OpenSink implements LogSink {
  readonly chunks: string[] = []

  readonly write = (chunk: string): void => void this.chunks.push(chunk)

  get text(): string {
    return this.chunks.join('')
  }

  get lines(): string[] {
    return linesIn(this.text)
  }
}

/** The lines of a text that ends with a newline. */
export function linesIn(text: string): string[] {
  if (text === '') return []
  if (!text.endsWith('\n')) throw new Error(`the last line has no end: ${JSON.stringify(text.slice(-40))}`)
  return text.slice(0, -1).split('\n')
}

/** How many lost lines each drop line of a log tells of, by the default text. */
export function toldIn(lines: readonly string[]): number[] {
  return lines.flatMap((line) => {
    const dropped = /"dropped":(\d+)/.exec(line)?.[1]
    return dropped === undefined ? [] : [Number(dropped)]
  })
}
