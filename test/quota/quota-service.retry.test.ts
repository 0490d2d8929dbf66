import { type Clock, type QuotaClaim, StoreError, type StoreRetry, type StoreTimeout, type UsageBatch } from 'spillway'
import type { FakeClock } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { codeOf, reasonOf, watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { during, expectServiceBooks, type SceneOptions, sceneOf } from './service/support/scene.js'

const down = (): StoreError => new StoreError('down')
const lost = (): StoreError => new StoreError('lost', { outcomeUnknown: true })
const fixed: SceneOptions = { random: () => 0.5, retry: { attempts: 3, delayMs: 20, maxDelayMs: 100 } }

describe('a call that fails', () => {
  inVirtualTime('gives back a hold that it may have made under an id that nobody knows', async (clock) => {
    for (const [id, error, held] of [
      [undefined, lost(), 0],
      ['known', lost(), 3],
      [undefined, down(), 3],
    ] as const) {
      const { quotas, store } = sceneOf(clock, { retry: { attempts: 1 } })
      store.losesAnswer('reserve', error)

      expect(await reasonOf(during(clock, quotas.reserve('ann', 'requests', 3, { id })))).toBe(error)

      // What says that it did nothing is taken at its word.
      expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ held })
    }
  })

  inVirtualTime('is made again after a delay, under the same id, as often as retry.attempts says', async (clock) => {
    const { quotas, store } = sceneOf(clock, fixed)
    const retries: StoreRetry[] = []
    quotas.on('retried', (retry) => retries.push(retry))
    store.fails('consume', down(), down())

    const consumed = watch(quotas.consumeQuotaSync('ann', 'requests', 4, { requestId: 'r1' }))
    await clock.advance(10)
    expect(store.count('consume')).toBe(2)
    await clock.advance(19)
    expect(consumed.status).toBe('pending')
    await clock.advance(1)

    expect(consumed.value).toMatchObject({ status: 'applied', used: 4 })
    expect(store.calls.map(({ argument }) => (argument as QuotaClaim).id)).toEqual(['r1', 'r1', 'r1'])
    expect(retries).toEqual([
      { operation: 'consume', id: 'r1', attempt: 2, delayMs: 10, error: expect.objectContaining({ message: 'down' }) },
      { operation: 'consume', id: 'r1', attempt: 3, delayMs: 20, error: expect.objectContaining({ message: 'down' }) },
    ])
    expectServiceBooks(quotas, { offered: 1, succeeded: 1, retries: 2, timeouts: 0 })
  })

  inVirtualTime('rejects with the last error when there is no attempt left', async (clock) => {
    for (const operation of ['consume', 'reserve', 'settle', 'release', 'readUsage', 'write'] as const) {
      const { quotas, store } = sceneOf(clock, fixed)
      const failed: unknown[] = []
      quotas.on('failed', ({ error }) => failed.push(error))
      const last = down()
      store.fails(operation, down(), down(), last)
      const call = {
        consume: () => quotas.consumeQuotaSync('ann', 'requests'),
        reserve: () => quotas.reserve('ann', 'requests', 1),
        settle: () => quotas.settle('r1', 1),
        release: () => quotas.release('r1'),
        readUsage: () => quotas.checkQuota('ann', 'requests'),
        write: () => quotas.consumeQuota('ann', 'requests'),
      }[operation]

      expect(await reasonOf(during<unknown>(clock, call(), 1000)), operation).toBe(last)
      expect(store.count(operation), operation).toBe(3)
      expect(failed, operation).toEqual([last])
      expectServiceBooks(quotas, { offered: 1, failed: 1, retries: 2 })
    }
  })

  inVirtualTime('rejects at once where retry.retryable, or the error itself, says no', async (clock) => {
    for (const [retryable, error] of [
      [undefined, new StoreError('wrong', { retryable: false })],
      [(error: unknown) => (error as Error).message !== 'down', down()],
      [() => undefined, down()],
      [
        () => {
          throw new Error('broken')
        },
        down(),
      ],
    ] as const) {
      const { quotas, store } = sceneOf(clock, { retry: { attempts: 3, delayMs: 1, retryable: retryable as never } })
      store.fails('consume', error)

      const reason = await reasonOf(during(clock, quotas.consumeQuotaSync('ann', 'requests')))

      expect([reason, store.count('consume')]).toEqual([error, 1])
    }
  })

  inVirtualTime('rejects with what says most: an attempt whose outcome is unknown', async (clock) => {
    const { quotas, store } = sceneOf(clock, fixed)
    const doubt = lost()
    store.losesAnswer('consume', doubt)
    store.stage('consume').go()
    store.fails('consume', down(), down())

    const reason = await reasonOf(during(clock, quotas.consumeQuotaSync('ann', 'requests', 4), 1000))

    expect(reason).toBe(doubt)
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 4 })
  })

  inVirtualTime('counts once when its answer is lost, whatever it is', async (clock) => {
    const { quotas, store } = sceneOf(clock, fixed)
    for (const operation of ['consume', 'write', 'reserve'] as const) store.losesAnswer(operation, lost())

    await during(clock, quotas.consumeQuotaSync('ann', 'requests', 1), 100)
    expect(await during(clock, quotas.consumeQuota('ann', 'requests', 2), 100)).toBe('written')
    await during(clock, quotas.reserve('ann', 'requests', 3), 100)

    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 3, held: 3 })
    const ids = store.calls.flatMap((call) => (call.operation === 'write' ? [(call.argument as UsageBatch).id] : []))
    expect(ids).toEqual([ids[0], ids[0]])
    expect(store.contexts.map(({ batchId, attempt }) => [batchId, attempt])).toEqual([
      [ids[0], 1],
      [ids[0], 2],
    ])
  })

  inVirtualTime('is not made again where the store may count it twice', async (clock) => {
    const { quotas, store } = sceneOf(clock, { ...fixed, idempotent: false })
    store.losesAnswer('write', lost())

    expect(await reasonOf(during(clock, quotas.consumeQuota('ann', 'requests', 1), 100))).toMatchObject({
      outcomeUnknown: true,
    })
    expect(store.count('write')).toBe(1)
    store.fails('write', down())
    expect(await during(clock, quotas.consumeQuota('ann', 'requests', 2), 100)).toBe('written')
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 3 })
  })

  inVirtualTime('is told of with the error of limitFor, which is asked once', async (clock) => {
    let asked = 0
    const broken = new Error('no plan')
    const { quotas, store } = sceneOf(clock, {
      ...fixed,
      limitFor: () => {
        asked++
        throw broken
      },
    })

    for (const call of [
      quotas.checkQuota('ann', 'requests'),
      quotas.consumeQuotaSync('ann', 'requests'),
      quotas.reserve('ann', 'requests', 1),
    ]) {
      expect(await reasonOf(during<unknown>(clock, call))).toBe(broken)
    }

    expect([asked, store.calls.length]).toEqual([3, 0])
    expectServiceBooks(quotas, { offered: 3, failed: 3, retries: 0 })
  })
})

