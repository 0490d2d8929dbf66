import {
  ClosableComponent,
  type CloseReport,
  Component,
  type ComponentOptions,
  type FlushReport,
  systemClock,
} from 'spillway'
import { FakeClock } from 'spillway/testing'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

let clock: FakeClock

beforeEach(() => {
  clock = new FakeClock()
})

afterEach(() => {
  expect(clock.pending).toBe(0)
})

/** The least that a closable component is: something that drains when the test says so. */
class Tank extends ClosableComponent<{ emptied: { readonly litres: number } }, { readonly litres: number }> {
  readonly calls: string[] = []
  litres = 0
  onRelease: () => unknown = () => undefined
  emptied: (error?: unknown) => void = () => undefined

  constructor(options?: ComponentOptions) {
    super('tank', options)
  }

  override stats(): { readonly litres: number } {
    return { litres: this.litres }
  }

  override flush(): Promise<FlushReport> {
    return Promise.resolve({ succeeded: 0, failed: 0, dropped: 0 })
  }

  protected override drain(): Promise<void> {
    this.calls.push('drain')
    return new Promise((resolve, reject) => {
      this.emptied = (error) => (error === undefined ? resolve() : reject(error))
    })
  }

  protected override abandon(): number {
    this.calls.push('abandon')
    const { litres } = this
    this.litres = 0
    return litres
  }

  protected override release(): void | PromiseLike<void> {
    this.calls.push('release')
    return this.onRelease() as undefined
  }
}

/** What a promise came to so far. */
function watch<T>(promise: Promise<T>): { readonly value: T | undefined } {
  const seen: { value: T | undefined } = { value: undefined }
  promise.then((value) => {
    seen.value = value
  })
  return seen
}

describe('close', () => {
  test('drains, releases once, and says so', async () => {
    const tank = new Tank({ clock })

    const closed = watch(tank.close())
    await clock.advance(60_000)
    const before = closed.value
    tank.emptied()
    await clock.advance(0)

    expect(before).toBeUndefined()
    expect(closed.value).toEqual({ drained: true, abandoned: 0 })
    expect(tank.calls).toEqual(['drain', 'release'])
  })

  test('is idempotent: later calls share the first one, and drain nothing again', async () => {
    const tank = new Tank({ clock })

    const closes = [tank.close(), tank.close(), tank[Symbol.asyncDispose]()]
    tank.emptied()
    const [first, second, third] = await Promise.all(closes)
    const later = await tank.close({ timeoutMs: 5 })

    expect([first, second, later]).toEqual([1, 2, 3].map(() => ({ drained: true, abandoned: 0 })))
    expect(third).toBeUndefined()
    expect(tank.calls).toEqual(['drain', 'release'])
  })

  test('gives up at the deadline and says how much was abandoned', async () => {
    const tank = new Tank({ clock })
    tank.litres = 7

    const closed = watch(tank.close({ timeoutMs: 100 }))
    await clock.advance(99)
    const before = [...tank.calls]
    await clock.advance(1)

    expect(before).toEqual(['drain'])
    expect(closed.value).toEqual({ drained: false, abandoned: 7 })
    expect(tank.calls).toEqual(['drain', 'abandon', 'release'])
    tank.emptied()
    await clock.advance(0)
    expect(tank.calls).toEqual(['drain', 'abandon', 'release'])
  })

  test('counts as drained when nothing was left at the deadline', async () => {
    const tank = new Tank({ clock })

    const closed = watch(tank.close({ timeoutMs: 100 }))
    await clock.advance(100)

    expect(closed.value).toEqual({ drained: true, abandoned: 0 })
  })

  test('takes a shorter deadline from a later call, never a longer one', async () => {
    const tank = new Tank({ clock })
    tank.litres = 1

    const closed = watch(tank.close())
    await clock.advance(1000)
    tank.close({ timeoutMs: 500 })
    tank.close({ timeoutMs: 5000 })
    await clock.advance(400)
    tank.close({ timeoutMs: 50 })
    await clock.advance(20)
    tank.close({ timeoutMs: 31 })
    await clock.advance(29)
    const before = closed.value
    await clock.advance(1)

    expect(before).toBeUndefined()
    expect(closed.value).toEqual({ drained: false, abandoned: 1 })
    expect(tank.calls.filter((call) => call === 'abandon')).toHaveLength(1)
  })

  test('leaves no timer behind when it drains before the deadline', async () => {
    const tank = new Tank({ clock })

    const closed = tank.close({ timeoutMs: 60_000 })
    tank.emptied()
    await closed

    expect(clock.pending).toBe(0)
  })

  test('waits for a release that takes its time', async () => {
    const tank = new Tank({ clock })
    tank.onRelease = () => new Promise<void>((resolve) => clock.setTimer(resolve, 30))

    const closed = watch(tank.close())
    tank.emptied()
    await clock.advance(29)
    const before = closed.value
    await clock.advance(1)

    expect(before).toBeUndefined()
    expect(closed.value).toEqual({ drained: true, abandoned: 0 })
  })

  test.each<[string, () => unknown]>([
    [
      'throws',
      () => {
        throw new Error('stuck valve')
      },
    ],
    ['rejects', () => Promise.reject(new Error('stuck valve'))],
    ['returns a value', () => 42],
  ])('answers though release %s', async (_, release) => {
    const tank = new Tank({ clock })
    tank.onRelease = release

    const closed = tank.close()
    tank.emptied()

    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expect(tank.calls).toEqual(['drain', 'release'])
  })

  test('answers and releases though drain rejects', async () => {
    const tank = new Tank({ clock })

    const closed = tank.close()
    tank.emptied(new Error('leak'))

    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expect(tank.calls).toEqual(['drain', 'release'])
  })

  test('rejects a wrong timeoutMs, never throws, and begins nothing', async () => {
    const tank = new Tank({ clock })
    const closes: Promise<CloseReport>[] = []

    for (const options of [{ timeoutMs: '10' }, { timeoutMs: -1 }, { timeoutMs: Number.NaN }, 'now', null]) {
      closes.push(tank.close(options as never))
    }

    for (const close of closes) await expect(close).rejects.toMatchObject({ code: 'ERR_OPTION' })
    expect(tank.calls).toEqual([])
  })

  test('takes an explicit undefined as no deadline', async () => {
    const tank = new Tank({ clock })

    const closed = tank.close({ timeoutMs: undefined })
    expect(clock.pending).toBe(0)
    tank.emptied()

    expect(await closed).toEqual({ drained: true, abandoned: 0 })
  })

  test('happens at the end of an await using block, also when the block throws', async () => {
    const tank = new Tank({ clock })
    const use = async (): Promise<void> => {
      await using inUse = tank
      queueMicrotask(() => queueMicrotask(() => inUse.emptied()))
      throw new Error('the block')
    }

    await expect(use()).rejects.toThrow('the block')
    expect(tank.calls).toEqual(['drain', 'release'])
  })
})

