import { MemoryQuotaStore, OptionError, QuotaConsumer, QuotaService, type QuotaServiceOptions } from 'spillway'
import { describe, expect, test } from 'vitest'
import { reasonOf } from '../batcher/support/outcomes.js'
import { unhandledDuring, warningsDuring } from '../batcher/support/process-events.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { during, expectServiceBooks, sceneOf } from './service/support/scene.js'

const store = new MemoryQuotaStore()
const valid: QuotaServiceOptions = { store, limitFor: () => 1 }

/** The error that the constructor throws. */
function errorOf(options: unknown): OptionError {
  try {
    new QuotaService(options as QuotaServiceOptions)
  } catch (error) {
    return error as OptionError
  }
  throw new Error(`nothing is wrong with ${String(options)}`)
}

describe('the constructor refuses', () => {
  const cases: readonly (readonly [string, string, unknown])[] = [
    ['no options', 'store', undefined],
    ['options that are no object', 'options', 1],
    ['no store', 'store', { limitFor: () => 1 }],
    ['a store that lacks a method', 'store', { ...valid, store: { ...methods('write'), idempotent: true } }],
    ['a store that does not say whether it is idempotent', 'store.idempotent', { ...valid, store: methods() }],
    ['no limitFor', 'limitFor', { store }],
    ['a limit instead of a function', 'limitFor', { store, limitFor: 10 }],
    ['a consumer that is none', 'consumer', { ...valid, consumer: {} }],
    ['a consumer of another store', 'consumer', { ...valid, consumer: new QuotaConsumer(new MemoryQuotaStore()) }],
    ['periods beside those of a consumer', 'periodOf', { ...withConsumer(), periodOf: () => 'month' }],
    ['periods that are no function', 'periodOf', { ...valid, periodOf: 'day' }],
    ['a wrong usageTtlMs', 'usageTtlMs', { ...valid, usageTtlMs: -1 }],
    ['a wrong usageCacheSize', 'usageCacheSize', { ...valid, usageCacheSize: 0.5 }],
    ['a hold of no time', 'holdTtlMs', { ...valid, holdTtlMs: 0 }],
    ['a timeout of no time', 'timeoutMs', { ...valid, timeoutMs: 0 }],
    ['no attempts', 'retry.attempts', { ...valid, retry: { attempts: 0 } }],
    ['a wrong retryable', 'retry.retryable', { ...valid, retry: { retryable: true } }],
    ['a name that is none', 'name', { ...valid, name: 1 }],
    ['a clock that is none', 'clock', { ...valid, clock: {} }],
  ]

  for (const [what, field, options] of cases) {
    test(what, () => {
      const error = errorOf(options)

      expect(error).toBeInstanceOf(OptionError)
      expect([error.code, error.field]).toEqual(['ERR_OPTION', field])
      expect(error.message.startsWith(`${field} `)).toBe(true)
    })
  }

  test('nothing that is undefined, nor the periods of the consumer itself', () => {
    const { consumer } = withConsumer()

    new QuotaService({ ...valid, consumer: undefined, periodOf: undefined, retry: undefined, usageTtlMs: undefined })
    new QuotaService({ ...valid, consumer, periodOf: consumer.periodOf })
  })
})

