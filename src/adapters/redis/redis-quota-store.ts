import { StoreError } from '../../core/errors.js'
import { checkCount, checkDuration, checkOneOf, checkOptions, failOption, valueOr } from '../../core/options.js'
import type {
  BatchContext,
  ConsumeOutcome,
  HoldClaim,
  QuotaClaim,
  QuotaKey,
  QuotaStore,
  QuotaUsage,
  RefusedUsage,
  ReserveOutcome,
  SettleOutcome,
  UsageBatch,
  UsageDedupe,
} from '../../core/ports.js'
import { orAbort } from '../../internal/abort.js'
import {
  checkClaim,
  checkContext,
  checkHold,
  checkList,
  checkUsageBatch,
  longestMs,
  problemOfKey,
} from '../../internal/store-arguments.js'
import { problemOfText, problemOfValue } from '../../internal/usage.js'
import { type BatchPart, KeyList, PreparedBatch, type RefusedTotal, requestMark } from './quota-batch.js'
import { ceilingOf, ownerOf, usageOf } from './quota-claims.js'
import { endOf, QuotaKeys } from './quota-keys.js'
import {
  again,
  claimId,
  consumeUsage,
  findOwner,
  readUsage,
  releaseHold,
  reserveUsage,
  settleUsage,
  writeUsage,
} from './quota-scripts.js'
import { type RedisClient, type RedisFace, redisFace } from './redis-client.js'
import { partlyFailed, wrapped } from './redis-error.js'
import type { RedisScript } from './redis-script.js'

/** Options of {@link RedisQuotaStore}. */
export interface RedisQuotaStoreOptions {
  /**
   * What all keys of the store begin with; stores with different prefixes know nothing of each other. Without braces, which Redis
   * Cluster reads as hash tags.
   *
   * @defaultValue 'spillway'
   */
  prefix?: string | undefined
  /**
   * What it tells apart, so that nothing is counted twice: batches; also events, by the id that a stream gave them; or also requests,
   * which then count once whether they are written or consumed.
   *
   * @defaultValue 'batch'
   */
  dedupe?: UsageDedupe | undefined
  /**
   * For how long a batch's id is remembered, in milliseconds. Keep it above the time from a batch's first attempt to its last;
   * with a journal, the last one may come after a restart.
   *
   * @defaultValue 3_600_000
   */
  batchMemoryMs?: number | undefined
  /**
   * For how long the id of a request or an event is remembered from when it was counted, in milliseconds: those of `consume`, and those
   * of written events as `dedupe` says. One that comes again later is counted again.
   *
   * @defaultValue 86_400_000
   */
  requestMemoryMs?: number | undefined
  /**
   * How many such ids are remembered for one user at the most, the latest ones: the bound on memory.
   *
   * @defaultValue 100_000
   */
  rememberRequests?: number | undefined
  /**
   * For how long a reservation is remembered beyond its time to live, in milliseconds: so long it can be settled late, and a `settle`
   * or `release` that comes again is told from one of an unknown reservation.
   *
   * @defaultValue 86_400_000
   */
  holdMemoryMs?: number | undefined
  /**
   * How long it keeps what was used in a period that has ended, in milliseconds from the period's end, or from its latest change where
   * that is later; `Infinity` is allowed. What comes for it after that is counted from 0.
   *
   * @defaultValue 7_776_000_000
   */
  keepPeriodsMs?: number | undefined
  /** What errors call it. The default is `redis-quota-store`. */
  name?: string | undefined
}

const dedupes: readonly UsageDedupe[] = ['batch', 'event', 'request']
/** How many keys one call reads, so that no single script holds up a server. */
const keysPerRead = 1000
/** How much longer than the reservation itself its owner is remembered on a cluster, where another node's clock says so. */
const ownerMarginMs = 600_000

/**
 * Quotas in Redis or Redis Cluster, for any number of processes. Each operation is a Lua script that does all of its work or nothing, by
 * the clock of Redis: no use and no reservation ever passes a limit, and an expired hold gives back its room by itself. All that
 * belongs to a user lies in one slot.
 *
 * On one server a batch is one call, applied whole or not at all. On a cluster it is one call for each of its users, sent together: when
 * some fail, the error's `outcomeUnknown` is true, and the same batch, sent again under its id, does what is missing.
 *
 * @example
 * ```ts
 * import { Redis } from 'ioredis'
 * import { QuotaConsumer } from 'spillway'
 * import { RedisQuotaStore } from 'spillway/redis'
 *
 * const store = new RedisQuotaStore(new Redis('redis://127.0.0.1:6379'))
 * const usage = new QuotaConsumer(store)
 * usage.offer({ userId: 'user:1', quotaType: 'requests', value: 1 })
 * await usage.close()
 * ```
 */
