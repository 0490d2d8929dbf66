import { CircuitBreaker, type Permit } from 'spillway'
import { describe, expect, test } from 'vitest'
import { inVirtualTime } from '../batcher/support/virtual-time.js'

const acquire = (breaker: CircuitBreaker): Permit => breaker.tryAcquire() as Permit

describe('tryAcquire', () => {
  inVirtualTime('outcomes of permits count as those of calls do', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 2, recoveryTimeoutMs: 100 })

    acquire(breaker).failure(new Error('down'))
    acquire(breaker).success()
    acquire(breaker).ignore()
    acquire(breaker).failure()
    expect(breaker.state).toBe('closed')
    acquire(breaker).failure()

    expect(breaker.state).toBe('open')
    expect(breaker.stats()).toMatchObject({ offered: 5, succeeded: 1, failed: 3, ignored: 1, pending: 0 })
  })

  inVirtualTime('gives none while open, half-open with every slot taken, or isolated', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100, halfOpenRequests: 2 })
    acquire(breaker).failure()

    expect(breaker.tryAcquire()).toBe(undefined)
    await clock.advance(100)
    const release = breaker.isolate()
    expect(breaker.tryAcquire()).toBe(undefined)
    release()
    expect([breaker.tryAcquire(), breaker.tryAcquire(), breaker.tryAcquire()]).toEqual([
      expect.anything(),
      expect.anything(),
      undefined,
    ])

    expect(breaker.stats()).toMatchObject({ offered: 6, rejected: 3, failed: 1, pending: 2, probes: 2 })
  })

  inVirtualTime('a probe settled twice frees one slot, not two', async (clock) => {
    const breaker = new CircuitBreaker({
      clock,
      failureThreshold: 1,
      recoveryTimeoutMs: 100,
      halfOpenRequests: 2,
      successThreshold: 5,
    })
    acquire(breaker).failure()
    await clock.advance(100)
    const [first] = [acquire(breaker), acquire(breaker)]

    first.success()
    first.success()
    first.ignore()

    expect(breaker.stats()).toMatchObject({ probes: 1, succeeded: 1, ignored: 0 })
    expect(breaker.tryAcquire()).toBeDefined()
    expect(breaker.tryAcquire()).toBe(undefined)
  })

  test.each<[string, (permit: Permit) => void, object]>([
    ['success', (permit) => permit.success(), { succeeded: 1, failed: 0, ignored: 0 }],
    ['failure', (permit) => permit.failure(), { succeeded: 0, failed: 1, ignored: 0 }],
    ['ignore', (permit) => permit.ignore(), { succeeded: 0, failed: 0, ignored: 1 }],
    ['dispose', (permit) => permit[Symbol.dispose](), { succeeded: 0, failed: 0, ignored: 1 }],
  ])('the first outcome counts, once: %s', (_, tell, books) => {
    const breaker = new CircuitBreaker({ failureThreshold: 1 })
    const permit = acquire(breaker)
    tell(permit)

    permit.failure()
    permit.success()
    permit.ignore()
    permit[Symbol.dispose]()
    tell(permit)

    expect(breaker.stats()).toMatchObject({ offered: 1, pending: 0, ...books })
  })

  test('`using` tells ignore, unless an outcome was told', () => {
    const breaker = new CircuitBreaker()
    {
      using _untold = acquire(breaker)
      expect(breaker.stats().pending).toBe(1)
    }
    {
      using told = acquire(breaker)
      told.success()
    }

    expect(breaker.stats()).toMatchObject({ succeeded: 1, ignored: 1, pending: 0 })
  })

  inVirtualTime('the error that is told reaches the events', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1 })
    const heard: unknown[] = []
    breaker.on('failed', ({ error }) => heard.push(error))
    breaker.on('opened', ({ error }) => heard.push(error))
    const error = new Error('reset by peer')

    acquire(breaker).failure(error)

    expect(heard).toEqual([error, error])
  })

  inVirtualTime(
    'an outcome of an older generation is late, and can be told of a breaker that was reset',
    async (clock) => {
      const breaker = new CircuitBreaker({ clock, failureThreshold: 1 })
      const [before, other] = [acquire(breaker), acquire(breaker)]
      breaker.reset()

      before.failure()
      other.success()

      expect(breaker.stats()).toMatchObject({ state: 'closed', succeeded: 1, failed: 1, late: 2 })
    },
  )

  test('a refusal makes no error', () => {
    const breaker = new CircuitBreaker({ failureThreshold: 1 })
    acquire(breaker).failure()
    const { captureStackTrace, prepareStackTrace } = Error
    let made = 0
    // A listener's payload has no error either.
    const events: object[] = []
    breaker.on('rejected', (event) => events.push(event))
    Error.prepareStackTrace = () => {
      made++
      return ''
    }
    try {
      expect(breaker.tryAcquire()).toBe(undefined)
    } finally {
      Error.prepareStackTrace = prepareStackTrace
      Error.captureStackTrace = captureStackTrace
    }

    expect(made).toBe(0)
    expect(events).toEqual([{ state: 'open', retryAfterMs: expect.any(Number) }])
  })
})
