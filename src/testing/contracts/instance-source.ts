import type { InstanceSource } from '../../core/ports.js'
import { type ContractCase, expectEqual, expectThat } from './contract.js'

/** A registry, or a part of it, of its own, and the source that watches it. */
export interface InstanceSourcePlace<I> {
  /** The source on this place, where no instance is at first. Called once; the source is watched several times. */
  open(): InstanceSource<I> | PromiseLike<InstanceSource<I>>
  /** Makes the instances that are there just these, by ids that cases choose: text of letters and digits. */
  change(ids: readonly string[]): void | PromiseLike<void>
  /** The id of an instance, as `change` was given it. The default is its `id`. */
  idOf?(instance: I): string
  /** Makes the registry fail, or out of reach; answers with the function that makes it work again. Left out where it can't. */
  fail?(): (() => void | PromiseLike<void>) | PromiseLike<() => void | PromiseLike<void>>
  /** Takes it apart when the case is over. */
  end?(): void | PromiseLike<void>
}

/** What {@link instanceSourceContract} needs of an implementation. */
export interface InstanceSourceHarness<I> {
  /** Makes a place of its own for each case. */
  place(): InstanceSourcePlace<I> | PromiseLike<InstanceSourcePlace<I>>
  /** Lets time pass, in milliseconds, while news travels. */
  elapse(ms: number): void | PromiseLike<void>
  /** How long to look on while nothing may happen, in milliseconds: longer than news travels. The default is 200. */
  readonly quietMs?: number | undefined
}

/**
 * What every `InstanceSource` must do, as cases for any test runner. A place that can't be made to fail passes by what is about errors.
 *
 * @example
 * ```ts
 * import { FakeClock, instanceSourceContract, MemoryInstanceSource } from 'spillway/testing'
 *
 * declare function test(name: string, run: () => Promise<void>): void
 *
 * const clock = new FakeClock()
 * const place = () => {
 *   const source = new MemoryInstanceSource<{ id: string }>([], { clock })
 *   return { open: () => source, change: (ids: readonly string[]) => source.set(ids.map((id) => ({ id }))) }
 * }
 * for (const { name, run } of instanceSourceContract({ place, elapse: (ms) => clock.advance(ms) })) test(name, run)
 * ```
 */
export function instanceSourceContract<I>(harness: InstanceSourceHarness<I>): readonly ContractCase[] {
  const cases: ContractCase[] = []
  const test: Test = (name, body) => {
    cases.push({
      name,
      run: async () => {
        const place = await harness.place()
        const world = new World(harness, place, await place.open())
        try {
          await body(world as World<unknown>)
        } finally {
          world.stop()
          await place.end?.()
        }
      },
    })
  }
  telling(test)
  stopping(test)
  failing(test)
  return cases
}

type Test = (name: string, body: (world: World<unknown>) => Promise<void>) => void