describe('timeoutMs', () => {
  inVirtualTime(
    'gives an attempt up and makes another one; what comes of the first later counts once',
    async (clock) => {
      const { quotas, store } = sceneOf(clock, { ...fixed, timeoutMs: 50 })
      const timeouts: StoreTimeout[] = []
      quotas.on('timedOut', (timeout) => timeouts.push(timeout))
      const stuck = store.stage('consume')

      const consumed = watch(quotas.consumeQuotaSync('ann', 'requests', 4, { requestId: 'r1' }))
      await clock.advance(50)
      await clock.advance(10)
      expect(consumed.value).toMatchObject({ status: 'applied', used: 4 })
      stuck.go()
      await clock.advance(0)

      expect(timeouts).toEqual([{ operation: 'consume', id: 'r1', attempt: 1, timeoutMs: 50 }])
      expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 4 })
      expectServiceBooks(quotas, { offered: 2, succeeded: 2, timeouts: 1, retries: 1 })
    },
  )

  inVirtualTime('rejects when all attempts take too long, and says that it may have been done', async (clock) => {
    const { quotas, store } = sceneOf(clock, { ...fixed, timeoutMs: 50, retry: { attempts: 2, delayMs: 0 } })
    const stages = [store.stage('consume'), store.stage('consume')]

    const reason = await reasonOf(
      during(clock, quotas.consumeQuotaSync('ann', 'requests', 4, { requestId: 'r1' }), 100),
    )

    expect(reason).toMatchObject({ code: 'ERR_TIMEOUT', timeoutMs: 50, outcomeUnknown: true })
    expect((reason as Error).message).toBe('quota-service: attempt 2 at consume r1 took longer than 50 ms')
    for (const stage of stages) stage.go()
    await clock.advance(0)
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 4 })
  })

  inVirtualTime('aborts the signal of an unchecked write, and never writes it twice', async (clock) => {
    const { quotas, store } = sceneOf(clock, { ...fixed, timeoutMs: 50 })
    const stuck = store.stage('write')

    const where = await during(clock, quotas.consumeQuota('ann', 'requests', 4), 1000)
    stuck.go()
    await clock.advance(0)

    expect(where).toBe('written')
    expect(store.contexts.map(({ signal }) => signal.aborted)).toEqual([true, false])
    expect(await during(clock, quotas.checkQuota('ann', 'requests'))).toMatchObject({ used: 4 })
  })

  inVirtualTime('bounds reads, and each attempt for itself', async (clock) => {
    const { quotas, store } = sceneOf(clock, { ...fixed, timeoutMs: 50 })
    store.stage('readUsage')
    store.stage('readUsage')

    const status = watch(quotas.checkQuota('ann', 'requests'))
    await clock.advance(129)
    expect(status.status).toBe('pending')
    await clock.advance(1)

    expect(status.value).toMatchObject({ allowed: true })
    expectServiceBooks(quotas, { timeouts: 2, retries: 2, reads: 1 })
  })
})

