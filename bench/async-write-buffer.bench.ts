import { AsyncBatcher as PacerBatcher } from '@tanstack/pacer'
import { AsyncWriteBuffer } from 'spillway'
import type { Aim, Contender, Contest, Turns } from './harness/contest.ts'
import { serveSuite } from './harness/suite-process.ts'
import { Sums, shuffledKeys, type Write } from './harness/sums.ts'
import { useEveryFeature } from './harness/well-used-process.ts'

// Two things are timed: puts until the store has taken all of them (flush included), and the caller's own part, puts alone,
// with the flush outside the clock. Each contender has a loop of its own.

/** What a buffer does in a turn, and whether its flush is timed. */
interface Work {
  /** The key of each put. */
  readonly keys: readonly string[]
  readonly until: 'put' | 'stored'
}

/** A turn that puts everything and flushes, now or once the clock has stopped. */
function turns(work: Work, sums: Sums, put: () => void, flush: () => Promise<unknown>): Turns {
  if (work.until === 'put') {
    return {
      async: false,
      turn: put,
      check: async () => {
        await flush()
        sums.check()
      },
    }
  }
  return {
    async: true,
    turn: async () => {
      put()
      await flush()
    },
    check: () => sums.check(),
  }
}

const spillway = (work: Work, maxBatchSize: number, name = 'spillway'): Contender => ({
  name,
  prepare: () => {
    const { keys } = work
    const sums = new Sums(keys)
    const buffer = new AsyncWriteBuffer<string, number>(sums.store, {
      merge: (old, value) => old + value,
      maxBatchSize,
    })
    const put = (): void => {
      const value = sums.next()
      for (let i = 0; i < keys.length; i++) buffer.put(keys[i] as string, value)
    }
    return turns(work, sums, put, () => buffer.flush())
  },
})

const spillwayInUsedProcess = (work: Work, maxBatchSize: number): Contender => ({
  name: 'spillway',
  prepare: async () => {
    await useEveryFeature(500)
    return spillway(work, maxBatchSize).prepare()
  },
})

/** What one writes oneself at first: no limit on what waits, no retries, no stats, one write for all keys. */
class HandSum {
  readonly #write: (sums: ReadonlyMap<string, number>) => Promise<void>
  #sums = new Map<string, number>()

  constructor(write: (sums: ReadonlyMap<string, number>) => Promise<void>) {
    this.#write = write
  }

  put(key: string, value: number): void {
    const old = this.#sums.get(key)
    this.#sums.set(key, old === undefined ? value : old + value)
  }

  flush(): Promise<void> {
    const sums = this.#sums
    this.#sums = new Map()
    return this.#write(sums)
  }
}

const mapSum = (work: Work, aim?: Aim): Contender => ({
  name: 'Map sum by hand',
  ...(aim && { aim }),
  prepare: () => {
    const { keys } = work
    const sums = new Sums(keys)
    const buffer = new HandSum(sums.store)
    const put = (): void => {
      const value = sums.next()
      for (let i = 0; i < keys.length; i++) buffer.put(keys[i] as string, value)
    }
    return turns(work, sums, put, () => buffer.flush())
  },
})

/** The same with a timer that flushes, armed by the first put. No subclass, so that neither slows the other down. */
class HandTimedSum {
  readonly #write: (sums: ReadonlyMap<string, number>) => Promise<void>
  #sums = new Map<string, number>()
  #timer: NodeJS.Timeout | undefined

  constructor(write: (sums: ReadonlyMap<string, number>) => Promise<void>) {
    this.#write = write
  }

  put(key: string, value: number): void {
    this.#timer ??= setTimeout(() => void this.flush(), 100)
    const old = this.#sums.get(key)
    this.#sums.set(key, old === undefined ? value : old + value)
  }

  flush(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const sums = this.#sums
    this.#sums = new Map()
    return this.#write(sums)
  }
}

