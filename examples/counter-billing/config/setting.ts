/** A JSON Schema, as far as it is needed here. */
export type JsonSchema = Readonly<Record<string, unknown>>

/** One value that can be configured: what it does, what it may be, what it is by default, and where else it may come from. */
export interface Setting<T> {
  /** What it does. */
  readonly doc: string
  /** What it may be: `a whole number from 0 to 65535`. */
  readonly rule: string
  /** What it is where nobody says; undefined leaves it out. */
  readonly value: T
  /** The same in words, where nobody says and something else decides. */
  readonly otherwise?: string | undefined
  readonly schema: JsonSchema
  /** The value that a file or a text means; undefined for what can't be meant. */
  accept(given: unknown): T | undefined
  /** What a text in the environment or a flag says, as a file would say it. */
  parse(text: string): unknown
  /** What may be shown of a value. */
  show(value: T): string
  /** Whether a value may be a secret or have one in it: what can't be meant isn't repeated then. */
  readonly isSecret?: boolean | undefined
  /** An environment variable that others know it by, beside its own. */
  readonly variable?: string | undefined
  /** The flag of `main.ts` that says it. */
  readonly flag?: string | undefined
}

/** What stands beside a setting's kind in the table. */
export interface SettingNotes {
  readonly isSecret?: boolean
  readonly variable?: string
  readonly flag?: string
  readonly otherwise?: string
}

/** A whole number within bounds. */
export function whole(min: number, max: number, value: number, doc: string, notes?: SettingNotes): Setting<number> {
  return optionalWhole(min, max, doc, { value, ...notes }) as Setting<number>
}

/** The same where nobody has to say one. */
export function optionalWhole(
  min: number,
  max: number,
  doc: string,
  { value, ...notes }: SettingNotes & { readonly value?: number } = {},
): Setting<number | undefined> {
  return {
    ...notes,
    doc,
    value,
    rule: `a whole number from ${min} to ${max}`,
    schema: { type: 'integer', minimum: min, maximum: max },
    accept: (given) => (Number.isInteger(given) && isWithin(given as number, min, max) ? (given as number) : undefined),
    parse: (text) => (/^\d+$/.test(text) ? Number(text) : text),
    show: String,
  }
}

function isWithin(number: number, min: number, max: number): boolean {
  return number >= min && number <= max
}

/** One of some words. */
export function word<const T extends string>(
  words: readonly T[],
  value: T,
  doc: string,
  notes?: SettingNotes,
): Setting<T> {
  return optionalWord(words, doc, { value, ...notes }) as Setting<T>
}

/** The same where nobody has to say one. */
export function optionalWord<const T extends string>(
  words: readonly T[],
  doc: string,
  { value, ...notes }: SettingNotes & { readonly value?: T } = {},
): Setting<T | undefined> {
  return {
    ...notes,
    doc,
    value,
    rule: `one of ${words.join(', ')}`,
    schema: { enum: words },
    accept: (given) => words.find((known) => known === given),
    parse: (text) => text,
    show: String,
  }
}

/** Several of a kind: an array, or a text in which commas separate them. */
export function list(rule: string, form: RegExp, doc: string, notes?: SettingNotes): Setting<readonly string[]> {
  const isOne = (given: unknown): boolean => typeof given === 'string' && form.test(given)
  return {
    ...notes,
    doc,
    value: [],
    rule,
    schema: { type: 'array', items: { type: 'string', pattern: form.source } },
    accept: (given) => (Array.isArray(given) && given.every(isOne) ? given : undefined),
    parse: (given) => given.split(','),
    show: (given) => given.join(', ') || 'none',
  }
}

/** Yes or no. */
export function toggle(value: boolean, doc: string, notes?: SettingNotes): Setting<boolean> {
  const words: Readonly<Record<string, boolean>> = { true: true, false: false }
  return {
    ...notes,
    doc,
    value,
    rule: 'true or false',
    schema: { type: 'boolean' },
    accept: (given) => (typeof given === 'boolean' ? given : undefined),
    parse: (text) => (Object.hasOwn(words, text) ? words[text] : text),
    show: String,
  }
}

/** A text of a form, `rule` in words. */
export function text(rule: string, form: RegExp, doc: string, notes?: SettingNotes): Setting<string | undefined> {
  return {
    ...notes,
    doc,
    value: undefined,
    rule,
    schema: { type: 'string', pattern: form.source },
    accept: (given) => (typeof given === 'string' && form.test(given) ? given : undefined),
    parse: (given) => given,
    show: String,
  }
}

/** The same where there is always one. */
export function textOr(value: string, ...[rule, form, doc, notes]: Parameters<typeof text>): Setting<string> {
  return { ...text(rule, form, doc, notes), value } as Setting<string>
}

/** The URL of a server, of which nobody sees the password. */
export function serverUrl(schemes: readonly string[], doc: string, notes?: SettingNotes): Setting<string | undefined> {
  const forms = schemes.map((scheme) => `${scheme}://host:port`)
  const form = new RegExp(`^(?:${schemes.join('|')})://\\S+$`, 'i')
  return {
    ...text(forms.join(' or '), form, doc, notes),
    accept: (given) => (typeof given === 'string' && form.test(given) && URL.canParse(given) ? given : undefined),
    show: (url) => withoutCredentials(String(url)),
    isSecret: true,
  }
}

/** An HTTP server, and nothing that would be dropped where paths are added to it. */
export function httpOrigin(doc: string, notes?: SettingNotes): Setting<string | undefined> {
  const form = /^https?:\/\/[^/?#@\s]+\/?$/i
  return {
    ...text('http://host:port or https://host:port, and no more', form, doc, notes),
    accept: (given) => (typeof given === 'string' && form.test(given) && URL.canParse(given) ? given : undefined),
    isSecret: true,
  }
}

/** Whatever is in front of the last `@`, as a password may have any character, and passwords among the parameters. */
function withoutCredentials(url: string): string {
  return url.replace(/^(\w+:\/\/).*@/, '$1***@').replace(/([?&]\w*pass\w*=)[^&#]*/gi, '$1***')
}

/** Secrets, of which nobody sees any: an array, or a text in which commas separate them. */
export function secrets(minLength: number, doc: string, notes?: SettingNotes): Setting<readonly string[] | undefined> {
  // A comma would make two of it for a process that finds it in its environment.
  const isSecret = (given: unknown): boolean =>
    typeof given === 'string' && given.length >= minLength && !given.includes(',')
  return {
    ...notes,
    doc,
    value: undefined,
    rule: `a secret of at least ${minLength} characters without a comma, or several`,
    schema: { type: 'array', minItems: 1, items: { type: 'string', minLength, pattern: '^[^,]*$' } },
    accept: (given) => (Array.isArray(given) && given.length > 0 && given.every(isSecret) ? given : undefined),
    parse: (given) => given.split(','),
    show: () => '***',
    isSecret: true,
  }
}

/** A single secret. */
export function secret(doc: string, notes?: SettingNotes): Setting<string | undefined> {
  return { ...text('a text', /\S/, doc, notes), show: () => '***', isSecret: true }
}
