import { AsyncLocalStorage } from 'node:async_hooks'
import { MemoryQuotaStore, QuotaConsumer, type QuotaKey, QuotaService, type QuotaStatus, StoreError } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { codeOf, reasonOf, watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { during, expectServiceBooks, sceneOf } from './service/support/scene.js'

const january = Date.UTC(2026, 0, 1)
const february = Date.UTC(2026, 1, 1)
const dayMs = 86_400_000

describe('checkQuota answers', () => {
  inVirtualTime('with what is stored, held and buffered here, and what is left of the limit', async (clock) => {
    const { quotas, consumer } = sceneOf(clock, { buffer: { maxWaitMs: 1000 } })
    await during(clock, quotas.consumeQuotaSync('ann', 'requests', 3))
    await during(clock, quotas.reserve('ann', 'requests', 2, { ttlMs: 60_000 }))
    await quotas.consumeQuota('ann', 'requests', 1)

    const status = await during(clock, quotas.checkQuota('ann', 'requests', 4))

    expect(status).toEqual({
      ...{ allowed: true, limit: 10, used: 3, held: 2, pending: 1, remaining: 4 },
      ...{ period: '2026-01', resetsAt: february },
    })
    expect((await during(clock, quotas.checkQuota('ann', 'requests', 5))).allowed).toBe(false)
    await during(clock, consumer.close())
    expect(await during(clock, quotas.checkQuota('ann', 'requests', 4))).toEqual({ ...status, used: 4, pending: 0 })
  })

  inVirtualTime('about 1 where no value is given, and about 0 where nothing is left', async (clock) => {
    const { quotas } = sceneOf(clock, { limit: 1 })

    expect((await during(clock, quotas.checkQuota('ann', 'requests'))).allowed).toBe(true)
    await during(clock, quotas.consumeQuotaSync('ann', 'requests'))

    expect((await during(clock, quotas.checkQuota('ann', 'requests'))).allowed).toBe(false)
    expect((await during(clock, quotas.checkQuota('ann', 'requests', 0))).allowed).toBe(true)
  })

  inVirtualTime('with nothing left, never less, where what nobody checked has passed the limit', async (clock) => {
    const { quotas } = sceneOf(clock)
    await quotas.consumeQuota('ann', 'requests', 25)

    const status = await during(clock, quotas.checkQuota('ann', 'requests', 0))

    expect(status).toMatchObject({ allowed: false, used: 25, remaining: 0 })
  })

  inVirtualTime('that anything goes where the limit is Infinity, but not beyond what can be counted', async (clock) => {
    const { quotas } = sceneOf(clock, { limit: Number.POSITIVE_INFINITY })
    await during(clock, quotas.consumeQuotaSync('ann', 'requests', 1))

    const status = await during(clock, quotas.checkQuota('ann', 'requests', Number.MAX_SAFE_INTEGER - 1))

    expect(status).toMatchObject({
      allowed: true,
      limit: Number.POSITIVE_INFINITY,
      remaining: Number.POSITIVE_INFINITY,
    })
    expect((await during(clock, quotas.checkQuota('ann', 'requests', Number.MAX_SAFE_INTEGER))).allowed).toBe(false)
  })

  inVirtualTime('for users by the text of their ids', async (clock) => {
    const { quotas, consumer } = sceneOf(clock, { buffer: {} })
    await quotas.consumeQuota(7, 'requests', 1)
    await during(clock, quotas.consumeQuotaSync(7n, 'requests', 2))

    const status = await during(clock, quotas.checkQuota('7', 'requests'))

    expect(status).toMatchObject({ used: 2, pending: 1 })
    await during(clock, consumer.close())
  })

  inVirtualTime('for the period of each quota type, and for the one that it is asked for', async (clock) => {
    const periodOf = (type: string) => (type === 'daily' ? 'day' : type === 'lifelong' ? 'total' : 'month')
    const { quotas } = sceneOf(clock, { periodOf })
    for (const type of ['daily', 'monthly', 'lifelong']) await quotas.consumeQuota('ann', type, 1)
    await clock.advance(dayMs)

    const check = (type: string, at?: number | Date): Promise<QuotaStatus> =>
      during(clock, quotas.checkQuota('ann', type, 1, { at }))

    expect(await check('daily')).toMatchObject({ used: 0, period: '2026-01-02', resetsAt: january + 2 * dayMs })
    expect(await check('daily', january)).toMatchObject({ used: 1, period: '2026-01-01', resetsAt: january + dayMs })
    expect(await check('monthly')).toMatchObject({ used: 1, period: '2026-01', resetsAt: february })
    expect(await check('monthly', new Date(february))).toMatchObject({ used: 0, period: '2026-02' })
    expect(await check('lifelong')).toEqual(expect.not.objectContaining({ resetsAt: expect.anything() }))
    expect(await check('lifelong')).toMatchObject({ used: 1, period: 'total' })
  })

  inVirtualTime('by the periods of its consumer', async (clock) => {
    const { quotas, consumer } = sceneOf(clock, { buffer: { periodOf: () => 'day' } })
    await quotas.consumeQuota('ann', 'requests', 1)

    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({
      period: '2026-01-01',
      pending: 1,
    })
    await during(clock, consumer.close())
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 1, pending: 0 })
  })

  inVirtualTime('with a limit that takes its time, asked for the user as given', async (clock) => {
    const asked: unknown[] = []
    const limitFor = async (...args: unknown[]): Promise<number> => {
      asked.push(args)
      await new Promise<void>((resolve) => clock.setTimer(resolve, 20))
      return 5
    }
    const { quotas } = sceneOf(clock, { limitFor })

    const status = watch(quotas.checkQuota(7n, 'requests'))
    await clock.advance(19)
    expect(status.status).toBe('pending')
    await clock.advance(1)

    expect(status.value).toMatchObject({ limit: 5 })
    expect(asked).toEqual([[7n, 'requests']])
  })

  inVirtualTime('and changes nothing', async (clock) => {
    const { quotas, store } = sceneOf(clock)

    for (let i = 0; i < 5; i++) await during(clock, quotas.checkQuota('ann', 'requests', 7))

    expect(new Set(store.calls.map(({ operation }) => operation))).toEqual(new Set(['readUsage']))
    expectServiceBooks(quotas, { offered: 5, succeeded: 5 })
  })
})