export class RedisQuotaStore implements QuotaStore {
  /** The defaults of its options. */
  static readonly defaults = {
    prefix: 'spillway',
    dedupe: 'batch',
    batchMemoryMs: 3_600_000,
    requestMemoryMs: 86_400_000,
    rememberRequests: 100_000,
    holdMemoryMs: 86_400_000,
    keepPeriodsMs: 7_776_000_000,
  } as const

  /** It applies each batch id once, as long as it remembers it. */
  readonly idempotent = true
  /** What it tells apart. */
  readonly dedupe: UsageDedupe
  /** What errors call it. */
  readonly name: string
  readonly #face: RedisFace
  readonly #keys: QuotaKeys
  readonly #batchMemoryMs: string
  /** For how long to remember an id, and how many of them. */
  readonly #requestMemory: readonly [string, string]
  readonly #holdMemoryMs: number
  /** Empty for ever. */
  readonly #keepMs: string

  /**
   * @param client - a client of ioredis or node-redis, single or cluster. It stays the caller's to connect and to close.
   * @throws OptionError when an option is wrong, or the client none that it knows.
   */
  constructor(client: RedisClient, options: RedisQuotaStoreOptions = {}) {
    checkOptions('options', options)
    const { defaults } = RedisQuotaStore
    this.#face = redisFace(client)
    this.name = checkText('name', valueOr(options.name, 'redis-quota-store'))
    const prefix = checkText('prefix', valueOr<string>(options.prefix, defaults.prefix))
    if (/[{}]/.test(prefix)) failOption('prefix', 'must be a string without braces', prefix)
    this.#keys = new QuotaKeys(prefix)
    this.dedupe = checkOneOf('dedupe', valueOr<UsageDedupe>(options.dedupe, defaults.dedupe), dedupes)
    const duration = (field: 'batchMemoryMs' | 'requestMemoryMs' | 'holdMemoryMs', min: number): number =>
      Math.ceil(checkDuration(field, valueOr<number>(options[field], defaults[field]), min, longestMs))
    this.#batchMemoryMs = String(duration('batchMemoryMs', 1))
    const remembered = valueOr<number>(options.rememberRequests, defaults.rememberRequests)
    const requests = String(checkCount('rememberRequests', remembered))
    this.#requestMemory = [String(duration('requestMemoryMs', 1)), requests]
    this.#holdMemoryMs = duration('holdMemoryMs', 1)
    const keepMs = valueOr<number>(options.keepPeriodsMs, defaults.keepPeriodsMs)
    checkDuration('keepPeriodsMs', keepMs, 0, Number.POSITIVE_INFINITY)
    this.#keepMs = keepMs > longestMs ? '' : String(Math.ceil(keepMs))
  }

