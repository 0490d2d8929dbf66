import { AsyncBatcher as PacerBatcher } from '@tanstack/pacer'
import { QuotaConsumer, type UsageSink } from 'spillway'
import type { Aim, Contender, Contest, Turns } from './harness/contest.ts'
import { serveSuite } from './harness/suite-process.ts'
import { type CountedUse, type HandSums, keyOf, shuffledUses, UsageSums, type Use } from './harness/usage-sums.ts'
import { useEveryFeature } from './harness/well-used-process.ts'

// Two things are timed: events until the store has taken all of them (flush included), and the caller's own part, offers alone, with
// the flush outside the clock. Every contender takes an event as an object that is made for it, as a request handler makes one. Each
// has a loop of its own.
//
// What is by hand only sums, by user and quota type. It doesn't look whether an event is right, has no periods, and once it has summed
// the events are gone: nothing that failed could be told from the rest, retried under its id or handed to anyone. Nor has it a limit,
// stats, or an answer to what is pending.

/** What a consumer does in a turn, and whether its flush is timed. */
interface Work {
  /** Who uses what in each event. */
  readonly uses: readonly Use[]
  readonly until: 'offered' | 'stored'
}

/** A turn that accepts everything and flushes, now or once the clock has stopped. */
function turns(work: Work, sums: UsageSums, offer: () => void, flush: () => Promise<unknown>): Turns {
  if (work.until === 'offered') {
    return {
      async: false,
      turn: offer,
      check: async () => {
        await flush()
        sums.check()
      },
    }
  }
  return {
    async: true,
    turn: async () => {
      offer()
      await flush()
    },
    check: () => sums.check(),
  }
}

const spillway = (work: Work, maxBatchSize: number): Contender => ({
  name: 'spillway',
  prepare: () => {
    const { uses } = work
    const sums = new UsageSums(uses)
    const sink: UsageSink = { idempotent: true, write: ({ totals }) => sums.store(totals) }
    const consumer = new QuotaConsumer(sink, { maxBatchSize, capacity: uses.length })
    const offer = (): void => {
      const value = sums.next()
      for (let i = 0; i < uses.length; i++) {
        const { userId, quotaType } = uses[i] as Use
        if (!consumer.offer({ userId, quotaType, value })) sums.refused()
      }
    }
    return turns(work, sums, offer, () => consumer.flush())
  },
})

/** Events as an audited service has them: with their own time and the request that caused them. */
const spillwayAudited = (work: Work, maxBatchSize: number): Contender => ({
  name: 'spillway, events with timestamp and requestId',
  prepare: () => {
    const { uses } = work
    const sums = new UsageSums(uses)
    const requestIds = uses.map((_, i) => `request-${i}`)
    const sink: UsageSink = { idempotent: true, write: ({ totals }) => sums.store(totals) }
    const consumer = new QuotaConsumer(sink, { maxBatchSize, capacity: uses.length })
    const offer = (): void => {
      const value = sums.next()
      const timestamp = Date.now()
      for (let i = 0; i < uses.length; i++) {
        const { userId, quotaType } = uses[i] as Use
        const requestId = requestIds[i] as string
        if (!consumer.offer({ userId, quotaType, value, timestamp, requestId })) sums.refused()
      }
    }
    return turns(work, sums, offer, () => consumer.flush())
  },
})

const spillwayInUsedProcess = (work: Work, maxBatchSize: number): Contender => ({
  name: 'spillway',
  prepare: async () => {
    await useEveryFeature(500)
    return spillway(work, maxBatchSize).prepare()
  },
})

/** What one writes oneself at first: a sum under one text of user and quota type. */
class HandSum {
  readonly #write: (sums: HandSums) => Promise<void>
  #sums = new Map<string, number>()

  constructor(write: (sums: HandSums) => Promise<void>) {
    this.#write = write
  }

  add(use: CountedUse): void {
    const key = keyOf(use)
    const old = this.#sums.get(key)
    this.#sums.set(key, old === undefined ? use.value : old + use.value)
  }

  flush(): Promise<void> {
    const sums = this.#sums
    this.#sums = new Map()
    return this.#write(sums)
  }
}

const mapSum = (work: Work, aim?: Aim): Contender => ({
  name: 'Map sum by hand, user and type as one text',
  ...(aim && { aim }),
  prepare: () => {
    const { uses } = work
    const sums = new UsageSums(uses)
    const buffer = new HandSum(sums.store)
    const offer = (): void => {
      const value = sums.next()
      for (let i = 0; i < uses.length; i++) {
        const { userId, quotaType } = uses[i] as Use
        buffer.add({ userId, quotaType, value })
      }
    }
    return turns(work, sums, offer, () => buffer.flush())
  },
})

/** What one writes who has measured the first: it makes no text. */
class HandNestedSum {
  readonly #write: (sums: HandSums) => Promise<void>
  #sums = new Map<number, Map<string, number>>()

  constructor(write: (sums: HandSums) => Promise<void>) {
    this.#write = write
  }

