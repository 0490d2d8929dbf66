import { type HoldClaim, isSpillwayError, type QuotaClaim, type QuotaExceededError, StoreError } from 'spillway'
import { describe, expect } from 'vitest'
import { codeOf, reasonOf } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { during, expectServiceBooks, sceneOf } from './service/support/scene.js'

const february = Date.UTC(2026, 1, 1)
const lost = (): StoreError => new StoreError('lost', { outcomeUnknown: true })

describe('consumeQuotaSync', () => {
  inVirtualTime('counts what fits, and says what is left', async (clock) => {
    const { quotas } = sceneOf(clock)

    const consumed = await during(clock, quotas.consumeQuotaSync('ann', 'requests', 4))

    expect(consumed).toEqual({
      ...{ status: 'applied', limit: 10, used: 4, held: 0, pending: 0, remaining: 6 },
      ...{ period: '2026-01', resetsAt: february },
    })
  })

  inVirtualTime('refuses what does not fit, saying why, and counts nothing of it', async (clock) => {
    const { quotas, consumer } = sceneOf(clock, { buffer: {} })
    const refused: QuotaExceededError[] = []
    quotas.on('exceeded', ({ operation, error }) => {
      expect(operation).toBe('consume-sync')
      refused.push(error)
    })
    await during(clock, quotas.consumeQuotaSync('ann', 'requests', 3))
    await during(clock, quotas.reserve('ann', 'requests', 2))
    await quotas.consumeQuota('ann', 'requests', 1)

    const reason = (await reasonOf(during(clock, quotas.consumeQuotaSync('ann', 'requests', 5)))) as QuotaExceededError

    expect(isSpillwayError(reason, 'ERR_QUOTA_EXCEEDED')).toBe(true)
    expect(reason).toMatchObject({
      ...{ userId: 'ann', quotaType: 'requests', value: 5, limit: 10, used: 3, held: 2, pending: 1 },
      ...{ resetsAt: february, retryable: false, outcomeUnknown: false },
    })
    expect(reason.message).toBe(
      'quota-service: 5 of requests is more than is left to user "ann" in 2026-01: ' +
        'the limit is 10, with 3 used, 2 held, 1 pending here',
    )
    expect(refused).toEqual([reason])
    expect(await during(clock, quotas.consumeQuotaSync('ann', 'requests', 4))).toMatchObject({ remaining: 0 })
    await during(clock, consumer.close())
    expectServiceBooks(quotas, { offered: 5, succeeded: 4, rejected: 1, exceeded: 1 })
  })

  inVirtualTime('100 at once with a limit of 10 count exactly 10', async (clock) => {
    const { quotas } = sceneOf(clock)

    const results = await during(
      clock,
      Promise.allSettled(Array.from({ length: 100 }, () => quotas.consumeQuotaSync('ann', 'requests'))),
    )

    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(10)
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 10, remaining: 0 })
    expectServiceBooks(quotas, { offered: 101, succeeded: 11, rejected: 90, exceeded: 90 })
  })

  inVirtualTime('gives away nothing that waits in the consumer, at any stage of its flush', async (clock) => {
    const { quotas, store, consumer } = sceneOf(clock, { buffer: { maxBatchSize: 1, eager: true } })
    const before = store.stage('write')
    const after = store.stage('write', 'after')
    const tryIt = async (): Promise<unknown> =>
      codeOf(await reasonOf(during(clock, quotas.consumeQuotaSync('ann', 'requests', 5))))
    await quotas.consumeQuota('ann', 'requests', 6)

    expect(await tryIt()).toBe('ERR_QUOTA_EXCEEDED')
    before.go()
    await clock.advance(0)
    expect(after.reached).toBe(true)
    expect(await tryIt()).toBe('ERR_QUOTA_EXCEEDED')
    after.go()
    await during(clock, consumer.close())

    expect(await tryIt()).toBe('ERR_QUOTA_EXCEEDED')
    expect(await during(clock, quotas.consumeQuotaSync('ann', 'requests', 4))).toMatchObject({ used: 10 })
  })

  inVirtualTime('looks anew at what waits here for every attempt', async (clock) => {
    const { quotas, store, consumer } = sceneOf(clock, { buffer: {}, retry: { attempts: 2, delayMs: 10 } })
    store.fails('consume', new StoreError('down'))
    const consumed = quotas.consumeQuotaSync('ann', 'requests', 1)
    await clock.advance(0)

    await quotas.consumeQuota('ann', 'requests', 3)
    await during(clock, consumed, 10)

    expect(store.calls.map(({ argument }) => (argument as QuotaClaim).limit)).toEqual([10, 7])
    await during(clock, consumer.close())
  })

  inVirtualTime('counts a request once, whatever else comes with it', async (clock) => {
    const { quotas } = sceneOf(clock)
    const options = { requestId: 'r1' }

    const first = await during(clock, quotas.consumeQuotaSync('ann', 'requests', 4, options))
    const second = await during(clock, quotas.consumeQuotaSync('ann', 'requests', 9, options))

    expect([first.status, second.status]).toEqual(['applied', 'repeated'])
    expect(second).toMatchObject({ used: 4, remaining: 6 })
  })

  inVirtualTime('counts in the period of its own time, with what waits there', async (clock) => {
    const { quotas, consumer } = sceneOf(clock, { buffer: { periodOf: () => 'day' } })
    await quotas.consumeQuota('ann', 'requests', 6, { timestamp: Date.UTC(2025, 11, 31, 23) })
    const timestamp = new Date('2025-12-31T12:00:00Z')

    const reason = await reasonOf(during(clock, quotas.consumeQuotaSync('ann', 'requests', 5, { timestamp })))
    const consumed = await during(clock, quotas.consumeQuotaSync('ann', 'requests', 4, { timestamp }))

    expect(codeOf(reason)).toBe('ERR_QUOTA_EXCEEDED')
    expect(consumed).toMatchObject({ period: '2025-12-31', used: 4, pending: 6, resetsAt: Date.UTC(2026, 0, 1) })
    expect(await during(clock, quotas.consumeQuotaSync('ann', 'requests', 10))).toMatchObject({ period: '2026-01-01' })
    await during(clock, consumer.close())
  })

  inVirtualTime('says of what a lost answer had counted that it is applied, with an id of its own', async (clock) => {
    const { quotas, store } = sceneOf(clock)
    store.losesAnswer('consume', lost())

    const consumed = await during(clock, quotas.consumeQuotaSync('ann', 'requests', 4), 100)

    expect(consumed).toMatchObject({ status: 'applied', used: 4 })
    const ids = store.calls.map(({ argument }) => (argument as QuotaClaim).id)
    expect(ids).toEqual([ids[0], ids[0]])
  })

  inVirtualTime('says so where a refusal comes after an attempt whose outcome is unknown', async (clock) => {
    const { quotas, store } = sceneOf(clock)
    await during(clock, quotas.consumeQuotaSync('ann', 'requests', 10))
    store.fails('consume', lost())

    const reason = await reasonOf(during(clock, quotas.consumeQuotaSync('ann', 'requests', 1), 100))

    expect(reason).toMatchObject({ code: 'ERR_QUOTA_EXCEEDED', outcomeUnknown: true })
  })
})

