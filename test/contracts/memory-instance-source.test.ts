import type { InstanceSource } from 'spillway'
import {
  type ContractCase,
  FakeClock,
  type InstanceSourcePlace,
  instanceSourceContract,
  MemoryInstanceSource,
} from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { failingCases } from './support/failing-cases.js'

interface Instance {
  readonly id: string
}

type Watch = InstanceSource<Instance>['watch']

/** A place for a source in memory, or for one that stands in front of it. */
function placeOf(
  memory: MemoryInstanceSource<Instance>,
  source: InstanceSource<Instance> = memory,
): InstanceSourcePlace<Instance> {
  return {
    open: () => source,
    change: (ids) => memory.set(ids.map((id) => ({ id }))),
    fail: () => {
      memory.fail(new Error('out of reach'))
      return () => memory.heal()
    },
  }
}

describe('MemoryInstanceSource keeps the contract of instance sources', () => {
  const clock = new FakeClock()
  const harness = {
    place: () => placeOf(new MemoryInstanceSource<Instance>([], { clock })),
    elapse: (ms: number) => clock.advance(ms),
  }
  for (const { name, run } of instanceSourceContract(harness)) test(name, run)
})

describe('a source that names its instances otherwise keeps the contract of instance sources', () => {
  const clock = new FakeClock()
  const place = (): InstanceSourcePlace<string> => {
    const source = new MemoryInstanceSource<string>([], { clock })
    return { open: async () => source, change: (ids) => source.set(ids), idOf: (instance) => instance }
  }
  const harness = { place, elapse: (ms: number) => clock.advance(ms), quietMs: 1 }
  for (const { name, run } of instanceSourceContract(harness)) test(name, run)
})

/** What a broken source does otherwise than the one behind it. */
type Broken = (memory: MemoryInstanceSource<Instance>, clock: FakeClock) => Watch

/** A signal that nobody aborts. */
const unstoppable = (): AbortSignal => new AbortController().signal

/** Watches with another `onList`. */
const telling =
  (tell: (onList: Parameters<Watch>[0], list: readonly Instance[]) => void): Broken =>
  (memory) =>
  (onList, context) =>
    memory.watch((list) => tell(onList, list), context)

