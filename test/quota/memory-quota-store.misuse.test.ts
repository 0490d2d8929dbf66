import { MemoryQuotaStore } from 'spillway'
import { describe, expect, test } from 'vitest'

const store = new MemoryQuotaStore()
const context = { batchId: 'b1', attempt: 1, signal: new AbortController().signal }
const batch = { id: 'b1', events: [], totals: [] }
const claim = { userId: 'ann', quotaType: 'calls', period: 'total', value: 1, limit: 10, id: 'r1' }

describe('misuse of MemoryQuotaStore', () => {
  test.each<[string, string, () => Promise<unknown>]>([
    ['context', 'ERR_OPTION', () => store.write(batch, undefined as never)],
    ['context', 'ERR_OPTION', () => store.write(batch, {} as never)],
    ['batch', 'ERR_OPTION', () => store.write([] as never, context)],
    ['keys', 'ERR_OPTION', () => store.readUsage('ann' as never)],
    ['claim', 'ERR_OPTION', () => store.consume(undefined as never)],
    ['value', 'ERR_INVALID_EVENT', () => store.consume({ ...claim, value: Number.NaN })],
    ['limit', 'ERR_OPTION', () => store.consume({ ...claim, limit: Number.NaN })],
    ['userId', 'ERR_INVALID_EVENT', () => store.reserve({ ...claim, userId: '', ttlMs: 1000 })],
    ['ttlMs', 'ERR_OPTION', () => store.reserve({ ...claim, ttlMs: Number.POSITIVE_INFINITY })],
    ['settleLimit', 'ERR_OPTION', () => store.reserve({ ...claim, ttlMs: 1000, settleLimit: '1' as never })],
    ['actual', 'ERR_INVALID_EVENT', () => store.settle('r1', -1)],
    ['id', 'ERR_INVALID_EVENT', () => store.release(7 as never)],
  ])('a wrong %s is %s, and counts nothing', async (field, code, call) => {
    await expect(call()).rejects.toMatchObject({ code, field, message: expect.stringContaining(`${field} must`) })

    expect(await store.readUsage([claim])).toEqual([{ used: 0, held: 0 }])
  })
})
