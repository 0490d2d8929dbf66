const isTerminal = process.stdout.isTTY === true
const isColourful = isTerminal && !process.env['NO_COLOR']
const barWidth = 30
/** What takes less isn't worth a line. */
const quietMs = 2_000
const spinner = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏']

const styles = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  cyan: [36, 39],
} as const

/** Text in a style, on a terminal that may have colours. */
export function styled(style: keyof typeof styles, text: string): string {
  const [on, off] = styles[style]
  return isColourful ? `\u001B[${on}m${text}\u001B[${off}m` : text
}

/** The line at the bottom of the terminal that tells how far something is. */
let line = ''

/** Prints text above that line. */
export function printed(text: string, print: (text: string) => void = console.log): void {
  if (line !== '') process.stdout.write('\r\u001B[K')
  print(text)
  if (line !== '') process.stdout.write(line)
}

function show(text: string): void {
  line = text.slice(0, (process.stdout.columns ?? 80) - 1)
  process.stdout.write(`\r\u001B[K${line}`)
}

function clear(): void {
  if (line !== '') process.stdout.write('\r\u001B[K')
  line = ''
}

/** How far something is: on a terminal a line that moves, anywhere else a line a second once it takes longer than two. */
export class Progress {
  readonly #title: string
  readonly #startedAt = performance.now()
  readonly #timer: NodeJS.Timeout
  #share: number | undefined
  #state = ''
  #frame = 0

  constructor(title: string) {
    this.#title = title
    this.#timer = setInterval(() => this.#tick(), isTerminal ? 100 : 1_000)
    this.#timer.unref()
  }

  /** @param share - how much of it is done, from 0 to 1, where that is known. */
  set(share: number | undefined, state: string): void {
    this.#share = share
    this.#state = state
  }

  end(): void {
    clearInterval(this.#timer)
    if (isTerminal) clear()
  }

  #tick(): void {
    const elapsedMs = performance.now() - this.#startedAt
    const state = [`${Math.round(elapsedMs / 1_000)} s`, this.#state].filter((text) => text !== '').join('  ')
    if (isTerminal) {
      const sign = this.#share === undefined ? (spinner[this.#frame++ % spinner.length] as string) : bar(this.#share)
      show(`  ${sign} ${this.#title}  ${state}`)
    } else if (elapsedMs >= quietMs) {
      console.log(`  ${this.#title}  ${state}`)
    }
  }
}

/** The same for as long as something runs of which nothing else is known. */
export async function during<T>(title: string, work: Promise<T>): Promise<T> {
  const progress = new Progress(title)
  try {
    return await work
  } finally {
    progress.end()
  }
}

function bar(share: number): string {
  const done = Math.round(Math.min(1, share) * barWidth)
  return `${'█'.repeat(done)}${'░'.repeat(barWidth - done)}`
}
