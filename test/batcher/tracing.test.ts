import { AsyncLocalStorage } from 'node:async_hooks'
import {
  AsyncBatcher,
  AsyncWriteBuffer,
  type BatchTracer,
  QuotaConsumer,
  type TracedBatch,
  type UsageSink,
} from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { expectBooks, thrownBy } from './support/outcomes.js'
import { inVirtualTime } from './support/virtual-time.js'

/** Whose request it is. */
const request = new AsyncLocalStorage<string>()

/** Notes which request each item came from, and what was run. */
class Notes implements BatchTracer {
  readonly batches: TracedBatch[] = []
  entered = 0

  enter(): unknown {
    this.entered++
    return request.getStore()
  }

  run<T>(batch: TracedBatch, attempt: () => T): T {
    this.batches.push({ ...batch, origins: [...batch.origins] })
    return attempt()
  }

  get origins(): unknown[][] {
    return this.batches.map((batch) => [...batch.origins])
  }
}

const as = <T>(name: string, fn: () => T): T => request.run(name, fn)
const usage = (userId: string) => ({ userId, quotaType: 'requests', value: 1 })
const nowhere: UsageSink = { idempotent: true, write: () => undefined }

describe('a tracer sees each attempt with the origins of its items', () => {
  inVirtualTime('AsyncBatcher: add, and addMany that waited for room', async (clock) => {
    const tracer = new Notes()
    const batcher = new AsyncBatcher(async (items: string[]) => items, {
      name: 'users',
      maxBatchSize: 2,
      capacity: 2,
      concurrency: 1,
      clock,
      tracer,
    })

    const one = as('r1', () => batcher.add('a'))
    const many = as('r2', () => batcher.addMany(['b', 'c', 'd']))
    const later = as('r3', () => batcher.addMany(['e']))
    await clock.advance(0)
    await Promise.all([one, many, later])

    expect(tracer.batches.map(({ component, size }) => `${component} ${size}`)).toEqual([
      'users 2',
      'users 2',
      'users 1',
    ])
    expect(tracer.origins).toEqual([['r1', 'r2'], ['r2'], ['r3']])
    await batcher.close()
  })

  inVirtualTime('AsyncWriteBuffer: puts that were merged too, and each key once in the size', async (clock) => {
    const tracer = new Notes()
    const buffer = new AsyncWriteBuffer<string, number>(() => undefined, { merge: (a, b) => a + b, clock, tracer })

    as('r1', () => buffer.put('a', 1))
    as('r2', () => buffer.put('a', 1))
    as('r3', () => buffer.put('b', 1))
    await buffer.close()

    expect(tracer.batches).toEqual([{ component: 'async-write-buffer', size: 2, origins: ['r1', 'r2', 'r3'] }])
  })

  inVirtualTime('QuotaConsumer: offer, and publish that waited for room', async (clock) => {
    const tracer = new Notes()
    const consumer = new QuotaConsumer(nowhere, { maxBatchSize: 2, capacity: 2, concurrency: 1, clock, tracer })

    as('r1', () => consumer.offer(usage('ann')))
    const published = ['r2', 'r3', 'r4'].map((name) => as(name, () => consumer.publish(usage(name))))
    await clock.advance(0)
    await Promise.all(published)
    await consumer.close()

    expect(tracer.origins.flat()).toEqual(['r1', 'r2', 'r3', 'r4'])
    expect(tracer.batches.every(({ component }) => component === 'quota-consumer')).toBe(true)
  })

  inVirtualTime('a retry and the halves of a bisected batch are attempts of their own', async (clock) => {
    const tracer = new Notes()
    const batcher = new AsyncBatcher(
      async (items: string[]) => {
        if (items.includes('poison')) throw new Error('poison')
        return items
      },
      { bisect: true, clock, tracer },
    )

    const settled = as('r1', () => batcher.addMany(['a', 'poison']))
    await clock.advance(0)

    expect((await settled).map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
    expect(tracer.batches.map(({ size, origins }) => [size, origins])).toEqual([
      [2, ['r1']],
      [1, ['r1']],
      [1, ['r1']],
    ])
    await batcher.close()
  })

  inVirtualTime('an item that leads nowhere has no origin', async (clock) => {
    const tracer = new Notes()
    const batcher = new AsyncBatcher(async (items: string[]) => items, { clock, tracer })

    const added = [batcher.add('a'), as('r1', () => batcher.add('b'))]
    await clock.advance(0)
    await Promise.all(added)

    expect(tracer.batches).toEqual([{ component: 'async-batcher', size: 2, origins: ['r1'] }])
    await batcher.close()
  })

  inVirtualTime('of a large batch the first 128 origins are told', async (clock) => {
    const tracer = new Notes()
    const buffer = new AsyncWriteBuffer<string, number>(() => undefined, { merge: (a, b) => a + b, clock, tracer })

    for (let n = 0; n < 1000; n++) as(`r${n}`, () => buffer.put(`key ${n % 50}`, 1))
    await buffer.close()

    expect(tracer.origins).toEqual([Array.from({ length: 128 }, (_, n) => `r${n}`)])
    expect(tracer.entered).toBe(1000)
  })
})

inVirtualTime(
  'what does its work when it is asked for it does that once, though the tracer asks too',
  async (clock) => {
    let done = 0
    const lazy = (items: readonly string[]): PromiseLike<string[]> => ({
      // biome-ignore lint/suspicious/noThenProperty: query builders are like that
      then: (resolve, reject) => {
        done++
        return Promise.resolve([...items]).then(resolve, reject)
      },
    })
    const tracer: BatchTracer = {
      enter: () => undefined,
      run: (_, attempt) => {
        const answer = attempt()
        void (answer as PromiseLike<unknown>).then(
          () => undefined,
          () => undefined,
        )
        return answer
      },
    }
    const batcher = new AsyncBatcher(lazy, { clock, tracer })

    const added = batcher.add('a')
    await clock.advance(0)

    expect(await added).toBe('a')
    expect(done).toBe(1)
    await batcher.close()
  },
)

describe('whatever a tracer does changes no outcome', () => {
  const fail = (): never => {
    throw new Error('a bad tracer')
  }
  const tracers: Record<string, BatchTracer> = {
    'throws from enter': { enter: fail, run: (_, attempt) => attempt() },
    'throws before the attempt': { enter: () => 1, run: fail },
    'throws after the attempt': {
      enter: () => 1,
      run: (_, attempt) => {
        attempt()
        return fail()
      },
    },
    'never makes the attempt': { enter: () => 1, run: () => undefined as never },
    'makes it twice': {
      enter: () => 1,
      run: (_, attempt) => {
        attempt()
        return attempt()
      },
    },
    'answers something else': {
      enter: () => 1,
      run: (_, attempt) => {
        attempt()
        return 'else' as never
      },
    },
    'swallows its error': {
      enter: () => 1,
      run: (_, attempt) => {
        try {
          return attempt()
        } catch {
          return undefined as never
        }
      },
    },
    'makes it much later': {
      enter: () => 1,
      run: (_, attempt) => {
        queueMicrotask(() => {
          try {
            attempt()
          } catch {
            // It was told that it's too late.
          }
        })
        return undefined as never
      },
    },
  }

  test.each(Object.keys(tracers))('one that %s', async (what) => {
    const clock = new FakeClock()
    const tracer = tracers[what] as BatchTracer
    let calls = 0
    const batcher = new AsyncBatcher(
      (items: number[]) => {
        calls++
        if (items.includes(13)) throw new Error('thirteen')
        return items.map((n) => (n === 7 ? new Error('seven') : n * n))
      },
      { clock, tracer },
    )

    const good = batcher.addMany([2, 7])
    await clock.advance(0)
    const bad = batcher.addMany([13])
    await clock.advance(0)

    expect(await good).toEqual([
      { status: 'fulfilled', value: 4 },
      { status: 'rejected', reason: new Error('seven') },
    ])
    expect(await bad).toEqual([{ status: 'rejected', reason: new Error('thirteen') }])
    expect(calls).toBe(2)
    expectBooks(batcher, { offered: 3, succeeded: 1, failed: 2 })
    await batcher.close()
    expect(clock.pending).toBe(0)
  })

  test('nor a write buffer’s or a consumer’s', async () => {
    const clock = new FakeClock()
    for (const tracer of Object.values(tracers)) {
      let written = 0
      const count = (more: number): void => {
        written += more
      }
      const buffer = new AsyncWriteBuffer<string, number>((entries) => count(entries.get('a') ?? 0), {
        merge: (a, b) => a + b,
        clock,
        tracer,
      })
      const consumer = new QuotaConsumer(
        { idempotent: true, write: ({ events }) => count(events.length) },
        { clock, tracer },
      )
      for (let n = 0; n < 3; n++) {
        buffer.put('a', 1)
        consumer.offer(usage('ann'))
      }
      await buffer.close()
      await consumer.close()
      expect(written).toBe(6)
    }
  })
})

describe('the option', () => {
  test('must be a tracer, in each of the three', () => {
    const wrong: [unknown, string][] = [
      [null, 'tracer must have a method enter, got null (null)'],
      ['otel', 'tracer must have a method enter, got "otel" (string)'],
      [{ enter: () => 1 }, 'tracer must have a method run, got {} (object)'],
    ]
    for (const [tracer, message] of wrong) {
      const given = { tracer: tracer as BatchTracer }
      for (const make of [
        () => new AsyncBatcher(async (items: string[]) => items, given),
        () => new AsyncWriteBuffer<string, number>(() => undefined, { merge: (a) => a, ...given }),
        () => new QuotaConsumer(nowhere, given),
      ]) {
        expect(thrownBy(make)).toMatchObject({ message, field: 'tracer' })
      }
    }
  })

  inVirtualTime('left out or undefined costs no call', async (clock) => {
    const batcher = new AsyncBatcher(async (items: string[]) => items, { clock, tracer: undefined })
    const tracer = new Notes()
    const other = new AsyncBatcher(async (items: string[]) => items, { clock, tracer })

    const added = batcher.add('a')
    await clock.advance(0)
    await added

    expect([tracer.entered, tracer.batches.length]).toEqual([0, 0])
    await batcher.close()
    await other.close()
  })
})
