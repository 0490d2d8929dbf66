import type { Redis } from 'ioredis'
import { AsyncWriteBuffer } from 'spillway'
import { type Log, text } from '../counter/counters.ts'

/** How many requests somebody has made in a window, and how long that lasts. */
export interface Count {
  readonly current: number
  /** In milliseconds. */
  readonly ttl: number
}

interface Caller {
  /** What this gateway has seen, and what of it the others know. */
  own: number
  told: number
  /** What other gateways have seen. */
  others: number
}

/** Callers that are counted one by one; more of them count as one. */
const maxCallers = 100_000
const theRest = 'the rest'
/** How often gateways tell each other what they have counted, in milliseconds: by what comes within it a limit may be exceeded. */
const tellEveryMs = 100
const prefix = 'counters:requests'

/**
 * Counts requests by caller, in windows that begin at the same time everywhere. A request is counted in memory, at once; with Redis,
 * gateways add up there what they have counted, ten times a second, in one round trip for all callers. So nobody waits for Redis, and
 * while it is away each gateway counts for itself.
 */
export class RequestCounts {
  /** What others are yet to be told, with Redis. */
  readonly telling: AsyncWriteBuffer<string, number> | undefined
  readonly #windowMs: number
  #window = 0
  #callers = new Map<string, Caller>()
  #failures = 0
  #failing = false

  constructor(windowMs: number, redis: Redis | undefined, log: Log) {
    this.#windowMs = windowMs
    if (redis === undefined) return
    this.telling = new AsyncWriteBuffer<string, number>((sums) => this.#tell(redis, sums), {
      name: 'request-counts',
      merge: (sum, more) => sum + more,
      capacity: maxCallers,
      maxWaitMs: tellEveryMs,
      timeoutMs: 1_000,
      retry: { attempts: 1 },
    })
    this.telling.on('failed', ({ error }) => {
      this.#failures++
      if (!this.#failing) log('warn', `gateways count requests each for itself: ${text(error)}`)
      this.#failing = true
    })
    this.telling.on('written', () => {
      if (this.#failing) log('info', 'gateways count requests together again')
      this.#failing = false
    })
  }

  /** Counts a request. */
  count(name: string): Count {
    const now = Date.now()
    const window = Math.floor(now / this.#windowMs)
    if (window !== this.#window) {
      this.#window = window
      this.#callers = new Map()
    }
    const caller = this.#callerOf(name)
    caller.own++
    this.telling?.put(this.#callers.has(name) ? name : theRest, 1)
    return { current: caller.own + caller.others, ttl: (window + 1) * this.#windowMs - now }
  }

  /** Callers in this window, and how often others couldn't be told. */
  stats(): { callers: number; failures: number } {
    return { callers: this.#callers.size, failures: this.#failures }
  }

  #callerOf(name: string): Caller {
    const known = this.#callers.get(name)
    if (known !== undefined) return known
    if (this.#callers.size >= maxCallers && name !== theRest) return this.#callerOf(theRest)
    const caller = { own: 0, told: 0, others: 0 }
    this.#callers.set(name, caller)
    return caller
  }

  async #tell(redis: Redis, sums: ReadonlyMap<string, number>): Promise<void> {
    const window = this.#window
    const callers = this.#callers
    const pipeline = redis.pipeline()
    for (const [name, sum] of sums) {
      const key = `${prefix}:${this.#windowMs}:${window}:${name}`
      pipeline.incrby(key, sum).pexpire(key, this.#windowMs * 2)
    }
    const answers = (await pipeline.exec()) ?? []
    let place = 0
    for (const [name, sum] of sums) {
      const [error, total] = answers[place] ?? [new Error('Redis has not answered')]
      if (error) throw error
      place += 2
      const caller = callers.get(name)
      if (caller === undefined) continue
      caller.told += sum
      caller.others = Math.max(0, Number(total) - caller.told)
    }
  }
}