  add({ userId, quotaType, value }: CountedUse): void {
    let types = this.#sums.get(userId)
    if (types === undefined) {
      types = new Map()
      this.#sums.set(userId, types)
    }
    const old = types.get(quotaType)
    types.set(quotaType, old === undefined ? value : old + value)
  }

  flush(): Promise<void> {
    const sums = this.#sums
    this.#sums = new Map()
    return this.#write(sums)
  }
}

const nestedMapSum = (work: Work, aim?: Aim): Contender => ({
  name: 'Map sum by hand, a Map of Maps',
  ...(aim && { aim }),
  prepare: () => {
    const { uses } = work
    const sums = new UsageSums(uses)
    const buffer = new HandNestedSum(sums.store)
    const offer = (): void => {
      const value = sums.next()
      for (let i = 0; i < uses.length; i++) {
        const { userId, quotaType } = uses[i] as Use
        buffer.add({ userId, quotaType, value })
      }
    }
    return turns(work, sums, offer, () => buffer.flush())
  },
})

/** The floor of what keeps the events, as a retry needs them: nothing is summed, and nothing bounded. */
const arrayPush = (work: Work): Contender => ({
  name: 'array push, unsummed',
  prepare: () => {
    const { uses } = work
    const sums = new UsageSums(uses)
    let events: CountedUse[] = []
    const offer = (): void => {
      const value = sums.next()
      for (let i = 0; i < uses.length; i++) {
        const { userId, quotaType } = uses[i] as Use
        events.push({ userId, quotaType, value })
      }
    }
    const flush = (): Promise<void> => {
      const batch = events
      events = []
      return sums.store(batch)
    }
    return turns(work, sums, offer, flush)
  },
})

/**
 * TanStack's batcher keeps the events, so its batch function sums them. It copies its items with every `addItem`: batches of 100 are near
 * its best. Every turn fills its last batch, so that no timer is ever armed.
 */
const tanstack = (work: Work): Contender => ({
  name: '@tanstack/pacer AsyncBatcher, batches of 100',
  prepare: () => {
    const { uses } = work
    const sums = new UsageSums(uses)
    const batcher = new PacerBatcher(
      (events: CountedUse[]) => {
        const batch = new Map<string, number>()
        for (const event of events) {
          const key = keyOf(event)
          batch.set(key, (batch.get(key) ?? 0) + event.value)
        }
        return sums.store(batch)
      },
      { maxSize: 100 },
    )
    let batches: Promise<unknown>[] = []
    const offer = (): void => {
      const value = sums.next()
      for (let i = 0; i < uses.length; i++) {
        const { userId, quotaType } = uses[i] as Use
        const added = batcher.addItem({ userId, quotaType, value })
        // The one that fills a batch resolves when that has been written.
        if (i % 100 === 99) batches.push(added)
      }
    }
    const flush = async (): Promise<void> => {
      await batcher.flush()
      await Promise.all(batches)
      batches = []
    }
    return turns(work, sums, offer, flush)
  },
})

const thousandKeys = shuffledUses(250, 4, 10_000)
const thousandUsers = shuffledUses(1000, 1, 10_000)
const oneKey = shuffledUses(1, 1, 10_000)
const aim: Aim = { atMost: 2.5 }

const contest = (name: string, work: Work, contenders: readonly [Contender, ...Contender[]]): Contest => ({
  name,
  operation: 'offer',
  operations: work.uses.length,
  contenders,
})

const summed = (name: string, work: Work, maxBatchSize: number, ours = spillway): Contest =>
  contest(name, work, [
    ours(work, maxBatchSize),
    mapSum(work, aim),
    // What is stored is more than a sum here: the events stay until they are. What is offered is what the caller waits for.
    nestedMapSum(work, work.until === 'offered' ? aim : undefined),
    arrayPush(work),
    tanstack(work),
  ])

const thousand = '250 users of 4 quota types, 10 events of each'
const stored: Work = { uses: thousandKeys, until: 'stored' }
const offered: Work = { uses: thousandKeys, until: 'offered' }

await serveSuite([
  summed(`${thousand}, the caller's own part, maxBatchSize 1000`, offered, 1000),
  summed(`${thousand}, until all is stored, maxBatchSize 1000`, stored, 1000),
  summed(`${thousand}, until all is stored, maxBatchSize 100`, stored, 100),
  summed(
    `${thousand}, until all is stored, in a process that has used every feature`,
    stored,
    1000,
    spillwayInUsedProcess,
  ),
  contest(`${thousand}, the caller's own part, events with timestamp and requestId`, offered, [
    spillwayAudited(offered, 1000),
    mapSum(offered),
    nestedMapSum(offered),
  ]),
  summed(
    '1000 users of one quota type, 10 events of each, until all is stored',
    { uses: thousandUsers, until: 'stored' },
    1000,
  ),
  summed('one hot key, 10000 events, until all is stored', { uses: oneKey, until: 'stored' }, 1000),
])
