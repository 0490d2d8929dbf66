import { randomUUID } from 'node:crypto'
import { Redis } from 'ioredis'
import { RedisQuotaStore } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { singleClients } from './clients.ts'
import { scriptCalls } from './script-calls.ts'
import { claimOf, holdOf, keyOf, month } from './usage-batches.ts'

const server = await startRedis({ own: true })
const redis = new Redis(server?.url ?? 'redis://127.0.0.1:1', { lazyConnect: true })

afterAll(async () => {
  redis.disconnect()
  await server?.stop()
})

const open = (): { store: RedisQuotaStore; prefix: string } => {
  const prefix = randomUUID()
  return { store: new RedisQuotaStore(redis, { prefix }), prefix }
}

describe.skipIf(server === undefined)('holds that expire in great numbers', () => {
  /** Holds 1 of each of two quota types in turn, and 5 of the first that stay. */
  const crowd = async (store: RedisQuotaStore, userId: string, many: number): Promise<void> => {
    const holds = Array.from({ length: many }, (_, i) => {
      const claim = { userId, quotaType: i % 2 === 0 ? 'calls' : 'tokens', id: `${userId}/${i}` }
      return store.reserve(holdOf(1, 1e9, claim))
    })
    await Promise.all([...holds, store.reserve(holdOf(5, 1e9, { userId, id: `${userId}/stays` }))])
  }
  /** Lets them expire at once, as they would with time. */
  const expire = async (prefix: string, userId: string): Promise<void> => {
    const holds = `{${prefix}:quota:${userId}}:holds`
    const pipeline = redis.pipeline()
    for (const member of await redis.zrange(holds, '0', '-1')) {
      const id = member.split('\0')[3] as string
      if (id.endsWith('/stays')) continue
      pipeline.zadd(holds, 1, member)
      pipeline.hset(`{${prefix}:quota:${userId}}:hold:${id}`, 'until', 1)
    }
    await pipeline.exec()
  }

  test.each<[string, (store: RedisQuotaStore) => Promise<unknown>, unknown, used: number, held: number]>([
    ['readUsage', (store) => store.readUsage([keyOf()]), [{ used: 0, held: 5 }], 0, 5],
    ['consume', (store) => store.consume(claimOf(5, 10)), { status: 'applied', used: 5, held: 5 }, 5, 5],
    ['consume beyond', (store) => store.consume(claimOf(6, 10)), { status: 'exceeded', used: 0, held: 5 }, 0, 5],
    ['reserve', (store) => store.reserve(holdOf(5, 10)), { status: 'held', used: 0, held: 10 }, 0, 10],
    ['settle', (store) => store.settle('ann/stays', 4), { status: 'settled', usage: { used: 4, held: 0 } }, 4, 0],
    ['settle late', (store) => store.settle('ann/0', 4), { status: 'settled', usage: { used: 4, held: 5 } }, 4, 5],
    ['release', (store) => store.release('ann/stays'), undefined, 0, 0],
    ['release late', (store) => store.release('ann/999'), undefined, 0, 5],
  ])('%s counts none of them, and has Redis look at 200 a call', async (_, call, expected, used, held) => {
    const { store, prefix } = open()
    await crowd(store, 'ann', 1000)
    await expire(prefix, 'ann')
    const before = await scriptCalls(redis)

    const outcome = await call(store)

    if (expected === undefined) expect(outcome).toBe(undefined)
    else expect(outcome).toMatchObject(expected as object)
    // Five that clear away, one that answers, and another where the owner is looked for.
    expect((await scriptCalls(redis)) - before).toBeGreaterThanOrEqual(6)
    expect((await scriptCalls(redis)) - before).toBeLessThanOrEqual(7)
    expect(await store.readUsage([keyOf(), keyOf('ann', 'tokens')])).toEqual([
      { used, held },
      { used: 0, held: 0 },
    ])
    expect(await redis.hkeys(`{${prefix}:quota:ann}:held`)).toEqual(held === 0 ? [] : [`calls\0${month}`])
  })

  test.each(Object.entries(singleClients))('%s comes again', async (_, connect) => {
    const { client, close } = await connect(server?.url as string)
    const prefix = randomUUID()
    const store = new RedisQuotaStore(client, { prefix })
    await crowd(store, 'ann', 450)
    await expire(prefix, 'ann')

    expect(await store.readUsage([keyOf()])).toEqual([{ used: 0, held: 5 }])

    await close()
  })

  test('200 a call they are of many users, too; those that are fewer stay for calls that write', async () => {
    const { store, prefix } = open()
    const users = Array.from({ length: 30 }, (_, i) => `u${i}`)
    for (const userId of users) {
      await crowd(store, userId, 25)
      await expire(prefix, userId)
    }
    const expired = async (): Promise<number> => {
      const counts = await Promise.all(users.map((user) => redis.zcount(`{${prefix}:quota:${user}}:holds`, 0, 1)))
      return counts.reduce((sum, count) => sum + count, 0)
    }
    const before = await scriptCalls(redis)

    const usages = await store.readUsage(users.flatMap((user) => [keyOf(user), keyOf(user, 'tokens')]))

    expect(usages).toEqual(
      users.flatMap(() => [
        { used: 0, held: 5 },
        { used: 0, held: 0 },
      ]),
    )
    // 750 expired: thrice 200 were cleared away.
    expect((await scriptCalls(redis)) - before).toBe(4)
    expect(await expired()).toBe(150)
  })

  test('claims in parallel meanwhile come up to the limit, and not beyond', async () => {
    const { store, prefix } = open()
    await crowd(store, 'ann', 2000)
    await expire(prefix, 'ann')

    const outcomes = await Promise.all(
      Array.from({ length: 60 }, (_, i) =>
        i % 2 === 0 ? store.consume(claimOf(1, 25)) : store.reserve(holdOf(1, 25)),
      ),
    )

    expect(outcomes.filter(({ status }) => status === 'applied' || status === 'held').length).toBe(20)
    expect(outcomes.filter(({ status }) => status === 'exceeded').length).toBe(40)
    const [usage] = await store.readUsage([keyOf()])
    expect((usage?.used ?? 0) + (usage?.held ?? 0)).toBe(25)
  })
})