function telling(test: Test): void {
  test('the first list is of all that are there', async ({ place, watch, until }) => {
    await place.change(['a', 'b', 'c'])
    const seen = watch()
    await until(() => seen.latest() === 'a,b,c', 'the three')
    expectEqual(seen.errors.length, 0, 'how many errors there were')
  })

  test('where nobody is, the first list is empty', async ({ watch, until }) => {
    const seen = watch()
    await until(() => seen.lists.length > 0, 'a list')
    expectEqual(seen.latest(), '', 'the list')
  })

  test('watching returns nothing', async ({ source, stopped }) => {
    const context = { signal: stopped(), onError: () => undefined }
    expectEqual(typeof (source.watch(() => undefined, context) as unknown), 'undefined', 'what it returns')
  })

  test('each change is told with a whole list', async ({ place, watch, until }) => {
    await place.change(['a'])
    const seen = watch()
    for (const ids of [['a'], ['a', 'b'], ['a', 'b', 'c'], ['b'], ['d'], []]) {
      await place.change(ids)
      await until(() => seen.latest() === ids.join(), `the list of ${ids.join(' and ') || 'nobody'}`)
    }
  })

  test('of changes in quick succession the last one is told', async ({ place, watch, until, quiet }) => {
    const seen = watch()
    await until(() => seen.lists.length > 0, 'the first list')
    for (const ids of [['a'], ['a', 'b'], ['b'], ['b', 'c', 'd']]) await place.change(ids)
    await until(() => seen.latest() === 'b,c,d', 'the last change')
    await quiet()
    expectEqual(seen.latest(), 'b,c,d', 'the list in the end')
  })

  test('a list has nobody twice', async ({ place, watch, until }) => {
    const seen = watch()
    await place.change(['a', 'b'])
    await until(() => seen.latest() === 'a,b', 'the two')
    await place.change(['b', 'c'])
    await until(() => seen.latest() === 'b,c', 'the change')
    for (const ids of seen.lists) expectEqual([...new Set(ids)], ids, 'a list, each id once')
  })

  test('a list that nothing has changed is not told again', async ({ place, watch, until, quiet }) => {
    await place.change(['a', 'b'])
    const seen = watch()
    await until(() => seen.latest() === 'a,b', 'the list')
    await quiet()
    const told = seen.lists.length
    await quiet()
    expectEqual(seen.lists.length, told, 'how many lists were told')
  })

  test('a list that was told does not change any more', async ({ place, watch, until }) => {
    await place.change(['a'])
    const seen = watch()
    await until(() => seen.latest() === 'a', 'the first list')
    await place.change(['a', 'b'])
    await until(() => seen.latest() === 'a,b', 'the change')
    const now = seen.kept.map((list) => seen.idsOf(list).join())
    expectEqual(
      now,
      seen.lists.map((ids) => ids.join()),
      'the lists, as they are now',
    )
  })

  test('several watches hear of each change', async ({ place, watch, until }) => {
    await place.change(['a'])
    const [first, second] = [watch(), watch()]
    await until(() => first.latest() === 'a' && second.latest() === 'a', 'the first list, twice')
    await place.change(['b'])
    await until(() => first.latest() === 'b' && second.latest() === 'b', 'the change, twice')
    const third = watch()
    await until(() => third.latest() === 'b', 'the list, for one that came later')
  })
}

function stopping(test: Test): void {
  test('once the signal has aborted nothing is told', async ({ place, watch, until, quiet }) => {
    await place.change(['a'])
    const [stopping, going] = [watch(), watch()]
    await until(() => stopping.latest() === 'a' && going.latest() === 'a', 'the first list, twice')
    const [lists, errors] = [stopping.lists.length, stopping.errors.length]
    stopping.stop()
    await place.change(['b'])
    await until(() => going.latest() === 'b', 'the change, for who still watches')
    await quiet()
    expectEqual([stopping.lists.length, stopping.errors.length], [lists, errors], 'the lists and errors that were told')
  })

  test('a signal that aborts before the first list keeps it back', async ({ place, watch, until, quiet }) => {
    await place.change(['a'])
    const stopping = watch()
    const before = stopping.lists.length
    stopping.stop()
    const going = watch()
    await until(() => going.latest() === 'a', 'the list, for who still watches')
    await quiet()
    expectEqual([stopping.lists.length, stopping.errors.length], [before, 0], 'the lists and errors that were told')
  })

  test('a signal that has aborted already keeps everything back', async ({ place, watch, quiet }) => {
    const stopped = watch({ aborted: true })
    await quiet()
    await place.change(['a'])
    await quiet()
    expectEqual([stopped.lists, stopped.errors.length], [[], 0], 'the lists and errors that were told')
  })

  test('a watch may be stopped while it is being told', async ({ place, watch, until, quiet }) => {
    const stopping = watch({ onList: (seen) => seen.stop() })
    await until(() => stopping.lists.length > 0, 'the first list')
    const going = watch()
    await place.change(['a'])
    await until(() => going.latest() === 'a', 'the change, for who still watches')
    await quiet()
    expectEqual(stopping.lists.length, 1, 'how many lists were told')
  })
}

