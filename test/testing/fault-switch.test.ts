import { getEventListeners } from 'node:events'
import { FakeClock, FaultSwitch } from 'spillway/testing'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

let clock: FakeClock
let done: string[]

beforeEach(() => {
  clock = new FakeClock()
  done = []
})

afterEach(() => {
  expect(clock.pending).toBe(0)
})

const work = (what: string, _context?: { signal: AbortSignal }): string => {
  done.push(what)
  return `did ${what}`
}

describe('a FaultSwitch', () => {
  test('lets calls through until it is turned, and again when it is turned back', async () => {
    const power = new FaultSwitch({ clock })
    const fn = power.wrap(work)

    expect(await fn('a')).toBe('did a')
    power.turn('dead')
    await expect(fn('b')).rejects.toMatchObject({ code: 'ERR_STORE', outcomeUnknown: false })
    power.turn('ok')

    expect(await fn('c')).toBe('did c')
    expect(done).toEqual(['a', 'c'])
    expect([power.mode, power.calls]).toEqual(['ok', 3])
    expect(power.counts).toEqual({ ok: 2, slow: 0, dead: 1, lossy: 0, hung: 0, frozen: 0 })
  })

  test('slow starts calls later, and minds their signal', async () => {
    const power = new FaultSwitch({ clock, mode: 'slow', delayMs: 50 })
    const fn = power.wrap(work)
    const controller = new AbortController()

    const answer = fn('a')
    const given = fn('b', { signal: controller.signal }).catch((reason: unknown) => reason)
    await clock.advance(49)
    controller.abort('enough')
    expect(done).toEqual([])
    await clock.advance(1)

    expect(await answer).toBe('did a')
    expect(await given).toBe('enough')
    expect(done).toEqual(['a'])
  })

  test('lossy does the work, and nobody learns of it', async () => {
    const power = new FaultSwitch({ clock, mode: 'lossy' })

    await expect(power.wrap(work)('a')).rejects.toMatchObject({ code: 'ERR_STORE', outcomeUnknown: true })

    expect(done).toEqual(['a'])
  })

  test('hung never answers, not even when it is turned back', async () => {
    const power = new FaultSwitch({ clock, mode: 'hung' })
    let settled = 0
    void power
      .wrap(work)('a')
      .finally(() => settled++)

    power.turn('ok')
    await clock.advance(1_000_000)

    expect([settled, done]).toEqual([0, []])
  })

  test('frozen keeps calls, in their order, until it is turned to something else', async () => {
    const power = new FaultSwitch({ clock, mode: 'frozen' })
    const fn = power.wrap(work)
    const answers = [fn('a'), fn('b')]
    await clock.advance(1_000_000)
    expect(done).toEqual([])

    power.turn('frozen')
    power.turn('ok')
    expect(await Promise.all(answers)).toEqual(['did a', 'did b'])
    expect(done).toEqual(['a', 'b'])

    power.turn('frozen')
    const refused = fn('c').catch((error: unknown) => error)
    power.turn('dead')
    expect(await refused).toMatchObject({ message: 'injected failure of call 3' })
    expect(power.counts).toMatchObject({ frozen: 3, ok: 0, dead: 0 })
  })

  test('frozen lets go of a call whose signal aborts, and of its listener', async () => {
    const power = new FaultSwitch({ clock, mode: 'frozen' })
    const controller = new AbortController()

    const given = power
      .wrap(work)('a', { signal: controller.signal })
      .catch((reason: unknown) => reason)
    const late = power
      .wrap(work)('b', { signal: AbortSignal.abort('over') })
      .catch((reason: unknown) => reason)
    controller.abort('enough')

    expect([await given, await late]).toEqual(['enough', 'over'])
    power.turn('ok')
    await clock.advance(0)
    expect(done).toEqual([])
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })

  test('stands for all that talks to one server', async () => {
    const power = new FaultSwitch({ clock, error: (call) => `call ${call}` })
    const [read, write] = [power.wrap(work), power.wrap(work)]

    await read('a')
    power.turn('dead')

    expect(await write('b').catch((reason: unknown) => reason)).toBe('call 2')
    expect(await read('c').catch((reason: unknown) => reason)).toBe('call 3')
  })

  test('that turns between two questions of its counts changes only the later ones', () => {
    const power = new FaultSwitch({ clock })
    const before = power.counts
    void power.wrap(work)('a')

    expect([before.ok, power.counts.ok]).toEqual([0, 1])
  })

  test.each([
    ['options', () => new FaultSwitch(7 as never), 'options must be an object'],
    ['mode', () => new FaultSwitch({ mode: 'broken' as never }), "mode must be one of 'ok', 'slow', 'dead'"],
    ['delayMs', () => new FaultSwitch({ delayMs: -1 }), 'delayMs must be a number between 0 and'],
    ['error', () => new FaultSwitch({ error: 'boom' as never }), 'error must be a function'],
    ['mode', () => new FaultSwitch().turn('off' as never), "mode must be one of 'ok'"],
    ['fn', () => new FaultSwitch().wrap(undefined as never), 'fn must be a function'],
  ])('refuses a wrong %s at once', (field, make, message) => {
    expect(make).toThrow(expect.objectContaining({ code: 'ERR_OPTION', field }))
    expect(make).toThrow(message)
  })
})
