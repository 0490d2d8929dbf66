import {
  MemoryQuotaStore,
  QuotaConsumer,
  QuotaService,
  StoreError,
  type UsageBatch,
  type UsageEvent,
  type UsageFallback,
  type UsageJournal,
} from 'spillway'
import { describe, expect, test } from 'vitest'
import { codeOf, reasonOf, watch } from '../batcher/support/outcomes.js'
import { warningsDuring } from '../batcher/support/process-events.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { during, expectServiceBooks, sceneOf } from './service/support/scene.js'
import type { StagedStore } from './service/support/staged-store.js'

const use = (value: number, userId = 'ann'): UsageEvent => ({ userId, quotaType: 'requests', value })

/** The values of each batch that reached the store. */
function batchesOf(store: StagedStore): number[][] {
  return store.calls
    .filter(({ operation }) => operation === 'write')
    .map(({ argument }) => (argument as UsageBatch).events.map(({ value }) => value))
}

async function usedOf(store: StagedStore, userId = 'ann'): Promise<number | undefined> {
  const [usage] = await store.inner.readUsage([{ userId, quotaType: 'requests', period: '2026-01' }])
  return usage?.used
}

/** A journal that can't keep anything. */
function failingJournal(error: unknown): UsageJournal {
  const nothing = async (): Promise<void> => undefined
  return {
    open: async () => ({ batches: [], events: [] }),
    append: () => Promise.reject(error),
    ...{ assign: nothing, settle: nothing, deadLetter: nothing, close: nothing },
  }
}

