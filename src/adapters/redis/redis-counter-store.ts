import { StoreError } from '../../core/errors.js'
import { checkCount, checkDuration, checkOptions, failOption, valueOr } from '../../core/options.js'
import type { BatchContext, CounterIncrement, CounterStore, RefusedIncrement } from '../../core/ports.js'
import { orAbort } from '../../internal/abort.js'
import { invalidIncrement, refusal, validSums } from '../../internal/counter-batch.js'
import { checkIdentified, checkList, checkSums } from '../../internal/store-arguments.js'
import { bucketOf } from './counter-bucket.js'
import { applyBatch, fixLayout, notCounter, outOfRange } from './counter-scripts.js'
import { type RedisClient, type RedisFace, redisFace } from './redis-client.js'
import { partlyFailed, wrapped } from './redis-error.js'

/** Options of {@link RedisCounterStore}. */
export interface RedisCounterStoreOptions {
  /**
   * What all keys of the store begin with; stores with different prefixes know nothing of each other. Without braces, which
   * Redis Cluster reads as hash tags.
   *
   * @defaultValue 'spillway'
   */
  prefix?: string | undefined
  /**
   * Over how many buckets the counters are spread, from 1 to 1024. What is in one bucket lies on one node and changes in one call
   * of a script; each bucket that a batch touches is a call. The default is 16 on a cluster and 1 otherwise. The first batch of a
   * prefix fixes the count in Redis, and a store that was made for another one fails every call.
   */
  buckets?: number | undefined
  /**
   * How many batch ids a bucket remembers at the most, the latest ones: the bound on memory. Keep it above the batches that
   * come while one is retried, from all processes.
   *
   * @defaultValue 50_000
   */
  rememberBatches?: number | undefined
  /**
   * For how long a batch id is remembered, in milliseconds, unless `rememberBatches` later ones push it out. Keep it above the
   * time from a batch's first attempt to its last.
   *
   * @defaultValue 600_000
   */
  batchMemoryMs?: number | undefined
  /** What errors call it. The default is `redis-counter-store`. */
  name?: string | undefined
}

/** How many keys one MGET reads, so that no single command holds up a server. */
const keysPerRead = 1000

/**
 * Counters in Redis or Redis Cluster. A batch is one call of a Lua script for each bucket that it touches, one in all where there is
 * one bucket; a script applies all of its part or nothing, and remembers the batch's id with its answers, so that a batch that
 * comes again changes nothing.
 *
 * Over several buckets a batch is not atomic: when one bucket fails, others may have been applied. The error's `outcomeUnknown` is
 * true then, and the same batch, sent again under its id, does what is missing.
 *
 * @example
 * ```ts
 * import { Redis } from 'ioredis'
 * import { AsyncBatcher, type CounterIncrement } from 'spillway'
 * import { RedisCounterStore } from 'spillway/redis'
 *
 * const store = new RedisCounterStore(new Redis('redis://127.0.0.1:6379'))
 * const likes = new AsyncBatcher<CounterIncrement, number>((increments, context) => store.increment(increments, context), {
 *   idempotent: store.idempotent,
 *   retry: { attempts: 5 },
 * })
 * const total = await likes.add({ key: 'post:1', delta: 1 })
 * ```
 */
export class RedisCounterStore implements CounterStore {
  /** The defaults of its options. */
  static readonly defaults = {
    prefix: 'spillway',
    rememberBatches: 50_000,
    batchMemoryMs: 600_000,
  } as const

  /** It applies each batch id once, as long as it remembers it. */
  readonly idempotent = true
  /** What errors call it. */
  readonly name: string
  /** Over how many buckets the counters are spread. */
  readonly buckets: number
  readonly #face: RedisFace
  readonly #prefix: string
  readonly #remembered: string
  readonly #memoryMs: string
  #layout: Promise<void> | undefined
  #layoutFixed = false

