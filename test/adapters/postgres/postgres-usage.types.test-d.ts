import type { PGlite } from '@electric-sql/pglite'
import type pg from 'pg'
import type { QuotaStore, UsageSink, UsageTotal } from 'spillway'
import { QuotaConsumer, QuotaService } from 'spillway'
import { PostgresQuotaStore, PostgresUsageSink, type UsageCleanUp } from 'spillway/postgres'
import { expectTypeOf } from 'vitest'

declare const pool: pg.Pool
declare const pglite: PGlite

const sink = new PostgresUsageSink(pool, { dedupe: 'event', schema: undefined, retry: { attempts: 3 } })
expectTypeOf(sink).toExtend<UsageSink>()
expectTypeOf(sink.readTotals([])).resolves.toEqualTypeOf<readonly UsageTotal[]>()
expectTypeOf(sink.cleanUp()).resolves.toEqualTypeOf<UsageCleanUp>()
new QuotaConsumer(sink, { dedupe: 'request' })

const store = new PostgresQuotaStore(pglite, { holdTable: 'holds' })
expectTypeOf(store).toExtend<QuotaStore>()
new QuotaService({ store, limitFor: () => 1 })
expectTypeOf(store.stats().consumed).toEqualTypeOf<number>()

// @ts-expect-error a sink has no claims
new QuotaService({ store: sink, limitFor: () => 1 })
// @ts-expect-error a sink has no table of holds
new PostgresUsageSink(pool, { holdTable: 'holds' })
// @ts-expect-error what is retried inside is not a matter of taste
new PostgresQuotaStore(pool, { retry: { retryable: () => true } })
// @ts-expect-error a way of telling apart that there isn't
new PostgresUsageSink(pool, { dedupe: 'user' })
// @ts-expect-error a connection string is no pool
new PostgresUsageSink('postgres://localhost')
