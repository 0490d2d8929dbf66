import {
  type AcceptedUsage,
  type BatchContext,
  type BatchStats,
  type ClosableComponent,
  type CloseReport,
  type FlushReport,
  MemoryQuotaStore,
  QuotaConsumer,
  type QuotaConsumerEvents,
  type QuotaConsumerOptions,
  type QuotaConsumerStats,
  type QuotaKey,
  type QuotaPeriod,
  type RefusedUsage,
  type StartReport,
  type UsageBatch,
  type UsageEvent,
  type UsageFailure,
  type UsageJournal,
  type UsageSink,
  type UserId,
} from 'spillway'
import { MemoryUsageJournal } from 'spillway/testing'
import { expectTypeOf } from 'vitest'

const consumer = new QuotaConsumer(new MemoryQuotaStore())

expectTypeOf(consumer.offer).parameters.toEqualTypeOf<[event: UsageEvent]>()
expectTypeOf(consumer.offer({ userId: 1, quotaType: 'api', value: 1 })).toEqualTypeOf<boolean>()
expectTypeOf(consumer.publish({ userId: 1n, quotaType: 'api', value: 1 })).toEqualTypeOf<Promise<void>>()
expectTypeOf(consumer.publish)
  .parameter(1)
  .toEqualTypeOf<{ signal?: AbortSignal | undefined; wait?: boolean | undefined } | undefined>()
expectTypeOf(consumer.pending).parameters.toEqualTypeOf<
  [userId: UserId, quotaType: string, at?: number | Date | undefined]
>()
expectTypeOf(consumer.pending('u', 'api')).toEqualTypeOf<number>()
expectTypeOf(consumer.start()).toEqualTypeOf<Promise<StartReport>>()
expectTypeOf(consumer.isHealthy()).toEqualTypeOf<boolean>()
expectTypeOf(consumer.flush()).toEqualTypeOf<Promise<FlushReport>>()
expectTypeOf(consumer.close()).toEqualTypeOf<Promise<CloseReport>>()
expectTypeOf(consumer.stats()).toEqualTypeOf<QuotaConsumerStats>()
expectTypeOf(consumer.stats()).toExtend<BatchStats>()
expectTypeOf(consumer.sink).toEqualTypeOf<UsageSink>()
expectTypeOf(consumer.periodOf).toEqualTypeOf<(quotaType: string) => QuotaPeriod>()
expectTypeOf(consumer).toExtend<AsyncDisposable>()
expectTypeOf(consumer).toExtend<ClosableComponent<QuotaConsumerEvents, QuotaConsumerStats>>()
expectTypeOf<UserId>().toEqualTypeOf<string | number | bigint>()

consumer.on('applied', (event) => {
  expectTypeOf(event.keys).toEqualTypeOf<readonly QuotaKey[]>()
  expectTypeOf(event.events).toEqualTypeOf<number>()
})
consumer.on('failed', (failure) => expectTypeOf(failure).toEqualTypeOf<UsageFailure>())
consumer.on('dropped', ({ event, reason }) => {
  expectTypeOf(event).toEqualTypeOf<AcceptedUsage>()
  expectTypeOf(reason).toEqualTypeOf<'drop-newest' | 'drop-oldest'>()
})
consumer.on('rejected', ({ event }) => expectTypeOf(event).toEqualTypeOf<UsageEvent>())
consumer.on('journalFailed', ({ action }) => expectTypeOf(action).toEqualTypeOf<'append' | 'settle' | 'dead-letter'>())
consumer.on('unhealthy', ({ reason }) => expectTypeOf(reason).toEqualTypeOf<'failing' | 'full'>())
// @ts-expect-error there is no such event
consumer.on('written', () => undefined)
// @ts-expect-error the value is needed
consumer.offer({ userId: 1, quotaType: 'api' })
// @ts-expect-error a flag is no user
consumer.offer({ userId: true, quotaType: 'api', value: 1 })

// The presets are options, as they are or spread into others.
expectTypeOf(QuotaConsumer.presets.highConcurrency).toExtend<QuotaConsumerOptions>()
new QuotaConsumer(new MemoryQuotaStore(), { ...QuotaConsumer.presets.lowLatency, name: 'usage' })
expectTypeOf(QuotaConsumer.presets).toHaveProperty('default')

// What callbacks get, and that they may be asynchronous.
new QuotaConsumer(new MemoryQuotaStore(), {
  onFailed: async (failure) => void expectTypeOf(failure.events).toEqualTypeOf<readonly AcceptedUsage[]>(),
  onApplied: async (keys) => void expectTypeOf(keys).toEqualTypeOf<readonly QuotaKey[]>(),
  periodOf: (quotaType) => (quotaType === 'tokens' ? 'day' : 'total'),
  journal: new MemoryUsageJournal(),
})
new QuotaConsumer(new MemoryQuotaStore(), { onFailed: () => undefined, onApplied: () => undefined })
// @ts-expect-error there is no such period
new QuotaConsumer(new MemoryQuotaStore(), { periodOf: () => 'week' })
expectTypeOf<MemoryUsageJournal>().toExtend<UsageJournal>()

// Sinks of one's own: synchronous or not, with refusals or without.
const refused: readonly RefusedUsage[] = [{ index: 0, error: new Error('no') }]
expectTypeOf({ idempotent: false, write: () => undefined }).toExtend<UsageSink>()
expectTypeOf({ idempotent: false, write: async () => undefined }).toExtend<UsageSink>()
expectTypeOf({ idempotent: true, write: () => refused }).toExtend<UsageSink>()
expectTypeOf({ idempotent: true, write: async () => refused }).toExtend<UsageSink>()
const sink: UsageSink = {
  idempotent: true,
  dedupe: 'request',
  write(batch, context) {
    expectTypeOf(batch).toEqualTypeOf<UsageBatch>()
    expectTypeOf(context).toEqualTypeOf<BatchContext>()
    // @ts-expect-error a batch is frozen
    batch.totals.push({})
  },
}
new QuotaConsumer(sink)
