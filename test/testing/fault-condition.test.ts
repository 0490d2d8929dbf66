import { commitThenDrop, everyNth, FakeClock, flaky, hanging, late, outage, seededRandom, slow } from 'spillway/testing'
import { describe, expect, test } from 'vitest'

/** Which of so many calls in a row reject. */
async function failing(fn: () => Promise<unknown>, calls: number): Promise<number[]> {
  const failed: number[] = []
  for (let call = 1; call <= calls; call++) await fn().catch(() => failed.push(call))
  return failed
}

describe('a condition', () => {
  test('of every n-th call strikes those', async () => {
    const fn = flaky(() => 'done', { when: everyNth(3) })

    expect(await failing(fn, 10)).toEqual([3, 6, 9])
  })

  test('of yours gets the number of the call', async () => {
    const fn = commitThenDrop(() => 'done', { when: (call) => call <= 2 })

    expect(await failing(fn, 5)).toEqual([1, 2])
  })

  test('may be met by some calls, of which a rate strikes a share', async () => {
    const fn = flaky(() => 'done', { when: (call) => call > 500, failureRate: 0.5, random: seededRandom(1) })

    const failed = await failing(fn, 1000)

    expect(failed.every((call) => call > 500)).toBe(true)
    expect(failed.length).toBeGreaterThan(200)
    expect(failed.length).toBeLessThan(300)
  })

  test('keeps chance from being asked where nothing depends on it', async () => {
    let asked = 0
    const random = (): number => {
      asked++
      return 0.5
    }

    await failing(
      flaky(() => 'done', { when: () => false, failureRate: 0.5, random }),
      5,
    )
    await failing(
      flaky(() => 'done', { random }),
      5,
    )
    await failing(
      flaky(() => 'done', { failureRate: 0, random }),
      5,
    )

    expect(asked).toBe(0)
  })

  test('is for every kind of fault', async () => {
    const clock = new FakeClock()
    const settled: string[] = []
    const calls = {
      slow: slow(() => 'slow', { delayMs: 10, clock, when: everyNth(2) }),
      late: late(() => 'late', { delayMs: 20, clock, when: everyNth(2) }),
      hanging: hanging(() => 'hanging', { when: everyNth(2) }),
    }

    for (const fn of Object.values(calls)) {
      for (const nth of [1, 2]) void fn().then((answer) => settled.push(`${answer} ${nth} at ${clock.now()}`))
    }
    await clock.advance(1000)

    expect(settled).toEqual(['slow 1 at 0', 'hanging 1 at 0', 'late 1 at 0', 'slow 2 at 10', 'late 2 at 20'])
  })
})

describe('an outage', () => {
  test('begins and ends when it should', async () => {
    const clock = new FakeClock()
    await clock.advance(500)
    const fn = flaky(() => 'done', { when: outage({ clock, fromMs: 1000, toMs: 3000 }) })

    const failed: number[] = []
    for (let ms = 0; ms <= 5000; ms += 500) {
      await fn().catch(() => failed.push(ms))
      await clock.advance(500)
    }

    expect(failed).toEqual([1000, 1500, 2000, 2500])
  })

  test('comes again where it is asked to', async () => {
    const clock = new FakeClock()
    const fn = flaky(() => 'done', { when: outage({ clock, toMs: 200, everyMs: 1000 }) })

    const failed: number[] = []
    for (let ms = 0; ms < 3000; ms += 100) {
      await fn().catch(() => failed.push(ms))
      await clock.advance(100)
    }

    expect(failed).toEqual([0, 100, 1000, 1100, 2000, 2100])
  })

  test('takes its time from the system unless told otherwise', () => {
    expect([outage({ toMs: 1_000_000 })(1), outage({ toMs: 0 })(1)]).toEqual([true, false])
  })
})

test.each([
  ['n', () => everyNth(0), 'n must be a whole number between 1 and'],
  ['options', () => outage(undefined as never), 'options must be an object'],
  ['toMs', () => outage({ fromMs: 5, toMs: 4 }), 'toMs must be a number between 5 and'],
  ['everyMs', () => outage({ toMs: 5, everyMs: 4 }), 'everyMs must be a number between 5 and'],
  ['everyMs', () => outage({ toMs: 0, everyMs: 0 }), 'everyMs must be a number between 1 and'],
  ['fn', () => flaky('work' as never), 'fn must be a function, got "work" (string)'],
  ['fn', () => hanging(undefined as never), 'fn must be a function'],
  ['options', () => flaky(() => 1, null as never), 'options must be an object, got null (null)'],
  ['failureRate', () => flaky(() => 1, { failureRate: 2 }), 'failureRate must be a number between 0 and 1, got 2'],
  ['failureRate', () => commitThenDrop(() => 1, { failureRate: -1 }), 'failureRate must be a number between 0 and 1'],
  ['error', () => flaky(() => 1, { error: 'boom' as never }), 'error must be a function'],
  ['when', () => flaky(() => 1, { when: 3 as never }), 'when must be a function'],
  ['random', () => flaky(() => 1, { random: 0.5 as never }), 'random must be a function'],
  ['options', () => slow(() => 1, undefined as never), 'options must be an object'],
  ['delayMs', () => slow(() => 1, {} as never), 'delayMs must be a number between 0 and 2147483647, got undefined'],
  ['delayMs', () => late(() => 1, { delayMs: Number.NaN }), 'delayMs must be a number'],
  ['rate', () => slow(() => 1, { delayMs: 1, rate: 1.5 }), 'rate must be a number between 0 and 1'],
  ['rate', () => hanging(() => 1, { rate: '1' as never }), 'rate must be a number between 0 and 1, got "1" (string)'],
])('a wrong %s is refused at once', (field, make, message) => {
  expect(make).toThrow(expect.objectContaining({ code: 'ERR_OPTION', field }))
  expect(make).toThrow(message)
})
