import { setMaxListeners } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { AsyncBatcher as PacerBatcher } from '@tanstack/pacer'
import DataLoader from 'dataloader'
import { AsyncBatcher } from 'spillway'
import { Answers, double } from './harness/answers.ts'
import type { Aim, Contender, Contest, Turns } from './harness/contest.ts'
import { serveSuite } from './harness/suite-process.ts'
import { useEveryFeature } from './harness/well-used-process.ts'

// What is timed is what callers wait for: from the first `add` of a turn until the last answer is there, promises, batches
// and batch calls included. Each contender has a loop of its own, so that the compiler sees one kind of callee in it.

interface Size {
  /** Adds in one turn. */
  readonly adds: number
  readonly maxBatchSize: number
}

const beside = (name: string, aim: Aim | undefined, prepare: Contender['prepare']): Contender =>
  aim === undefined ? { name, prepare } : { name, aim, prepare }

const spillway = ({ adds, maxBatchSize }: Size): Contender => ({
  name: 'spillway',
  prepare: () => {
    const batcher = new AsyncBatcher(double, { maxBatchSize })
    const answers = new Answers(adds)
    return {
      async: true,
      turn: async () => {
        const first = answers.ask()
        const waits = new Array<Promise<number>>(adds)
        for (let i = 0; i < adds; i++) waits[i] = batcher.add(first + i)
        answers.take(await Promise.all(waits))
      },
      check: () => answers.check(),
    }
  },
})

const spillwayInUsedProcess = (size: Size): Contender => ({
  name: 'spillway',
  prepare: async () => {
    await useEveryFeature(500)
    return spillway(size).prepare()
  },
})

function dataloaderTurns(loader: DataLoader<number, number>, adds: number): Turns {
  const answers = new Answers(adds)
  return {
    async: true,
    turn: async () => {
      const first = answers.ask()
      const waits = new Array<Promise<number>>(adds)
      for (let i = 0; i < adds; i++) waits[i] = loader.load(first + i)
      answers.take(await Promise.all(waits))
    },
    check: () => answers.check(),
  }
}

const dataloader = ({ adds, maxBatchSize }: Size, aim?: Aim): Contender =>
  beside('dataloader, cache off', aim, () =>
    dataloaderTurns(new DataLoader(double, { cache: false, maxBatchSize }), adds),
  )

const unlimitedDataloader = ({ adds }: Size): Contender =>
  beside('dataloader, cache off, no maxBatchSize', undefined, () =>
    dataloaderTurns(new DataLoader(double, { cache: false }), adds),
  )

/** dataloader in a process that has also used its cache, its keys and `loadMany`. */
const usedDataloader = (size: Size, aim?: Aim): Contender =>
  beside('dataloader, cache off', aim, async () => {
    for (let turn = 0; turn < 500; turn++) {
      const cached = new DataLoader(double)
      const keyed = new DataLoader<{ id: number }, number, number>((items) => double(items.map(({ id }) => id)), {
        cacheKeyFn: ({ id }) => id % 10,
      })
      await Promise.all([cached.loadMany([1, 2, 3]), cached.load(1), keyed.loadMany([{ id: 1 }, { id: 11 }])])
    }
    return dataloader(size).prepare()
  })

/**
 * TanStack's batcher answers a batch, not an item: `addItem` resolves early for all but the item that fills the batch. So
 * each item brings the functions that settle its caller's promise, as one would do by hand. `wait` stays at its default
 * and every turn fills its last batch, so that no timer is ever armed: its cheapest way.
 */
const tanstack = ({ adds, maxBatchSize }: Size, aim?: Aim): Contender =>
  beside('@tanstack/pacer AsyncBatcher', aim, () => {
    const batcher = new PacerBatcher(
      async (calls: Call[]) => {
        try {
          const results = await double(calls.map(({ item }) => item))
          for (let i = 0; i < calls.length; i++) calls[i]?.resolve(results[i] as number)
        } catch (error) {
          for (const { reject } of calls) reject(error)
        }
      },
      { maxSize: maxBatchSize },
    )
    const add = (item: number): Promise<number> =>
      new Promise((resolve, reject) => {
        void batcher.addItem({ item, resolve, reject })
      })
    const answers = new Answers(adds)
    return {
      async: true,
      turn: async () => {
        const first = answers.ask()
        const waits = new Array<Promise<number>>(adds)
        for (let i = 0; i < adds; i++) waits[i] = add(first + i)
        answers.take(await Promise.all(waits))
      },
      check: () => answers.check(),
    }
  })