describe('while a batch is on its way to the store, checkQuota', () => {
  /** Its part of what is used up, whether it is stored or waits here. */
  const seen = ({ used, pending }: QuotaStatus): number => used + pending

  inVirtualTime('sees what was buffered here at every stage, whichever way a read overtakes it', async (clock) => {
    const { quotas, store, consumer } = sceneOf(clock, { buffer: { maxBatchSize: 1, eager: true } })
    const check = (): Promise<QuotaStatus> => quotas.checkQuota('ann', 'requests', 1)
    const before = store.stage('write')
    const after = store.stage('write', 'after')
    await quotas.consumeQuota('ann', 'requests', 3)

    expect(seen(await during(clock, check()))).toBe(3)
    expect(before.reached).toBe(true)

    // A read that began before the batch is written and is answered when all of it is over.
    const slowRead = store.stage('readUsage', 'after')
    const early = watch(check())
    await clock.advance(0)
    expect(slowRead.reached).toBe(true)

    // One that comes now goes with the next read.
    const joined = watch(check())
    before.go()
    await clock.advance(0)
    expect(after.reached).toBe(true)
    const whileWritten = watch(check())
    after.go()
    await clock.advance(0)
    expect(consumer.pending('ann', 'requests')).toBe(0)

    const late = watch(check())
    slowRead.go()
    await clock.advance(0)

    expect(seen(early.value as QuotaStatus)).toBe(3)
    expect(seen(joined.value as QuotaStatus)).toBeGreaterThanOrEqual(3)
    expect(seen(whileWritten.value as QuotaStatus)).toBeGreaterThanOrEqual(3)
    expect(late.value).toMatchObject({ used: 3, pending: 0 })
  })

  for (const consumer of ['no consumer', 'a consumer that is closed']) {
    inVirtualTime(`sees what is being written at once, with ${consumer}`, async (clock) => {
      const scene = sceneOf(clock, consumer === 'no consumer' ? {} : { buffer: {} })
      const { quotas, store } = scene
      if (consumer !== 'no consumer') await scene.consumer.close()
      const [before, after] = [store.stage('write'), store.stage('write', 'after')]
      const uses = [
        ...[1, 2].map((value) => watch(quotas.consumeQuota('ann', 'requests', value))),
        watch(quotas.consumeQuota('bob', 'requests', 4)),
      ]
      const check = (): Promise<QuotaStatus> => during(clock, quotas.checkQuota('ann', 'requests', 1))

      // The second one is stored, and that isn't known here: twice rather than not at all.
      expect(await check()).toMatchObject({ used: 2, pending: 3, remaining: 5 })
      expect(await reasonOf(during(clock, quotas.consumeQuotaSync('ann', 'requests', 8)))).toMatchObject({ pending: 3 })
      before.go()
      await clock.advance(0)
      expect(after.reached).toBe(true)
      expect(await check()).toMatchObject({ used: 3, pending: 2 })
      after.go()
      await clock.advance(0)

      expect(uses.map(({ value }) => value)).toEqual(['written', 'written', 'written'])
      expect(await check()).toMatchObject({ used: 3, pending: 0 })
    })
  }

  inVirtualTime('sees no more of what could not be written', async (clock) => {
    const { quotas, store } = sceneOf(clock, { retry: { attempts: 1 } })
    store.fails('write', new StoreError('down'))
    const lost = watch(quotas.consumeQuota('ann', 'requests', 0.1))
    const stuck = store.stage('write', 'after')
    const kept = watch(quotas.consumeQuota('ann', 'requests', 0.2))
    await clock.advance(0)

    expect([lost.status, kept.status]).toEqual(['rejected', 'pending'])
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 0.2 })
    stuck.go()
    await clock.advance(0)

    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 0.2, pending: 0 })
  })

  test('would miss it if it asked the store first and then looked what waits here', async () => {
    const clock = new FakeClock()
    const { store, consumer } = sceneOf(clock, { buffer: { maxBatchSize: 1, eager: true } })
    const naive = async (): Promise<number> => {
      const [usage] = await store.readUsage([{ userId: 'ann', quotaType: 'requests', period: '2026-01' }])
      return (usage?.used ?? 0) + consumer.pending('ann', 'requests')
    }
    const slowRead = store.stage('readUsage', 'after')
    consumer.offer({ userId: 'ann', quotaType: 'requests', value: 3 })

    const missed = watch(naive())
    await clock.advance(0)
    slowRead.go()
    await clock.advance(0)

    // What makes the test above one that can fail.
    expect(missed.value).toBe(0)
  })

  for (const usageTtlMs of [0, 60_000]) {
    inVirtualTime(`never sees less than was accepted, with usage kept for ${usageTtlMs} ms`, async (clock) => {
      const { quotas, store, consumer } = sceneOf(clock, {
        ...{ limit: Number.POSITIVE_INFINITY, usageTtlMs },
        buffer: { maxBatchSize: 3, maxWaitMs: 5, concurrency: 2 },
      })
      // Reads and writes of many lengths, so that they overtake each other.
      const write = store.inner.write.bind(store.inner)
      const read = store.inner.readUsage.bind(store.inner)
      const wait = (ms: number): Promise<void> => new Promise((resolve) => void clock.setTimer(resolve, ms))
      let step = 0
      const next = (): number => (step = (step * 5 + 3) % 17)
      store.inner.write = async (...args) => {
        await wait(next())
        const answer = await write(...args)
        await wait(next())
        return answer
      }
      store.inner.readUsage = async (keys: readonly QuotaKey[]) => {
        await wait(next() / 2)
        const answer = await read(keys)
        await wait(next())
        return answer
      }
      let accepted = 0
      const missed: unknown[] = []
      const checks: Promise<unknown>[] = []

      for (let round = 0; round < 300; round++) {
        await quotas.consumeQuota('ann', 'requests', 1)
        accepted++
        const least = accepted
        checks.push(
          quotas.checkQuota('ann', 'requests').then((status) => {
            if (seen(status) < least) missed.push([least, status])
          }),
        )
        await clock.advance(round % 4)
      }
      await clock.advance(1000)
      await Promise.all(checks)

      expect(missed).toEqual([])
      expect(await during(clock, quotas.checkQuota('ann', 'requests'), 100)).toMatchObject({ used: 300, pending: 0 })
      await during(clock, consumer.close())
    })
  }
})

