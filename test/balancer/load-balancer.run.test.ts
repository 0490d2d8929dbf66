import { LoadBalancer } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { codeOf, expectBooks, type Node, nodes, reasonOf, recordEvents, tally } from './support/balancers.js'

function made(...ids: string[]): { balancer: LoadBalancer<Node>; clock: FakeClock } {
  const clock = new FakeClock()
  return { balancer: new LoadBalancer(nodes(...ids), { clock, name: 'api' }), clock }
}

/** A promise that the test settles. */
function held<T = string>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (error: unknown) => void } {
  let settle: [(value: T) => void, (error: unknown) => void] | undefined
  const promise = new Promise<T>((resolve, reject) => {
    settle = [resolve, reject]
  })
  const [resolve, reject] = settle as NonNullable<typeof settle>
  return { promise, resolve, reject }
}

/** A signal that says how many listen to it. */
class CountingController extends AbortController {
  listeners = 0

  constructor() {
    super()
    const { signal } = this
    const add = signal.addEventListener.bind(signal)
    const remove = signal.removeEventListener.bind(signal)
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      this.listeners++
      add(...args)
    }
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      this.listeners--
      remove(...args)
    }
  }
}

describe('run', () => {
  test('calls with an instance and gives back what comes of it', async () => {
    const { balancer } = made('a')

    expect(await balancer.run(async ({ id }, { attempt }) => `${id} ${attempt}`)).toBe('a 1')
    expect(await balancer.run(({ id }) => id)).toBe('a')
    expect(await balancer.run(() => undefined)).toBeUndefined()
    // biome-ignore lint/suspicious/noThenProperty: a thenable of foreign make
    const thenable = { then: (resolve: (value: number) => void) => resolve(7) } as unknown as PromiseLike<number>
    expect(await balancer.run(() => thenable)).toBe(7)

    expect(expectBooks(balancer)).toMatchObject({ offered: 4, succeeded: 4, pending: 0 })
  })

  test('rejects with the error of its one attempt, thrown or rejected', async () => {
    const { balancer } = made('a', 'b')
    const error = new Error('down')

    const rejected = await reasonOf(balancer.run(() => Promise.reject(error)))
    const thrown = await reasonOf(
      balancer.run(() => {
        throw error
      }),
    )

    expect([rejected, thrown]).toEqual([error, error])
    expect(expectBooks(balancer)).toMatchObject({ offered: 2, failed: 2, retries: 0 })
  })

  test('counts as in flight until it has settled', async () => {
    const { balancer } = made('a')
    const work = held()
    const result = balancer.run(() => work.promise)

    expect(balancer.instances()[0]?.inFlight).toBe(1)
    work.resolve('done')

    expect(await result).toBe('done')
    expect(balancer.instances()[0]?.inFlight).toBe(0)
  })

  test('no instance, a closed balancer and a wrong option reject, and are counted', async () => {
    const { balancer } = made()
    const fn = (): string => 'never'

    expect(codeOf(await reasonOf(balancer.run(fn)))).toBe('ERR_NO_INSTANCE')
    expect(await reasonOf(balancer.run(fn, { attempts: 0 }))).toMatchObject({ field: 'attempts' })
    await balancer.close()
    expect(codeOf(await reasonOf(balancer.run(fn)))).toBe('ERR_CLOSED')

    expect(expectBooks(balancer)).toMatchObject({ offered: 3, rejected: 3 })
  })
})

