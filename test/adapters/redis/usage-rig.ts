import { randomUUID } from 'node:crypto'
import { Redis } from 'ioredis'
import type { AcceptedUsage, BatchContext, RefusedUsage, UsageBatch, UsageSink } from 'spillway'
import {
  type RedisClient,
  RedisUsageStream,
  type RedisUsageStreamOptions,
  RedisUsageWorker,
  type RedisUsageWorkerOptions,
} from 'spillway/redis'
import { afterAll, afterEach, expect } from 'vitest'

/** A sink in memory that counts each event once, and does as it is told. */
export class ObedientSink implements UsageSink {
  readonly idempotent = true
  readonly dedupe = 'event'
  /** How often each event came, by its id. */
  readonly comings = new Map<string, number>()
  /** Every event once, in the order in which they came. */
  readonly events: AcceptedUsage[] = []
  readonly batches: UsageBatch[] = []
  calls = 0
  /** Called before a batch is applied: throws, hangs, refuses. */
  before: (batch: UsageBatch, context: BatchContext) => unknown = () => undefined

  async write(batch: UsageBatch, context: BatchContext): Promise<readonly RefusedUsage[] | undefined> {
    this.calls++
    const refused = (await this.before(batch, context)) as readonly RefusedUsage[] | undefined
    this.batches.push(batch)
    const without = new Set(refused?.map(({ index }) => index))
    for (const [index, event] of batch.events.entries()) {
      if (without.has(index)) continue
      const id = event.id as string
      const times = this.comings.get(id) ?? 0
      this.comings.set(id, times + 1)
      if (times === 0) this.events.push(event)
    }
    return refused
  }

  /** The sum of all values. */
  get sum(): number {
    return this.events.reduce((sum, { value }) => sum + value, 0)
  }

  /** How many events came more than once. */
  get repeated(): number {
    return [...this.comings.values()].filter((times) => times > 1).length
  }
}

/** A client whose calls are made as they are, and whose callers hear of the answers what it pleases somebody to let through. */
export function clientThat(
  client: Redis,
  answering: (answer: Promise<unknown>, args: readonly string[]) => Promise<unknown>,
): RedisClient {
  return {
    isCluster: false,
    get status() {
      return client.status
    },
    call: (command: string, args: (string | number | Buffer)[]) => {
      return answering(client.call(command, args), args as string[])
    },
  }
}

/** A moment that a test waits for. */
export function gate<T = void>(): { readonly passed: Promise<T>; open(value: T): void } {
  let open!: (value: T) => void
  const passed = new Promise<T>((resolve) => {
    open = resolve
  })
  return { passed, open }
}

/** What tests of one file share: everything that was made is ended after each test, and no rejection is left alone. */
export class UsageRig {
  readonly #url: string
  readonly #cleanUps: (() => unknown)[] = []

  constructor(url: string | undefined) {
    this.#url = url ?? 'redis://127.0.0.1'
    const unhandled: unknown[] = []
    const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
    process.on('unhandledRejection', onUnhandled)
    afterEach(async () => {
      for (const cleanUp of this.#cleanUps.splice(0).reverse()) await cleanUp()
      expect(unhandled).toEqual([])
    })
    afterAll(() => {
      process.off('unhandledRejection', onUnhandled)
    })
  }

  onEnd(cleanUp: () => unknown): void {
    this.#cleanUps.push(cleanUp)
  }

  client(port?: number): Redis {
    const client = port === undefined ? new Redis(this.#url) : new Redis(port, '127.0.0.1')
    client.on('error', () => undefined)
    this.onEnd(() => client.disconnect())
    return client
  }

  stream(options: RedisUsageStreamOptions = {}, client: RedisClient = this.client()): RedisUsageStream {
    const stream = new RedisUsageStream(client, { prefix: `usage:${randomUUID()}`, ...options })
    this.onEnd(() => stream.close({ timeoutMs: 0 }))
    return stream
  }

  /** Another stream object on the same streams in Redis, as another process would have it. */
  same(stream: RedisUsageStream, client: RedisClient = this.client()): RedisUsageStream {
    const { prefix, shards, group } = stream
    return this.stream({ prefix, shards, group }, client)
  }

  /** A worker in a hurry; it is started. */
  async worker(
    stream: RedisUsageStream,
    sink: UsageSink,
    options: RedisUsageWorkerOptions = {},
  ): Promise<RedisUsageWorker> {
    const worker = new RedisUsageWorker(stream, sink, {
      ...{ pollMs: 10, trimEveryMs: 20, retry: { delayMs: 5, maxDelayMs: 50 } },
      ...options,
    })
    this.onEnd(() => worker.close({ timeoutMs: 0 }))
    await worker.start()
    return worker
  }

  /**
   * A worker that dies as a process does: from one moment on it says nothing to Redis any more, and gives nothing back.
   */
  async mortal(
    stream: RedisUsageStream,
    sink: UsageSink,
    options: RedisUsageWorkerOptions = {},
  ): Promise<{ readonly worker: RedisUsageWorker; die(): Promise<void> }> {
    const client = this.client()
    const worker = await this.worker(this.same(stream, client), sink, options)
    const die = async (): Promise<void> => {
      client.disconnect()
      await worker.close({ timeoutMs: 0 })
    }
    return { worker, die }
  }
}

/** So many events of value 1, by so many users. */
export function uses(count: number, users = 10): { userId: string; quotaType: string; value: number }[] {
  return Array.from({ length: count }, (_, i) => ({ userId: `u${i % users}`, quotaType: 'api', value: 1 }))
}

/** What a group has pending: how often each entry was delivered. */
export async function pendingOf(client: Redis, stream: RedisUsageStream, group = stream.group): Promise<number[]> {
  const counts: number[] = []
  for (let shard = 0; shard < stream.shards; shard++) {
    const key = `{${stream.prefix}:${shard}}:events`
    const found = (await client.xpending(key, group, '-', '+', 100_000)) as [string, string, number, number][]
    counts.push(...found.map(([, , , deliveries]) => deliveries))
  }
  return counts
}

/** Polls until something holds on a real server. */
export async function until(condition: () => boolean | Promise<boolean>, timeoutMs = 30_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`it didn't come true in ${timeoutMs} ms: ${condition}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** What a promise rejects with. */
export async function errorOf(promise: PromiseLike<unknown>): Promise<unknown> {
  try {
    await promise
  } catch (error) {
    return error
  }
  throw new Error('it succeeded')
}