describe('a component', () => {
  test('has its default name, or the one that was given', () => {
    expect(new Tank({ clock }).name).toBe('tank')
    expect(new Tank({ name: 'north', clock }).name).toBe('north')
    expect(new Tank({ name: undefined }).name).toBe('tank')
    expect(new Tank().name).toBe('tank')
  })

  test('takes time and chance from the platform unless others are given', () => {
    class Probe extends Component<object, { clock: unknown; random: unknown }> {
      constructor(options?: ComponentOptions) {
        super('probe', options)
      }
      override stats(): { clock: unknown; random: unknown } {
        return { clock: this.clock, random: this.random }
      }
    }
    const random = (): number => 0

    expect(new Probe().stats()).toEqual({ clock: systemClock, random: Math.random })
    expect(new Probe({ clock, random }).stats()).toEqual({ clock, random })
  })

  test.each<[object | string, string]>([
    [{ name: 5 }, 'name must be a string, got 5 (number)'],
    [{ random: 'dice' }, 'random must be a function, got "dice" (string)'],
    [{ clock: { now: () => 0 } }, 'clock must have a method wallNow, got {} (object)'],
    [{ clock: Date }, 'clock must have a method wallNow, got Date() (function)'],
    ['options', 'options must be an object, got "options" (string)'],
  ])('refuses %j', (options, message) => {
    expect(() => new Tank(options as ComponentOptions)).toThrow(message)
  })

  test('gives listeners a way off', () => {
    class Loud extends Tank {
      shout(litres: number): void {
        this.events.emit('emptied', { litres })
      }
    }
    const tank = new Loud({ clock })
    const heard: number[] = []

    const off = tank.on('emptied', ({ litres }) => heard.push(litres))
    tank.shout(1)
    off()
    tank.shout(2)

    expect(heard).toEqual([1])
  })
})