describe('consumeQuota', () => {
  inVirtualTime('leaves a use to the consumer, and checks nothing', async (clock) => {
    const { quotas, store, consumer } = sceneOf(clock, { buffer: { maxBatchSize: 4 }, limit: 1 })

    const where = await Promise.all([1, 2, 3].map((value) => quotas.consumeQuota('ann', 'requests', value)))

    expect(where).toEqual(['buffered', 'buffered', 'buffered'])
    expect(consumer.pending('ann', 'requests')).toBe(6)
    expect(store.calls).toEqual([])
    await during(clock, consumer.close())
    expect(await usedOf(store)).toBe(6)
    expectServiceBooks(quotas, { offered: 3, succeeded: 3, buffered: 3, written: 0, fallbacks: 0 })
  })

  inVirtualTime('hands on the time, the request and what else is worth keeping', async (clock) => {
    const { quotas, store, consumer } = sceneOf(clock, { buffer: {} })
    const timestamp = new Date('2026-03-05T12:00:00Z')
    const given = { requestId: 'r1', timestamp, metadata: { path: '/' } }

    await quotas.consumeQuota(7, 'requests', 2, given)
    await during(clock, consumer.close())
    await during(clock, quotas.consumeQuota(7, 'requests', 2, given))

    const events = store.calls.map(({ argument }) => (argument as UsageBatch).events[0])
    const expected = { userId: 7, quotaType: 'requests', value: 2, timestamp: timestamp.getTime(), period: '2026-03' }
    expect(events).toEqual([
      { ...expected, requestId: 'r1', metadata: { path: '/' } },
      { ...expected, requestId: 'r1', metadata: { path: '/' } },
    ])
  })

  inVirtualTime('counts 1 where no value is given', async (clock) => {
    const { quotas, store } = sceneOf(clock)

    await during(clock, quotas.consumeQuota('ann', 'requests'))

    expect(await usedOf(store)).toBe(1)
  })

  inVirtualTime(
    'writes to the store at once where the consumer is full, and buffers that use no more',
    async (clock) => {
      const { quotas, store, consumer } = sceneOf(clock, { buffer: { capacity: 2, maxBatchSize: 2, concurrency: 1 } })
      const fallbacks: UsageFallback[] = []
      quotas.on('fellBack', (fallback) => fallbacks.push(fallback))
      const stuck = store.stage('write')
      for (const value of [1, 2]) await quotas.consumeQuota('ann', 'requests', value)
      await clock.advance(0)
      expect(stuck.reached).toBe(true)
      for (const value of [4, 8]) await quotas.consumeQuota('ann', 'requests', value)

      const where = await during(clock, quotas.consumeQuota('ann', 'requests', 16))

      expect(where).toBe('written')
      expect(await usedOf(store)).toBe(16)
      expect(consumer.pending('ann', 'requests')).toBe(15)
      expect(fallbacks).toEqual([
        { userId: 'ann', quotaType: 'requests', value: 16, error: expect.objectContaining({ code: 'ERR_FULL' }) },
      ])
      stuck.go()
      await during(clock, consumer.close())
      expect(await usedOf(store)).toBe(31)
      expect(batchesOf(store)).toEqual([[1, 2], [16], [4, 8]])
      expectServiceBooks(quotas, { offered: 5, succeeded: 5, buffered: 4, written: 1, fallbacks: 1 })
    },
  )

  inVirtualTime('writes to the store at once where the consumer is closed, while it drains too', async (clock) => {
    const { quotas, store, consumer } = sceneOf(clock, { buffer: {} })
    const stuck = store.stage('write')
    await quotas.consumeQuota('ann', 'requests', 1)
    const closing = consumer.close()
    await clock.advance(0)
    expect(stuck.reached).toBe(true)

    const draining = await during(clock, quotas.consumeQuota('ann', 'requests', 2))
    stuck.go()
    await during(clock, closing)
    const closed = await during(clock, quotas.consumeQuota('ann', 'requests', 4))

    expect([draining, closed]).toEqual(['written', 'written'])
    expect(await usedOf(store)).toBe(7)
  })

  inVirtualTime('writes to the store at once where there is no consumer', async (clock) => {
    const { quotas, store } = sceneOf(clock)

    expect(await during(clock, quotas.consumeQuota('ann', 'requests', 3))).toBe('written')

    expect(await usedOf(store)).toBe(3)
    expectServiceBooks(quotas, { offered: 1, succeeded: 1, buffered: 0, written: 1, fallbacks: 0 })
  })

  inVirtualTime('rejects a use that the journal may have kept, and writes it nowhere else', async (clock) => {
    for (const [outcomeUnknown, code] of [
      [true, 'ERR_CLOSED'],
      [true, 'ERR_STORE'],
      [false, 'ERR_STORE'],
    ] as const) {
      const error = Object.assign(new StoreError('no room', { outcomeUnknown }), { code })
      const { quotas, store, consumer } = sceneOf(clock, { buffer: { journal: failingJournal(error) } })
      consumer.on('journalFailed', () => undefined)

      const reason = await reasonOf(during(clock, quotas.consumeQuota('ann', 'requests', 1)))

      expect(reason, code).toBe(error)
      expect(store.calls, code).toEqual([])
      expectServiceBooks(quotas, { offered: 1, failed: 1, fallbacks: 0 })
    }
  })

  inVirtualTime('rejects with what the store refused the use with', async (clock) => {
    const { quotas } = sceneOf(clock)
    await during(clock, quotas.consumeQuota('ann', 'requests', Number.MAX_SAFE_INTEGER))

    const reason = await reasonOf(during(clock, quotas.consumeQuota('ann', 'requests', 1)))

    expect(codeOf(reason)).toBe('ERR_STORE')
    expectServiceBooks(quotas, { offered: 2, succeeded: 1, failed: 1, written: 1 })
  })

  inVirtualTime('refuses a wrong use naming its field, with a consumer and without', async (clock) => {
    for (const { quotas } of [sceneOf(clock), sceneOf(clock, { buffer: {} })]) {
      const reasons = [
        await reasonOf(quotas.consumeQuota('', 'requests')),
        await reasonOf(quotas.consumeQuota('ann', 'a\0b')),
        await reasonOf(quotas.consumeQuota('ann', 'requests', -1)),
        await reasonOf(quotas.consumeQuota('ann', 'requests', 1, { requestId: '' })),
        await reasonOf(quotas.consumeQuota('ann', 'requests', 1, { timestamp: 1_767_225_600 })),
        await reasonOf(quotas.consumeQuota('ann', 'requests', 1, { metadata: 'x' as never })),
      ]

      expect(reasons.map((reason) => [codeOf(reason), (reason as { field: string }).field])).toEqual(
        ['userId', 'quotaType', 'value', 'requestId', 'timestamp', 'metadata'].map((field) => [
          'ERR_INVALID_EVENT',
          field,
        ]),
      )
      expectServiceBooks(quotas, { offered: 6, rejected: 6 })
    }
  })

  test('warns once of a store that answers with something else than refusals, and counts all of it', async () => {
    class Odd extends MemoryQuotaStore {
      override async write(...args: Parameters<MemoryQuotaStore['write']>) {
        await super.write(...args)
        return [{ rows: 1 }] as never
      }
    }
    const quotas = new QuotaService({ store: new Odd(), limitFor: () => 10 })

    const warnings = await warningsDuring(async () => {
      for (let i = 0; i < 2; i++) expect(await quotas.consumeQuota('ann', 'requests')).toBe('written')
    })

    expect(warnings).toEqual([expect.stringMatching(/^SpillwayWarning: quota-service: its store answered with a list/)])
  })
})

