import { AsyncBatcher } from 'spillway'
import { FakeClock, StuckError, untilDefaults } from 'spillway/testing'
import { describe, expect, test } from 'vitest'

const sleep = (clock: FakeClock, ms: number): Promise<void> =>
  new Promise((resolve) => void clock.setTimer(resolve, ms))

describe('until', () => {
  test('lets pass as much time as the work needs, and no more', async () => {
    const clock = new FakeClock()
    const fired: number[] = []
    clock.setTimer(() => fired.push(clock.now()), 10)
    clock.setTimer(() => fired.push(clock.now()), 51)
    const batcher = new AsyncBatcher(async (items: string[]) => items, { clock, eager: false, maxWaitMs: 50 })

    expect(await clock.until(batcher.add('a'))).toBe('a')

    expect([clock.now(), fired, clock.pending]).toEqual([50, [10], 1])
  })

  test('takes work that is settled, a plain value, and a thenable of foreign make', async () => {
    const clock = new FakeClock()
    clock.setTimer(() => undefined, 10)
    // biome-ignore lint/suspicious/noThenProperty: a thenable of foreign make is what this is about.
    const foreign = { then: (resolve: (n: number) => void) => void clock.setTimer(() => resolve(3), 5) }

    expect([await clock.until(Promise.resolve(1)), await clock.until(2)]).toEqual([1, 2])
    expect(clock.now()).toBe(0)
    expect(await clock.until(foreign as unknown as PromiseLike<number>)).toBe(3)
    expect(clock.now()).toBe(5)
  })

  test('rejects as the work does', async () => {
    const clock = new FakeClock()
    const work = sleep(clock, 10).then(() => Promise.reject(new Error('boom')))

    await expect(clock.until(work)).rejects.toThrow('boom')
  })

  test('rejects with what a timer or a deferred callback throws', async () => {
    const clock = new FakeClock()
    const fail = (): never => {
      throw new Error('boom')
    }
    clock.setTimer(fail, 10)
    await expect(clock.until(sleep(clock, 20))).rejects.toThrow('boom')
    expect(clock.now()).toBe(10)

    clock.defer(fail)
    await expect(clock.until(sleep(clock, 20))).rejects.toThrow('boom')
  })

  test('says that nothing is left that could settle the work', async () => {
    const clock = new FakeClock()
    clock.setTimer(() => undefined, 10)

    const error = await clock.until(new Promise(() => {})).catch((reason: unknown) => reason)

    expect(error).toBeInstanceOf(StuckError)
    expect(error).toMatchObject({
      name: 'StuckError',
      reason: 'deadlock',
      message: 'no timer is left at 10 ms, and it has not settled',
    })
  })

  test('says that the work takes too much time, whoever lets it pass', async () => {
    const clock = new FakeClock()
    const always = async (): Promise<never> => {
      for (;;) await sleep(clock, 1000)
    }
    const advancing = async (): Promise<never> => {
      for (;;) await clock.advance(1000)
    }

    for (const work of [always(), advancing()]) {
      await expect(clock.until(work, { maxMs: 10_500 })).rejects.toMatchObject({
        reason: 'time',
        message: '10500 ms have passed, and it has not settled',
      })
    }
  })

  test.each([
    ['timers', (clock: FakeClock): void => void clock.setTimer(() => undefined, 0)],
    ['deferred callbacks', (clock: FakeClock): void => clock.defer(() => undefined)],
  ])('says that the work takes too many %s, where no time passes', async (_, burn) => {
    const clock = new FakeClock()
    let burnt = 0
    const again = (): void => {
      burnt++
      burn({
        setTimer: (_: unknown, ms: number) => clock.setTimer(again, ms),
        defer: () => clock.defer(again),
      } as never)
    }
    again()

    await expect(clock.until(new Promise(() => {}), { maxSteps: 100 })).rejects.toMatchObject({ reason: 'steps' })

    expect(burnt).toBe(101)
    expect(clock.now()).toBe(0)
  })

  test('limits what the work itself makes of the clock', async () => {
    const clock = new FakeClock()
    const idle = async (): Promise<never> => {
      for (;;) await clock.advance(0)
    }
    const again = (): void => void clock.setTimer(again, 0)

    await expect(clock.until(idle(), { maxSteps: 100 })).rejects.toMatchObject({ reason: 'steps' })
    again()
    await expect(clock.until(clock.advance(10), { maxSteps: 100 })).rejects.toMatchObject({ reason: 'steps' })
  })

  test('leaves the order to work that moves the clock itself', async () => {
    const clock = new FakeClock()
    const fired: string[] = []
    const work = async (): Promise<string> => {
      clock.setTimer(() => fired.push(`timer at ${clock.now()}`), 30)
      await clock.advance(20)
      fired.push(`work at ${clock.now()}`)
      await clock.advance(20)
      fired.push(`work at ${clock.now()}`)
      return 'done'
    }

    expect(await clock.until(work())).toBe('done')

    expect(fired).toEqual(['work at 20', 'timer at 30', 'work at 40'])
  })

  test('may be called by the work, and by several at once', async () => {
    const clock = new FakeClock()
    const inner = async (): Promise<number> => {
      await clock.until(sleep(clock, 10))
      return clock.now()
    }

    expect(await clock.until(inner())).toBe(10)
    const both = await Promise.all([clock.until(sleep(clock, 30)), clock.until(sleep(clock, 20))])
    expect([both.length, clock.now()]).toEqual([2, 40])
  })

  test('lets through what waits for turns of the event loop', async () => {
    const clock = new FakeClock()
    const turns = async (): Promise<string> => {
      for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve))
      return 'done'
    }

    expect(await clock.until(turns())).toBe('done')
  })

  test('leaves no unhandled rejection where it gives up before the work fails', async () => {
    const clock = new FakeClock()
    const work = sleep(clock, 100).then(() => Promise.reject(new Error('too late')))

    await expect(clock.until(work, { maxMs: 10 })).rejects.toMatchObject({ reason: 'time' })
    await clock.advance(1000)
  })

  test('refuses wrong options, by a rejection', async () => {
    const clock = new FakeClock()

    await expect(clock.until(1, 7 as never)).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'options' })
    await expect(clock.until(1, { maxMs: -1 })).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'maxMs' })
    await expect(clock.until(1, { maxSteps: 0 })).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'maxSteps' })
    expect(untilDefaults).toEqual({ maxMs: 86_400_000, maxSteps: 1_000_000 })
  })
})

