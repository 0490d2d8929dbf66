import type {
  CachedValue,
  CacheMark,
  CacheStore,
  CacheWrite,
  CacheWriteOutcome,
  CurrentMark,
} from '../../core/ports.js'
import { expectEqual, expectThat } from './contract.js'
import { oddIds } from './usage-world.js'

/** What a cache store's contract needs of an implementation. */
export interface CacheStoreHarness {
  /**
   * Opens a store. Each call gives another one on the same data, as another process would have it. Cases use keys and marks of their
   * own, so nothing needs to be cleaned up between them. Its `fenceMs` must be 10 seconds or more.
   */
  open(): CacheStore | PromiseLike<CacheStore>
  /** Lets time pass on the store's clock, this many milliseconds or a little more. */
  elapse(ms: number): void | PromiseLike<void>
  /** Values that it carries beside what JSON has, `Date`s for instance. The default is none. */
  readonly values?: readonly unknown[] | undefined
  /** Values that its `encode` must refuse. The default is none. */
  readonly refused?: readonly unknown[] | undefined
}

/** Adds a case. */
export type CacheTest = (name: string, body: (world: CacheWorld) => Promise<void>) => void

/** How much longer than it should a real server, its network and a busy machine may take, in milliseconds. */
export const slackMs = 5_000
/** How coarse a store's clock may be, in milliseconds. */
export const grainMs = 2

/** How a case writes. */
export interface PutOptions {
  readonly freshMs?: number
  /** As long as it is fresh, where left out. */
  readonly keptMs?: number
  readonly marks?: readonly CacheMark[]
  readonly ifVersion?: string
}

/** Keys, marks and tags that are easily taken for others. */
export const oddNames: readonly string[] = [
  ...oddIds,
  '\0',
  'a\0b',
  'a\0',
  'a',
  'A',
  'a:b',
  'a/b',
  ',',
  '\r\n',
  '\u2028',
  '\ufeff',
  'constructor',
  '\u{1F469}\u200d\u{1F52C}',
  'x'.repeat(1000),
]

/** One case's surroundings: a store, and keys and marks that no other case uses. */
export class CacheWorld {
  readonly store: CacheStore
  readonly harness: CacheStoreHarness
  readonly #prefix: string = crypto.randomUUID()

  constructor(harness: CacheStoreHarness, store: CacheStore) {
    this.harness = harness
    this.store = store
  }

  /** Another store on the same data. */
  open = async (): Promise<CacheStore> => this.harness.open()

  elapse = async (ms: number): Promise<void> => this.harness.elapse(ms)

  key = (name: string): string => `${this.#prefix}:${name}`

  /** What `setMany` takes to write a value for an hour. */
  writeOf = (name: string, value: unknown, options: PutOptions = {}): CacheWrite => {
    const { freshMs = 3_600_000, keptMs = freshMs, marks = [], ifVersion } = options
    const encoded = this.store.encode === undefined ? value : this.store.encode(value)
    const write = { key: this.key(name), value: encoded, freshMs, keptMs, marks }
    return ifVersion === undefined ? write : { ...write, ifVersion }
  }

  /** Tries to write one key. */
  tryPut = async (name: string, value: unknown, options?: PutOptions): Promise<CacheWriteOutcome> => {
    const [outcome] = done(await this.store.setMany([this.writeOf(name, value, options)]), 1)
    return outcome as CacheWriteOutcome
  }

  /** Writes one key, and says its version. */
  put = async (name: string, value: unknown, options?: PutOptions): Promise<string> => {
    const { written, version } = await this.tryPut(name, value, options)
    expectThat(written, `a write of ${name} must be made`)
    expectThat(typeof version === 'string' && version !== '', 'a written key must have a version')
    return version
  }

  /** Reads one key. */
  get = async (name: string, store: CacheStore = this.store): Promise<CachedValue> => {
    const [answer] = done(await store.getMany([this.key(name)]), 1)
    return answer as CachedValue
  }

  /** Deletes one key, and says its version. */
  remove = async (name: string): Promise<string> => {
    const [version] = done(await this.store.deleteMany([this.key(name)]), 1)
    expectThat(typeof version === 'string' && version !== '', 'a tombstone must have a version')
    return version as string
  }

  /** Reads one mark. */
  mark = async (name: string, store: CacheStore = this.store): Promise<CurrentMark> => {
    const [mark] = done(await store.readMarks([this.key(name)]), 1)
    return mark as CurrentMark
  }

  /** Renews one mark. */
  renew = async (name: string): Promise<CurrentMark> => {
    const [mark] = done(await this.store.renewMarks([this.key(name)]), 1)
    return mark as CurrentMark
  }
}

/** The answers of a call in which nothing may have failed. */
export function done<T>(answers: readonly (T | Error)[], count: number): readonly T[] {
  expectEqual(answers.length, count, 'how many answers came')
  for (const answer of answers) if (answer instanceof Error) throw answer
  return answers as readonly T[]
}

/** Throws unless two values are the same, as deep as they go. */
export function expectValue(actual: unknown, expected: unknown, what: string): void {
  if (!isSame(actual, expected)) {
    throw new Error(`${what}: expected ${describe(expected)}, got ${describe(actual)}`)
  }
}

/** Throws unless a number lies between two others. */
export function expectBetween(value: number, min: number, max: number, what: string): void {
  expectThat(value >= min && value <= max, `${what}: expected ${min} to ${max}, got ${value}`)
}

function isSame(a: unknown, b: unknown): boolean {
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return Object.is(a, b)
  if (Object.getPrototypeOf(a) !== Object.getPrototypeOf(b)) return false
  if (a instanceof Date) return Object.is(a.getTime(), (b as Date).getTime())
  if (a instanceof Map || a instanceof Set) return isSame([...a], [...(b as Iterable<unknown>)])
  const [keys, others] = [Object.keys(a), Object.keys(b)]
  return (
    keys.length === others.length &&
    keys.every((key) => Object.hasOwn(b, key) && isSame(a[key as never], b[key as never]))
  )
}

function describe(value: unknown): string {
  const text =
    typeof value === 'object' ? JSON.stringify(value) : typeof value === 'string' ? `'${value}'` : String(value)
  return text.length > 200 ? `${text.slice(0, 199)}…` : text
}