describe('a signal that aborts', () => {
  const calls = (clock: FakeClock, signal: AbortSignal) => {
    const { quotas, store } = sceneOf(clock, fixed)
    return {
      ...{ quotas, store },
      calls: {
        readUsage: () => quotas.checkQuota('ann', 'requests', 1, { signal }),
        consume: () => quotas.consumeQuotaSync('ann', 'requests', 1, { signal }),
        reserve: () => quotas.reserve('ann', 'requests', 1, { signal, id: 'r1' }),
        settle: () => quotas.settle('r1', 1, { signal }),
        release: () => quotas.release('r1', { signal }),
        write: () => quotas.consumeQuota('ann', 'requests', 1, { signal }),
      },
    }
  }
  const operations = ['readUsage', 'consume', 'reserve', 'settle', 'release', 'write'] as const

  inVirtualTime('lets the caller go while the store is at it, and makes no further attempt', async (clock) => {
    for (const operation of operations) {
      const controller = new AbortController()
      const { quotas, store, calls: call } = calls(clock, controller.signal)
      const stuck = store.stage(operation)
      const watched = watch<unknown>(call[operation]())
      await clock.advance(0)
      expect(stuck.reached, operation).toBe(true)

      controller.abort('enough')
      await clock.advance(0)
      expect(watched.reason, operation).toBe('enough')
      stuck.fail(down())
      await clock.advance(1000)

      // Others may wait for the same read.
      expect(store.count(operation), operation).toBe(operation === 'readUsage' ? 2 : 1)
      expectServiceBooks(quotas, { offered: 1, aborted: 1 })
    }
  })

  inVirtualTime('cuts a wait before a retry short', async (clock) => {
    for (const operation of operations.slice(1)) {
      const controller = new AbortController()
      const { store, calls: call } = calls(clock, controller.signal)
      store.fails(operation, down())
      const watched = watch<unknown>(call[operation]())
      await clock.advance(0)
      expect(clock.pending, operation).toBe(1)

      controller.abort('enough')
      await clock.advance(0)

      expect([watched.reason, clock.pending, store.count(operation)], operation).toEqual(['enough', 0, 1])
    }
  })

  inVirtualTime(
    'lets the process end before the attempt that nobody waits for, whose time ends all the same',
    async (clock) => {
      const timers: { readonly delayMs: number; readonly keepAlive: boolean }[] = []
      const setTimer: Clock['setTimer'] = clock.setTimer.bind(clock)
      const watchedClock: Clock = clock
      watchedClock.setTimer = (callback, delayMs, options) => {
        timers.push({ delayMs, keepAlive: options?.keepAlive ?? true })
        return setTimer(callback, delayMs, options)
      }
      const controller = new AbortController()
      const { quotas, store } = sceneOf(clock, { timeoutMs: 500 })
      const stuck = store.stage('consume')
      const watched = watch(quotas.consumeQuotaSync('ann', 'requests', 1, { signal: controller.signal }))
      await clock.advance(200)
      expect([stuck.reached, clock.pending]).toEqual([true, 1])

      controller.abort('enough')
      await clock.advance(0)

      expect([watched.reason, clock.pending]).toEqual(['enough', 1])
      expect(timers).toEqual([
        { delayMs: 500, keepAlive: true },
        { delayMs: 300, keepAlive: false },
      ])
      await clock.advance(300)
      expect([clock.pending, store.count('consume')]).toEqual([0, 1])
      expectServiceBooks(quotas, { offered: 1, aborted: 1, timeouts: 1, retries: 0 })
    },
  )

  inVirtualTime('before the call lets it do nothing', async (clock) => {
    for (const operation of operations) {
      const { quotas, store, calls: call } = calls(clock, AbortSignal.abort('never'))

      expect(await reasonOf(call[operation]()), operation).toBe('never')

      expect(store.calls, operation).toEqual([])
      expectServiceBooks(quotas, { offered: 1, rejected: 1 })
    }
  })

  inVirtualTime('while the limit is looked up keeps the store out of it', async (clock) => {
    const controller = new AbortController()
    const limitFor = (): Promise<number> => new Promise((resolve) => void clock.setTimer(() => resolve(10), 50))
    const { quotas, store } = sceneOf(clock, { limitFor })
    const watched = watch(quotas.consumeQuotaSync('ann', 'requests', 1, { signal: controller.signal }))
    await clock.advance(10)

    controller.abort('enough')
    await clock.advance(100)

    expect(watched.reason).toBe('enough')
    expect(store.calls).toEqual([])
  })

  inVirtualTime("fails no other caller's check of the same read, and takes its listener away", async (clock) => {
    const controller = new AbortController()
    const { signal } = controller
    const { quotas, store } = sceneOf(clock)
    const stuck = store.stage('readUsage')
    const gone = watch(quotas.checkQuota('ann', 'requests', 1, { signal }))
    const other = watch(quotas.checkQuota('ann', 'requests', 1))
    await clock.advance(0)

    controller.abort('enough')
    stuck.go()
    await clock.advance(0)

    expect(gone.reason).toBe('enough')
    expect(other.value).toMatchObject({ allowed: true })
  })

  inVirtualTime('gives back a hold whose id nobody got to know, and no other', async (clock) => {
    for (const id of [undefined, 'known']) {
      const controller = new AbortController()
      const { quotas, store } = sceneOf(clock)
      const late = store.stage('reserve', 'after')
      const reserved = watch(quotas.reserve('ann', 'requests', 3, { id, signal: controller.signal }))
      await clock.advance(0)

      controller.abort('enough')
      late.go()
      await clock.advance(0)

      expect(reserved.reason).toBe('enough')
      const { held } = await during(clock, quotas.checkQuota('ann', 'requests'))
      expect(held).toBe(id === undefined ? 0 : 3)
    }
  })

  inVirtualTime('gives back a hold that an attempt may have made whose answer was lost', async (clock) => {
    for (const id of [undefined, 'known']) {
      const controller = new AbortController()
      const { quotas, store } = sceneOf(clock, fixed)
      store.losesAnswer('reserve', lost())
      const reserved = watch(quotas.reserve('ann', 'requests', 3, { id, signal: controller.signal }))
      await clock.advance(0)

      controller.abort('enough')
      await clock.advance(0)

      expect(reserved.reason).toBe('enough')
      expect(store.count('reserve')).toBe(1)
      const { held } = await during(clock, quotas.checkQuota('ann', 'requests'))
      expect(held).toBe(id === undefined ? 0 : 3)
    }
  })

  inVirtualTime('leaves no listener behind on a signal that lives on', async (clock) => {
    const { signal } = new AbortController()
    let listeners = 0
    const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)]
    signal.addEventListener = ((...args: Parameters<typeof add>) => {
      listeners++
      add(...args)
    }) as typeof add
    signal.removeEventListener = ((...args: Parameters<typeof remove>) => {
      listeners--
      remove(...args)
    }) as typeof remove
    const { store, calls: call } = calls(clock, signal)
    store.fails('consume', down())

    for (const operation of operations) {
      await during<unknown>(clock, call[operation](), 100).catch((error) =>
        expect(codeOf(error)).toBe('ERR_RESERVATION'),
      )
    }

    expect(listeners).toBe(0)
  })
})
