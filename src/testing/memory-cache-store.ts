import { type Clock, systemClock } from '../core/clock.js'
import type { OptionError } from '../core/errors.js'
import { checkCount, checkDuration, checkOptionalFunction, checkOptions, failOption, valueOr } from '../core/options.js'
import type { CachedValue, CacheMark, CacheStore, CacheWrite, CacheWriteOutcome, CurrentMark } from '../core/ports.js'
import { Remembered } from '../internal/remembered.js'

/** Options of {@link MemoryCacheStore}. */
export interface MemoryCacheStoreOptions {
  /** Where it takes its time from. The default is `systemClock`. */
  clock?: Clock | undefined
  /**
   * How long it remembers the version of a key after a write or a delete, in milliseconds.
   * @defaultValue 60_000
   */
  fenceMs?: number | undefined
  /**
   * How many keys it keeps, tombstones included, and how many marks. Beyond that it forgets those that were written longest ago; a
   * fence that is forgotten so no longer keeps out what was loaded before it.
   * @defaultValue 10_000
   */
  capacity?: number | undefined
  /**
   * Makes what is kept of a value, for instance `structuredClone` or a check that throws an `OptionError`. The default keeps values
   * themselves: whoever changes one that it got changes it for everybody.
   */
  encode?: ((value: unknown) => unknown) | undefined
}

/** A key, as it was last written or deleted. */
interface CacheRecord {
  readonly value: unknown
  readonly version: string
  readonly writtenAt: number
  readonly freshUntil: number
  readonly keptUntil: number
  /** Until when its version is remembered, whatever becomes of the value. */
  readonly fenceUntil: number
  readonly marks: readonly CacheMark[]
}

/**
 * A cache store in memory, behaving as every {@link CacheStore} must: for tests in virtual time, and as the second tier of several
 * caches in one process. It passes `cacheStoreContract`.
 *
 * @example
 * ```ts
 * import { FakeClock, MemoryCacheStore } from 'spillway/testing'
 *
 * const store = new MemoryCacheStore({ clock: new FakeClock() })
 * await store.setMany([{ key: 'user:1', value: 'Ada', freshMs: 60_000, keptMs: 60_000, marks: [] }])
 * const [user] = await store.getMany(['user:1']) // { value: 'Ada', version: '1', freshMs: 60_000, … }
 * ```
 */
export class MemoryCacheStore implements CacheStore {
  /** The options' defaults. */
  static readonly defaults = { fenceMs: 60_000, capacity: 10_000 } as const

  readonly fenceMs: number
  readonly encode?: (value: unknown) => unknown
  readonly #clock: Clock
  readonly #records: Remembered<CacheRecord>
  readonly #marks: Remembered<{ readonly mark: string; readonly renewedAt: number }>
  /** Counts all states of keys and marks, so that none has the name of another one. */
  #states = 0

  /** @throws OptionError when an option is wrong. */
  constructor(options: MemoryCacheStoreOptions = {}) {
    checkOptions('options', options)
    const { defaults } = MemoryCacheStore
    this.fenceMs = checkDuration('fenceMs', valueOr(options.fenceMs, defaults.fenceMs))
    const capacity = checkCount('capacity', valueOr(options.capacity, defaults.capacity))
    const encode = checkOptionalFunction('encode', options.encode)
    if (encode !== undefined) this.encode = encode
    this.#clock = valueOr(options.clock, systemClock)
    this.#records = new Remembered(capacity)
    this.#marks = new Remembered(capacity)
  }

  /** How many keys it keeps, tombstones and expired ones that nobody has read since included. */
  get size(): number {
    return this.#records.size
  }

  async getMany(keys: readonly string[]): Promise<readonly CachedValue[]> {
    const now = this.#clock.now()
    return keys.map((key) => {
      const record = this.#recordOf(key, now)
      if (record === undefined) return { value: undefined, version: '', ageMs: 0, freshMs: 0, keptMs: 0, marks: [] }
      const { value, version, writtenAt, freshUntil, keptUntil, marks } = record
      if (now >= keptUntil) return { value: undefined, version, ageMs: 0, freshMs: 0, keptMs: 0, marks: [] }
      return { value, version, ageMs: now - writtenAt, freshMs: freshUntil - now, keptMs: keptUntil - now, marks }
    })
  }

  async setMany(writes: readonly CacheWrite[]): Promise<readonly (CacheWriteOutcome | Error)[]> {
    const now = this.#clock.now()
    return writes.map((write) => this.#write(write, now))
  }

  async deleteMany(keys: readonly string[]): Promise<readonly string[]> {
    const now = this.#clock.now()
    return keys.map((key) => {
      const version = this.#nextState()
      const fenceUntil = now + this.fenceMs
      this.#records.add(key, {
        value: undefined,
        version,
        writtenAt: now,
        freshUntil: now,
        keptUntil: now,
        fenceUntil,
        marks: [],
      })
      return version
    })
  }

  async readMarks(names: readonly string[]): Promise<readonly CurrentMark[]> {
    const now = this.#clock.now()
    return names.map((name) => {
      const known = this.#marks.get(name)
      if (known !== undefined) return { name, mark: known.mark, renewedMs: now - known.renewedAt }
      return this.#makeMark(name, Number.NEGATIVE_INFINITY, now)
    })
  }

  async renewMarks(names: readonly string[]): Promise<readonly CurrentMark[]> {
    const now = this.#clock.now()
    return names.map((name) => this.#makeMark(name, now, now))
  }

  #write(write: CacheWrite, now: number): CacheWriteOutcome | Error {
    const wrong = wrongIn(write)
    if (wrong !== undefined) return wrong
    const { key, value, freshMs, keptMs, ifVersion } = write
    const before = this.#recordOf(key, now)
    if (ifVersion !== undefined && ifVersion !== (before?.version ?? '')) {
      return { written: false, version: before?.version ?? '' }
    }
    const version = this.#nextState()
    // What was loaded keeps out nothing itself, but takes nothing away from what the last write keeps out.
    const fenceUntil = ifVersion === undefined ? now + this.fenceMs : (before?.fenceUntil ?? now)
    const marks = write.marks.map(({ name, mark }) => ({ name, mark }))
    this.#records.add(key, {
      value,
      version,
      writtenAt: now,
      freshUntil: now + freshMs,
      keptUntil: now + keptMs,
      fenceUntil,
      marks,
    })
    return { written: true, version }
  }

  /** What it still knows about a key. */
  #recordOf(key: string, now: number): CacheRecord | undefined {
    const record = this.#records.get(key)
    if (record === undefined || now < record.keptUntil || now < record.fenceUntil) return record
    this.#records.delete(key)
    return undefined
  }

  #makeMark(name: string, renewedAt: number, now: number): CurrentMark {
    const mark = this.#nextState()
    this.#marks.add(name, { mark, renewedAt })
    return { name, mark, renewedMs: now - renewedAt }
  }

  #nextState(): string {
    return String(++this.#states)
  }
}

/** What is wrong with a write. */
function wrongIn({ key, value, freshMs, keptMs, marks }: CacheWrite): OptionError | undefined {
  try {
    if (typeof key !== 'string') failOption('key', 'must be a string', key)
    if (value === undefined) failOption('value', 'must not be undefined', value)
    checkDuration('freshMs', freshMs, 0, Number.POSITIVE_INFINITY)
    checkDuration('keptMs', keptMs, freshMs, Number.POSITIVE_INFINITY)
    if (!Array.isArray(marks)) failOption('marks', 'must be an array', marks)
    return undefined
  } catch (error) {
    return error as OptionError
  }
}