describe('reads', () => {
  inVirtualTime('of one turn are one, a key once; what comes while one is on its way is the next', async (clock) => {
    const { quotas, store } = sceneOf(clock)
    const slow = store.stage('readUsage')

    const first = [quotas.checkQuota('ann', 'a'), quotas.checkQuota('ann', 'a', 5), quotas.checkQuota('bob', 'a')]
    await clock.advance(0)
    const second = [quotas.checkQuota('ann', 'a'), quotas.checkQuota('eve', 'b')]
    await clock.advance(0)
    expect(store.count('readUsage')).toBe(1)
    slow.go()
    await clock.advance(0)
    await Promise.all([...first, ...second])

    const keys = store.calls.map(({ argument }) => (argument as QuotaKey[]).map((k) => `${k.userId}/${k.quotaType}`))
    expect(keys).toEqual([
      ['ann/a', 'bob/a'],
      ['ann/a', 'eve/b'],
    ])
    expect(quotas.stats().reads).toBe(2)
  })

  inVirtualTime('take at most 1000 keys, and all are answered', async (clock) => {
    const { quotas, store } = sceneOf(clock)

    const checks = Array.from({ length: 2500 }, (_, i) => quotas.checkQuota(i, 'requests'))
    await clock.advance(0)
    await Promise.all(checks)

    expect(store.calls.map(({ argument }) => (argument as QuotaKey[]).length)).toEqual([1000, 1000, 500])
  })

  inVirtualTime('that fail are made again, and then fail the checks of that read alone', async (clock) => {
    const { quotas, store } = sceneOf(clock, { retry: { attempts: 2, delayMs: 10 } })
    store.fails('readUsage', new StoreError('down'), new StoreError('still down'))

    const failing = watch(quotas.checkQuota('ann', 'requests'))
    await clock.advance(0)
    const next = watch(quotas.checkQuota('ann', 'requests'))
    await clock.advance(10)

    expect(failing.reason).toMatchObject({ message: 'still down' })
    expect(next.value).toMatchObject({ allowed: true })
    expectServiceBooks(quotas, { offered: 2, succeeded: 1, failed: 1, retries: 1 })
  })

  inVirtualTime('that the store answers with something else reject', async (clock) => {
    const { quotas, store } = sceneOf(clock)
    for (const wrong of [undefined, [], [null], [{ used: 1 }], [{ used: Number.NaN, held: 0 }]]) {
      store.inner.readUsage = async () => wrong as never

      const reason = await reasonOf(during(clock, quotas.checkQuota('ann', 'requests'), 10_000))

      expect(codeOf(reason), JSON.stringify(wrong)).toBe('ERR_BATCH_RESULT')
    }
  })
})