describe('reserve', () => {
  inVirtualTime('holds what fits, and refuses what does not', async (clock) => {
    const { quotas } = sceneOf(clock)

    const reservation = await during(clock, quotas.reserve('ann', 'requests', 6, { id: 'r1', ttlMs: 5000 }))
    const reason = await reasonOf(during(clock, quotas.reserve('ann', 'requests', 5)))

    expect({ ...reservation }).toEqual({
      ...{ id: 'r1', userId: 'ann', quotaType: 'requests', period: '2026-01', value: 6 },
      expiresAt: clock.wallNow() + 5000,
    })
    expect(reason).toMatchObject({ code: 'ERR_QUOTA_EXCEEDED', value: 5, used: 0, held: 6, limit: 10 })
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ held: 6, remaining: 4 })
  })

  inVirtualTime('100 at once with a limit of 10 hold exactly 10', async (clock) => {
    const { quotas } = sceneOf(clock)

    const results = await during(
      clock,
      Promise.allSettled(Array.from({ length: 100 }, () => quotas.reserve('ann', 'requests', 1))),
    )

    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(10)
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ held: 10, remaining: 0 })
  })

  inVirtualTime('gives the same for the same id and claim, and refuses another one', async (clock) => {
    const { quotas } = sceneOf(clock)
    const first = await during(clock, quotas.reserve('ann', 'requests', 3, { id: 'r1' }))

    const again = await during(clock, quotas.reserve('ann', 'requests', 3, { id: 'r1', ttlMs: 1 }))
    const other = await reasonOf(during(clock, quotas.reserve('ann', 'requests', 4, { id: 'r1' })))

    expect({ ...again }).toEqual({ ...first })
    expect(other).toMatchObject({ code: 'ERR_RESERVATION', reason: 'conflict', id: 'r1' })
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ held: 3 })
    expectServiceBooks(quotas, { offered: 4, succeeded: 3, rejected: 1, exceeded: 0 })
  })

  inVirtualTime('holds nothing that waits here, and settles against the whole limit', async (clock) => {
    const { quotas, store, consumer } = sceneOf(clock, { buffer: {} })
    await quotas.consumeQuota('ann', 'requests', 3)

    const reason = await reasonOf(during(clock, quotas.reserve('ann', 'requests', 8)))
    await during(clock, quotas.reserve('ann', 'requests', 5, { id: 'r1' }))
    await during(clock, consumer.close())
    // 3 are stored by now: what was kept from the limit for them mustn't be kept twice.
    await during(clock, quotas.settle('r1', 7))

    expect(reason).toMatchObject({ code: 'ERR_QUOTA_EXCEEDED', pending: 3 })
    const claims = store.calls.filter(({ operation }) => operation === 'reserve').map(({ argument }) => argument)
    expect(claims).toEqual([
      expect.objectContaining({ limit: 7, settleLimit: 10 } satisfies Partial<HoldClaim>),
      expect.objectContaining({ limit: 7, settleLimit: 10 } satisfies Partial<HoldClaim>),
    ])
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 10, held: 0 })
  })

  inVirtualTime('holds for holdTtlMs by default, and gives it back by itself', async (clock) => {
    const { quotas } = sceneOf(clock, { holdTtlMs: 500 })

    const { expiresAt } = await during(clock, quotas.reserve('ann', 'requests', 6))
    expect(expiresAt).toBe(clock.wallNow() + 500)
    await clock.advance(500)

    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ held: 0 })
  })

  inVirtualTime('belongs to the period in which it was made, whenever it is settled', async (clock) => {
    const { quotas } = sceneOf(clock, { periodOf: () => 'day' })
    const reservation = await during(clock, quotas.reserve('ann', 'requests', 6, { ttlMs: 2 * 86_400_000 }))
    const madeAt = clock.wallNow()

    await clock.advance(86_400_000)
    await during(clock, reservation.settle(5))

    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 0 })
    expect(await during(clock, quotas.checkQuota('ann', 'requests', 1, { at: madeAt }))).toMatchObject({ used: 5 })
  })
})

