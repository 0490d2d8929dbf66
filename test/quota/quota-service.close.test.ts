import { QuotaService, StoreError } from 'spillway'
import { describe, expect } from 'vitest'
import { codeOf, reasonOf, watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { during, expectServiceBooks, sceneOf } from './service/support/scene.js'

function abortable(): { readonly signal: AbortSignal; abort(reason: unknown): void } {
  const controller = new AbortController()
  return { signal: controller.signal, abort: (reason) => controller.abort(reason) }
}

describe('close', () => {
  inVirtualTime('waits for the calls in progress, and refuses more', async (clock) => {
    const { quotas, store } = sceneOf(clock)
    const stuck = store.stage('consume')
    const consumed = watch(quotas.consumeQuotaSync('ann', 'requests', 1))
    await clock.advance(0)

    const closing = watch(quotas.close())
    const refused = [
      quotas.checkQuota('ann', 'requests'),
      quotas.consumeQuota('ann', 'requests'),
      quotas.consumeQuotaSync('ann', 'requests'),
      quotas.reserve('ann', 'requests', 1),
      quotas.settle('r1', 1),
      quotas.release('r1'),
    ]
    for (const call of refused) expect(codeOf(await reasonOf(call))).toBe('ERR_CLOSED')
    expect(await during(clock, quotas.consumeQuotaBatch([{ userId: 1, quotaType: 'a', value: 1 }]))).toEqual([
      { status: 'rejected', reason: expect.objectContaining({ code: 'ERR_CLOSED' }) },
    ])
    await clock.advance(1000)
    expect(closing.status).toBe('pending')
    stuck.go()
    await clock.advance(0)

    expect(consumed.value).toMatchObject({ used: 1 })
    expect(closing.value).toEqual({ drained: true, abandoned: 0 })
    expectServiceBooks(quotas, { offered: 8, succeeded: 1, rejected: 7 })
  })

  inVirtualTime(
    'waits for what callers that gave up have left at the store, and for what that leaves',
    async (clock) => {
      const { quotas, store } = sceneOf(clock, { timeoutMs: 500 })
      const { signal, abort } = abortable()
      const [reserve, write, release] = [store.stage('reserve'), store.stage('write', 'after'), store.stage('release')]
      const calls = [
        watch<unknown>(quotas.reserve('ann', 'requests', 3, { signal })),
        watch<unknown>(quotas.consumeQuota('ann', 'requests', 4, { signal })),
      ]
      await clock.advance(0)
      abort('enough')
      await clock.advance(0)
      expect(calls.map(({ reason }) => reason)).toEqual(['enough', 'enough'])

      const closing = watch(quotas.close())
      for (const stage of [write, reserve, release]) {
        await clock.advance(0)
        expect([stage.reached, closing.status]).toEqual([true, 'pending'])
        stage.go()
      }
      await clock.advance(0)

      expect(closing.value).toEqual({ drained: true, abandoned: 0 })
      const [usage] = await store.inner.readUsage([{ userId: 'ann', quotaType: 'requests', period: '2026-01' }])
      expect(usage).toEqual({ used: 4, held: 0 })
    },
  )

  inVirtualTime('waits for no read of a check that was given up', async (clock) => {
    const { quotas, store } = sceneOf(clock)
    const { signal, abort } = abortable()
    const stuck = store.stage('readUsage')
    const check = watch(quotas.checkQuota('ann', 'requests', 1, { signal }))
    await clock.advance(0)
    expect(stuck.reached).toBe(true)
    abort('enough')

    expect(await during(clock, quotas.close())).toEqual({ drained: true, abandoned: 0 })
    expect(check.reason).toBe('enough')
  })

  inVirtualTime('waits for no limit that only callers asked for who gave up', async (clock) => {
    const never = (): Promise<number> => new Promise(() => undefined)
    const { quotas, store } = sceneOf(clock, { limitFor: never })
    const { signal, abort } = abortable()
    const calls = [
      watch<unknown>(quotas.checkQuota('ann', 'requests', 1, { signal })),
      watch<unknown>(quotas.consumeQuotaSync('ann', 'requests', 1, { signal })),
      watch<unknown>(quotas.reserve('ann', 'requests', 1, { signal })),
    ]
    await clock.advance(0)
    abort('enough')

    expect(await during(clock, quotas.close())).toEqual({ drained: true, abandoned: 0 })

    expect(calls.map(({ reason }) => reason)).toEqual(['enough', 'enough', 'enough'])
    expect(store.calls).toEqual([])
  })

  inVirtualTime('asks the store nothing more for a check that its deadline cut off', async (clock) => {
    let answer: (limit: number) => void = () => undefined
    const limitFor = (): Promise<number> =>
      new Promise((resolve) => {
        answer = resolve
      })
    const { quotas, store } = sceneOf(clock, { limitFor })
    const check = watch(quotas.checkQuota('ann', 'requests'))

    expect(await during(clock, quotas.close({ timeoutMs: 10 }), 10)).toEqual({ drained: false, abandoned: 1 })
    answer(5)
    await clock.advance(0)

    expect(codeOf(check.reason)).toBe('ERR_CLOSED')
    expect(store.calls).toEqual([])
  })

  inVirtualTime('waits no longer for them than an attempt may take, or its deadline says', async (clock) => {
    for (const [options, closeOptions] of [
      [{ timeoutMs: 500 }, {}],
      [{}, { timeoutMs: 500 }],
    ]) {
      const { quotas, store } = sceneOf(clock, options)
      const { signal, abort } = abortable()
      store.stage('consume')
      watch(quotas.consumeQuotaSync('ann', 'requests', 3, { signal }))
      await clock.advance(0)
      abort('enough')

      const closing = watch(quotas.close(closeOptions))
      await clock.advance(499)
      expect(closing.status).toBe('pending')
      await clock.advance(1)

      // No call was given up that its caller hadn't given up.
      expect(closing.value).toEqual({ drained: true, abandoned: 0 })
    }
  })

  inVirtualTime('cuts waits between retries short', async (clock) => {
    const { quotas, store } = sceneOf(clock, { retry: { attempts: 3, delayMs: 60_000, maxDelayMs: 60_000 } })
    store.fails('consume', new StoreError('down'), new StoreError('down'))
    const consumed = watch(quotas.consumeQuotaSync('ann', 'requests', 1))
    await clock.advance(0)
    expect(clock.pending).toBe(1)

    expect(await during(clock, quotas.close())).toEqual({ drained: true, abandoned: 0 })

    expect(consumed.value).toMatchObject({ used: 1 })
  })

  inVirtualTime('rejects at its deadline what is left, and makes no attempt after it', async (clock) => {
    const { quotas, store } = sceneOf(clock, { timeoutMs: 5000, retry: { attempts: 5, delayMs: 10 } })
    const stages = [store.stage('readUsage'), store.stage('consume'), store.stage('write')]
    const calls = [
      watch<unknown>(quotas.checkQuota('ann', 'requests')),
      watch<unknown>(quotas.consumeQuotaSync('ann', 'requests')),
      watch<unknown>(quotas.consumeQuota('ann', 'requests')),
    ]
    await clock.advance(0)

    const report = await during(clock, quotas.close({ timeoutMs: 100 }), 100)

    expect(report).toEqual({ drained: false, abandoned: 3 })
    expect(calls.map(({ reason }) => [codeOf(reason), (reason as { outcomeUnknown: boolean }).outcomeUnknown])).toEqual(
      [
        ['ERR_CLOSED', false],
        ['ERR_CLOSED', true],
        ['ERR_CLOSED', true],
      ],
    )
    expect(calls[1]?.reason).toMatchObject({
      message: 'quota-service was closed before consume-sync was answered',
    })
    expect(store.contexts[0]?.signal.aborted).toBe(true)
    for (const stage of stages) stage.fail(new StoreError('down'))
    await clock.advance(10_000)
    expect(store.calls).toHaveLength(3)
    expectServiceBooks(quotas, { offered: 3, failed: 3, pending: 0 })
  })

  inVirtualTime('leaves the consumer and the store open, and what is held held', async (clock) => {
    const { quotas, store, consumer } = sceneOf(clock, { buffer: {} })
    await during(clock, quotas.reserve('ann', 'requests', 2))
    await quotas.consumeQuota('ann', 'requests', 1)

    await during(clock, quotas.close())

    expect(consumer.offer({ userId: 'ann', quotaType: 'requests', value: 1 })).toBe(true)
    await during(clock, consumer.close())
    const [usage] = await store.readUsage([{ userId: 'ann', quotaType: 'requests', period: '2026-01' }])
    expect(usage).toEqual({ used: 2, held: 2 })
  })

  inVirtualTime('stops listening to the consumer', async (clock) => {
    const { store, consumer } = sceneOf(clock, { buffer: {} })
    let listeners = 0
    const on = consumer.on.bind(consumer)
    consumer.on = ((...args: Parameters<typeof on>) => {
      listeners++
      const off = on(...args)
      return () => {
        listeners--
        off()
      }
    }) as typeof consumer.on
    const quotas = new QuotaService({ store, consumer, limitFor: () => 1, usageTtlMs: 1000, clock })
    expect(listeners).toBeGreaterThan(0)

    await during(clock, quotas.close())

    expect(listeners).toBe(0)
    await during(clock, consumer.close())
  })

  inVirtualTime(
    'is idempotent, comes at the end of an await using block, and takes no wrong deadline',
    async (clock) => {
      const { quotas } = sceneOf(clock)
      await during(
        clock,
        (async () => {
          await using scoped = quotas
          await scoped.consumeQuota('ann', 'requests')
        })(),
      )

      expect(codeOf(await reasonOf(quotas.checkQuota('ann', 'requests')))).toBe('ERR_CLOSED')
      expect(await quotas.close()).toEqual({ drained: true, abandoned: 0 })
      expect(codeOf(await reasonOf(quotas.close({ timeoutMs: -1 })))).toBe('ERR_OPTION')
    },
  )
})

describe('flush', () => {
  inVirtualTime('settles the calls in progress, and goes on', async (clock) => {
    const { quotas, store } = sceneOf(clock, { retry: { attempts: 1 } })
    const stages = [store.stage('consume'), store.stage('consume')]
    const calls = [1, 2].map((value) => watch(quotas.consumeQuotaSync('ann', 'requests', value)))
    await clock.advance(0)

    const flushed = watch(quotas.flush())
    await clock.advance(0)
    expect(flushed.status).toBe('pending')
    stages[0]?.go()
    stages[1]?.fail(new StoreError('down'))
    await clock.advance(0)

    expect(flushed.value).toEqual({ succeeded: 1, failed: 1, dropped: 0 })
    expect(calls.map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
    expect(await during(clock, quotas.flush())).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
    expect(await during(clock, quotas.consumeQuotaSync('ann', 'requests'))).toMatchObject({ used: 2 })
  })
})

describe('stats', () => {
  inVirtualTime('measure checks, unchecked uses and what is atomic apart', async (clock) => {
    const { quotas, store } = sceneOf(clock, { name: 'quotas' })
    const slow = async (operation: 'readUsage' | 'write' | 'consume', ms: number): Promise<void> => {
      const stage = store.stage(operation, 'after')
      await clock.advance(ms)
      stage.go()
    }

    for (const [operation, ms, call] of [
      ['readUsage', 10, () => quotas.checkQuota('ann', 'requests')],
      ['write', 20, () => quotas.consumeQuota('ann', 'requests')],
      ['consume', 30, () => quotas.consumeQuotaSync('ann', 'requests')],
    ] as const) {
      const done = call()
      await slow(operation, ms)
      await during<unknown>(clock, done)
    }

    const { name, latencyMs } = quotas.stats()
    expect(name).toBe('quotas')
    expect([latencyMs.check.max, latencyMs.consume.max, latencyMs.sync.max]).toEqual([10, 20, 30])
    expect(JSON.parse(JSON.stringify(quotas.stats()))).toEqual(quotas.stats())
  })
})