function failing(test: Test): void {
  test('an error is told, and no list with it', async ({ place, watch, until, quiet }) => {
    if (place.fail === undefined) return
    await place.change(['a', 'b'])
    const seen = watch()
    await until(() => seen.latest() === 'a,b', 'the list')
    const heal = await place.fail()
    await until(() => seen.errors.length > 0, 'an error')
    await quiet()
    expectThat(
      seen.lists.every((ids) => ids.join() === 'a,b'),
      'an error is not a list: it must not be told as an empty one',
    )
    await heal()
  })

  test('after an error it goes on by itself', async ({ place, watch, until }) => {
    if (place.fail === undefined) return
    await place.change(['a'])
    const seen = watch()
    await until(() => seen.latest() === 'a', 'the list')
    const heal = await place.fail()
    await until(() => seen.errors.length > 0, 'an error')
    await heal()
    await place.change(['b'])
    await until(() => seen.latest() === 'b', 'the change after the error')
  })

  test('where it fails from the first, the list comes once it works', async ({ place, watch, until }) => {
    if (place.fail === undefined) return
    await place.change(['a'])
    const heal = await place.fail()
    const seen = watch()
    await until(() => seen.errors.length > 0, 'an error')
    expectEqual(seen.lists.length, 0, 'how many lists were told')
    await heal()
    await until(() => seen.latest() === 'a', 'the list')
  })

  test('once the signal has aborted no error is told', async ({ place, watch, until, quiet }) => {
    if (place.fail === undefined) return
    await place.change(['a'])
    const [stopping, going] = [watch(), watch()]
    await until(() => stopping.latest() === 'a' && going.latest() === 'a', 'the list, twice')
    stopping.stop()
    const heal = await place.fail()
    await until(() => going.errors.length > 0, 'an error, for who still watches')
    await quiet()
    expectEqual(stopping.errors.length, 0, 'how many errors were told')
    await heal()
  })
}

/** What a watch was told. */
interface Seen<I> {
  /** The ids of each list, sorted, as they were when it was told. */
  readonly lists: string[][]
  /** The lists themselves. */
  readonly kept: (readonly I[])[]
  readonly errors: unknown[]
  idsOf(list: readonly I[]): string[]
  /** The latest list's ids. */
  latest(): string | undefined
  stop(): void
}

/** One case's surroundings. */
class World<I> {
  readonly place: InstanceSourcePlace<I>
  readonly source: InstanceSource<I>
  readonly #harness: InstanceSourceHarness<I>
  readonly #controllers: AbortController[] = []

  constructor(harness: InstanceSourceHarness<I>, place: InstanceSourcePlace<I>, source: InstanceSource<I>) {
    this.#harness = harness
    this.place = place
    this.source = source
  }

  watch = (how: { aborted?: boolean; onList?: (seen: Seen<I>) => void } = {}): Seen<I> => {
    const controller = this.#controller()
    const idsOf = (list: readonly I[]): string[] => list.map((one) => this.#idOf(one)).sort()
    const seen: Seen<I> = {
      lists: [],
      kept: [],
      errors: [],
      idsOf,
      latest: () => seen.lists.at(-1)?.join(),
      stop: () => controller.abort(new Error('the watch is over')),
    }
    if (how.aborted) seen.stop()
    this.source.watch(
      (list) => {
        seen.kept.push(list)
        seen.lists.push(idsOf(list))
        how.onList?.(seen)
      },
      { signal: controller.signal, onError: (error) => void seen.errors.push(error) },
    )
    return seen
  }

  /** The signal of a watch that ends with the case. */
  stopped = (): AbortSignal => this.#controller().signal

  /** Waits for a condition, for thirty seconds at the most. */
  until = async (condition: () => boolean, what: string): Promise<void> => {
    for (let waitedMs = 0; !condition(); waitedMs += 5) {
      expectThat(waitedMs < 30_000, `waited in vain for ${what}`)
      await this.#harness.elapse(5)
    }
  }

  /** Lets so much time pass that whatever is on its way arrives. */
  quiet = async (): Promise<void> => {
    await this.#harness.elapse(this.#harness.quietMs ?? 200)
  }

  stop(): void {
    for (const controller of this.#controllers) controller.abort(new Error('the case is over'))
  }

  #controller(): AbortController {
    const controller = new AbortController()
    this.#controllers.push(controller)
    return controller
  }

  #idOf(instance: I): string {
    return this.place.idOf === undefined ? String((instance as { id?: unknown }).id) : this.place.idOf(instance)
  }
}