describe('retries', () => {
  test('go elsewhere while there is elsewhere, and the last error is what the caller gets', async () => {
    const { balancer } = made('a', 'b', 'c')
    const tried: string[] = []
    const retries: unknown[] = []
    balancer.on('retried', ({ instance, attempt, error }) =>
      retries.push([instance.id, attempt, (error as Error).message]),
    )

    const reason = await reasonOf(
      balancer.run(
        async ({ id }, { attempt }) => {
          tried.push(id)
          throw new Error(`attempt ${attempt}`)
        },
        { attempts: 5 },
      ),
    )

    expect((reason as Error).message).toBe('attempt 5')
    expect(new Set(tried.slice(0, 3))).toEqual(new Set(['a', 'b', 'c']))
    expect(tried).toHaveLength(5)
    expect(retries).toEqual([2, 3, 4, 5].map((attempt) => [tried[attempt - 1], attempt, `attempt ${attempt - 1}`]))
    expect(expectBooks(balancer)).toMatchObject({ offered: 5, failed: 5, retries: 4, retriesInFlight: 0 })
  })

  test('an error that says retryable: false is final, unless retryable says otherwise', async () => {
    const { balancer } = made('a', 'b')
    let calls = 0
    const fn = async (): Promise<never> => {
      calls++
      throw Object.assign(new Error('no'), { retryable: false })
    }

    await reasonOf(balancer.run(fn, { attempts: 3 }))
    expect(calls).toBe(1)
    await reasonOf(balancer.run(fn, { attempts: 3, retryable: () => true }))
    expect(calls).toBe(4)
    await reasonOf(
      balancer.run(fn, {
        attempts: 3,
        retryable: () => {
          throw new Error('no idea')
        },
      }),
    )
    expect(calls).toBe(5)
  })

  test('a later success is the result', async () => {
    const { balancer } = made('a', 'b')

    const result = await balancer.run(
      ({ id }, { attempt }) => {
        if (attempt === 1) throw new Error('down')
        return id
      },
      { attempts: 2 },
    )

    expect(result).toBe('b')
    expect(expectBooks(balancer)).toMatchObject({ failed: 1, succeeded: 1, retries: 1 })
  })

  test('three retries are allowed however few calls there are, and a share of the calls when there are many', async () => {
    for (const { calls, leases, least, most } of [
      { calls: 10, leases: 0, least: 3, most: 3 },
      { calls: 20, leases: 45, least: 9, most: 13 },
    ]) {
      const { balancer } = made('a', 'b')
      const refused: number[] = []
      balancer.on('retryRefused', ({ attempt }) => refused.push(attempt))
      const out = Array.from({ length: leases }, () => balancer.pick())
      const works = Array.from({ length: calls }, () => held())
      const retries: (() => void)[] = []
      const results = works.map((work) =>
        balancer.run(
          (_, { attempt }) => {
            if (attempt === 1) return work.promise
            const retry = held()
            retries.push(() => retry.resolve('retried'))
            return retry.promise
          },
          { attempts: 2 },
        ),
      )

      // All fail in one turn: each decides while all the others are still in flight or being retried.
      const settled = Promise.allSettled(results)
      for (const work of works) work.reject(new Error('down'))
      await new Promise((resolve) => setImmediate(resolve))

      expect(balancer.stats().retriesInFlight).toBeGreaterThanOrEqual(least)
      expect(balancer.stats().retriesInFlight).toBeLessThanOrEqual(most)
      expect(retries.length).toBe(balancer.stats().retries)
      for (const retry of retries) retry()
      for (const lease of out) lease.release()
      await settled
      expect(refused.length + balancer.stats().retries).toBe(calls)
      expect(expectBooks(balancer)).toMatchObject({ retriesInFlight: 0, retriesRefused: refused.length, pending: 0 })
    }
  })

  test('what the budget gave comes back, so that the next ones find it', async () => {
    const clock = new FakeClock()
    const balancer = new LoadBalancer(nodes('a', 'b'), { clock, retryBudget: { ratio: 0, minRetries: 1 } })

    for (let turn = 0; turn < 5; turn++) {
      await reasonOf(balancer.run(() => Promise.reject(new Error('down')), { attempts: 3 }))
    }

    expect(balancer.stats()).toMatchObject({ retries: 10, retriesRefused: 0, retriesInFlight: 0 })
  })

  test('no budget is no retry', async () => {
    const clock = new FakeClock()
    const balancer = new LoadBalancer(nodes('a', 'b'), { clock, retryBudget: { ratio: 0, minRetries: 0 } })

    await reasonOf(balancer.run(() => Promise.reject(new Error('down')), { attempts: 3 }))

    expect(balancer.stats()).toMatchObject({ offered: 1, retries: 0, retriesRefused: 1 })
  })

  test('when nothing is left to try, the last error of the function is what counts', async () => {
    const { balancer } = made('a')
    const down = new Error('down')

    const reason = await reasonOf(
      balancer.run(
        async () => {
          await balancer.drainInstance('a', { signal: AbortSignal.abort() }).catch(() => undefined)
          void balancer.drainInstance('a')
          throw down
        },
        { attempts: 3 },
      ),
    )

    expect(reason).toBe(down)
    expect(expectBooks(balancer)).toMatchObject({ failed: 1, rejected: 1, retries: 0, retriesInFlight: 0 })
  })
})