  /**
   * @param client - a client of ioredis or node-redis, single or cluster. It stays the caller's to connect and to close.
   * @throws OptionError when an option is wrong, or the client none that it knows.
   */
  constructor(client: RedisClient, options: RedisCounterStoreOptions = {}) {
    checkOptions('options', options)
    const { defaults } = RedisCounterStore
    this.#face = redisFace(client)
    this.name = checkText('name', valueOr(options.name, 'redis-counter-store'))
    this.#prefix = checkText('prefix', valueOr<string>(options.prefix, defaults.prefix))
    if (/[{}]/.test(this.#prefix)) failOption('prefix', 'must be a string without braces', this.#prefix)
    this.buckets = checkCount('buckets', valueOr(options.buckets, this.#face.cluster ? 16 : 1), 1, 1024)
    const remembered = valueOr<number>(options.rememberBatches, defaults.rememberBatches)
    this.#remembered = String(checkCount('rememberBatches', remembered))
    const memoryMs = valueOr<number>(options.batchMemoryMs, defaults.batchMemoryMs)
    this.#memoryMs = String(Math.ceil(checkDuration('batchMemoryMs', memoryMs, 1)))
  }

  /**
   * Applies a batch, once for each batch id.
   *
   * @returns each counter's value right after its increment, or the `StoreError` of one that was refused. Rejects with a `StoreError`
   * when Redis failed, or with the signal's reason; whether an aborted batch was applied is then unknown.
   */
  async increment(
    increments: readonly CounterIncrement[],
    context: BatchContext,
  ): Promise<readonly (number | Error)[]> {
    const { signal, batchId } = checkIdentified(context)
    checkList('increments', increments)
    signal.throwIfAborted()
    const answers: (number | Error)[] = new Array(increments.length)
    const portions = new Portions(this.buckets)
    for (let i = 0; i < increments.length; i++) {
      const increment = increments[i] as CounterIncrement
      const invalid = invalidIncrement(increment)
      if (invalid === undefined) portions.put(increment.key, increment.delta, i)
      else answers[i] = invalid
    }
    if (portions.used.length === 0) return answers
    await this.#applyAll('increment', portions.used, batchId, signal, (portion, texts) => {
      for (let i = 0; i < portion.places.length; i++) {
        const text = texts[i + 1] as string
        const value = Number(text)
        answers[portion.places[i] as number] = Number.isNaN(value) ? refusalOf(text, portion.keys[i] as string) : value
      }
    })
    return answers
  }

  /**
   * Applies a batch of sums, once for each batch id.
   *
   * @returns what was refused, nothing as a rule. Rejects as `increment` does.
   */
  async add(sums: ReadonlyMap<string, number>, context: BatchContext): Promise<readonly RefusedIncrement[]> {
    const { signal, batchId } = checkIdentified(context)
    checkSums(sums)
    signal.throwIfAborted()
    const { valid, refused } = validSums(sums)
    const portions = new Portions(this.buckets)
    for (let i = 0; i < valid.length; i++) {
      const { key, delta } = valid[i] as (typeof valid)[number]
      portions.put(key, delta, i)
    }
    if (portions.used.length === 0) return refused
    await this.#applyAll('add', portions.used, batchId, signal, (portion, texts) => {
      for (let i = 1; i < texts.length; i += 2) {
        const index = Number(texts[i])
        const key = portion.keys[index] as string
        const delta = Number(portion.deltas[index])
        refused.push({ key, delta, error: refusalOf(texts[i + 1] as string, key) })
      }
    })
    return refused
  }

  /**
   * Reads counters, one MGET for each thousand of a bucket's keys.
   *
   * @returns the values in the order of the keys, 0 for one that was never changed. Rejects with a `StoreError` when Redis failed, or
   * a key holds a text that is no counter.
   */
  async getMany(keys: readonly string[]): Promise<readonly number[]> {
    const values: number[] = new Array(checkList('keys', keys).length).fill(0)
    const portions = new Portions(this.buckets)
    for (let i = 0; i < keys.length; i++) {
      const key = keys[i] as string
      if (invalidIncrement({ key, delta: 0 }) === undefined) portions.put(key, 0, i)
    }
    if (portions.used.length === 0) return values
    await this.#checkLayout()
    const reads: Promise<void>[] = []
    for (const portion of portions.used) {
      for (let from = 0; from < portion.keys.length; from += keysPerRead) {
        reads.push(this.#read(portion, from, values))
      }
    }
    const failed = (await Promise.allSettled(reads)).find((read) => read.status === 'rejected')
    if (failed !== undefined) throw failed.reason
    return values
  }

  async #applyAll(
    operation: 'increment' | 'add',
    portions: readonly Portion[],
    batchId: string,
    signal: AbortSignal,
    take: (portion: Portion, texts: readonly string[]) => void,
  ): Promise<void> {
    if (!this.#layoutFixed) {
      await orAbort(this.#fixLayout(), signal)
      signal.throwIfAborted()
    }
    const [first] = portions
    if (portions.length === 1) {
      const texts = await orAbort(this.#apply(operation, first as Portion, batchId), signal)
      take(first as Portion, texts)
      return
    }
    const parts = portions.map((portion) => this.#apply(operation, portion, batchId))
    const outcomes = await orAbort(Promise.allSettled(parts), signal)
    const errors = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as StoreError] : []))
    if (errors.length > 0) throw partlyFailed(`${this.name}: ${operation}`, errors, outcomes.length, 'buckets')
    outcomes.forEach((outcome, i) => {
      if (outcome.status === 'fulfilled') take(portions[i] as Portion, outcome.value)
    })
  }