interface Call {
  readonly item: number
  readonly resolve: (result: number) => void
  readonly reject: (error: unknown) => void
}

/** What one writes oneself at first: no limit on what waits, no timeouts, no stats, no close. */
class HandBatcher {
  readonly #maxBatchSize: number
  readonly #schedule: (flush: () => void) => void
  #calls: Call[] = []

  constructor(maxBatchSize: number, schedule: (flush: () => void) => void) {
    this.#maxBatchSize = maxBatchSize
    this.#schedule = schedule
  }

  add(item: number): Promise<number> {
    return new Promise((resolve, reject) => {
      if (this.#calls.length === this.#maxBatchSize) this.#calls = []
      if (this.#calls.length === 0) this.#open()
      this.#calls.push({ item, resolve, reject })
    })
  }

  #open(): void {
    const calls = this.#calls
    this.#schedule(() => {
      if (this.#calls === calls) this.#calls = []
      void this.#flush(calls)
    })
  }

  async #flush(calls: readonly Call[]): Promise<void> {
    try {
      const results = await double(calls.map(({ item }) => item))
      for (let i = 0; i < calls.length; i++) calls[i]?.resolve(results[i] as number)
    } catch (error) {
      for (const { reject } of calls) reject(error)
    }
  }
}

const byHand = ({ adds, maxBatchSize }: Size): Contender =>
  beside('by hand, queueMicrotask', undefined, () => {
    const batcher = new HandBatcher(maxBatchSize, queueMicrotask)
    const answers = new Answers(adds)
    return {
      async: true,
      turn: async () => {
        const first = answers.ask()
        const waits = new Array<Promise<number>>(adds)
        for (let i = 0; i < adds; i++) waits[i] = batcher.add(first + i)
        answers.take(await Promise.all(waits))
      },
      check: () => answers.check(),
    }
  })

/** The floor: nothing is batched, but each caller has a promise that somebody settles later. */
const barePromises = ({ adds }: Size): Contender =>
  beside('a bare promise an item', undefined, () => {
    const answers = new Answers(adds)
    return {
      async: true,
      turn: async () => {
        const first = answers.ask()
        const waits = new Array<Promise<number>>(adds)
        const settle = new Array<(result: number) => void>(adds)
        for (let i = 0; i < adds; i++) {
          waits[i] = new Promise((resolve) => {
            settle[i] = resolve
          })
        }
        queueMicrotask(() => {
          for (let i = 0; i < adds; i++) settle[i]?.(2 * (first + i))
        })
        answers.take(await Promise.all(waits))
      },
      check: () => answers.check(),
    }
  })

const plainAdds = (size: Size, aims?: { dataloader: Aim; tanstack: Aim }): Contest => ({
  name: `${size.adds} adds a turn, maxBatchSize ${size.maxBatchSize}`,
  operation: 'add',
  operations: size.adds,
  contenders: [
    spillway(size),
    dataloader(size, aims?.dataloader),
    unlimitedDataloader(size),
    tanstack(size, aims?.tanstack),
    byHand(size),
    barePromises(size),
  ],
})

const aims = { dataloader: { atMost: 1.15 }, tanstack: { timesFaster: 10 } }
const thousand: Size = { adds: 1000, maxBatchSize: 1000 }

const usedProcess: Contest = {
  name: '1000 adds a turn, maxBatchSize 100, in a process that has used every feature',
  operation: 'add',
  operations: 1000,
  contenders: [
    spillwayInUsedProcess({ adds: 1000, maxBatchSize: 100 }),
    usedDataloader({ adds: 1000, maxBatchSize: 100 }, aims.dataloader),
    byHand({ adds: 1000, maxBatchSize: 100 }),
  ],
}

interface Item {
  readonly id: number
}

const doubleIds = (items: readonly Item[]): Promise<number[]> => double(items.map(({ id }) => id))
const distinctIds = 250
const repeatedItems: readonly Item[] = Array.from({ length: 1000 }, (_, i) => ({ id: i % distinctIds }))
const checkIds = (answers: Answers): void => answers.checkEach((i) => 2 * (i % distinctIds))

/** How many items the store was asked for in a turn; more than the distinct ones means that nothing was merged. */
class Asked {
  #items = 0