const timedMapSum = (work: Work): Contender => ({
  name: 'Map sum by hand, with a timer',
  prepare: () => {
    const { keys } = work
    const sums = new Sums(keys)
    const buffer = new HandTimedSum(sums.store)
    const put = (): void => {
      const value = sums.next()
      for (let i = 0; i < keys.length; i++) buffer.put(keys[i] as string, value)
    }
    return turns(work, sums, put, () => buffer.flush())
  },
})

/** The floor: nothing is merged, and memory grows with every put. */
const arrayPush = (work: Work): Contender => ({
  name: 'array push, unmerged',
  prepare: () => {
    const { keys } = work
    const sums = new Sums(keys)
    let writes: Write[] = []
    const put = (): void => {
      const value = sums.next()
      for (let i = 0; i < keys.length; i++) writes.push({ key: keys[i] as string, value })
    }
    const flush = (): Promise<void> => {
      const batch = writes
      writes = []
      return sums.store(batch)
    }
    return turns(work, sums, put, flush)
  },
})

/**
 * TanStack's batcher doesn't merge, so its batch function sums. It copies its items with every `addItem`: batches of 100 are
 * near its best. `wait` stays at its default and every turn fills its last batch, so that no timer is ever armed.
 */
const tanstack = (work: Work): Contender => ({
  name: '@tanstack/pacer AsyncBatcher, batches of 100',
  prepare: () => {
    const { keys } = work
    const sums = new Sums(keys)
    const batcher = new PacerBatcher(
      (writes: Write[]) => {
        const batch = new Map<string, number>()
        for (const { key, value } of writes) batch.set(key, (batch.get(key) ?? 0) + value)
        return sums.store(batch)
      },
      { maxSize: 100 },
    )
    let batches: Promise<unknown>[] = []
    const put = (): void => {
      const value = sums.next()
      for (let i = 0; i < keys.length; i++) {
        const added = batcher.addItem({ key: keys[i] as string, value })
        // The one that fills a batch resolves when that has been written.
        if (i % 100 === 99) batches.push(added)
      }
    }
    const flush = async (): Promise<void> => {
      await batcher.flush()
      await Promise.all(batches)
      batches = []
    }
    return turns(work, sums, put, flush)
  },
})

const thousandKeys = shuffledKeys(1000, 10_000)
const newKeys = shuffledKeys(1000, 1000)
const oneKey = shuffledKeys(1, 10_000)
const aim: Aim = { atMost: 2.5 }

const merged = (until: Work['until'], maxBatchSize: number): Contest => {
  const work: Work = { keys: thousandKeys, until }
  const timed = until === 'stored' ? 'until all is stored' : "the caller's own part"
  return {
    name: `1000 keys, 10 puts each in a turn, ${timed}, maxBatchSize ${maxBatchSize}`,
    operation: 'put',
    operations: thousandKeys.length,
    contenders: [spillway(work, maxBatchSize), mapSum(work, aim), timedMapSum(work), arrayPush(work), tanstack(work)],
  }
}

const usedProcess: Contest = {
  name: '1000 keys, 10 puts each in a turn, until all is stored, in a process that has used every feature',
  operation: 'put',
  operations: thousandKeys.length,
  contenders: [
    spillwayInUsedProcess({ keys: thousandKeys, until: 'stored' }, 1000),
    mapSum({ keys: thousandKeys, until: 'stored' }, aim),
    timedMapSum({ keys: thousandKeys, until: 'stored' }),
  ],
}

const others = (name: string, keys: readonly string[]): Contest => {
  const work: Work = { keys, until: 'stored' }
  return {
    name,
    operation: 'put',
    operations: keys.length,
    contenders: [spillway(work, 1000), mapSum(work), timedMapSum(work), arrayPush(work), tanstack(work)],
  }
}

await serveSuite([
  merged('stored', 1000),
  merged('stored', 100),
  merged('put', 1000),
  usedProcess,
  others('one hot key, 10000 puts in a turn, until all is stored', oneKey),
  others('1000 puts in a turn, each under a new key, until all is stored, maxBatchSize 1000', newKeys),
])