describe('settle', () => {
  inVirtualTime('counts less, as much, or more where that fits', async (clock) => {
    const { quotas } = sceneOf(clock)
    for (const [id, actual] of [
      ['less', 1],
      ['equal', 2],
      ['more', 3],
      ['nothing', 0],
    ] as const) {
      await during(clock, quotas.reserve('ann', 'requests', 2, { id }))
      await during(clock, quotas.settle(id, actual))
    }

    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 6, held: 0 })
  })

  inVirtualTime('refuses what goes beyond the hold and does not fit, and the hold stays', async (clock) => {
    const { quotas } = sceneOf(clock)
    await during(clock, quotas.consumeQuotaSync('ann', 'requests', 5))
    const reservation = await during(clock, quotas.reserve('ann', 'requests', 3, { id: 'r1' }))

    const reason = await reasonOf(during(clock, reservation.settle(6)))

    expect(reason).toMatchObject({
      ...{ code: 'ERR_QUOTA_EXCEEDED', userId: 'ann', quotaType: 'requests', value: 6, limit: 10 },
      ...{ used: 5, held: 3, pending: 0, resetsAt: february },
    })
    await during(clock, reservation.settle(5))
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 10, held: 0 })
  })

  inVirtualTime('does nothing when it comes again', async (clock) => {
    const { quotas } = sceneOf(clock)
    const reservation = await during(clock, quotas.reserve('ann', 'requests', 3, { id: 'r1' }))

    await during(clock, reservation.settle(2))
    await during(clock, reservation.settle(3))
    await during(clock, quotas.settle('r1', 1))
    await during(clock, reservation.release())

    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 2, held: 0 })
  })

  inVirtualTime('after expiry counts if it fits, and is refused if not', async (clock) => {
    const { quotas } = sceneOf(clock)
    await during(clock, quotas.reserve('ann', 'requests', 3, { id: 'fits', ttlMs: 100 }))
    await during(clock, quotas.reserve('ann', 'requests', 3, { id: 'not', ttlMs: 100 }))
    await clock.advance(100)
    await during(clock, quotas.consumeQuotaSync('ann', 'requests', 6))

    await during(clock, quotas.settle('fits', 3))
    const reason = await reasonOf(during(clock, quotas.settle('not', 3)))

    expect(reason).toMatchObject({ code: 'ERR_QUOTA_EXCEEDED', used: 9, held: 0 })
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 9, held: 0 })
  })

  inVirtualTime('of what was released or is unknown says so', async (clock) => {
    const { quotas } = sceneOf(clock)
    const reservation = await during(clock, quotas.reserve('ann', 'requests', 3, { id: 'r1' }))
    await during(clock, reservation.release())

    const reasons = [
      await reasonOf(during(clock, reservation.settle(1))),
      await reasonOf(during(clock, quotas.settle('nobody', 1))),
    ]

    expect(reasons).toEqual([
      expect.objectContaining({ code: 'ERR_RESERVATION', reason: 'released', id: 'r1' }),
      expect.objectContaining({ code: 'ERR_RESERVATION', reason: 'unknown', id: 'nobody' }),
    ])
    expect((reasons[1] as Error).message).toBe('quota-service: reservation nobody is unknown')
  })

  inVirtualTime('whose answer was lost counts once', async (clock) => {
    const { quotas, store } = sceneOf(clock)
    await during(clock, quotas.reserve('ann', 'requests', 3, { id: 'r1' }))
    store.losesAnswer('settle', lost())

    await during(clock, quotas.settle('r1', 2), 100)

    expect(store.count('settle')).toBe(2)
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 2, held: 0 })
  })
})