  readonly answer = (items: readonly Item[]): Promise<number[]> => {
    this.#items += items.length
    return doubleIds(items)
  }

  check(): void {
    if (this.#items !== distinctIds) throw new Error(`wrong answer: asked for ${this.#items} items, not ${distinctIds}`)
    this.#items = 0
  }
}

const keyed: Contest = {
  name: `1000 adds a turn with keys, ${distinctIds} of them distinct, maxBatchSize 1000`,
  operation: 'add',
  operations: 1000,
  contenders: [
    {
      name: 'spillway, keyOf',
      prepare: () => {
        const asked = new Asked()
        const batcher = new AsyncBatcher(asked.answer, { maxBatchSize: 1000, keyOf: ({ id }) => id })
        const answers = new Answers(1000)
        return {
          async: true,
          turn: async () => {
            answers.take(await Promise.all(repeatedItems.map((item) => batcher.add(item))))
          },
          check: () => {
            checkIds(answers)
            asked.check()
          },
        }
      },
    },
    {
      // Its documented way to merge within a batch and remember nothing after it.
      name: 'dataloader, cache cleared by each batch',
      prepare: () => {
        const asked = new Asked()
        const loader: DataLoader<Item, number, number> = new DataLoader(
          (items: readonly Item[]) => {
            loader.clearAll()
            return asked.answer(items)
          },
          { maxBatchSize: 1000, cacheKeyFn: ({ id }) => id },
        )
        const answers = new Answers(1000)
        return {
          async: true,
          turn: async () => {
            answers.take(await Promise.all(repeatedItems.map((item) => loader.load(item))))
          },
          check: () => {
            checkIds(answers)
            asked.check()
          },
        }
      },
    },
    {
      // Callers of one key get the very same promise.
      name: 'by hand, a Map of promises',
      prepare: () => {
        const asked = new Asked()
        let promises = new Map<number, Promise<number>>()
        let items: Item[] = []
        let settle: ((result: number) => void)[] = []
        const flush = async (): Promise<void> => {
          const waiting = settle
          const batch = items
          promises = new Map()
          items = []
          settle = []
          const results = await asked.answer(batch)
          for (let i = 0; i < waiting.length; i++) waiting[i]?.(results[i] as number)
        }
        const add = (item: Item): Promise<number> => {
          let promise = promises.get(item.id)
          if (promise === undefined) {
            if (items.length === 0) queueMicrotask(() => void flush())
            items.push(item)
            promise = new Promise((resolve) => {
              settle.push(resolve)
            })
            promises.set(item.id, promise)
          }
          return promise
        }
        const answers = new Answers(1000)
        return {
          async: true,
          turn: async () => {
            answers.take(await Promise.all(repeatedItems.map((item) => add(item))))
          },
          check: () => {
            checkIds(answers)
            asked.check()
          },
        }
      },
    },
  ],
}

/** One call a turn. */
const lone = (add: (item: number) => Promise<number>): Turns => {
  const answers = new Answers(1)
  return {
    async: true,
    turn: async () => {
      answers.take([await add(answers.ask())])
    },
    check: () => answers.check(),
  }
}

const loneAdd: Contest = {
  name: 'a lone add on an idle batcher, until its answer',
  operation: 'add',
  operations: 1,
  contenders: [
    {
      name: 'spillway',
      prepare: () => {
        const batcher = new AsyncBatcher(double)
        return lone((item) => batcher.add(item))
      },
    },
    {
      // It doesn't wait for the turn to end, only for the promises of this tick.
      name: 'dataloader, cache off',
      prepare: () => {
        const loader = new DataLoader(double, { cache: false })
        return lone((item) => loader.load(item))
      },
    },
    {
      name: 'by hand, setImmediate',
      prepare: () => {
        const batcher = new HandBatcher(100, (flush) => void setImmediate(flush))
        return lone((item) => batcher.add(item))
      },
    },
    { name: 'a bare turn of the event loop', prepare: () => lone((item) => nextTurn(2 * item)) },
  ],
}

const spillwayWithSignals = (name: string, signals: readonly AbortSignal[]): Contender => ({
  name,
  prepare: () => {
    const batcher = new AsyncBatcher(double, { maxBatchSize: 1000 })
    const options = signals.map((signal) => ({ signal }))
    const answers = new Answers(1000)
    return {
      async: true,
      turn: async () => {
        const first = answers.ask()
        const waits = new Array<Promise<number>>(1000)
        for (let i = 0; i < 1000; i++) waits[i] = batcher.add(first + i, options[i % options.length])
        answers.take(await Promise.all(waits))
      },
      check: () => answers.check(),
    }
  },
})

/** By hand, each add with a listener of its own that is taken away again. */
const byHandWithSignals = (signals: readonly AbortSignal[]): Contender =>
  beside('by hand, a listener an add', undefined, () => {
    const batcher = new HandBatcher(1000, queueMicrotask)
    const add = (item: number, signal: AbortSignal): Promise<number> =>
      new Promise((resolve, reject) => {
        const onAbort = (): void => reject(signal.reason)
        signal.addEventListener('abort', onAbort, { once: true })
        batcher.add(item).then((result) => {
          signal.removeEventListener('abort', onAbort)
          resolve(result)
        }, reject)
      })
    const answers = new Answers(1000)
    return {
      async: true,
      turn: async () => {
        const first = answers.ask()
        const waits = new Array<Promise<number>>(1000)
        for (let i = 0; i < 1000; i++) waits[i] = add(first + i, signals[i % signals.length] as AbortSignal)
        answers.take(await Promise.all(waits))
      },
      check: () => answers.check(),
    }
  })

const makeSignals = (count: number): AbortSignal[] => Array.from({ length: count }, () => new AbortController().signal)
const ownSignals = makeSignals(1000)
const sharedSignals = makeSignals(50)
// Node warns of more than ten listeners on one signal; by hand there are as many as there are adds.
setMaxListeners(0, ...sharedSignals)

const withSignals: Contest = {
  name: '1000 adds a turn, each with a signal of its own, maxBatchSize 1000',
  operation: 'add',
  operations: 1000,
  contenders: [
    spillwayWithSignals('spillway, signal', ownSignals),
    { ...spillway(thousand), name: 'spillway, no signal' },
    byHandWithSignals(ownSignals),
  ],
}

const withSharedSignals: Contest = {
  name: '1000 adds a turn, 20 to a signal, maxBatchSize 1000',
  operation: 'add',
  operations: 1000,
  contenders: [
    spillwayWithSignals('spillway, signal', sharedSignals),
    { ...spillway(thousand), name: 'spillway, no signal' },
    byHandWithSignals(sharedSignals),
  ],
}

const numbersFrom = (first: number): number[] => Array.from({ length: 1000 }, (_, i) => first + i)
const valuesOf = (outcomes: readonly PromiseSettledResult<number>[]): (number | undefined)[] =>
  outcomes.map((outcome) => (outcome.status === 'fulfilled' ? outcome.value : undefined))

const many: Contest = {
  name: 'addMany of 1000, maxBatchSize 1000',
  operation: 'item',
  operations: 1000,
  contenders: [
    {
      name: 'spillway, addMany',
      prepare: () => {
        const batcher = new AsyncBatcher(double, { maxBatchSize: 1000 })
        const answers = new Answers(1000)
        return {
          async: true,
          turn: async () => answers.take(valuesOf(await batcher.addMany(numbersFrom(answers.ask())))),
          check: () => answers.check(),
        }
      },
    },
    {
      name: 'spillway, add and Promise.allSettled',
      prepare: () => {
        const batcher = new AsyncBatcher(double, { maxBatchSize: 1000 })
        const answers = new Answers(1000)
        return {
          async: true,
          turn: async () => {
            const waits = numbersFrom(answers.ask()).map((item) => batcher.add(item))
            answers.take(valuesOf(await Promise.allSettled(waits)))
          },
          check: () => answers.check(),
        }
      },
    },
    {
      name: 'dataloader, cache off, loadMany',
      prepare: () => {
        const loader = new DataLoader(double, { cache: false, maxBatchSize: 1000 })
        const answers = new Answers(1000)
        return {
          async: true,
          turn: async () => answers.take(await loader.loadMany(numbersFrom(answers.ask()))),
          check: () => answers.check(),
        }
      },
    },
  ],
}

await serveSuite([
  plainAdds({ adds: 1000, maxBatchSize: 100 }, aims),
  plainAdds(thousand, aims),
  plainAdds({ adds: 100, maxBatchSize: 100 }),
  usedProcess,
  keyed,
  loneAdd,
  withSignals,
  withSharedSignals,
  many,
])
