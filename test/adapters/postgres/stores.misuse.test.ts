import { Pool } from 'pg'
import { PostgresCounterStore, PostgresQuotaStore, PostgresUsageSink } from 'spillway/postgres'
import { describe, expect, test } from 'vitest'

const pool = new Pool() // which connects when it is used
const counters = new PostgresCounterStore(pool)
const quotas = new PostgresQuotaStore(pool)
const sink = new PostgresUsageSink(pool)
const { signal } = new AbortController()
const context = { batchId: '0193e5a8-0000-7000-8000-000000000000', attempt: 1, signal }
const batch = { id: context.batchId, events: [], totals: [] }

describe('misuse of the stores of spillway/postgres', () => {
  test.each<[string, string, () => Promise<unknown>]>([
    ['increment without a context', 'context', () => counters.increment([], undefined as never)],
    ['increment without a batch id', 'context.batchId', () => counters.increment([], { signal } as never)],
    ['increment of what is no list', 'increments', () => counters.increment({} as never, context)],
    ['add without a context', 'context', () => counters.add(new Map(), undefined as never)],
    ['add of an object', 'sums', () => counters.add({ likes: 1 } as never, context)],
    ['getMany of a text', 'keys', () => counters.getMany('likes' as never)],
    ['a quota write without a context', 'context', () => quotas.write(batch, undefined as never)],
    ['a quota write of a list', 'batch', () => quotas.write([] as never, context)],
    ['readUsage of nothing', 'keys', () => quotas.readUsage(undefined as never)],
    ['consume of nothing', 'claim', () => quotas.consume(undefined as never)],
    ['a sink write without a context', 'context', () => sink.write(batch, undefined as never)],
    ['readTotals of nothing', 'keys', () => sink.readTotals(undefined as never)],
  ])('%s is an OptionError that names it, and asks no server', async (_, field, call) => {
    await expect(call()).rejects.toMatchObject({ code: 'ERR_OPTION', field })

    expect(pool.totalCount).toBe(0)
  })
})
