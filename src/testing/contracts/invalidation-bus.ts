import type { Invalidation, InvalidationBus, InvalidationLink } from '../../core/ports.js'
import { oddNames } from './cache-world.js'
import { type ContractCase, expectEqual, expectThat } from './contract.js'

/** What {@link invalidationBusContract} needs of an implementation. */
export interface InvalidationBusHarness {
  /**
   * Opens a bus. Each call may give another one, as another process would have it, or always the same; all of them carry to each
   * other. Cases use names of their own, so messages of one do the others no harm.
   */
  open(): InvalidationBus | PromiseLike<InvalidationBus>
  /** Lets time pass, in milliseconds, while messages travel. */
  elapse(ms: number): void | PromiseLike<void>
}

/** How many messages a lot has: within what a bus may hold back, beyond what one batch carries. */
const large = 3000

/**
 * What every `InvalidationBus` must do, as cases for any test runner.
 *
 * @example
 * ```ts
 * import { FakeClock, invalidationBusContract, MemoryInvalidationBus } from 'spillway/testing'
 *
 * declare function test(name: string, run: () => Promise<void>): void
 *
 * const clock = new FakeClock()
 * const bus = new MemoryInvalidationBus({ clock })
 * for (const { name, run } of invalidationBusContract({ open: () => bus, elapse: (ms) => clock.advance(ms) })) test(name, run)
 * ```
 */
export function invalidationBusContract(harness: InvalidationBusHarness): readonly ContractCase[] {
  const cases: ContractCase[] = []
  const test = (name: string, body: (world: World) => Promise<void>): void => {
    cases.push({
      name,
      run: async () => {
        const world = new World(harness)
        try {
          await body(world)
        } finally {
          world.close()
        }
      },
    })
  }
  connecting(test)
  carrying(test)
  leaving(test)
  return cases
}

type Test = (name: string, body: (world: World) => Promise<void>) => void

function connecting(test: Test): void {
  test('a link is told of a gap once it hears, and before it hears anything', async ({ end }) => {
    const first = await end()
    const second = await end()
    expectEqual([first.heard[0], second.heard[0]], ['gap', 'gap'], 'what they hear first')
    expectEqual([first.gaps, second.gaps], [1, 1], 'how many gaps they are told of')
  })

  test('connecting and publishing neither wait nor call back at once', async ({ open, key, keep, until }) => {
    const bus = await open()
    const heard: string[] = []
    const link = keep(
      bus.connect({ onInvalidations: () => void heard.push('told'), onGap: () => void heard.push('gap') }),
    )
    expectEqual(heard, [], 'what was heard within connect')
    const answer: unknown = link.publish([key('a')])
    expectEqual([typeof answer, heard.length], ['undefined', 0], 'what publish returns, and what was heard within it')
    await until(() => heard.length > 0, 'the gap')
  })

  test('what is published right after connecting is carried', async ({ end, start, key, until, open }) => {
    const listener = await end()
    const publisher = start(await open())
    publisher.link.publish([key('a')])
    await until(() => listener.names.includes('a'), 'what was published')
    expectEqual(listener.names, ['a'], 'what was heard')
  })
}

