import {
  type AccountedUse,
  type CloseReport,
  type Component,
  type ConsumedQuota,
  type FlushReport,
  MemoryQuotaStore,
  QuotaConsumer,
  QuotaExceededError,
  QuotaService,
  type QuotaServiceEvents,
  type QuotaServiceOptions,
  type QuotaServiceStats,
  type QuotaStatus,
  type Reservation,
  type UsageEvent,
  type UserId,
} from 'spillway'
import { expectTypeOf } from 'vitest'

const store = new MemoryQuotaStore()
const quotas = new QuotaService({
  store,
  limitFor: (userId, quotaType) => {
    expectTypeOf(userId).toEqualTypeOf<UserId>()
    expectTypeOf(quotaType).toEqualTypeOf<string>()
    return Number.POSITIVE_INFINITY
  },
})

expectTypeOf(quotas.checkQuota(1n, 'requests')).resolves.toEqualTypeOf<QuotaStatus>()
expectTypeOf(quotas.checkQuota).parameter(0).toEqualTypeOf<UserId>()
expectTypeOf(quotas.consumeQuota('ann', 'requests', 1)).resolves.toEqualTypeOf<AccountedUse>()
expectTypeOf<AccountedUse>().toEqualTypeOf<'buffered' | 'written'>()
expectTypeOf(quotas.consumeQuotaSync('ann', 'requests', 1)).resolves.toEqualTypeOf<ConsumedQuota>()
expectTypeOf<ConsumedQuota['status']>().toEqualTypeOf<'applied' | 'repeated'>()
expectTypeOf(quotas.consumeQuotaBatch).parameter(0).toEqualTypeOf<readonly UsageEvent[]>()
expectTypeOf(quotas.consumeQuotaBatch([])).resolves.toEqualTypeOf<PromiseSettledResult<AccountedUse>[]>()
expectTypeOf(quotas.reserve('ann', 'requests', 1)).resolves.toEqualTypeOf<Reservation>()
expectTypeOf(quotas.settle('r1', 1)).resolves.toEqualTypeOf<void>()
expectTypeOf(quotas.release('r1')).resolves.toEqualTypeOf<void>()
expectTypeOf(quotas.flush()).resolves.toEqualTypeOf<FlushReport>()
expectTypeOf(quotas.close({ timeoutMs: 1 })).resolves.toEqualTypeOf<CloseReport>()
expectTypeOf(quotas.stats()).toEqualTypeOf<QuotaServiceStats>()
expectTypeOf(quotas.stats().latencyMs.check.p99).toEqualTypeOf<number>()
expectTypeOf(quotas).toExtend<AsyncDisposable>()
expectTypeOf(quotas).toExtend<Component<QuotaServiceEvents, QuotaServiceStats>>()
expectTypeOf<Reservation>().toExtend<AsyncDisposable>()
expectTypeOf<Reservation['settle']>().parameter(0).toEqualTypeOf<number>()

quotas.on('exceeded', ({ error }) => expectTypeOf(error).toEqualTypeOf<QuotaExceededError>())
quotas.on('fellBack', (fallback) => expectTypeOf(fallback.value).toEqualTypeOf<number>())

// A promise of a limit, and options that are undefined.
new QuotaService({
  store,
  limitFor: async () => 10,
  ...{ consumer: undefined, periodOf: undefined, usageTtlMs: undefined, timeoutMs: undefined, retry: undefined },
})
new QuotaService({ store, consumer: new QuotaConsumer(store), limitFor: () => 10 })
expectTypeOf(new QuotaExceededError('', { userId: '', quotaType: '', value: 1, limit: 0, used: 0, held: 0 }))
  .toHaveProperty('pending')
  .toEqualTypeOf<number>()

// @ts-expect-error A service needs a store.
new QuotaService({ limitFor: () => 1 })
// @ts-expect-error A service needs limits.
new QuotaService({ store })
// @ts-expect-error A limit is a number.
new QuotaService({ store, limitFor: () => '10' })
// @ts-expect-error Periods are days, months or for ever.
new QuotaService({ store, limitFor: () => 1, periodOf: () => 'week' })
// @ts-expect-error What is checked in the store carries nothing else along.
quotas.consumeQuotaSync('ann', 'requests', 1, { metadata: {} })
// @ts-expect-error A reservation has a value.
quotas.reserve('ann', 'requests')
expectTypeOf<QuotaServiceOptions>().not.toHaveProperty('capacity')