  /**
   * Counts a batch, once for each batch id, and each of its events as `dedupe` says.
   *
   * @returns the events that were refused, each with a `StoreError`: those of sums that would pass 2^53 - 1, or whose key in Redis holds
   * something else. Rejects with a `StoreError` when Redis failed, or with the signal's reason; whether an aborted batch was applied
   * is then unknown.
   */
  async write(batch: UsageBatch, context: BatchContext): Promise<readonly RefusedUsage[]> {
    const { signal } = checkContext(context)
    checkUsageBatch(batch)
    signal.throwIfAborted()
    const prepared = new PreparedBatch(batch, this.dedupe, this.#keys, this.#face.cluster)
    const { parts } = prepared
    if (parts.length === 0) return prepared.refusals([])
    const calls = parts.map((part) => this.#writePart(part, batch.id))
    if (calls.length === 1) return prepared.refusals(await orAbort(calls[0] as (typeof calls)[0], signal))
    const outcomes = await orAbort(Promise.allSettled(calls), signal)
    const errors = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as StoreError] : []))
    if (errors.length > 0) throw partlyFailed(`${this.name}: write`, errors, outcomes.length, 'parts')
    return prepared.refusals(outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? outcome.value : [])))
  }

  /**
   * What is used and held: one call for each thousand keys, on a cluster for each user, sent together. What has expired isn't held.
   *
   * @returns in the order of the keys; zeros for a key that is unknown. Rejects with a `StoreError` when Redis failed, or a key of
   * Redis holds something else.
   */
  async readUsage(keys: readonly QuotaKey[]): Promise<readonly QuotaUsage[]> {
    checkList('keys', keys)
    const usages: QuotaUsage[] = new Array(keys.length)
    const groups = new Map<string, number[]>()
    keys.forEach((key, place) => {
      if (problemOfKey(key) !== undefined) {
        usages[place] = { used: 0, held: 0 }
        return
      }
      const group = this.#face.cluster ? key.userId : ''
      const places = groups.get(group)
      if (places === undefined) groups.set(group, [place])
      else places.push(place)
    })
    const reads: Promise<void>[] = []
    for (const places of groups.values()) {
      for (let from = 0; from < places.length; from += keysPerRead) {
        reads.push(this.#read(keys, places.slice(from, from + keysPerRead), usages))
      }
    }
    const failed = (await Promise.allSettled(reads)).find((read) => read.status === 'rejected')
    if (failed !== undefined) throw failed.reason
    return usages
  }

  /**
   * Counts a use if it fits, once for each id of a user and a quota type.
   *
   * @returns what became of it. Rejects with an `InvalidEventError` or an `OptionError` when the claim is wrong, with a `StoreError` when
   * Redis failed; the same claim may then be made again.
   */
  async consume(claim: QuotaClaim): Promise<ConsumeOutcome> {
    checkClaim(claim)
    const { userId, quotaType, value, id } = claim
    const user = this.#keys.user(userId)
    const [status, used, held] = await this.#call(
      'consume',
      consumeUsage,
      [...this.#accounts(claim), user.ids],
      [...this.#account(claim), String(value), ceilingOf(claim), requestMark(quotaType, id), ...this.#requestMemory],
    )
    return { status: status as ConsumeOutcome['status'], ...usageOf(used, held) }
  }

  /**
   * Holds a value if it fits, until `settle`, `release`, or the end of its time to live by the clock of Redis. On a cluster that is
   * two calls, one after the other, since ids are one for all users: the second one makes the id known to `settle` and `release`.
   *
   * @returns what became of it. Rejects as `consume` does.
   */
  async reserve(claim: HoldClaim): Promise<ReserveOutcome> {
    const hold = checkHold(claim)
    const { userId, id } = hold
    const keys = [...this.#accounts(hold), this.#keys.user(userId).hold(id)]
    if (!this.#face.cluster) keys.push(this.#keys.owner(id))
    const answer = await this.#call('reserve', reserveUsage, keys, [
      ...this.#account(hold),
      String(hold.value),
      ceilingOf(hold),
      String(hold.settleLimit),
      String(hold.ttlMs),
      String(this.#holdMemoryMs),
      id,
      userId,
    ])
    const [status, used, held, expiresAt] = answer
    const outcome = {
      status: status as ReserveOutcome['status'],
      expiresAt: Number(expiresAt),
      ...usageOf(used, held),
    }
    return this.#face.cluster ? this.#claimId(hold, outcome) : outcome
  }

  /**
   * Turns a hold into a use of `actual`, in two calls, one after the other: the first finds out whose it is.
   *
   * @returns what became of it. Rejects with an `InvalidEventError` when an argument is wrong, with a `StoreError` when Redis failed;
   * the same may then be called again.
   */
  async settle(id: string, actual: number): Promise<SettleOutcome> {
    const problem = problemOfText('id', id) ?? problemOfValue('actual', actual)
    if (problem !== undefined) throw problem
    let key = await this.#findOwner('settle', id)
    while (key !== undefined) {
      const { userId } = key
      const keys = [...this.#accounts(key), this.#keys.user(userId).hold(id)]
      const args = [...this.#account(key), id, String(actual)]
      const [status, first, second, value, limit] = await this.#call('settle', settleUsage, keys, args)
      if (status !== 'elsewhere') {
        if (status === 'unknown') break
        const claim = Object.freeze({ ...key, value: Number(value), limit: Number(limit), id })
        return { status: status as SettleOutcome['status'], claim, usage: usageOf(first, second) }
      }
      // On a cluster, the owner may still be that of an earlier reservation under the id, which is forgotten, of the same user.
      key = { userId, quotaType: first as string, period: second as string }
    }
    return { status: 'unknown' }
  }

  /**
   * Gives a hold back; nothing happens where there is none. After that it can't be settled any more, even if it had expired.
   *
   * @returns once it is done. Rejects as `settle` does.
   */
  async release(id: string): Promise<void> {
    const problem = problemOfText('id', id)
    if (problem !== undefined) throw problem
    const key = await this.#findOwner('release', id)
    if (key === undefined) return
    const user = this.#keys.user(key.userId)
    await this.#send('release', true, releaseHold, [user.holds, user.held, user.hold(id)], [id, 'released'])
  }

  /**
   * On a cluster, where an id's owner lies elsewhere than his hold: finds out whether the id is his. What was held under an id that is
   * somebody else's is taken back. Whoever dies in between leaves a hold that nobody can settle, until it expires.
   */
  async #claimId(claim: QuotaClaim, outcome: ReserveOutcome): Promise<ReserveOutcome> {
    const { status, expiresAt } = outcome
    if (status === 'conflict') return outcome
    const { userId, quotaType, period, id } = claim
    if (status === 'exceeded') {
      const owner = await this.#findOwner('reserve', id)
      return owner === undefined || owner.userId === userId ? outcome : { ...outcome, status: 'conflict' }
    }
    try {
      const until = String(expiresAt + this.#holdMemoryMs + ownerMarginMs)
      const args = [userId, quotaType, period, until]
      const owner = ownerOf(await this.#send('reserve', true, claimId, [this.#keys.owner(id)], args))
      if (owner?.userId === userId) return outcome
      const user = this.#keys.user(userId)
      await this.#send('reserve', true, releaseHold, [user.holds, user.held, user.hold(id)], [id, 'forgotten'])
      const [usage] = await this.readUsage([claim])
      return { status: 'conflict', expiresAt: 0, ...(usage as QuotaUsage) }
    } catch (error) {
      const { message, cause, retryable } = error as StoreError
      throw new StoreError(message, { cause, retryable, outcomeUnknown: true })
    }
  }

  async #writePart(part: BatchPart, batchId: string): Promise<readonly RefusedTotal[]> {
    const { keys, args } = part.call([this.#batchMemoryMs, this.#keepMs, ...this.#requestMemory])
    const refused = part.refused(await this.#send('write', true, writeUsage, keys, args))
    if (refused !== undefined) return refused
    throw new StoreError(`${this.name}: batch ${batchId} came before with other events`, {
      retryable: false,
      outcomeUnknown: false,
    })
  }

  async #read(keys: readonly QuotaKey[], places: readonly number[], usages: QuotaUsage[]): Promise<void> {
    const names = new KeyList()
    const args: string[] = []
    for (const place of places) {
      const { userId, quotaType, period } = keys[place] as QuotaKey
      const user = this.#keys.user(userId)
      const used = names.placeOf(user.used(period))
      const holds = names.placeOf(user.holds)
      names.placeOf(user.held)
      args.push(used, holds, quotaType, `${quotaType}\0${period}`)
    }
    const texts = (await this.#send('readUsage', false, readUsage, names.names, args)) as readonly string[]
    places.forEach((place, i) => {
      usages[place] = usageOf(texts[2 * i], texts[2 * i + 1])
    })
  }

  async #findOwner(operation: string, id: string): Promise<QuotaKey | undefined> {
    return ownerOf(await this.#send(operation, false, findOwner, [this.#keys.owner(id)], []))
  }

  /** The first keys of a script that is about one quota type of one user in one period. */
  #accounts({ userId, period }: QuotaKey): readonly string[] {
    const user = this.#keys.user(userId)
    return [user.used(period), user.holds, user.held]
  }

  /** Its first arguments. */
  #account({ quotaType, period }: QuotaKey): readonly string[] {
    return [quotaType, period, String(endOf(period) ?? ''), this.#keepMs]
  }

  async #call(
    operation: string,
    script: RedisScript,
    keys: readonly string[],
    args: readonly string[],
  ): Promise<readonly string[]> {
    return (await this.#send(operation, true, script, keys, args)) as readonly string[]
  }

  /** Runs a script; as often as it takes, where it first clears away what has expired. */
  #send(
    operation: string,
    writes: boolean,
    script: RedisScript,
    keys: readonly string[],
    args: readonly string[],
  ): Promise<unknown> {
    return wrapped(this.#face, { name: this.name, operation, writes }, async () => {
      let answer: unknown
      do answer = await script.run(this.#face, keys, args)
      while (answer === again)
      return answer
    })
  }
}

function checkText(field: string, value: string): string {
  if (typeof value !== 'string') failOption(field, 'must be a string', value)
  return value
}