function carrying(test: Test): void {
  test('others hear in the order of publishing, and oneself does not', async ({ end, key, until }) => {
    const [a, b, c] = [await end(), await end(), await end()]
    const names = Array.from({ length: 20 }, (_, i) => `k${i}`)
    for (const name of names) a.link.publish([key(name)])
    await until(() => b.names.length === 20 && c.names.length === 20, 'what was published')
    expectEqual([b.names, c.names], [names, names], 'what the others heard')
    b.link.publish([key('end')])
    await until(() => a.names.includes('end') && c.names.includes('end'), 'the last one')
    expectEqual(a.names, ['end'], 'what the first heard')
  })

  test('two links of one bus hear each other', async ({ open, start, key, until }) => {
    const bus = await open()
    const [a, b] = [start(bus), start(bus)]
    await until(() => a.gaps === 1 && b.gaps === 1, 'both to hear')
    a.link.publish([key('from a')])
    b.link.publish([key('from b')])
    await until(() => a.names.length > 0 && b.names.length > 0, 'what the other published')
    expectEqual([a.names, b.names], [['from b'], ['from a']], 'what they heard')
  })

  test('every kind of invalidation arrives as it was', async ({ end, key, name, until }) => {
    const [a, b] = [await end(), await end()]
    const lot: Invalidation[] = [
      { ...key('plain') },
      { ...key('versioned'), version: '1767225600000123' },
      { ...key('odd version'), version: 'v:\u00e9 "1"' },
      { ...key('empty version'), version: '' },
      { kind: 'tag', tag: name('tag') },
      { kind: 'clear', namespace: name('namespace/inner') },
    ]
    a.link.publish(lot)
    await until(() => b.invalidations.length === lot.length, 'all of them')
    expectEqual(b.invalidations.map(shown), lot.map(shown), 'what was heard')
  })

  test('names are any text', async ({ end, key, name, until }) => {
    const [a, b] = [await end(), await end()]
    const lot: Invalidation[] = oddNames.flatMap((odd): Invalidation[] => [
      key(odd),
      { kind: 'tag', tag: name(odd) },
      { kind: 'clear', namespace: name(odd) },
    ])
    a.link.publish(lot)
    await until(() => b.invalidations.length === lot.length, 'all of them')
    expectEqual(b.invalidations.map(shown), lot.map(shown), 'what was heard')
  })

  test('large lots arrive whole, in order, however they are published', async ({ end, key, until }) => {
    const [a, b] = [await end(), await end()]
    const names = Array.from({ length: large }, (_, i) => `k${i}`)
    a.link.publish(names.map(key))
    await until(() => b.names.length >= large, 'the lot in one')
    expectEqual(b.names.join(), names.join(), 'what was heard')
    for (let i = 0; i < large; i += 3) {
      a.link.publish([key(`a${i}`)])
      a.link.publish([key(`b${i}`), key(`c${i}`)])
    }
    await until(() => b.names.length >= 2 * large, 'the lot in parts')
    const parts = Array.from({ length: large / 3 }, (_, i) => [`a${3 * i}`, `b${3 * i}`, `c${3 * i}`]).flat()
    expectEqual(b.names.slice(large).join(), parts.join(), 'what was heard after that')
    expectEqual([a.gaps, b.gaps], [1, 1], 'how many gaps they were told of')
  })

  test('several publish at once, and the order of each is kept', async ({ end, key, until }) => {
    const publishers = [await end(), await end(), await end()]
    const listener = await end()
    for (let i = 0; i < 50; i++) {
      for (const [p, { link }] of publishers.entries()) link.publish([key(`${p}-${i}`)])
    }
    await until(() => listener.names.length === 150, 'all of them')
    for (const [p, publisher] of publishers.entries()) {
      const own = listener.names.filter((name) => name.startsWith(`${p}-`))
      const expected = Array.from({ length: 50 }, (_, i) => `${p}-${i}`)
      expectEqual(own, expected, `what was heard of publisher ${p}`)
      await until(() => publisher.names.length === 100, 'all that the others published')
      expectThat(!publisher.names.some((name) => name.startsWith(`${p}-`)), 'a publisher must not hear itself')
    }
  })

  test('what is done to a lot after it was published changes nothing', async ({ end, key, until }) => {
    const [a, b] = [await end(), await end()]
    const lot = [key('a'), key('b')]
    a.link.publish(lot)
    lot.length = 0
    await until(() => b.names.length === 2, 'both')
    expectEqual(b.names, ['a', 'b'], 'what was heard')
  })

  test('an empty lot says nothing', async ({ end, key, until }) => {
    const [a, b] = [await end(), await end()]
    a.link.publish([])
    a.link.publish([key('a')])
    await until(() => b.names.length > 0, 'the other one')
    expectEqual(b.heard, ['gap', 'a'], 'what was heard')
  })
}