describe('step', () => {
  test('never fires what is never due', async () => {
    const clock = new FakeClock()
    clock.setTimer(() => undefined, Number.POSITIVE_INFINITY)

    expect([await clock.step(), clock.now(), clock.pending]).toEqual([false, 0, 1])
    await expect(clock.until(new Promise(() => {}))).rejects.toMatchObject({ reason: 'deadlock' })
  })

  test('fires one timer, the next one, whenever it is due', async () => {
    const clock = new FakeClock()
    const fired: string[] = []
    clock.setTimer(() => fired.push('b'), 3_600_000)
    clock.setTimer(() => fired.push('a'), 10)
    clock.setTimer(() => fired.push('c'), 3_600_000)

    const steps: unknown[] = []
    for (let i = 0; i < 4; i++) steps.push([await clock.step(), clock.now(), fired.join('')])

    expect(steps).toEqual([
      [true, 10, 'a'],
      [true, 3_600_000, 'ab'],
      [true, 3_600_000, 'abc'],
      [false, 3_600_000, 'abc'],
    ])
  })

  test('ends the turn before and after, and rejects with what was thrown', async () => {
    const clock = new FakeClock()
    const order: string[] = []
    clock.defer(() => order.push('before'))
    clock.setTimer(() => {
      clock.defer(() => order.push('after'))
      throw new Error('boom')
    }, 10)

    await expect(clock.step()).rejects.toThrow('boom')

    expect(order).toEqual(['before', 'after'])
  })

  test('counts with timers, deferred callbacks and advances as steps', async () => {
    const clock = new FakeClock()
    clock.setTimer(() => clock.defer(() => undefined), 10)
    await clock.step()
    expect(clock.steps).toBe(3)

    await clock.advance(10)

    expect(clock.steps).toBe(4)
  })
})
