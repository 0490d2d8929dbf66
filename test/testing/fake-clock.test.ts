import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'

describe('timers', () => {
  test('fire in the order of their times, and in the order of their making where those are equal', async () => {
    const clock = new FakeClock()
    const fired: string[] = []
    clock.setTimer(() => fired.push(`c at ${clock.now()}`), 20)
    clock.setTimer(() => fired.push(`a at ${clock.now()}`), 10)
    clock.setTimer(() => fired.push(`d at ${clock.now()}`), 20)
    clock.setTimer(() => fired.push(`b at ${clock.now()}`), 10)
    clock.setTimer(() => fired.push('never'), 30.1)

    await clock.advance(30)

    expect(fired).toEqual(['a at 10', 'b at 10', 'c at 20', 'd at 20'])
    expect(clock.now()).toBe(30)
    expect(clock.pending).toBe(1)
  })

  test('never fire before advance is called, not even with a delay of 0', async () => {
    const clock = new FakeClock()
    let fired = 0
    clock.setTimer(() => fired++, 0)
    await new Promise((resolve) => setTimeout(resolve, 5))

    const before = fired
    await clock.advance(0)

    expect([before, fired, clock.now()]).toEqual([0, 1, 0])
  })

  test('that a timer sets fire within the same advance, at their own times', async () => {
    const clock = new FakeClock()
    const fired: number[] = []
    const again = (): void => {
      fired.push(clock.now())
      if (fired.length < 5) clock.setTimer(again, 10)
    }
    clock.setTimer(again, 10)

    await clock.advance(35)

    expect(fired).toEqual([10, 20, 30])
    await clock.advance(15)
    expect(fired).toEqual([10, 20, 30, 40, 50])
    expect(clock.pending).toBe(0)
  })

  test('can be cancelled, before they fire, by another timer, twice, and too late', async () => {
    const clock = new FakeClock()
    const fired: string[] = []
    const cancelFirst = clock.setTimer(() => fired.push('first'), 10)
    const cancelSecond = clock.setTimer(() => fired.push('second'), 20)
    const cancelThird = clock.setTimer(() => {
      fired.push('third')
      cancelSecond()
    }, 15)

    cancelFirst()
    cancelFirst()
    await clock.advance(100)
    cancelThird()

    expect(fired).toEqual(['third'])
    expect(clock.pending).toBe(0)
  })

  test('take fractions, and a negative delay as 0', async () => {
    const clock = new FakeClock()
    const fired: number[] = []
    clock.setTimer(() => fired.push(clock.now()), 0.25)
    clock.setTimer(() => fired.push(clock.now()), -100)

    await clock.advance(0.2)
    const before = [...fired]
    await clock.advance(0.05)

    expect(before).toEqual([0])
    expect(fired).toEqual([0, 0.25])
  })
})

describe('the end of a turn', () => {
  test('comes with advance(0), which runs what was deferred, in order', async () => {
    const clock = new FakeClock()
    const ran: number[] = []
    for (let i = 0; i < 3; i++) clock.defer(() => ran.push(i))
    await new Promise((resolve) => setImmediate(resolve))

    const before = [...ran]
    await clock.advance(0)

    expect(before).toEqual([])
    expect(ran).toEqual([0, 1, 2])
  })

  test('comes after microtasks', async () => {
    const clock = new FakeClock()
    const order: string[] = []
    clock.defer(() => order.push('deferred'))
    Promise.resolve()
      .then(() => Promise.resolve())
      .then(() => order.push('microtask'))

    await clock.advance(0)

    expect(order).toEqual(['microtask', 'deferred'])
  })

  test('comes again for what is deferred while it is being run', async () => {
    const clock = new FakeClock()
    const order: string[] = []
    clock.defer(() => {
      order.push('outer')
      clock.defer(() => order.push('inner'))
      Promise.resolve().then(() => order.push('between'))
    })

    await clock.advance(0)

    expect(order).toEqual(['outer', 'between', 'inner'])
  })

  test('comes before time passes, and between timers of the same time', async () => {
    const clock = new FakeClock()
    const order: string[] = []
    clock.defer(() => order.push(`deferred at ${clock.now()}`))
    clock.setTimer(() => {
      order.push('first')
      clock.defer(() => order.push('end of its turn'))
    }, 10)
    clock.setTimer(() => order.push('second'), 10)

    await clock.advance(10)

    expect(order).toEqual(['deferred at 0', 'first', 'end of its turn', 'second'])
  })
})

