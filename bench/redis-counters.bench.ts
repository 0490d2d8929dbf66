import { randomUUID } from 'node:crypto'
import type { BatchContext, CounterIncrement } from 'spillway'
import { RedisCounterStore } from 'spillway/redis'
import type { Aim, Contender, Contest } from './harness/contest.ts'
import { finish, ioredis, nodeRedis } from './harness/redis-contest.ts'
import { serveSuite } from './harness/suite-process.ts'

// Increments of counters in a real Redis, from the first call of a turn until the last answer is there.

const increments = 2000
const callers = 100

/** The names of the counters, and how far each must be after so many turns. */
class Keys {
  readonly names: readonly string[]
  #turns = 0

  constructor(count: number) {
    const prefix = randomUUID()
    this.names = Array.from({ length: count }, (_, index) => `${prefix}:${index}`)
  }

  at(index: number): string {
    return this.names[index % this.names.length] as string
  }

  check(values: readonly unknown[]): void {
    this.#turns++
    const expected = (this.#turns * increments) / this.names.length
    const wrong = values.filter((value) => Number(value) !== expected).length
    if (wrong > 0) throw new Error(`${wrong} of ${values.length} counters don't hold ${expected}`)
  }
}

const context = (): BatchContext => ({ batchId: randomUUID(), attempt: 1, signal: new AbortController().signal })

/** One Lua call a batch, exactly once, each increment its own answer. */
const spillway = (count: number, size: number, inFlight: number): Contender => ({
  name: `spillway, batches of ${size}, ${inFlight} in flight`,
  prepare: async () => {
    const store = new RedisCounterStore(await ioredis())
    const keys = new Keys(count)
    return {
      async: true,
      turn: async () => {
        let next = 0
        const writer = async (): Promise<void> => {
          while (next < increments) {
            const batch: CounterIncrement[] = new Array(size)
            for (let i = 0; i < size; i++) batch[i] = { key: keys.at(next + i), delta: 1 }
            next += size
            await store.increment(batch, context())
          }
        }
        await Promise.all(Array.from({ length: inFlight }, writer))
      },
      check: async () => keys.check(await store.getMany(keys.names)),
    }
  },
})

/** Callers that each wait for their own answer. */
async function eachWaits(increment: (index: number) => Promise<unknown>): Promise<void> {
  let next = 0
  const caller = async (): Promise<void> => {
    while (next < increments) await increment(next++)
  }
  await Promise.all(Array.from({ length: callers }, caller))
}

const ioredisOneByOne = (count: number, aim?: Aim): Contender => ({
  name: `ioredis, one INCRBY a call, ${callers} callers`,
  ...(aim === undefined ? {} : { aim }),
  prepare: async () => {
    const client = await ioredis()
    const keys = new Keys(count)
    return {
      async: true,
      turn: () => eachWaits((index) => client.incrby(keys.at(index), 1)),
      check: async () => keys.check(await client.mget([...keys.names])),
    }
  },
})

const nodeRedisOneByOne = (count: number): Contender => ({
  name: `node-redis, one INCRBY a call, ${callers} callers`,
  prepare: async () => {
    const client = await nodeRedis()
    const keys = new Keys(count)
    return {
      async: true,
      turn: () => eachWaits((index) => client.incrBy(keys.at(index), 1)),
      check: async () => keys.check(await client.mGet([...keys.names])),
    }
  },
})

/** Few packets, but a command an increment, and an increment counts twice when its pipeline comes again. */
const ioredisPipelines = (count: number): Contender => ({
  name: 'ioredis, pipelines of 100 INCRBY, 4 in flight',
  prepare: async () => {
    const client = await ioredis()
    const keys = new Keys(count)
    return {
      async: true,
      turn: async () => {
        let next = 0
        const writer = async (): Promise<void> => {
          while (next < increments) {
            const pipeline = client.pipeline()
            for (let i = 0; i < 100; i++) pipeline.incrby(keys.at(next++), 1)
            await pipeline.exec()
          }
        }
        await Promise.all(Array.from({ length: 4 }, writer))
      },
      check: async () => keys.check(await client.mget([...keys.names])),
    }
  },
})

const contest = (name: string, contenders: Contest['contenders']): Contest => ({
  name,
  operation: 'increment',
  operations: increments,
  contenders,
  finish,
})
const aim: Aim = { timesFaster: 4 }

await serveSuite([
  contest('1,000 keys, batches of 100, exactly once', [
    spillway(1000, 100, 4),
    ioredisOneByOne(1000, aim),
    nodeRedisOneByOne(1000),
    ioredisPipelines(1000),
  ]),
  contest('1,000 keys, batches of 100, one at a time', [spillway(1000, 100, 1), ioredisOneByOne(1000)]),
  contest('one hot key, batches of 100, exactly once', [spillway(1, 100, 4), ioredisOneByOne(1), nodeRedisOneByOne(1)]),
])
