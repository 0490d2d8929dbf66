import { randomUUID } from 'node:crypto'
import type { UsageBatch, UsageEvent, UsageSink } from 'spillway'
import { RedisUsageStream, RedisUsageWorker } from 'spillway/redis'
import type { Aim, Contender, Contest } from './harness/contest.ts'
import { atEnd, finish, ioredis, nodeRedis } from './harness/redis-contest.ts'
import { serveSuite } from './harness/suite-process.ts'

// Usage through a stream in a real Redis, published by callers that each wait until Redis has their event. Two things are timed: until
// the last of them has heard so, and until all of it is accounted too, in a store in this process that sums by user.
//
// What is by hand gives an event no id and no period, and looks at nothing: an event whose answer is lost is lost or counts twice, what
// a dead reader had in hand stays there, and nothing is ever trimmed.

const events = 5000
const callers = 100
const users = 1000
const count = 500

/** Each caller publishes one event after the other. */
async function publishAll(publish: (event: UsageEvent) => Promise<unknown>): Promise<void> {
  let next = 0
  const caller = async (): Promise<void> => {
    while (next < events) await publish({ userId: next++ % users, quotaType: 'api', value: 1 })
  }
  await Promise.all(Array.from({ length: callers }, caller))
}

/** What an event becomes by hand. */
const textOf = (event: UsageEvent): string => JSON.stringify({ ...event, timestamp: Date.now() })

/** A turn's events are in Redis: exactly so many more than before. */
function checkLength(lengthOf: () => Promise<number>): () => Promise<void> {
  let expected = 0
  return async () => {
    expected += events
    const length = await lengthOf()
    if (length !== expected) throw new Error(`expected ${expected} events in Redis, got ${length}`)
  }
}

/** The store behind all that accounts: sums by user. */
class Sums implements UsageSink {
  readonly idempotent = true
  readonly dedupe = 'event'
  readonly #sums = new Map<string, number>()
  #accounted = 0
  #turns = 0
  #all: () => void = () => undefined

  write({ totals }: UsageBatch): void {
    for (const { userId, value } of totals) this.add(userId, value)
  }

  add(userId: string, value: number): void {
    this.#sums.set(userId, (this.#sums.get(userId) ?? 0) + value)
    this.#accounted += value
    if (this.#accounted >= (this.#turns + 1) * events) this.#all()
  }

  /** Resolves once a turn's events are accounted. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      this.#all = resolve
    })
  }

  check(): void {
    const expected = (++this.#turns * events) / users
    const wrong = [...this.#sums.values()].filter((sum) => sum !== expected).length
    if (this.#sums.size !== users || wrong > 0)
      throw new Error(`${wrong} of ${this.#sums.size} sums aren't ${expected}`)
  }
}

const published: Contender = {
  name: 'spillway, publish',
  prepare: async () => {
    const client = await ioredis()
    const stream = new RedisUsageStream(client, { prefix: randomUUID() })
    return {
      async: true,
      turn: () => publishAll((event) => stream.publish(event)),
      check: checkLength(async () => (await stream.status()).length),
    }
  },
}

const ioredisAdds = (aim?: Aim): Contender => ({
  name: `ioredis, one XADD an event, ${callers} callers`,
  ...(aim && { aim }),
  prepare: async () => {
    const client = await ioredis()
    const key = randomUUID()
    return {
      async: true,
      turn: () => publishAll((event) => client.xadd(key, '*', 'usage', textOf(event))),
      check: checkLength(() => client.xlen(key)),
    }
  },
})

const nodeRedisAdds: Contender = {
  name: `node-redis, one XADD an event, ${callers} callers`,
  prepare: async () => {
    const client = await nodeRedis()
    const key = randomUUID()
    return {
      async: true,
      turn: () => publishAll((event) => client.xAdd(key, '*', { usage: textOf(event) })),
      check: checkLength(() => client.xLen(key)),
    }
  },
}

const accounted: Contender = {
  name: 'spillway, publish and a worker',
  prepare: async () => {
    const [here, there] = [await ioredis(), await ioredis()]
    const prefix = randomUUID()
    const stream = new RedisUsageStream(here, { prefix })
    const sums = new Sums()
    // Between turns it would pause for ever longer, which is no work.
    const worker = new RedisUsageWorker(new RedisUsageStream(there, { prefix }), sums, { pollMs: 10 })
    await worker.start()
    atEnd(() => worker.close())
    return {
      async: true,
      turn: async () => {
        const all = sums.next()
        await publishAll((event) => stream.publish(event))
        await all
      },
      check: () => sums.check(),
    }
  },
}

/** A blocking reader that takes up to `count` events at a time, and acknowledges them in one call, or one by one. */
const byHand = (acknowledges: 'together' | 'one by one', aim?: Aim): Contender => ({
  name: `ioredis, one XADD an event, XREADGROUP COUNT ${count}, XACK ${acknowledges}`,
  ...(aim && { aim }),
  prepare: async () => {
    const [here, there] = [await ioredis(), await ioredis()]
    const key = randomUUID()
    const sums = new Sums()
    await here.xgroup('CREATE', key, 'group', '0', 'MKSTREAM')
    const read = async (): Promise<void> => {
      const found = await there.xreadgroup(
        ...(['GROUP', 'group', 'reader', 'COUNT', count, 'BLOCK', 0, 'STREAMS', key, '>'] as const),
      )
      const [[, entries]] = found as [[string, [string, [string, string]][]]]
      for (const [, [, text]] of entries) {
        const { userId, value } = JSON.parse(text)
        sums.add(String(userId), value)
      }
      const ids = entries.map(([id]) => id)
      if (acknowledges === 'together') await there.xack(key, 'group', ...ids)
      else await Promise.all(ids.map((id) => there.xack(key, 'group', id)))
    }
    let reading = true
    atEnd(() => {
      reading = false
    })
    const loop = async (): Promise<void> => {
      while (reading) await read()
    }
    // It ends with its connection.
    loop().catch(() => undefined)
    return {
      async: true,
      turn: async () => {
        const all = sums.next()
        await publishAll((event) => here.xadd(key, '*', 'usage', textOf(event)))
        await all
      },
      check: () => sums.check(),
    }
  },
})

const contest = (name: string, contenders: Contest['contenders']): Contest => ({
  name,
  operation: 'event',
  operations: events,
  contenders,
  finish,
})

await serveSuite([
  contest('100 callers, until Redis has their events', [published, ioredisAdds({ timesFaster: 1.5 }), nodeRedisAdds]),
  contest('100 callers, until their events are accounted', [accounted, byHand('together'), byHand('one by one')]),
])
