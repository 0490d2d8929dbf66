import { randomBytes } from 'node:crypto'
import { Component } from '../../core/component.js'
import type { SpillwayError } from '../../core/errors.js'
import { isThenable } from '../../core/events.js'
import { checkCount, checkDuration, failOption, valueOr } from '../../core/options.js'
import type {
  CachedValue,
  CacheMark,
  CacheStore,
  CacheWrite,
  CacheWriteOutcome,
  CurrentMark,
} from '../../core/ports.js'
import { checkTexts, checkWrites } from './cache-arguments.js'
import { CacheClock } from './cache-clock.js'
import { CacheGatherer, type GatheredRead } from './cache-gatherer.js'
import { CacheKeys } from './cache-keys.js'
import { CacheLayout } from './cache-layout.js'
import { type CachePart, type PartLimits, partsOf, runParts } from './cache-parts.js'
import { PayloadCodec, PayloadTooLargeError } from './cache-payload.js'
import {
  type CacheRecord,
  flags,
  packRecord,
  readRecord,
  sealOf,
  serverBytes,
  type UnreadableReason,
} from './cache-record.js'
import { readRecords, readTime, touchMarks, unconditional, writeRecords } from './cache-scripts.js'
import { jsonSerializer } from './json-serializer.js'
import {
  checkCompression,
  checkSerializer,
  type RedisCacheStoreEvents,
  type RedisCacheStoreOptions,
  type RedisCacheStoreStats,
} from './redis-cache-store-options.js'
import { byteFace, type RedisClient, type RedisFace } from './redis-client.js'
import { partlyFailed, redisError, wrapped } from './redis-error.js'
import type { ScriptArgument } from './redis-script.js'

/** How much one command reads or writes, so that none holds up a server. */
const perRead: PartLimits = { keys: 500, bytes: Number.POSITIVE_INFINITY }
const perWrite: PartLimits = { keys: 200, bytes: 1_048_576 }
/** A value takes no more than a string of Redis may. */
const maxStringBytes = 536_870_912 - 65_536

const noMarks: readonly CacheMark[] = Object.freeze([])

/**
 * The shared tier of a cache in Redis or Redis Cluster, for any number of processes. A read is one MGET, a write or delete one Lua script
 * that compares versions, whatever the number of keys; on a cluster it is one for each bucket that they are in, sent together.
 * All times are told by the clock of Redis.
 *
 * @example
 * ```ts
 * import { Redis } from 'ioredis'
 * import { MultiLevelCache } from 'spillway'
 * import { RedisCacheStore } from 'spillway/redis'
 *
 * const l2 = new RedisCacheStore(new Redis('redis://127.0.0.1:6379'), { compression: {} })
 * const users = new MultiLevelCache<{ name: string }>({ l2, namespace: 'users' })
 * const ann = await users.getOrLoad('ann', async (key) => ({ name: key }))
 * ```
 */
export class RedisCacheStore extends Component<RedisCacheStoreEvents, RedisCacheStoreStats> implements CacheStore {
  /** The defaults of its options. */
  static readonly defaults = {
    prefix: 'spillway:cache',
    fenceMs: 60_000,
    maxValueBytes: 67_108_864,
    markTtlMs: 604_800_000,
  } as const