describe('aborts and time-outs', () => {
  test('the caller who aborts gets his reason at once, and it says nothing about the instance', async () => {
    const { balancer } = made('a')
    const controller = new CountingController()
    const reason = new Error('gone home')
    let inner: AbortSignal | undefined
    const result = balancer.run(
      (_, { signal }) => {
        inner = signal
        return new Promise(() => undefined)
      },
      { signal: controller.signal, attempts: 3 },
    )
    expect(controller.listeners).toBe(1)

    controller.abort(reason)

    expect(await reasonOf(result)).toBe(reason)
    expect(inner?.reason).toBe(reason)
    expect(controller.listeners).toBe(0)
    expect(expectBooks(balancer)).toMatchObject({ ignored: 1, failed: 0, pending: 0, retries: 0 })
  })

  test('an error that comes of the abort is no failure, nor is it retried', async () => {
    const { balancer } = made('a', 'b')
    const controller = new AbortController()
    let calls = 0
    const result = balancer.run(
      (_, { signal }) => {
        calls++
        return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(new Error('cut off'))))
      },
      { signal: controller.signal, attempts: 3 },
    )

    controller.abort('enough')

    expect(await reasonOf(result)).toBe('enough')
    expect(calls).toBe(1)
    expect(expectBooks(balancer)).toMatchObject({ ignored: 1, failed: 0 })
  })

  test('a signal that has aborted before lets nothing begin', async () => {
    const { balancer } = made('a')
    let calls = 0

    const reason = await reasonOf(balancer.run(() => void calls++, { signal: AbortSignal.abort('too late') }))

    expect(reason).toBe('too late')
    expect(calls).toBe(0)
    expect(expectBooks(balancer)).toMatchObject({ offered: 1, rejected: 1 })
  })

  test('the listener is taken off when the run is over, whatever the end', async () => {
    const { balancer } = made('a', 'b')
    const controller = new CountingController()
    const { signal } = controller

    await balancer.run(() => 'done', { signal })
    await reasonOf(balancer.run(() => Promise.reject(new Error('down')), { signal, attempts: 2 }))

    expect(controller.listeners).toBe(0)
  })

  test('an attempt that takes too long has failed, its signal aborts, and the next one goes elsewhere', async () => {
    const { balancer, clock } = made('a', 'b')
    const signals: AbortSignal[] = []
    const late = held()
    const result = balancer.run(
      ({ id }, { attempt, signal }) => {
        signals.push(signal)
        return attempt === 1 ? late.promise : Promise.resolve(id)
      },
      { timeoutMs: 100, attempts: 2 },
    )

    await clock.advance(100)
    late.resolve('late')

    expect(await result).toBe('b')
    expect(signals.map(({ aborted }) => aborted)).toEqual([true, false])
    expect(signals[0]?.reason).toMatchObject({ message: 'api: attempt 1, on a, took longer than 100 ms' })
    expect(expectBooks(balancer)).toMatchObject({ failed: 1, succeeded: 1, pending: 0 })
    expect(clock.pending).toBe(0)
  })

  test('the last time-out is what the caller gets', async () => {
    const { balancer, clock } = made('a')
    const result = reasonOf(balancer.run(() => new Promise(() => undefined), { timeoutMs: 100 }))

    await clock.advance(100)

    expect(await result).toMatchObject({ code: 'ERR_TIMEOUT', timeoutMs: 100, outcomeUnknown: true, retryable: true })
    expect(clock.pending).toBe(0)
  })

  test('a rejection that nobody looks at is no unhandledRejection', async () => {
    const { balancer } = made('a')
    const unhandled: unknown[] = []
    const collect = (reason: unknown): void => void unhandled.push(reason)
    process.on('unhandledRejection', collect)

    void balancer.run(() => Promise.reject(new Error('down')), { attempts: 2 })
    for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve))

    process.off('unhandledRejection', collect)
    expect(unhandled).toEqual([])
  })

  test('a listener may end the run whose retry it is told of', async () => {
    const { balancer } = made('a', 'b')
    const controller = new AbortController()
    balancer.on('retried', () => controller.abort('enough'))
    const seen = recordEvents(balancer, 'retried')
    const tried: string[] = []

    const reason = await reasonOf(
      balancer.run(
        async ({ id }) => {
          tried.push(id)
          throw new Error('down')
        },
        { attempts: 3, signal: controller.signal },
      ),
    )

    expect(reason).toBe('enough')
    expect(tally(tried)).toEqual({ a: 1 })
    expect(seen).toEqual(['retried b'])
    expect(expectBooks(balancer)).toMatchObject({ pending: 0, retriesInFlight: 0 })
  })
})