/** Sources that are broken in one way each, with a case that must tell. */
const mutants: readonly (readonly [string, Broken, string])[] = [
  ['leaves one out', telling((onList, list) => onList(list.slice(0, 2))), 'the first list is of all that are there'],
  [
    'says nothing where nobody is',
    telling((onList, list) => {
      if (list.length > 0) onList(list)
    }),
    'where nobody is, the first list is empty',
  ],
  [
    'returns a promise',
    (memory) => (onList, context) => {
      memory.watch(onList, context)
      return Promise.resolve() as never
    },
    'watching returns nothing',
  ],
  [
    'tells only who has come',
    (memory) => (onList, context) => {
      let known: readonly string[] = []
      memory.watch((list) => {
        onList(known.length === 0 ? list : list.filter(({ id }) => !known.includes(id)))
        known = list.map(({ id }) => id)
      }, context)
    },
    'each change is told with a whole list',
  ],
  [
    'tells of no change soon after another',
    (memory, clock) => (onList, context) => {
      let toldAt = Number.NEGATIVE_INFINITY
      memory.watch((list) => {
        if (clock.now() - toldAt < 20) return
        toldAt = clock.now()
        onList(list)
      }, context)
    },
    'of changes in quick succession the last one is told',
  ],
  [
    'adds what has come to what was there',
    (memory) => (onList, context) => {
      let known: Instance[] = []
      memory.watch((list) => {
        const gone = known.filter(({ id }) => !list.some((one) => one.id === id))
        known = [...known.filter((one) => !gone.includes(one)), ...list]
        onList(known)
      }, context)
    },
    'a list has nobody twice',
  ],
  [
    'tells what it knows every now and then',
    (memory, clock) => (onList, context) => {
      let known: readonly Instance[] | undefined
      memory.watch((list) => {
        known = list
        onList(list)
      }, context)
      const again = (): void => {
        if (context.signal.aborted) return
        if (known !== undefined) onList(known)
        clock.setTimer(again, 50)
      }
      again()
    },
    'a list that nothing has changed is not told again',
  ],
  [
    'changes a list that it has told',
    (memory) => (onList, context) => {
      const known: Instance[] = []
      memory.watch((list) => {
        known.splice(0, known.length, ...list)
        onList(known)
      }, context)
    },
    'a list that was told does not change any more',
  ],
  [
    'has one watch, the latest',
    (memory) => {
      let controller: AbortController | undefined
      return (onList, { signal, onError }) => {
        controller?.abort()
        controller = new AbortController()
        const own = controller
        signal.addEventListener('abort', () => own.abort())
        memory.watch(onList, { signal: own.signal, onError })
      }
    },
    'several watches hear of each change',
  ],
  [
    'takes no notice of its signal',
    (memory) => (onList, context) => memory.watch(onList, { ...context, signal: unstoppable() }),
    'once the signal has aborted nothing is told',
  ],
  [
    'takes its own abort for an error',
    (memory) => (onList, context) => {
      memory.watch(onList, context)
      context.signal.addEventListener('abort', () => context.onError(context.signal.reason))
    },
    'once the signal has aborted nothing is told',
  ],
  [
    'looks at its signal only from the second list on',
    (memory) => (onList, context) => {
      let isFirst = true
      memory.watch(
        (list) => {
          if (isFirst || !context.signal.aborted) onList(list)
          isFirst = false
        },
        { ...context, signal: unstoppable() },
      )
    },
    'a signal that aborts before the first list keeps it back',
  ],
  [
    'waits for a signal to abort that has aborted already',
    (memory) => (onList, context) => {
      const controller = new AbortController()
      context.signal.addEventListener('abort', () => controller.abort())
      memory.watch(onList, { ...context, signal: controller.signal })
    },
    'a signal that has aborted already keeps everything back',
  ],
  [
    'tells each list twice, whatever happens in between',
    telling((onList, list) => {
      onList(list)
      onList(list)
    }),
    'a watch may be stopped while it is being told',
  ],
  [
    'tells an error as an empty list',
    (memory) => (onList, context) =>
      memory.watch(onList, {
        ...context,
        onError: (error) => {
          context.onError(error)
          onList([])
        },
      }),
    'an error is told, and no list with it',
  ],
  [
    'gives up after an error',
    (memory) => (onList, context) => {
      const controller = new AbortController()
      context.signal.addEventListener('abort', () => controller.abort())
      const onError = (error: unknown): void => {
        controller.abort()
        context.onError(error)
      }
      memory.watch(onList, { onError, signal: controller.signal })
    },
    'after an error it goes on by itself',
  ],
  [
    'tells an empty list before it knows one',
    (memory) => (onList, context) => {
      let isFirst = true
      memory.watch(onList, {
        ...context,
        onError: (error) => {
          if (isFirst) onList([])
          isFirst = false
          context.onError(error)
        },
      })
    },
    'where it fails from the first, the list comes once it works',
  ],
  [
    'tells errors after its signal has aborted',
    (memory) => (onList, context) =>
      memory.watch(
        (list) => {
          if (!context.signal.aborted) onList(list)
        },
        { ...context, signal: unstoppable() },
      ),
    'once the signal has aborted no error is told',
  ],
]

describe('the contract of instance sources', () => {
  const casesOf = (broken: Broken): readonly ContractCase[] => {
    const clock = new FakeClock()
    return instanceSourceContract<Instance>({
      place: () => {
        const memory = new MemoryInstanceSource<Instance>([], { clock })
        return placeOf(memory, { watch: broken(memory, clock) })
      },
      elapse: (ms) => clock.advance(ms),
    })
  }
  const sound: Broken = (memory) => (onList, context) => memory.watch(onList, context)

  test.each(mutants)('fails a source that %s', async (_, broken, name) => {
    expect(await failingCases(casesOf(broken).filter((one) => one.name === name))).toEqual([name])
  })

  test('fails no source that is sound', async () => {
    expect(await failingCases(casesOf(sound))).toEqual([])
  })

  test('has no case that no broken source fails', () => {
    const names = casesOf(sound).map(({ name }) => name)

    expect(names.filter((name) => !mutants.some(([, , told]) => told === name))).toEqual([])
  })
})