function leaving(test: Test): void {
  test('flush resolves when all is sent, and when there is nothing to send', async ({ end, key, settled, until }) => {
    const [a, b] = [await end(), await end()]
    await settled(a.link.flush(), 'a flush of nothing')
    for (let i = 0; i < 100; i++) a.link.publish([key(`k${i}`)])
    await settled(a.link.flush(), 'a flush')
    // Sent, so that whoever published it may end.
    a.link.close()
    await until(() => b.names.length === 100, 'what was flushed')
  })

  test('a closed link hears and tells nothing, and the others go on', async ({ end, key, until }) => {
    const [a, b, c] = [await end(), await end(), await end()]
    b.link.close()
    b.link.close()
    b.link.publish([key('from the closed one')])
    a.link.publish([key('a')])
    c.link.publish([key('c')])
    await until(() => c.names.length > 0 && a.names.length > 0, 'what the others published')
    expectEqual([a.names, b.names, c.names], [['c'], [], ['a']], 'what was heard')
  })

  test('a link may be closed while it is being told', async ({ open, start, end, key, until }) => {
    const b = start(await open(), (end) => end.link.close())
    const [a, c] = [await end(), await end()]
    await until(() => b.gaps === 1, 'it to hear')
    a.link.publish([key('a')])
    await until(() => b.names.length > 0 && c.names.length > 0, 'the first one')
    a.link.publish([key('b')])
    await until(() => c.names.length > 1, 'the second one')
    expectEqual([b.names, c.names], [['a'], ['a', 'b']], 'what was heard')
  })

  test('a link that is closed at once hears nothing', async ({ open, start, end, key, until }) => {
    const b = start(await open())
    b.link.close()
    const [a, c] = [await end(), await end()]
    a.link.publish([key('a')])
    await until(() => c.names.length > 0, 'what was published')
    expectEqual(b.heard, [], 'what the closed one heard')
  })

  test('a link that comes later hears what is published from then on', async ({ end, key, until }) => {
    const [a, b] = [await end(), await end()]
    a.link.publish([key('before')])
    await until(() => b.names.length > 0, 'the first one')
    const c = await end()
    a.link.publish([key('after')])
    await until(() => b.names.length > 1 && c.names.length > 0, 'the second one')
    // What is still on its way, from one server to another say, may come too: it does no harm.
    const heard = c.heard.filter((name) => name !== 'before')
    expectEqual(heard, ['gap', 'after'], 'what the later one heard')
  })
}

/** An end of the bus that writes down what it hears of its case. */
interface End {
  readonly link: InvalidationLink
  readonly invalidations: Invalidation[]
  /** The names of the invalidations, without what makes them the case's own. */
  readonly names: string[]
  /** The names, and `'gap'` for each gap. */
  readonly heard: string[]
  gaps: number
}

/** One case's surroundings: ends of the bus, and names that no other case uses. */
class World {
  readonly #harness: InvalidationBusHarness
  readonly #prefix: string = `${crypto.randomUUID()}:`
  readonly #links: InvalidationLink[] = []

  constructor(harness: InvalidationBusHarness) {
    this.#harness = harness
  }

  name = (name: string): string => `${this.#prefix}${name}`

  key = (name: string): Invalidation & { readonly kind: 'key' } => ({ kind: 'key', key: this.name(name) })

  open = async (): Promise<InvalidationBus> => this.#harness.open()

  /** Closes a link when the case is over. */
  keep = (link: InvalidationLink): InvalidationLink => {
    this.#links.push(link)
    return link
  }

  /** Makes an end, which may not hear yet. */
  start = (bus: InvalidationBus, onTold?: (end: End) => void): End => {
    const end: { -readonly [P in keyof End]: End[P] } = {
      link: undefined as never,
      invalidations: [],
      names: [],
      heard: [],
      gaps: 0,
    }
    const onInvalidations = (invalidations: readonly Invalidation[]): void => {
      for (const invalidation of invalidations) {
        const name = nameOf(invalidation)
        if (!name.startsWith(this.#prefix)) continue
        end.invalidations.push(invalidation)
        end.names.push(name.slice(this.#prefix.length))
        end.heard.push(name.slice(this.#prefix.length))
      }
      if (end.names.length > 0) onTold?.(end)
    }
    const onGap = (): void => {
      end.gaps++
      end.heard.push('gap')
    }
    end.link = this.keep(bus.connect({ onInvalidations, onGap }))
    return end
  }

  /** Makes an end of another bus, which hears. */
  end = async (): Promise<End> => {
    const end = this.start(await this.open())
    await this.until(() => end.gaps > 0, 'a link to hear')
    return end
  }

  /** Waits for a condition, for ten seconds at the most. */
  until = async (condition: () => boolean, what: string): Promise<void> => {
    for (let waitedMs = 0; !condition(); waitedMs += 5) {
      expectThat(waitedMs < 10_000, `waited in vain for ${what}`)
      await this.#harness.elapse(5)
    }
  }

  /** Waits for a promise in the same way. */
  settled = async (promise: PromiseLike<void>, what: string): Promise<void> => {
    let settled = false
    promise.then(() => {
      settled = true
    })
    await this.until(() => settled, what)
  }

  close(): void {
    for (const link of this.#links) link.close()
  }
}

function nameOf(invalidation: Invalidation): string {
  if (invalidation.kind === 'key') return invalidation.key
  return invalidation.kind === 'tag' ? invalidation.tag : invalidation.namespace
}

/** What it says, whatever the order of its properties. */
function shown(invalidation: Invalidation): readonly unknown[] {
  const version = invalidation.kind === 'key' ? (invalidation.version ?? 'none') : 'none'
  return [invalidation.kind, nameOf(invalidation), version]
}