test("a read for many callers runs in nobody's context but that in which the service was made", async () => {
  const clock = new FakeClock()
  const tenant = new AsyncLocalStorage<string>()
  const { quotas, store } = tenant.run('service', () => sceneOf(clock))
  const seen: unknown[] = []
  const read = store.inner.readUsage.bind(store.inner)
  store.inner.readUsage = (keys: readonly QuotaKey[]) => {
    seen.push(tenant.getStore())
    return read(keys)
  }

  const after = tenant.run('ann', () => quotas.checkQuota('ann', 'requests').then(() => tenant.getStore()))
  tenant.run('bob', () => void quotas.checkQuota('bob', 'requests'))

  expect(await during(clock, after)).toBe('ann')
  expect(seen).toEqual(['service'])
})

describe('usageTtlMs', () => {
  inVirtualTime('keeps what was read for as long, and no longer', async (clock) => {
    const { quotas, store } = sceneOf(clock, { usageTtlMs: 1000 })
    const check = (): Promise<QuotaStatus> => during(clock, quotas.checkQuota('ann', 'requests'))

    await check()
    await clock.advance(999)
    await check()
    expect(quotas.stats()).toMatchObject({ reads: 1, cacheHits: 1, cachedKeys: 1 })
    await clock.advance(1)
    await check()

    expect(store.count('readUsage')).toBe(2)
  })

  inVirtualTime('runs from when the read began, however long it took', async (clock) => {
    const { quotas, store } = sceneOf(clock, { usageTtlMs: 1000 })
    const slow = store.stage('readUsage', 'after')
    const first = quotas.checkQuota('ann', 'requests')
    await clock.advance(600)
    slow.go()
    await during(clock, first)

    await clock.advance(400)
    await during(clock, quotas.checkQuota('ann', 'requests'))

    expect(store.count('readUsage')).toBe(2)
  })

  inVirtualTime('is forgotten for what this service changes itself', async (clock) => {
    const { quotas } = sceneOf(clock, { usageTtlMs: 60_000, limit: 100 })
    const check = (): Promise<QuotaStatus> => during(clock, quotas.checkQuota('ann', 'requests'))
    expect(await check()).toMatchObject({ used: 0, held: 0 })

    await during(clock, quotas.consumeQuotaSync('ann', 'requests', 1))
    expect(await check()).toMatchObject({ used: 1, held: 0 })
    const reservation = await during(clock, quotas.reserve('ann', 'requests', 5))
    expect(await check()).toMatchObject({ used: 1, held: 5 })
    await during(clock, reservation.settle(7))
    expect(await check()).toMatchObject({ used: 8, held: 0 })
    await during(clock, quotas.consumeQuota('ann', 'requests', 2))

    expect(await check()).toMatchObject({ used: 10, held: 0 })
  })

  inVirtualTime(
    'is forgotten for what becomes of holds that were made here, whatever the store answers',
    async (clock) => {
      const { quotas, store } = sceneOf(clock, { usageTtlMs: 60_000, limit: 100, retry: { attempts: 1 } })
      const check = (): Promise<QuotaStatus> => during(clock, quotas.checkQuota('ann', 'requests'))
      await during(clock, quotas.reserve('ann', 'requests', 5, { id: 'r1' }))
      await during(clock, quotas.reserve('ann', 'requests', 1, { id: 'r2' }))
      expect(await check()).toMatchObject({ used: 0, held: 6 })

      await during(clock, quotas.release('r1'))
      expect(await check()).toMatchObject({ used: 0, held: 1 })
      store.losesAnswer('settle', new StoreError('lost', { outcomeUnknown: true }))
      await reasonOf(during(clock, quotas.settle('r2', 50)))

      expect(await check()).toMatchObject({ used: 50, held: 0 })
    },
  )

  inVirtualTime('is forgotten for what the consumer wrote or may have written, and for that alone', async (clock) => {
    const { quotas, store, consumer } = sceneOf(clock, {
      usageTtlMs: 60_000,
      buffer: { maxBatchSize: 1, eager: true, retry: { attempts: 1 }, onFailed: () => undefined },
    })
    await during(clock, Promise.all([quotas.checkQuota('ann', 'a'), quotas.checkQuota('bob', 'a')]))

    await quotas.consumeQuota('ann', 'a', 2)
    await clock.advance(0)
    expect(await during(clock, quotas.checkQuota('ann', 'a'))).toMatchObject({ used: 2, pending: 0 })
    store.losesAnswer('write', new StoreError('lost', { outcomeUnknown: true }))
    await quotas.consumeQuota('ann', 'a', 3)
    await clock.advance(0)

    expect(consumer.stats()).toMatchObject({ failed: 1 })
    expect(await during(clock, quotas.checkQuota('ann', 'a'))).toMatchObject({ used: 5, pending: 0 })
    await during(clock, quotas.checkQuota('bob', 'a'))
    expect(quotas.stats()).toMatchObject({ cacheHits: 1, reads: 3 })
  })

  inVirtualTime('keeps nothing that something changed while it was being read', async (clock) => {
    const { quotas, store } = sceneOf(clock, { usageTtlMs: 60_000 })
    const slow = store.stage('readUsage', 'after')
    const early = quotas.checkQuota('ann', 'requests')
    await clock.advance(0)

    await during(clock, quotas.consumeQuotaSync('ann', 'requests', 4))
    slow.go()

    expect(await during(clock, early)).toMatchObject({ used: 0 })
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 4 })
  })

  inVirtualTime("answers a listener of the consumer's with what was just written", async (clock) => {
    const { store, consumer, quotas: other } = sceneOf(clock, { buffer: { maxBatchSize: 1, eager: true } })
    let seen: Promise<QuotaStatus> | undefined
    // Before the service's own listener.
    consumer.on('applied', () => {
      seen = quotas.checkQuota('ann', 'requests')
    })
    const quotas = new QuotaService({ store, consumer, limitFor: () => 10, usageTtlMs: 60_000, clock })
    await during(clock, quotas.checkQuota('ann', 'requests'))

    await other.consumeQuota('ann', 'requests', 6)
    await clock.advance(0)

    expect(await seen).toMatchObject({ used: 6, pending: 0 })
  })

  inVirtualTime('keeps no more than usageCacheSize, the latest read', async (clock) => {
    const { quotas } = sceneOf(clock, { usageTtlMs: 60_000, usageCacheSize: 2 })
    const check = (user: string): Promise<QuotaStatus> => during(clock, quotas.checkQuota(user, 'requests'))
    for (const user of ['ann', 'bob', 'eve']) await check(user)

    await check('bob')
    await check('ann')

    expect(quotas.stats()).toMatchObject({ cacheHits: 1, reads: 4, cachedKeys: 2 })
  })
})

test('a check in real time is answered, and leaves nothing behind', async () => {
  const store = new MemoryQuotaStore()
  await using consumer = new QuotaConsumer(store)
  await using quotas = new QuotaService({ store, consumer, limitFor: () => 1 })

  expect(await quotas.checkQuota('ann', 'requests')).toMatchObject({ allowed: true })
})