describe('release', () => {
  inVirtualTime('gives back what is held, and does nothing where nothing is', async (clock) => {
    const { quotas } = sceneOf(clock)
    const reservation = await during(clock, quotas.reserve('ann', 'requests', 3, { id: 'r1' }))

    await during(clock, reservation.release())
    await during(clock, reservation.release())
    await during(clock, quotas.release('r1'))
    await during(clock, quotas.release('nobody'))

    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 0, held: 0 })
  })
})

describe('await using', () => {
  inVirtualTime('gives a reservation back that was not settled, whatever the block ended with', async (clock) => {
    const { quotas } = sceneOf(clock)

    const reason = await reasonOf(
      during(
        clock,
        (async () => {
          await using reservation = await quotas.reserve('ann', 'requests', 3)
          throw new Error(`the work of ${reservation.value} failed`)
        })(),
      ),
    )

    expect(reason).toMatchObject({ message: 'the work of 3 failed' })
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ held: 0 })
  })

  inVirtualTime('releases nothing that was settled, or may have been', async (clock) => {
    const { quotas, store } = sceneOf(clock, { retry: { attempts: 1 } })
    const settling = async (): Promise<void> => {
      await using reservation = await quotas.reserve('ann', 'requests', 3)
      await reservation.settle(2)
    }

    await during(clock, settling())
    store.losesAnswer('settle', lost())
    await reasonOf(during(clock, settling()))

    expect(store.count('release')).toBe(0)
  })

  inVirtualTime('releases what a settle was refused for', async (clock) => {
    const { quotas } = sceneOf(clock)

    await reasonOf(
      during(
        clock,
        (async () => {
          await using reservation = await quotas.reserve('ann', 'requests', 3)
          await reservation.settle(11)
        })(),
      ),
    )

    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 0, held: 0 })
  })

  inVirtualTime('hides nothing behind a release that fails', async (clock) => {
    const { quotas, store } = sceneOf(clock, { retry: { attempts: 1 } })
    store.fails('release', new StoreError('down'))

    const done = during(
      clock,
      (async () => {
        await using reservation = await quotas.reserve('ann', 'requests', 3)
        return reservation.value
      })(),
    )

    expect(await done).toBe(3)
  })
})
