import type { LoadLease, LoadLock } from '../../core/ports.js'
import { type ContractCase, expectEqual, expectThat } from './contract.js'
import { oddIds } from './usage-world.js'

/** What {@link loadLockContract} needs of an implementation. */
export interface LoadLockHarness {
  /**
   * Opens a lock. Each call gives another one of the same keys, as another process would have it, or always the same. Cases use keys of
   * their own, so nothing needs to be cleaned up between them.
   */
  open(): LoadLock | PromiseLike<LoadLock>
  /** Lets time pass, in milliseconds. */
  elapse(ms: number): void | PromiseLike<void>
  /**
   * How long a lease lasts that nobody gives back and nobody extends, in milliseconds, for locks that `openLeasing` opens. Left out where
   * leases have no end.
   */
  readonly leaseMs?: number | undefined
  /** Opens a lock whose holder has died, so that its leases end after `leaseMs`. The default is `open`. */
  openLeasing?(): LoadLock | PromiseLike<LoadLock>
}

/**
 * What every `LoadLock` must do, as cases for any test runner.
 *
 * @example
 * ```ts
 * import { FakeClock, loadLockContract, MemoryLoadLock } from 'spillway/testing'
 *
 * declare function test(name: string, run: () => Promise<void>): void
 *
 * const clock = new FakeClock()
 * const lock = new MemoryLoadLock({ clock })
 * for (const { name, run } of loadLockContract({ open: () => lock, elapse: (ms) => clock.advance(ms) })) test(name, run)
 * ```
 */
export function loadLockContract(harness: LoadLockHarness): readonly ContractCase[] {
  const cases: ContractCase[] = []
  const test: Test = (name, body) => {
    cases.push({
      name,
      run: async () => {
        const world = new World(harness)
        try {
          await body(world)
        } finally {
          await world.end()
        }
      },
    })
  }
  acquiring(test)
  waiting(test)
  abandoning(test)
  return cases
}

type Test = (name: string, body: (world: World) => Promise<void>) => void

function acquiring(test: Test): void {
  test('a key that is free is had at once, without having waited', async ({ open, take }) => {
    const lease = await take(await open(), 'a')
    expectEqual(lease?.waited, false, 'whether it waited')
  })

  test('a key that somebody has is not had by another', async ({ open, take }) => {
    const [first, second] = [await open(), await open()]
    expectThat((await take(first, 'a')) !== undefined, 'the first must get it')
    expectEqual([await take(second, 'a'), await take(first, 'a')].map(had), [false, false], 'whether others got it')
  })

  test('a key that was given back is free again', async ({ open, take, release }) => {
    const [first, second] = [await open(), await open()]
    for (const lock of [first, second, first, first]) {
      const lease = await take(lock, 'a')
      expectEqual([had(lease), lease?.waited], [true, false], 'whether it got it, and whether it waited')
      await release(lease)
    }
  })

  test('keys are apart, and are any text', async ({ open, take }) => {
    const [first, second] = [await open(), await open()]
    const keys = [...oddIds, 'a', 'A', 'a:b', 'K'.repeat(200)]
    for (const key of keys) expectThat(had(await take(first, key)), `${JSON.stringify(key)} must be free`)
    for (const key of keys) expectThat(!had(await take(second, key)), `${JSON.stringify(key)} must be taken`)
  })

  test('giving back twice takes it from nobody', async ({ open, take, release }) => {
    const [first, second, third] = [await open(), await open(), await open()]
    const lease = await take(first, 'a')
    await release(lease)
    expectThat(had(await take(second, 'a')), 'the second must get it')
    await release(lease)
    expectThat(!had(await take(third, 'a')), 'the third must not get it')
  })

  test('of many that ask at once one gets it', async ({ open, take }) => {
    const locks = await Promise.all(Array.from({ length: 10 }, () => open()))
    const leases = await Promise.all(locks.map((lock) => take(lock, 'a')))
    expectEqual(leases.filter(had).length, 1, 'how many got it')
  })
}

function waiting(test: Test): void {
  test('who waits gets it when it is given back, and is told that it waited', async (world) => {
    const { open, take, release, until, elapse } = world
    const [first, second] = [await open(), await open()]
    const lease = await take(first, 'a')
    const waits = world.follow(take(second, 'a', longMs))
    await elapse(30)
    expectEqual(waits.settled, false, 'whether it has an answer while somebody has the key')
    await release(lease)
    await until(() => waits.settled, 'the key')
    expectEqual([had(waits.lease), waits.lease?.waited], [true, true], 'whether it got it, and whether it waited')
  })

  test('who waits in vain is told so when the time is over', async (world) => {
    const { open, take, until } = world
    const [first, second] = [await open(), await open()]
    await take(first, 'a')
    const waits = world.follow(take(second, 'a', 50))
    await until(() => waits.settled, 'the answer')
    expectEqual(waits.lease, undefined, 'the answer')
  })

  test('who has waited in vain does not get it later', async (world) => {
    const { open, take, release, until, elapse } = world
    const [first, second, third] = [await open(), await open(), await open()]
    const lease = await take(first, 'a')
    const waits = world.follow(take(second, 'a', 20))
    await until(() => waits.settled, 'the answer')
    await release(lease)
    await elapse(50)
    expectThat(had(await take(third, 'a')), 'the key must be free')
  })

  test('all that wait get it in the end, one at a time', async (world) => {
    const { open, take, release, until, elapse } = world
    const locks = await Promise.all(Array.from({ length: 6 }, () => open()))
    let [holders, most, served] = [0, 0, 0]
    for (const lock of [...locks, ...locks]) {
      void (async () => {
        const lease = await take(lock, 'a', longMs)
        if (lease === undefined) return
        most = Math.max(most, ++holders)
        for (let i = 0; i < 3; i++) await undefined
        await elapse(1)
        holders--
        await release(lease)
        served++
      })()
    }
    await until(() => served === 12, 'all of them')
    expectEqual(most, 1, 'how many had it at once, at the most')
  })
}

