import type { Clock } from '../../core/clock.js'
import { FullError, StoreError, TimeoutError } from '../../core/errors.js'
import { checkCount, failOption } from '../../core/options.js'
import type { UserId } from '../../core/ports.js'
import { userText } from '../../internal/usage.js'
import { bucketOf } from './counter-bucket.js'
import { fixLayout } from './counter-scripts.js'
import { type RedisClient, type RedisFace, redisFace } from './redis-client.js'
import { redisError } from './redis-error.js'
import type { RedisScript } from './redis-script.js'
import { usageField } from './usage-stream-entry.js'
import { appendBatch } from './usage-stream-scripts.js'

/** What a stream and its workers must agree on, and what they call themselves in errors. */
export interface UsageShardsSetting {
  readonly name: string
  readonly clock: Clock
  readonly prefix: string
  readonly shards: number
  /** How long a call may take. */
  readonly timeoutMs: number
}

/** How a call is described where it fails. */
export interface ShardCall {
  readonly operation: string
  /** Whether it may not be repeated as it pleases. */
  readonly writes: boolean
  /** Whether it must end in time; where not, its caller sees to that. */
  readonly timed: boolean
}

/** The longest prefix: with a shard and an entry's id it is still an event's id. */
const maxPrefixLength = 160

/** The streams in Redis of which a usage stream is made, and how they are called. */
export class UsageShards {
  readonly prefix: string
  /** How many there are. */
  readonly count: number
  readonly #face: RedisFace
  readonly #setting: UsageShardsSetting
  #layout: Promise<void> | undefined
  #layoutFixed = false

  constructor(client: RedisClient, setting: UsageShardsSetting) {
    this.#face = redisFace(client)
    this.#setting = setting
    this.prefix = checkPrefix(setting.prefix)
    this.count = checkCount('shards', setting.shards, 1, 1024)
  }

  /** Which connection the client has, counted; undefined where it doesn't tell. */
  get connection(): number | undefined {
    return this.#face.epoch
  }

  /** The shard of a user: all that one user uses is in one of them. */
  of(userId: UserId): number {
    return this.count === 1 ? 0 : bucketOf(userText(userId), this.count)
  }

  stream(shard: number): string {
    return `${this.#tag(shard)}:events`
  }

  dead(shard: number): string {
    return `${this.#tag(shard)}:dead`
  }

  /** While it is there, somebody has just trimmed. */
  lease(shard: number): string {
    return `${this.#tag(shard)}:trim`
  }

  /** What an entry's event is called if it says no id of its own. */
  entryName(shard: number, id: string): string {
    return `${this.prefix}:${shard}:${id}`
  }

  /**
   * Appends texts to a shard, once for each batch id.
   *
   * @param timed - whether it must end in time; where not, its caller sees to that.
   * @returns whether they were there already. Rejects with `FullError`, or a `StoreError`.
   */
  async append(
    shard: number,
    batchId: string,
    texts: readonly string[],
    { memoryMs, maxLength, timed }: { readonly memoryMs: number; readonly maxLength: number; readonly timed: boolean },
  ): Promise<boolean> {
    await this.checkLayout()
    const keys = [this.stream(shard), `${this.#tag(shard)}:b:${batchId}`]
    const call: ShardCall = { operation: 'append', writes: true, timed }
    const args = [String(memoryMs), String(maxLength), usageField, ...texts]
    const [verdict, length, known] = (await this.run(appendBatch, keys, args, call)) as [
      string,
      number | string,
      string?,
    ]
    if (verdict === 'full') {
      throw new FullError(
        `${this.#setting.name} is full: ${length} events in ${keys[0]} (maxLength ${maxLength})`,
        maxLength,
      )
    }
    if (verdict === 'repeated' && known !== String(texts.length)) {
      throw new StoreError(
        `${this.#setting.name}: batch ${batchId} came before with other events: ${known}, now ${texts.length}`,
        { retryable: false, outcomeUnknown: false },
      )
    }
    return verdict === 'repeated'
  }

  /** Fixes the number of shards in Redis, or finds that it is another one: with that, some would be read by nobody. */
  checkLayout(): Promise<void> | undefined {
    if (this.#layoutFixed) return undefined
    this.#layout ??= this.run(fixLayout, [`${this.prefix}:layout`], [String(this.count)], {
      operation: 'reading the layout',
      writes: false,
      timed: true,
    }).then(
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

  /** Redis has lost what it knew: the layout must be fixed again. */
  forgetLayout(): void {
    this.#layoutFixed = false
  }

  /** Runs a script, and wraps what it fails with. */
  async run(script: RedisScript, keys: readonly string[], args: readonly string[], call: ShardCall): Promise<unknown> {
    const { name } = this.#setting
    const { operation, writes } = call
    const { closed, epoch } = this.#face
    try {
      const answer = script.run(this.#face, keys, args)
      return await (call.timed ? this.#within(answer, writes) : answer)
    } catch (error) {
      throw redisError(error, { name, operation, writes, closed, resent: this.#face.epoch !== epoch })
    }
  }

  #within<T>(work: Promise<T>, writes: boolean): Promise<T> {
    const { name, clock, timeoutMs } = this.#setting
    return new Promise<T>((resolve, reject) => {
      const message = `${name}: Redis has not answered within ${timeoutMs} ms`
      const giveUp = (): void => reject(new TimeoutError(message, timeoutMs, { outcomeUnknown: writes }))
      // Where this process was busy for so long, the answer may be here and wait to be read.
      const cancelTimer = clock.setTimer(() => clock.defer(giveUp), timeoutMs, { keepAlive: false })
      work.then(resolve, reject).finally(cancelTimer)
    })
  }

  /** The braces put all keys of a shard into one slot of a cluster. */
  #tag(shard: number): string {
    return `{${this.prefix}:${shard}}`
  }

  #compareLayout(fixed: unknown): void {
    if (fixed !== String(this.count)) {
      throw new StoreError(
        `${this.#setting.name}: the stream of prefix ${JSON.stringify(this.prefix)} has ${fixed} shards, ` +
          `this was made for ${this.count}`,
        { retryable: false },
      )
    }
    this.#layoutFixed = true
  }
}

function checkPrefix(prefix: string): string {
  if (typeof prefix !== 'string') failOption('prefix', 'must be a string', prefix)
  if (/[{}]/.test(prefix) || prefix.includes('\0'))
    failOption('prefix', 'must be a string without braces and NUL', prefix)
  if (prefix.length > maxPrefixLength) {
    failOption('prefix', `must have at most ${maxPrefixLength} characters`, prefix)
  }
  return prefix
}

/** Checks the name of a group, or of a consumer in one. */
export function checkGroup(field: string, name: string): string {
  if (typeof name !== 'string' || name === '') failOption(field, 'must be a string that is not empty', name)
  return name
}
