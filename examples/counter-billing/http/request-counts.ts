import { randomUUID } from 'node:crypto'
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
  /** What this gateway has seen. */
  own: number
  /** What other gateways have seen. */
  others: number
}

/** Callers that are counted one by one; more of them count as one. */
const maxCallers = 100_000
const theRest = 'the rest'
/** How often gateways tell each other what they have counted, in milliseconds: by what comes within it a limit may be exceeded. */
const tellEveryMs = 100
const prefix = 'counters:requests-by-gateway'

/**
 * Counts requests by caller, in windows that begin at the same time everywhere. A request is counted in memory, at once; with Redis,
 * each gateway says there what it has counted, ten times a second, in one round trip for all callers, and reads what the others have.
 * So nobody waits for Redis, and while it is away each gateway counts for itself. What is said is the whole count of the window, so
 * that it does no harm to say it twice, and what couldn't be said is made up for by the next time.
 */
export class RequestCounts {
  /** Callers of whom others are yet to be told, with Redis. */
  readonly telling: AsyncWriteBuffer<string, true> | undefined
  readonly #self = randomUUID()
  readonly #windowMs: number
  #window = 0
  #callers = new Map<string, Caller>()
  #failures = 0
  #failing = false

  constructor(windowMs: number, redis: Redis | undefined, log: Log) {
    this.#windowMs = windowMs
    if (redis === undefined) return
    this.telling = new AsyncWriteBuffer<string, true>((names) => this.#tell(redis, [...names.keys()]), {
      name: 'request-counts',
      merge: (known) => known,
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
    this.telling?.put(this.#callers.has(name) ? name : theRest, true)
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
    const caller = { own: 0, others: 0 }
    this.#callers.set(name, caller)
    return caller
  }

  async #tell(redis: Redis, names: readonly string[]): Promise<void> {
    const window = this.#window
    // Those who have made no request in this window were counted in the one before, which is over.
    const callers = names.flatMap((name) => {
      const caller = this.#callers.get(name)
      return caller === undefined ? [] : [{ name, caller, own: caller.own }]
    })
    const pipeline = redis.pipeline()
    for (const { name, own } of callers) {
      const key = `${prefix}:${this.#windowMs}:${window}:${name}`
      pipeline
        .hset(key, this.#self, own)
        .pexpire(key, this.#windowMs * 2)
        .hvals(key)
    }
    const answers = (await pipeline.exec()) ?? []
    for (const [index, { caller, own }] of callers.entries()) {
      const [written, read] = [answers[index * 3], answers[index * 3 + 2]]
      if (written === undefined || read === undefined) throw new Error('Redis has not answered')
      const error = written[0] ?? read[0]
      if (error) throw error
      caller.others = sumOf(read[1] as readonly string[]) - own
    }
  }
}

function sumOf(counts: readonly string[]): number {
  return counts.reduce((sum, count) => sum + Number(count), 0)
}