describe('a call with a wrong argument', () => {
  inVirtualTime('rejects, names the field, and does nothing', async (clock) => {
    const { quotas, store: staged } = sceneOf(clock)
    const cases: readonly (readonly [string, string, Promise<unknown>])[] = [
      ['ERR_INVALID_EVENT', 'userId', quotas.checkQuota('', 'requests')],
      ['ERR_INVALID_EVENT', 'userId', quotas.checkQuota(1.5, 'requests')],
      ['ERR_INVALID_EVENT', 'quotaType', quotas.checkQuota('ann', 'x'.repeat(257))],
      ['ERR_INVALID_EVENT', 'value', quotas.checkQuota('ann', 'requests', Number.NaN)],
      ['ERR_OPTION', 'at', quotas.checkQuota('ann', 'requests', 1, { at: 'today' as never })],
      ['ERR_OPTION', 'options', quotas.checkQuota('ann', 'requests', 1, 5 as never)],
      ['ERR_OPTION', 'signal', quotas.checkQuota('ann', 'requests', 1, { signal: {} as never })],
      ['ERR_INVALID_EVENT', 'userId', quotas.consumeQuotaSync(undefined as never, 'requests')],
      ['ERR_INVALID_EVENT', 'value', quotas.consumeQuotaSync('ann', 'requests', Number.POSITIVE_INFINITY)],
      ['ERR_INVALID_EVENT', 'requestId', quotas.consumeQuotaSync('ann', 'requests', 1, { requestId: '\ud800' })],
      ['ERR_INVALID_EVENT', 'timestamp', quotas.consumeQuotaSync('ann', 'requests', 1, { timestamp: 0 })],
      ['ERR_INVALID_EVENT', 'value', quotas.reserve('ann', 'requests', -1)],
      ['ERR_INVALID_EVENT', 'value', quotas.reserve('ann', 'requests', undefined as never)],
      ['ERR_INVALID_EVENT', 'id', quotas.reserve('ann', 'requests', 1, { id: '' })],
      ['ERR_OPTION', 'ttlMs', quotas.reserve('ann', 'requests', 1, { ttlMs: 0 })],
      ['ERR_INVALID_EVENT', 'id', quotas.settle('', 1)],
      ['ERR_INVALID_EVENT', 'actual', quotas.settle('r1', -1)],
      ['ERR_INVALID_EVENT', 'id', quotas.release(undefined as never)],
    ]

    for (const [code, field, call] of cases) expect(await reasonOf(call)).toMatchObject({ code, field })

    expect(staged.calls).toEqual([])
    expectServiceBooks(quotas, { offered: cases.length, rejected: cases.length })
  })

  inVirtualTime('rejects where limitFor or periodOf answers nonsense', async (clock) => {
    for (const limit of [-1, Number.NaN, '10', undefined, null, 10n]) {
      const { quotas } = sceneOf(clock, { limitFor: () => limit as never })
      for (const call of [() => quotas.checkQuota('ann', 'a'), () => quotas.reserve('ann', 'a', 1)]) {
        const reason = await reasonOf(during<unknown>(clock, call()))
        expect(reason).toMatchObject({ code: 'ERR_OPTION', field: 'limitFor' })
      }
    }
    const { quotas } = sceneOf(clock, { periodOf: () => 'week' as never })

    for (const call of [() => quotas.checkQuota('ann', 'a'), () => quotas.consumeQuota('ann', 'a')]) {
      expect(await reasonOf(during<unknown>(clock, call()))).toMatchObject({ code: 'ERR_OPTION', field: 'periodOf' })
    }
  })

  inVirtualTime('of a store that answers with nonsense rejects', async (clock) => {
    const { quotas, store: staged } = sceneOf(clock, { retry: { attempts: 1 } })
    for (const [consume, reserve, settle] of [
      [{ status: 'maybe' }, { status: 'applied' }, { status: 'exceeded' }],
      [undefined, null, 'settled'],
    ]) {
      Object.assign(staged.inner, {
        consume: async () => consume,
        reserve: async () => reserve,
        settle: async () => settle,
      })

      for (const call of [
        () => quotas.consumeQuotaSync('ann', 'a'),
        () => quotas.reserve('ann', 'a', 1),
        () => quotas.settle('r1', 1),
      ]) {
        expect(await reasonOf(during<unknown>(clock, call()))).toMatchObject({ code: 'ERR_BATCH_RESULT' })
      }
    }
  })
})

describe('nobody is harmed by', () => {
  test('a rejection that nobody looks at', async () => {
    const quotas = new QuotaService({
      ...valid,
      limitFor: async () => {
        throw new Error('no plan')
      },
    })

    const unhandled = await unhandledDuring(async () => {
      void quotas.checkQuota('ann', 'requests')
      void quotas.consumeQuotaSync('ann', 'requests')
      void quotas.consumeQuota('', 'requests')
      void quotas.reserve('ann', 'requests', 1)
      void quotas.settle('nobody', 1)
      void quotas.consumeQuotaBatch(1 as never)
      await quotas.flush()
    })

    expect(unhandled).toEqual([])
  })

  test('what becomes of a reservation that nobody looks at', async () => {
    const quotas = new QuotaService({ ...valid, limitFor: () => 10 })
    const reservation = await quotas.reserve('ann', 'requests', 1)
    const late = await quotas.reserve('ann', 'requests', 1)

    const unhandled = await unhandledDuring(async () => {
      void reservation.settle(100)
      void reservation.settle(Number.NaN)
      await quotas.close()
      void late.settle(1)
      void late.release()
    })

    expect(unhandled).toEqual([])
  })

  test('a listener that throws', async () => {
    const quotas = new QuotaService({ ...valid, limitFor: () => 0 })
    quotas.on('exceeded', () => {
      throw new Error('listener')
    })

    const warnings = await warningsDuring(async () => {
      for (let i = 0; i < 2; i++) {
        expect(await reasonOf(quotas.consumeQuotaSync('ann', 'requests'))).toMatchObject({ code: 'ERR_QUOTA_EXCEEDED' })
      }
    })

    expect(warnings).toEqual([expect.stringContaining("a listener of quota-service's 'exceeded' event failed")])
  })
})

/** An object with a store's methods, up to one that is missing. */
function methods(missing?: string): object {
  const names = ['write', 'readUsage', 'consume', 'reserve', 'settle', 'release'].filter((name) => name !== missing)
  return Object.fromEntries(names.map((name) => [name, () => undefined]))
}

function withConsumer(): QuotaServiceOptions & { consumer: QuotaConsumer } {
  return { ...valid, consumer: new QuotaConsumer(store) }
}
