import { type ParseArgsConfig, parseArgs } from 'node:util'

type Flags = NonNullable<ParseArgsConfig['options']>
type Values<F extends Flags> = ReturnType<typeof parseArgs<{ options: F }>>['values']

/** A command line that can't be meant. */
export class UsageError extends Error {}

/** Reads the flags; on a wrong one, or on --help, prints what there is to say and ends the process. */
export function readFlags<F extends Flags, Options>(
  flags: F,
  help: string,
  check: (values: Values<F>) => Options,
): Options {
  try {
    const { values } = parseArgs({ args: process.argv.slice(2), options: { ...flags, help: { type: 'boolean' } } })
    if ((values as { help?: boolean }).help) {
      process.stdout.write(`${fitted(help, process.stdout.columns)}\n`)
      process.exit(0)
    }
    return check(values as Values<F>)
  } catch (error) {
    const { code, message } = error as { code?: string; message: string }
    if (!(error instanceof UsageError) && !code?.startsWith('ERR_PARSE_ARGS')) throw error
    // Node's second sentence explains how to escape a leading dash, which is never what is wrong here.
    const text = error instanceof UsageError ? message : message.split('. ')[0]
    process.stderr.write(`${text}${text?.includes('\n') ? '\n' : '; '}--help lists the flags\n`)
    process.exit(2)
  }
}

/** A help as wide as the terminal is: what doesn't fit goes on where the text before it began. Commands stay in one piece. */
export function fitted(help: string, columns = Number.POSITIVE_INFINITY): string {
  const lines = help.split('\n')
  if (lines.every(({ length }) => length <= columns)) return help
  const paragraphs: string[] = []
  for (const line of lines) {
    const before = paragraphs.at(-1)
    const goesOn = /^ {3}/.test(line) || (/^\S/.test(line) && /^\S/.test(before ?? ''))
    if (before !== undefined && goesOn) paragraphs.splice(-1, 1, `${before} ${line.trim()}`)
    else paragraphs.push(line)
  }
  return paragraphs.map((paragraph) => broken(paragraph, columns)).join('\n')
}

/** A paragraph in lines that are no longer than this, where a word isn't. */
function broken(paragraph: string, columns: number): string {
  const [head = ''] = /^ {2}--.*? {2,}/.exec(paragraph) ?? []
  if (head === '' && paragraph.startsWith(' ')) return paragraph
  let [text, line] = ['', head]
  for (const word of paragraph.slice(head.length).split(' ')) {
    const isFirst = line.length === head.length
    if (isFirst || line.length + 1 + word.length <= columns) line += isFirst ? word : ` ${word}`
    else {
      text += `${line}\n`
      line = `${' '.repeat(head.length)}${word}`
    }
  }
  return text + line
}

/** A whole number within bounds. */
export function count(flag: string, value: string | undefined, min: number, max: number): number | undefined {
  if (value === undefined) return undefined
  const number = /^\d+$/.test(value) ? Number(value) : Number.NaN
  if (number >= min && number <= max) return number
  throw new UsageError(`--${flag} must be a whole number from ${min} to ${max}, got "${value}"`)
}

/** One of some words. */
export function oneOf<T extends string>(flag: string, value: string | undefined, allowed: readonly T[]): T | undefined {
  if (value === undefined) return undefined
  const found = allowed.find((word) => word === value)
  if (found !== undefined) return found
  throw new UsageError(`--${flag} must be one of ${allowed.join(', ')}, got "${value}"`)
}

/** An error that ends a program, for people: the text alone, with what a failed connection hides in its parts. */
export function describe(error: unknown): string {
  const { message, errors, cause, code } = error as Error & { errors?: unknown[]; code?: string }
  const parts = (errors ?? []).map(describe).join(', ')
  const own = message || parts || code || String(error)
  return cause === undefined || own.includes(String((cause as Error).message)) ? own : `${own}: ${describe(cause)}`
}
