import { getEventListeners } from 'node:events'
import { CircuitBreaker, isSpillwayError } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { begin, fail } from './support/calls.js'

const down = (): Promise<never> => Promise.reject(new Error('down'))

describe("a caller's signal", () => {
  inVirtualTime('its abort rejects at once with its reason and says nothing about the circuit', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1 })
    const controller = new AbortController()
    const reason = { why: 'the user has left' }
    const call = begin(breaker, { signal: controller.signal })
    const watched = watch(call.answer)

    controller.abort(reason)
    await clock.advance(0)

    expect(watched).toEqual({ status: 'rejected', reason, times: 1 })
    expect(breaker.stats()).toMatchObject({ state: 'closed', ignored: 1, failed: 0, pending: 0 })
    call.fail()
    await clock.advance(0)
    expect(breaker.stats()).toMatchObject({ state: 'closed', ignored: 1, failed: 0, pending: 0 })
  })

  inVirtualTime('an aborted one makes no call and takes no probe', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100 })
    const reason = new Error('given up')
    let calls = 0
    const late = (): Promise<number> => breaker.execute(() => ++calls, { signal: AbortSignal.abort(reason) })

    await expect(late()).rejects.toBe(reason)
    await fail(breaker)
    await expect(late()).rejects.toBe(reason)
    await clock.advance(100)
    await expect(late()).rejects.toBe(reason)

    expect(calls).toBe(0)
    expect(breaker.stats()).toMatchObject({ state: 'half-open', ignored: 3, probes: 0, pending: 0 })
  })

  inVirtualTime('its listener is taken away, however the call ends', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 2, timeoutMs: 50 })
    const { signal } = new AbortController()
    const listeners = (): number => getEventListeners(signal, 'abort').length

    await breaker.execute(() => 'fine', { signal })
    expect(listeners()).toBe(0)
    await breaker.execute(down, { signal }).catch(() => undefined)
    expect(listeners()).toBe(0)
    const hanging = begin(breaker, { signal })
    expect(listeners()).toBe(1)
    await clock.advance(50)
    await hanging.answer.catch(() => undefined)
    expect(breaker.state).toBe('open')
    expect(listeners()).toBe(0)
    await breaker.execute(down, { signal }).catch(() => undefined)

    expect(listeners()).toBe(0)
  })

  inVirtualTime('a thousand calls with one signal are one listener', async (clock) => {
    const breaker = new CircuitBreaker({ clock })
    const { signal } = new AbortController()

    const calls = Array.from({ length: 1000 }, () => begin(breaker, { signal }))
    expect(getEventListeners(signal, 'abort').length).toBeLessThanOrEqual(1)
    for (const call of calls) call.succeed()
    await Promise.all(calls.map(({ answer }) => answer))

    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })

  inVirtualTime('one that aborts while the function begins is heard', async (clock) => {
    const breaker = new CircuitBreaker({ clock })
    const controller = new AbortController()

    const watched = watch(
      breaker.execute(
        () => {
          controller.abort('within')
          return new Promise<never>(() => undefined)
        },
        { signal: controller.signal },
      ),
    )
    await clock.advance(0)

    expect(watched).toMatchObject({ status: 'rejected', reason: 'within' })
  })
})

describe('timeoutMs', () => {
  inVirtualTime('rejects with a TimeoutError when it passes, which counts as a failure', async (clock) => {
    const breaker = new CircuitBreaker({ clock, name: 'payments', failureThreshold: 1, timeoutMs: 50 })
    const call = begin(breaker)
    const watched = watch(call.answer)

    await clock.advance(49)
    expect(watched.status).toBe('pending')
    await clock.advance(1)

    expect(isSpillwayError(watched.reason, 'ERR_TIMEOUT')).toBe(true)
    expect(watched.reason).toMatchObject({ timeoutMs: 50, retryable: true, outcomeUnknown: true })
    expect((watched.reason as Error).message).toMatch(/payments.*50 ms/)
    expect(breaker.stats()).toMatchObject({ state: 'open', failed: 1, pending: 0 })
    call.succeed()
    await clock.advance(0)
    expect(breaker.stats()).toMatchObject({ state: 'open', succeeded: 0, failed: 1 })
  })

  inVirtualTime('leaves no timer behind when the call ends in time', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 5, timeoutMs: 50 })

    await breaker.execute(() => 'fine')
    await fail(breaker)
    const aborted = new AbortController()
    const call = begin(breaker, { signal: aborted.signal })
    aborted.abort()
    await call.answer.catch(() => undefined)

    expect(clock.pending).toBe(0)
  })

  inVirtualTime('a timed-out probe opens it again and holds its slot until its function settles', async (clock) => {
    const options = { failureThreshold: 1, recoveryTimeoutMs: 100, probeTimeoutMs: 1000, timeoutMs: 50 }
    const breaker = new CircuitBreaker({ ...options, clock })
    await fail(breaker)
    await clock.advance(100)
    const probe = begin(breaker)

    await clock.advance(50)
    expect(breaker.state).toBe('open')
    await clock.advance(100)
    expect(breaker.stats().probes).toBe(1)
    expect(breaker.tryAcquire()).toBe(undefined)
    probe.succeed()
    await clock.advance(0)

    expect(breaker.tryAcquire()).toBeDefined()
  })

  inVirtualTime('or until its lease ends', async (clock) => {
    const options = { failureThreshold: 1, recoveryTimeoutMs: 100, probeTimeoutMs: 200, timeoutMs: 50 }
    const breaker = new CircuitBreaker({ ...options, clock })
    await fail(breaker)
    await clock.advance(100)
    begin(breaker)

    await clock.advance(199)
    expect(breaker.tryAcquire()).toBe(undefined)
    await clock.advance(1)

    expect(breaker.tryAcquire()).toBeDefined()
    expect(breaker.stats()).toMatchObject({ failed: 2, opened: 2 })
  })

  inVirtualTime('classifyError decides what a time-out counts as', async (clock) => {
    const seen: unknown[] = []
    const classifyError = (error: unknown): 'ignore' => {
      seen.push(error)
      return 'ignore'
    }
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, timeoutMs: 50, classifyError })
    const { answer } = begin(breaker)

    await clock.advance(50)

    await expect(answer).rejects.toMatchObject({ code: 'ERR_TIMEOUT' })
    expect(seen).toEqual([expect.objectContaining({ code: 'ERR_TIMEOUT' })])
    expect(breaker.stats()).toMatchObject({ state: 'closed', ignored: 1, failed: 0 })
  })
})