test('promises settle between timers', async () => {
  const clock = new FakeClock()
  const order: string[] = []
  const sleep = (ms: number): Promise<void> => new Promise((resolve) => clock.setTimer(resolve, ms))
  const walk = async (name: string, ms: number): Promise<void> => {
    for (let i = 0; i < 3; i++) {
      await sleep(ms)
      await null
      await null
      order.push(`${name} ${clock.now()}`)
    }
  }

  const walks = [walk('a', 10), walk('b', 15)]
  await clock.advance(45)
  await Promise.all(walks)

  // At 30 both are due; b's timer was made first, at 15.
  expect(order).toEqual(['a 10', 'b 15', 'a 20', 'b 30', 'a 30', 'b 45'])
})

describe('advance', () => {
  test('calls that overlap run one after the other', async () => {
    const clock = new FakeClock()
    const fired: number[] = []
    const tick = (): void => {
      fired.push(clock.now())
      clock.setTimer(tick, 10)
    }
    const cancelled = clock.setTimer(tick, 10)

    await Promise.all([clock.advance(20), clock.advance(20), clock.advance(5)])

    expect(fired).toEqual([10, 20, 30, 40])
    expect(clock.now()).toBe(45)
    cancelled()
  })

  test('rejects with the first error that a callback threw, after everything has run', async () => {
    const clock = new FakeClock()
    const ran: string[] = []
    clock.setTimer(() => {
      throw new Error('first')
    }, 10)
    clock.setTimer(() => ran.push('timer'), 20)
    clock.setTimer(() => {
      clock.defer(() => {
        throw new Error('second')
      })
    }, 15)
    clock.setTimer(() => clock.defer(() => ran.push('deferred')), 15)

    await expect(clock.advance(30)).rejects.toThrow('first')

    expect(ran).toEqual(['deferred', 'timer'])
    expect(clock.now()).toBe(30)
    await expect(clock.advance(10)).resolves.toBeUndefined()
  })

  test.each([-1, Number.NaN, Number.POSITIVE_INFINITY, '10', undefined])('refuses %s', async (ms) => {
    const clock = new FakeClock()

    await expect(clock.advance(ms as number)).rejects.toThrow(RangeError)

    expect(clock.now()).toBe(0)
  })

  test('is quick however far it goes with nothing to do', async () => {
    const clock = new FakeClock()

    await clock.advance(365 * 86_400_000)

    expect(clock.now()).toBe(365 * 86_400_000)
  })
})

describe('pending', () => {
  test('counts timers that wait, and not what was deferred', async () => {
    const clock = new FakeClock()
    clock.defer(() => undefined)
    const cancel = clock.setTimer(() => undefined, 10)
    clock.setTimer(() => undefined, 20)

    expect(clock.pending).toBe(2)
    cancel()
    expect(clock.pending).toBe(1)
    await clock.advance(20)
    expect(clock.pending).toBe(0)
  })

  test('does not count the timer that is firing', async () => {
    const clock = new FakeClock()
    let seen: number | undefined
    clock.setTimer(() => {
      seen = clock.pending
    }, 10)

    await clock.advance(10)

    expect(seen).toBe(0)
  })
})

describe('the wall clock', () => {
  test('starts where it is told to and goes along with the monotonic one', async () => {
    const clock = new FakeClock({ wallMs: 1000 })

    await clock.advance(50)

    expect([clock.now(), clock.wallNow()]).toEqual([50, 1050])
  })

  test('starts with 2026 by default', () => {
    expect(new Date(new FakeClock().wallNow()).toISOString()).toBe('2026-01-01T00:00:00.000Z')
    expect(new FakeClock({ wallMs: undefined }).wallNow()).toBe(new FakeClock().wallNow())
  })

  test('can jump, forward and back, while monotonic time and timers do not notice', async () => {
    const clock = new FakeClock({ wallMs: 1_000_000 })
    const fired: number[] = []
    clock.setTimer(() => fired.push(clock.wallNow()), 100)
    await clock.advance(50)

    clock.setWall(500)
    expect([clock.now(), clock.wallNow()]).toEqual([50, 500])
    await clock.advance(50)

    expect(fired).toEqual([550])
    expect(clock.now()).toBe(100)
  })
})

test('a wrong option, delay or wall time is refused, and changes nothing', async () => {
  const clock = new FakeClock()
  const wrong = (call: () => unknown, message: string): void => {
    expect(call).toThrow(expect.objectContaining({ name: 'OptionError', message: expect.stringContaining(message) }))
  }

  wrong(() => new FakeClock(null as never), 'options must be')
  wrong(() => new FakeClock({ wallMs: Number.NaN }), 'wallMs must be a finite number, got NaN')
  wrong(() => clock.setWall('soon' as never), 'ms must be a finite number, got "soon" (string)')
  wrong(() => clock.setTimer(() => undefined, Number.NaN), 'delayMs must be a number, got NaN')
  wrong(() => clock.setTimer(() => undefined, undefined as never), 'delayMs must be a number, got undefined')

  await clock.advance(10)
  expect([clock.now(), clock.pending, Number.isFinite(clock.wallNow())]).toEqual([10, 0, true])
})