  /** One bucket's part of a batch: its answer's texts, of which the first is the number of increments. */
  async #apply(operation: 'increment' | 'add', portion: Portion, batchId: string): Promise<readonly string[]> {
    const bucket = this.#bucket(portion.bucket)
    const keys: string[] = [`${bucket}ids`, `${bucket}b:${batchId}`]
    const counters = `${bucket}c:`
    for (let i = 0; i < portion.keys.length; i++) keys.push(counters + portion.keys[i])
    const args = [this.#remembered, this.#memoryMs, operation === 'increment' ? '1' : '0']
    for (let i = 0; i < portion.deltas.length; i++) args.push(portion.deltas[i] as string)
    const answer = await this.#call(operation, true, () => applyBatch.run(this.#face, keys, args))
    const texts = typeof answer === 'string' ? answer.split(',') : []
    const expected = portion.keys.length
    const whole = operation === 'add' ? texts.length % 2 === 1 : texts.length === expected + 1
    if (texts[0] === String(expected) && whole) return texts
    throw new StoreError(
      `${this.name}: batch ${batchId} came before with other increments, or to another method: ` +
        `expected answers to ${expected}, got ${texts.length === 0 ? typeof answer : `those to ${texts[0]}`}`,
      { retryable: false, outcomeUnknown: false },
    )
  }

  async #read(portion: Portion, from: number, values: number[]): Promise<void> {
    const counters = `${this.#bucket(portion.bucket)}c:`
    const keys = portion.keys.slice(from, from + keysPerRead)
    const names = keys.map((key) => counters + key)
    const first = names[0] as string
    const texts = (await this.#call('getMany', false, () => this.#face.send(first, true, 'MGET', names))) as unknown[]
    for (let i = 0; i < keys.length; i++) {
      const text = texts[i]
      const value = text === null || text === undefined ? 0 : Number(text)
      if (!Number.isSafeInteger(value)) {
        throw new StoreError(`${this.name}: ${JSON.stringify(names[i])} holds no counter`, { retryable: false })
      }
      values[portion.places[from + i] as number] = value
    }
  }

  /** What the names of a bucket's keys begin with; the braces put them all into one slot of a cluster. */
  #bucket(bucket: number): string {
    return `{${this.#prefix}:${bucket}}:`
  }

  /** Fixes the number of buckets in Redis, or finds that it is another one: with that, counters would be looked for elsewhere. */
  #fixLayout(): Promise<void> {
    this.#layout ??= this.#call('increment', false, () =>
      fixLayout.run(this.#face, [this.#layoutKey], [String(this.buckets)]),
    ).then(
      (fixed) => {
        this.#layout = undefined
        this.#compareLayout(fixed)
      },
      (error) => {
        this.#layout = undefined
        throw error
      },
    )
    return this.#layout
  }

  async #checkLayout(): Promise<void> {
    if (this.#layoutFixed) return
    const key = this.#layoutKey
    const fixed = await this.#call('getMany', false, () => this.#face.send(key, true, 'GET', [key]))
    // Nobody has written yet, so whatever count there will be, all is 0 now.
    if (fixed !== null && fixed !== undefined) this.#compareLayout(fixed)
  }

  get #layoutKey(): string {
    return `${this.#prefix}:layout`
  }

  #compareLayout(fixed: unknown): void {
    if (fixed !== String(this.buckets)) {
      throw new StoreError(
        `${this.name}: the counters of prefix ${JSON.stringify(this.#prefix)} lie in ${fixed} buckets, ` +
          `the store was made for ${this.buckets}`,
        { retryable: false },
      )
    }
    this.#layoutFixed = true
  }

  #call(operation: string, writes: boolean, send: () => Promise<unknown>): Promise<unknown> {
    return wrapped(this.#face, { name: this.name, operation, writes }, send)
  }
}

/** What a batch does to one bucket. */
class Portion {
  readonly bucket: number
  readonly keys: string[] = []
  readonly deltas: string[] = []
  /** Where in the batch each of them is. */
  readonly places: number[] = []

  constructor(bucket: number) {
    this.bucket = bucket
  }
}

/** A batch, parted by bucket. */
class Portions {
  readonly used: Portion[] = []
  readonly #buckets: number
  readonly #byBucket: (Portion | undefined)[] = []

  constructor(buckets: number) {
    this.#buckets = buckets
  }

  put(key: string, delta: number, place: number): void {
    const bucket = this.#buckets === 1 ? 0 : bucketOf(key, this.#buckets)
    let portion = this.#byBucket[bucket]
    if (portion === undefined) {
      portion = new Portion(bucket)
      this.#byBucket[bucket] = portion
      this.used.push(portion)
    }
    portion.keys.push(key)
    portion.deltas.push(String(delta))
    portion.places.push(place)
  }
}

function refusalOf(text: string, key: string): StoreError {
  if (text === outOfRange) return refusal(key)
  const why = text === notCounter ? 'its key holds something that is no whole number' : 'Redis refused it'
  return new StoreError(`counter ${JSON.stringify(key)} can't be changed: ${why}`, { retryable: false })
}

function checkText(field: string, value: string): string {
  if (typeof value !== 'string') failOption(field, 'must be a string', value)
  return value
}