function abandoning(test: Test): void {
  test('who gives up while it waits is let go, and does not get it later', async (world) => {
    const { open, take, release, until, elapse } = world
    const [first, second, third] = [await open(), await open(), await open()]
    const lease = await take(first, 'a')
    const controller = new AbortController()
    const waits = world.follow(take(second, 'a', longMs, controller.signal))
    await elapse(20)
    controller.abort(new Error('given up'))
    await until(() => waits.settled, 'the answer')
    expectEqual(waits.lease, undefined, 'what it got')
    await release(lease)
    await elapse(50)
    expectThat(had(await take(third, 'a')), 'the key must be free')
  })

  test('a signal that has aborted already gets nothing', async ({ open, take, elapse }) => {
    const [first, second] = [await open(), await open()]
    const lease = await take(first, 'a', longMs, AbortSignal.abort(new Error('gone')))
    expectEqual(lease, undefined, 'what it got')
    await elapse(50)
    expectThat(had(await take(second, 'a')), 'the key must be free')
  })

  test('a signal that aborts later takes nothing away', async ({ open, take, elapse }) => {
    const [first, second] = [await open(), await open()]
    const controller = new AbortController()
    expectThat(had(await take(first, 'a', 0, controller.signal)), 'it must get the key')
    controller.abort(new Error('too late'))
    await elapse(20)
    expectThat(!had(await take(second, 'a')), 'it must have the key still')
  })

  test('what a dead holder had is free after its lease', async (world) => {
    const { open, openLeasing, take, until, leaseMs } = world
    if (leaseMs === undefined) return
    const [dead, other] = [await openLeasing(), await open()]
    expectThat(had(await take(dead, 'a')), 'it must get the key')
    expectThat(!had(await take(other, 'a')), 'it must have the key at first')
    const waits = world.follow(take(other, 'a', Math.max(longMs, 3 * leaseMs)))
    await until(() => waits.settled, 'the end of the lease')
    expectThat(had(waits.lease), 'the other must get the key')
  })
}

/** Longer than any case takes. */
const longMs = 20_000

/** One case's surroundings: locks, and keys that no other case uses. */
class World {
  readonly leaseMs: number | undefined
  readonly #harness: LoadLockHarness
  readonly #prefix: string = `${crypto.randomUUID()}:`
  readonly #leases: LoadLease[] = []

  constructor(harness: LoadLockHarness) {
    this.#harness = harness
    this.leaseMs = harness.leaseMs
  }

  open = async (): Promise<LoadLock> => this.#harness.open()

  openLeasing = async (): Promise<LoadLock> => (this.#harness.openLeasing ?? this.#harness.open)()

  elapse = async (ms: number): Promise<void> => this.#harness.elapse(ms)

  /** Asks for a key, and lets time pass until there is an answer. A rejection means the same as none. */
  take = async (
    lock: LoadLock,
    key: string,
    waitMs = 0,
    signal: AbortSignal = new AbortController().signal,
  ): Promise<LoadLease | undefined> => {
    try {
      const lease = await lock.acquire(this.#prefix + key, { waitMs, signal })
      if (lease !== undefined) this.#leases.push(lease)
      return lease
    } catch {
      return undefined
    }
  }

  release = async (lease: LoadLease | undefined): Promise<void> => {
    // What it answers is of no concern, and so is whether it fails: but the next one asks when it is done.
    await Promise.resolve(lease?.release()).catch(() => undefined)
  }

  follow(answer: Promise<LoadLease | undefined>): { settled: boolean; lease: LoadLease | undefined } {
    const followed: { settled: boolean; lease: LoadLease | undefined } = { settled: false, lease: undefined }
    void answer.then((lease) => Object.assign(followed, { settled: true, lease }))
    return followed
  }

  /** Waits for a condition, for thirty seconds at the most. */
  until = async (condition: () => boolean, what: string): Promise<void> => {
    for (let waitedMs = 0; !condition(); waitedMs += 5) {
      expectThat(waitedMs < 30_000, `waited in vain for ${what}`)
      await this.#harness.elapse(5)
    }
  }

  async end(): Promise<void> {
    await Promise.all(this.#leases.map((lease) => this.release(lease)))
  }
}

function had(lease: LoadLease | undefined): boolean {
  return lease !== undefined
}