  /** For how long it remembers the version of a key after a write or a delete, in milliseconds. */
  readonly fenceMs: number
  /** Over how many buckets the keys are spread. */
  readonly buckets: number
  readonly #face: RedisFace
  readonly #keys: CacheKeys
  readonly #codec: PayloadCodec
  /** What each record's checksum is about beside the record, but for the key. */
  readonly #seal: number
  readonly #markTtlMs: string
  /** One for each bucket of a cluster, whose nodes have clocks of their own. */
  readonly #clocks: CacheClock[] = []
  readonly #looks: (Promise<void> | undefined)[] = []
  readonly #layout: CacheLayout
  readonly #gatherer = new CacheGatherer<CachedValue>(perRead.keys, (bucket, reads) =>
    this.#readGathered(bucket, reads),
  )
  readonly #counts = {
    ...{ reads: 0, hits: 0, misses: 0, unreadable: 0, readsFailed: 0 },
    ...{ writes: 0, written: 0, refused: 0, deleted: 0, writesFailed: 0 },
    ...{ marksRead: 0, marksRenewed: 0, bytesRead: 0, bytesWritten: 0, compressed: 0, bytesSaved: 0 },
  }

  /**
   * @param client - a client of ioredis or node-redis, single or cluster. It stays the caller's to connect and to close.
   * @throws OptionError when an option is wrong, or the client none that it knows.
   */
  constructor(client: RedisClient, options: RedisCacheStoreOptions = {}) {
    super('redis-cache-store', options)
    const { defaults } = RedisCacheStore
    this.#face = byteFace(client)
    const prefix = valueOr<string>(options.prefix, defaults.prefix)
    if (typeof prefix !== 'string' || /[{}]/.test(prefix))
      failOption('prefix', 'must be a string without braces', prefix)
    this.buckets = checkCount('buckets', valueOr(options.buckets, this.#face.cluster ? 16 : 1), 1, 1024)
    this.#keys = new CacheKeys(prefix, this.buckets)
    this.#layout = new CacheLayout(this.#face, this.clock, this.#keys.layout, this.buckets, this.name)
    this.fenceMs = Math.ceil(checkDuration('fenceMs', valueOr<number>(options.fenceMs, defaults.fenceMs), 1))
    const serializer = checkSerializer(valueOr(options.serializer, jsonSerializer))
    const maxBytes = valueOr<number>(options.maxValueBytes, defaults.maxValueBytes)
    checkCount('maxValueBytes', maxBytes, 1, maxStringBytes)
    this.#codec = new PayloadCodec(serializer, checkCompression(options.compression), maxBytes)
    this.#seal = sealOf(`${serializer.format ?? ''}\0`)
    const markTtlMs = valueOr<number>(options.markTtlMs, defaults.markTtlMs)
    this.#markTtlMs = spanOf(checkDuration('markTtlMs', markTtlMs, 1, Number.POSITIVE_INFINITY))
  }

  /** A fresh snapshot of its counters, safe to turn into JSON. */
  stats(): RedisCacheStoreStats {
    const counts = this.#counts
    const { reads, hits, misses, unreadable, readsFailed } = counts
    const { writes, written, refused, deleted, writesFailed } = counts
    return {
      name: this.name,
      ...counts,
      readsPending: reads - hits - misses - unreadable - readsFailed,
      writesPending: writes - written - refused - deleted - writesFailed,
    }
  }

  /**
   * Turns a value into what `setMany` takes.
   *
   * @throws OptionError where the serializer can't carry it, or would change it, or it is larger than `maxValueBytes`.
   */
  encode(value: unknown): string | Uint8Array {
    return this.#codec.encode(value)
  }

  /**
   * Reads keys, in one round trip: an MGET for each bucket and five hundred keys, sent together. Calls for one key each that are made at the
   * same time share one.
   *
   * @returns an answer for each key; an unreadable one has no value, and a version by which it can be replaced. Those of a part that failed are
   * `StoreError`s. Rejects with a `StoreError` where all of it failed.
   */
  async getMany(asked: readonly string[]): Promise<readonly (CachedValue | Error)[]> {
    checkTexts('keys', asked)
    const keys = [...asked]
    this.#layout.check()
    this.#counts.reads += keys.length
    if (keys.length === 1) return [await this.#readOne(keys[0] as string)]
    const answers: (CachedValue | Error)[] = new Array(keys.length)
    const parts = this.#partsOf(keys, perRead)
    const errors = await runParts(parts, (part) => this.#read(part, keys, answers))
    this.#spread('getMany', parts, errors, answers, 'readsFailed')
    return answers
  }

  /**
   * Writes, each where its version is the one that was expected. It is one script for each bucket and two hundred writes or a mebibyte, sent together. A
   * write without `ifVersion` that Redis has no room for deletes what is there.
   *
   * @returns what became of each. Those of a part that failed are `StoreError`s. Rejects with an `OptionError` when a write is wrong, with a
   * `StoreError` where all of it failed.
   */
  async setMany(writes: readonly CacheWrite[]): Promise<readonly (CacheWriteOutcome | Error)[]> {
    checkWrites(writes)
    this.#layout.check()
    this.#counts.writes += writes.length
    const records = await this.#pack(writes)
    return this.#write('setMany', records, (text, record) => {
      const written = text.startsWith('+')
      this.#counts[written ? 'written' : 'refused']++
      if (written) this.#counts.bytesWritten += serverBytes + record.rest.length
      return { written, version: text.slice(1) }
    })
  }

  /**
   * Deletes keys: each gets a tombstone, which is gone after `fenceMs`. A full server takes them, too.
   *
   * @returns the tombstones' versions. Rejects as `setMany` does.
   */
  async deleteMany(keys: readonly string[]): Promise<readonly (string | Error)[]> {
    checkTexts('keys', keys)
    this.#layout.check()
    this.#counts.writes += keys.length
    const records = keys.map((key) => {
      return { key, condition: unconditional, kept: '-', rest: packRecord(tombstone, sealOf(key, this.#seal)) }
    })
    return this.#write('deleteMany', records, (text) => {
      this.#counts.deleted++
      return text.slice(1)
    })
  }

  /**
   * Reads marks, and makes those that don't exist, by one script for each bucket.
   *
   * @returns the marks. Rejects as `getMany` does.
   */
  readMarks(names: readonly string[]): Promise<readonly (CurrentMark | Error)[]> {
    return this.#touch('readMarks', names, '0', 'marksRead')
  }

  /**
   * Renews marks: each gets a state that no mark had before.
   *
   * @returns the marks. Rejects as `getMany` does.
   */
  renewMarks(names: readonly string[]): Promise<readonly (CurrentMark | Error)[]> {
    return this.#touch('renewMarks', names, '1', 'marksRenewed')
  }

  async #readOne(key: string): Promise<CachedValue> {
    try {
      return await this.#gatherer.read(this.#keys.bucketOf(key), key)
    } finally {
      this.#layout.checkKnown()
    }
  }

  /** Reads keys that were asked for one by one. Each has its own answer, as soon as it is there. */
  #readGathered(bucket: number, reads: readonly GatheredRead<CachedValue>[]): void {
    const clock = this.#clockOf(bucket)
    const names = reads.map(({ key }) => this.#keys.value(bucket, key))
    this.#call('getMany', false, async () => this.#fetch(clock, bucket, names)).then(
      (raws) => {
        const nowUs = clock.now()
        for (let i = 0; i < reads.length; i++) {
          const { key, resolve, reject } = reads[i] as GatheredRead<CachedValue>
          try {
            resolve(this.#open(key, raws[i] ?? undefined, nowUs) as CachedValue)
          } catch (error) {
            reject(error)
          }
        }
      },
      (error: unknown) => {
        this.#counts.readsFailed += reads.length
        for (const { reject } of reads) reject(error)
      },
    )
  }

  async #read(part: CachePart, keys: readonly string[], answers: (CachedValue | Error)[]): Promise<void> {
    const { bucket, places } = part
    const names = places.map((place) => this.#keys.value(bucket, keys[place] as string))
    const clock = this.#clockOf(bucket)
    const raws = await this.#call('getMany', false, () => this.#fetch(clock, bucket, names))
    const nowUs = clock.now()
    let waits: Promise<void>[] | undefined
    for (let i = 0; i < places.length; i++) {
      const place = places[i] as number
      const answer = this.#open(keys[place] as string, raws[i] ?? undefined, nowUs)
      if (answer instanceof Promise) {
        waits ??= []
        waits.push(
          answer.then((opened) => {
            answers[place] = opened
          }),
        )
      } else answers[place] = answer
    }
    if (waits !== undefined) await Promise.all(waits)
  }

  /** Sends a read, and beside it a look at the clock, where that is due. */
  #fetch(clock: CacheClock, bucket: number, names: string[]): Promise<readonly (Buffer | null)[]> {
    const first = names[0] as string
    const looking = clock.stale ? this.#lookAt(clock, bucket, first) : undefined
    const reading = this.#face.readsReplicas
      ? readRecords.runForBytes(this.#face, names, [])
      : this.#face.sendForBytes(first, false, 'MGET', names)
    const found = looking === undefined ? reading : Promise.all([reading, looking]).then(([raws]) => raws)
    return found as Promise<readonly (Buffer | null)[]>
  }

  /** Looks at a server's clock; one look does for all who want it at the same time. */
  #lookAt(clock: CacheClock, bucket: number, name: string): Promise<void> {
    const at = this.#face.cluster ? bucket : 0
    const look = this.#looks[at]
    if (look !== undefined) return look
    const sent = clock.send()
    const done = (): void => {
      this.#looks[at] = undefined
    }
    const asked = readTime.run(this.#face, [name], []).then((text) => clock.observe(Number(text), sent))
    asked.then(done, done)
    this.#looks[at] = asked
    return asked
  }

  #clockOf(bucket: number): CacheClock {
    const at = this.#face.cluster ? bucket : 0
    let clock = this.#clocks[at]
    if (clock === undefined) {
      clock = new CacheClock(this.clock)
      this.#clocks[at] = clock
    }
    return clock
  }

  #open(key: string, raw: Buffer | undefined, nowUs: number): CachedValue | Promise<CachedValue> {
    if (raw === undefined) return this.#miss('')
    this.#counts.bytesRead += raw.length
    const record = readRecord(raw, sealOf(key, this.#seal))
    const { version } = record
    if ('reason' in record) return this.#unreadable(key, version, record.reason, undefined)
    if ((record.flags & flags.tombstone) !== 0 || record.keptUntilUs <= nowUs) return this.#miss(version)
    if (this.#codec.compresses(record.flags)) {
      return this.#codec.inflate(record.payload, record.flags).then(
        (value) => this.#hit(key, record, value, nowUs),
        (error) => this.#undecodable(key, version, error),
      )
    }
    try {
      return this.#hit(key, record, this.#codec.decode(record.payload, record.flags), nowUs)
    } catch (error) {
      return this.#undecodable(key, version, error)
    }
  }

  #hit(key: string, record: CacheRecord, value: unknown, nowUs: number): CachedValue {
    const { version, writtenUs, freshUntilUs, keptUntilUs, marks } = record
    // A serializer that answers later isn't one of ours.
    if (value === undefined || isThenable(value)) return this.#unreadable(key, version, 'undecodable', undefined)
    this.#counts.hits++
    return {
      value,
      version,
      ageMs: Math.max(0, (nowUs - writtenUs) / 1000),
      freshMs: (freshUntilUs - nowUs) / 1000,
      keptMs: (keptUntilUs - nowUs) / 1000,
      marks,
    }
  }

  #miss(version: string): CachedValue {
    this.#counts.misses++
    return { ...nothing, version }
  }

  #undecodable(key: string, version: string, error: unknown): CachedValue {
    return this.#unreadable(key, version, error instanceof PayloadTooLargeError ? 'tooLarge' : 'undecodable', error)
  }

  #unreadable(key: string, version: string, reason: UnreadableReason, error: unknown): CachedValue {
    this.#counts.unreadable++
    if (this.events.has('unreadable')) this.events.emit('unreadable', Object.freeze({ key, reason, error }))
    return { ...nothing, version }
  }

  async #pack(writes: readonly CacheWrite[]): Promise<readonly OutgoingRecord[]> {
    const given = [...writes]
    const packed = given.map(({ value }) => this.#codec.pack(value as string | Uint8Array))
    // Nothing is waited for where nothing is compressed: what is written in one turn leaves in that turn.
    const payloads = packed.some((each) => each instanceof Promise) ? await Promise.all(packed) : packed
    return given.map(({ key, freshMs, keptMs, marks, ifVersion }, i) => {
      const { payload, flags: bits, savedBytes } = payloads[i] as Awaited<(typeof packed)[number]>
      if (savedBytes > 0) {
        this.#counts.compressed++
        this.#counts.bytesSaved += savedBytes
      }
      const rest = packRecord({ flags: bits, freshMs, keptMs, marks, payload }, sealOf(key, this.#seal))
      return { key, condition: ifVersion === undefined ? unconditional : `=${ifVersion}`, kept: spanOf(keptMs), rest }
    })
  }

  async #write<T>(
    operation: string,
    records: readonly OutgoingRecord[],
    answerOf: (text: string, record: OutgoingRecord) => T,
  ): Promise<readonly (T | Error)[]> {
    const answers: (T | Error)[] = new Array(records.length)
    const keys = records.map(({ key }) => key)
    const parts = this.#partsOf(keys, perWrite, (place) => (records[place] as OutgoingRecord).rest.length)
    const errors = await runParts(parts, async ({ bucket, places }) => {
      const names = places.map((place) => this.#keys.value(bucket, keys[place] as string))
      const args: ScriptArgument[] = [String(this.fenceMs)]
      for (const place of places) {
        const { condition, kept, rest } = records[place] as OutgoingRecord
        args.push(condition, kept, rest)
      }
      const clock = this.#clockOf(bucket)
      const sent = clock.send()
      const texts = (await this.#call(operation, true, () => writeRecords.run(this.#face, names, args))) as string[]
      clock.observe(Number(texts[0]), sent)
      places.forEach((place, i) => {
        const text = texts[i + 1] as string
        if (text.startsWith('!')) {
          this.#counts.writesFailed++
          answers[place] = this.#refusal(operation, text)
        } else answers[place] = answerOf(text, records[place] as OutgoingRecord)
      })
    })
    this.#spread(operation, parts, errors, answers, 'writesFailed')
    return answers
  }

  async #touch(
    operation: 'readMarks' | 'renewMarks',
    asked: readonly string[],
    renew: '0' | '1',
    counter: 'marksRead' | 'marksRenewed',
  ): Promise<readonly (CurrentMark | Error)[]> {
    checkTexts('names', asked)
    this.#layout.check()
    // A mark that is asked for twice is renewed once: of two states, one would be wrong at once.
    const names = [...new Set(asked)]
    const marks: (CurrentMark | Error)[] = new Array(names.length)
    const parts = this.#partsOf(names, perRead)
    const nonce = randomBytes(12).toString('base64url')
    const errors = await runParts(parts, async ({ bucket, places }) => {
      const keys = places.map((place) => this.#keys.mark(bucket, names[place] as string))
      const args = [this.#markTtlMs, renew, ...places.map((place) => `${nonce}.${place}`)]
      const texts = (await this.#call(operation, true, () => touchMarks.run(this.#face, keys, args))) as string[]
      places.forEach((place, i) => {
        const [mark, ago] = [texts[2 * i] as string, texts[2 * i + 1] as string]
        if (ago.startsWith('!')) marks[place] = this.#refusal(operation, ago)
        else {
          const renewedMs = ago === '' ? Number.POSITIVE_INFINITY : Number(ago) / 1000
          this.#counts[counter]++
          marks[place] = { name: names[place] as string, mark, renewedMs }
        }
      })
    })
    this.#spread(operation, parts, errors, marks, undefined)
    if (names.length === asked.length) return marks
    const byName = new Map(names.map((name, i) => [name, marks[i] as CurrentMark | Error]))
    return asked.map((name) => byName.get(name) as CurrentMark | Error)
  }

  #partsOf(
    keys: readonly string[],
    limits: PartLimits,
    sizeOf: (place: number) => number = () => 0,
  ): readonly CachePart[] {
    const writes = limits === perWrite
    const ordered = writes && keys.length > 1 && new Set(keys).size < keys.length
    return partsOf(keys.length, (place) => this.#keys.bucketOf(keys[place] as string), limits, sizeOf, ordered)
  }

  /** Gives each key of a part that failed its error; where all parts failed, so has the call. */
  #spread<T>(
    operation: string,
    parts: readonly CachePart[],
    errors: ReadonlyMap<CachePart, SpillwayError>,
    answers: (T | Error)[],
    counter: 'readsFailed' | 'writesFailed' | undefined,
  ): void {
    for (const [{ places }, error] of errors) {
      if (counter !== undefined) this.#counts[counter] += places.length
      for (const place of places) answers[place] = error
    }
    this.#layout.checkKnown()
    if (parts.length === 0 || errors.size < parts.length) return
    const all = [...errors.values()]
    throw all.length === 1 ? all[0] : partlyFailed(`${this.name}: ${operation}`, all, parts.length, 'parts')
  }

  /** What a script says of one key. */
  #refusal(operation: string, text: string): SpillwayError {
    const [, said = text.slice(1)] = /^!.*?([A-Z]{2,} .*)$/s.exec(text) ?? []
    const reply = new Error(said)
    reply.name = 'ReplyError'
    return redisError(reply, { name: this.name, operation, writes: true, closed: false, resent: false })
  }

  #call<T>(operation: string, writes: boolean, send: () => Promise<T>): Promise<T> {
    return wrapped(this.#face, { name: this.name, operation, writes }, send)
  }
}

/** A record on its way, as its script takes it. */
interface OutgoingRecord {
  readonly key: string
  readonly condition: string
  readonly kept: string
  readonly rest: Buffer
}

const tombstone = { flags: flags.tombstone, freshMs: 0, keptMs: 0, marks: noMarks, payload: '' } as const

const nothing = { value: undefined, ageMs: 0, freshMs: 0, keptMs: 0, marks: noMarks } as const

/** A duration as scripts take it: empty for ever. */
function spanOf(ms: number): string {
  return ms === Number.POSITIVE_INFINITY ? '' : String(ms)
}