describe('consumeQuotaBatch', () => {
  inVirtualTime('answers each use in order, whatever becomes of the others', async (clock) => {
    const { quotas, store, consumer } = sceneOf(clock, { buffer: {} })

    const results = await during(
      clock,
      quotas.consumeQuotaBatch([use(1), use(-1), null as never, use(2, 'bob'), { ...use(4), quotaType: '' }]),
    )

    expect(results).toEqual([
      { status: 'fulfilled', value: 'buffered' },
      { status: 'rejected', reason: expect.objectContaining({ code: 'ERR_INVALID_EVENT', field: 'value' }) },
      { status: 'rejected', reason: expect.objectContaining({ code: 'ERR_INVALID_EVENT', field: 'event' }) },
      { status: 'fulfilled', value: 'buffered' },
      { status: 'rejected', reason: expect.objectContaining({ code: 'ERR_INVALID_EVENT', field: 'quotaType' }) },
    ])
    await during(clock, consumer.close())
    expect([await usedOf(store), await usedOf(store, 'bob')]).toEqual([1, 2])
    expectServiceBooks(quotas, { offered: 5, succeeded: 2, rejected: 3, buffered: 2 })
  })

  inVirtualTime('writes together, at once, what the consumer has no room for', async (clock) => {
    const { quotas, store, consumer } = sceneOf(clock, { buffer: { capacity: 2, maxBatchSize: 2 } })

    const results = await during(clock, quotas.consumeQuotaBatch([1, 2, 3, 4, 5].map((value) => use(value))))

    expect(results.map((result) => result.status === 'fulfilled' && result.value)).toEqual([
      ...['buffered', 'buffered'],
      ...['written', 'written', 'written'],
    ])
    await during(clock, consumer.close())
    expect(batchesOf(store).sort()).toEqual([
      [1, 2],
      [3, 4, 5],
    ])
    expectServiceBooks(quotas, { offered: 5, succeeded: 5, buffered: 2, written: 3, fallbacks: 3 })
  })

  inVirtualTime('writes together what there is no consumer for, at most 1000 in a batch', async (clock) => {
    const { quotas, store } = sceneOf(clock)

    const results = await during(clock, quotas.consumeQuotaBatch(Array.from({ length: 2100 }, () => use(1))))

    expect(results.every(({ status }) => status === 'fulfilled')).toBe(true)
    expect(batchesOf(store).map(({ length }) => length)).toEqual([1000, 1000, 100])
    expect(await usedOf(store)).toBe(2100)
  })

  inVirtualTime('tells what the store refuses from what it counts', async (clock) => {
    const { quotas, store } = sceneOf(clock)
    await during(clock, quotas.consumeQuota('bob', 'requests', Number.MAX_SAFE_INTEGER))

    const results = await during(clock, quotas.consumeQuotaBatch([use(1), use(1, 'bob'), use(2)]))

    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect(await usedOf(store)).toBe(3)
  })

  inVirtualTime('lets no event that its store chokes on keep the others from being counted', async (clock) => {
    const { quotas, store } = sceneOf(clock, { retry: { attempts: 1 } })
    const write = store.inner.write.bind(store.inner)
    store.inner.write = async (batch, context) => {
      if (batch.events.some(({ value }) => value === 13)) throw new RangeError('thirteen')
      return write(batch, context)
    }
    const values = [1, 2, 13, 4, 13, 5, 6]

    const results = await during(clock, quotas.consumeQuotaBatch(values.map((value) => use(value))))

    expect(results.map((result) => (result.status === 'fulfilled' ? result.value : String(result.reason)))).toEqual(
      values.map((value) => (value === 13 ? 'RangeError: thirteen' : 'written')),
    )
    expect(await usedOf(store)).toBe(18)
    expectServiceBooks(quotas, { offered: 7, succeeded: 5, failed: 2, written: 5 })
  })

  inVirtualTime('halves nothing that may have been counted, or where the store itself is down', async (clock) => {
    for (const error of [
      new StoreError('lost', { outcomeUnknown: true, retryable: false }),
      new StoreError('down', { retryable: true }),
    ]) {
      const { quotas, store } = sceneOf(clock, { retry: { attempts: 1 } })
      store.fails('write', error)

      const results = await during(clock, quotas.consumeQuotaBatch([use(1), use(2), use(4)]))

      expect(results.map((result) => result.status === 'rejected' && result.reason)).toEqual([error, error, error])
      expect(store.count('write')).toBe(1)
    }
  })

  inVirtualTime('takes each event as it was when it was given', async (clock) => {
    const { quotas, store, consumer } = sceneOf(clock, { buffer: { capacity: 1, maxBatchSize: 1, maxWaitMs: 1000 } })
    const event = { userId: 'ann', quotaType: 'requests', value: 1 }

    const results = quotas.consumeQuotaBatch([event, event])
    event.value = 100
    await during(clock, results)
    await during(clock, consumer.close())

    expect(await usedOf(store)).toBe(2)
  })

  inVirtualTime('of nothing answers nothing, and of no array rejects', async (clock) => {
    const { quotas } = sceneOf(clock)

    expect(await during(clock, quotas.consumeQuotaBatch([]))).toEqual([])

    expect(codeOf(await reasonOf(quotas.consumeQuotaBatch('x' as never)))).toBe('ERR_OPTION')
    expect(codeOf(await reasonOf(quotas.consumeQuotaBatch([], { signal: 1 as never })))).toBe('ERR_OPTION')
    expectServiceBooks(quotas, { offered: 0 })
  })

  inVirtualTime('lets all of it go when its signal aborts', async (clock) => {
    const { quotas, store } = sceneOf(clock)
    const stuck = store.stage('write')
    const controller = new AbortController()
    const results = watch(quotas.consumeQuotaBatch([use(1), use(2)], { signal: controller.signal }))
    await clock.advance(0)

    controller.abort('enough')
    await clock.advance(0)

    expect(results.value).toEqual([
      { status: 'rejected', reason: 'enough' },
      { status: 'rejected', reason: 'enough' },
    ])
    expect(store.contexts[0]?.signal.aborted).toBe(true)
    expectServiceBooks(quotas, { offered: 2, aborted: 2 })
    stuck.go()
    await clock.advance(0)
  })
})

describe('with one request id', () => {
  inVirtualTime('a use that falls back counts once, with a store that tells requests apart', async (clock) => {
    const store = new MemoryQuotaStore({ dedupe: 'request', clock })
    const consumer = new QuotaConsumer(store, { dedupe: 'request', capacity: 1, maxBatchSize: 1, clock })
    const quotas = new QuotaService({ store, consumer, limitFor: () => 10, clock })
    const options = { requestId: 'r1' }

    const where = await during(
      clock,
      Promise.all([1, 2, 3].map(() => quotas.consumeQuota('ann', 'requests', 1, options))),
    )
    await during(clock, consumer.close())
    const again = await during(clock, quotas.consumeQuotaSync('ann', 'requests', 1, options))

    expect(new Set(where)).toEqual(new Set(['buffered', 'written']))
    expect(again).toMatchObject({ status: 'repeated', used: 1 })
  })
})