describe('context.signal', () => {
  inVirtualTime("is aborted by the caller's signal and by timeoutMs, with the reason", async (clock) => {
    const breaker = new CircuitBreaker({ clock, timeoutMs: 50 })
    const controller = new AbortController()
    const [aborted, timedOut] = [begin(breaker, { signal: controller.signal }), begin(breaker)]
    const signals = [aborted.context.signal, timedOut.context.signal] as const
    expect(signals.map((signal) => signal.aborted)).toEqual([false, false])

    controller.abort('given up')
    expect(signals[0].reason).toBe('given up')
    await clock.advance(50)

    expect(signals[1].reason).toMatchObject({ code: 'ERR_TIMEOUT' })
    expect(signals[1].reason).toBe(await timedOut.answer.catch((error: unknown) => error))
  })

  inVirtualTime('is made when first asked for, even when that is too late, and only once', async (clock) => {
    const breaker = new CircuitBreaker({ clock, timeoutMs: 50 })
    const { context } = begin(breaker)
    await clock.advance(50)

    expect(context.signal.aborted).toBe(true)
    expect(context.signal).toBe(context.signal)
  })

  test('no controller is made for a function that does not ask', async () => {
    const { AbortController: Original } = globalThis
    let made = 0
    globalThis.AbortController = class extends Original {
      constructor() {
        super()
        made++
      }
    }
    try {
      const clock = new FakeClock()
      const { signal } = new Original()
      for (const timeoutMs of [undefined, 50]) {
        const breaker = new CircuitBreaker({ clock, timeoutMs })
        await breaker.execute(() => 'fine')
        await breaker.execute(() => 'fine', { signal })
        await breaker.execute((context) => void context)
        expect(made).toBe(0)
      }
      await new CircuitBreaker().execute(({ signal }) => signal.aborted)
      expect(made).toBe(1)
    } finally {
      globalThis.AbortController = Original
    }
  })

  inVirtualTime('a lease that ends does not abort it', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100 })
    await fail(breaker)
    await clock.advance(100)
    const { signal } = begin(breaker).context

    await clock.advance(100)

    expect(breaker.state).toBe('open')
    expect(signal.aborted).toBe(false)
  })
})

describe('wrap', () => {
  inVirtualTime('hands over arguments and this, and goes through the breaker', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1 })
    const account = {
      balance: 3,
      plus: breaker.wrap(function (this: unknown, ...amounts: number[]) {
        return amounts.reduce((sum, amount) => sum + amount, (this as { balance: number }).balance)
      }),
    }
    const broken = breaker.wrap((message: string) => {
      throw new Error(message)
    })

    expect(await account.plus(1, 2)).toBe(6)
    await expect(broken('down')).rejects.toThrow('down')

    await expect(account.plus(1)).rejects.toMatchObject({ code: 'ERR_CIRCUIT_OPEN' })
    expect(breaker.stats()).toMatchObject({ succeeded: 1, failed: 1, rejected: 1 })
  })

  inVirtualTime('the last argument is never taken for options', async (clock) => {
    const breaker = new CircuitBreaker({ clock })
    const options = { signal: AbortSignal.abort() }

    expect(await breaker.wrap((given: object) => given)(options)).toBe(options)
  })
})
