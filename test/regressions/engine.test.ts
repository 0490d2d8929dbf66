import { AsyncBatcher, AsyncWriteBuffer, StoreError, systemClock } from 'spillway'
import { closeOnExit } from 'spillway/process'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'

/** A promise's value, or its error's code, message or whole. */
const fate = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    (value) => value,
    (error) => error?.code ?? error?.message ?? error,
  )
const fails = async (): Promise<string[]> => {
  throw new Error('no')
}
const aRetry = { random: () => 0.99, retry: { attempts: 2, delayMs: 20_000 } }

describe('room', () => {
  test('that was promised to a ready is not given to an addMany', async () => {
    const clock = new FakeClock()
    const options = { clock, capacity: 2, maxBatchSize: 2, eager: false, maxWaitMs: 1 }
    const batcher = new AsyncBatcher(async (items: string[]) => items, options)

    const mine = fate(batcher.ready().then(() => batcher.add('mine')))
    batcher.addMany(['m1', 'm2'])
    await clock.advance(100)

    expect(await mine).toBe('mine')
  })

  test('that was promised to a ready in line is not given to the addMany behind it', async () => {
    const clock = new FakeClock()
    const slow = (items: string[]) => new Promise<string[]>((done) => void clock.setTimer(() => done(items), 10))
    const options = { clock, capacity: 2, maxBatchSize: 2, concurrency: 1, eager: false, maxWaitMs: 1 }
    const batcher = new AsyncBatcher(slow, options)
    for (const item of ['x1', 'x2']) batcher.add(item)
    await clock.advance(0)
    for (const item of ['y1', 'y2']) batcher.add(item)

    const mine = fate(batcher.ready().then(() => batcher.add('mine')))
    batcher.addMany(['m1', 'm2', 'm3'])
    await clock.advance(100)

    expect(await mine).toBe('mine')
  })
})

describe('a signal that aborts while its call comes in', () => {
  test('by keyOf ends the call', async () => {
    const clock = new FakeClock()
    const controller = new AbortController()
    const keyOf = (item: string): string => {
      controller.abort(new Error('gave up'))
      return item
    }
    const batcher = new AsyncBatcher(async (items: string[]) => items, { clock, keyOf })

    const answer = fate(batcher.add('a', { signal: controller.signal }))
    await clock.advance(200)

    expect(await answer).toBe('gave up')
  })

  test('by a listener of dropped ends the call', async () => {
    const clock = new FakeClock()
    const controller = new AbortController()
    const options = { clock, capacity: 1, overflow: 'drop-oldest' } as const
    const batcher = new AsyncBatcher(async (items: string[]) => items, options)
    batcher.on('dropped', () => controller.abort(new Error('gave up')))
    batcher.add('old')

    const answer = fate(batcher.add('a', { signal: controller.signal }))
    await clock.advance(200)

    expect(await answer).toBe('gave up')
  })

  for (const capacity of [10, 1]) {
    test(`by keyOf ends all of an addMany (capacity ${capacity})`, async () => {
      const clock = new FakeClock()
      const controller = new AbortController()
      const keyOf = (item: string): string => {
        if (item === 'b') controller.abort('gone')
        return item
      }
      const batcher = new AsyncBatcher(async (items: string[]) => items, { clock, keyOf, capacity })

      const outcomes = batcher.addMany(['b', 'c'], { signal: controller.signal })
      await clock.advance(200)

      expect((await outcomes).map(({ status }) => status)).toEqual(['rejected', 'rejected'])
      expect(batcher.stats()).toMatchObject({ pending: 0, aborted: 2 })
    })
  }
})

describe('bisect with keyOf', () => {
  test('sends no key in both halves', async () => {
    const clock = new FakeClock()
    const done: string[] = []
    const process = async (items: string[]): Promise<string[]> => {
      if (items.includes('poison')) throw new Error('poison')
      done.push(...items)
      return items
    }
    const batcher = new AsyncBatcher(process, { clock, keyOf: (item) => item, bisect: true })

    const answers = ['a', 'b', 'a', 'poison'].map((item) => fate(batcher.add(item)))
    await clock.advance(100)

    expect(await Promise.all(answers)).toEqual(['a', 'b', 'a', 'poison'])
    expect(done).toEqual(['a', 'b'])
  })

  test('takes undefined for a key', async () => {
    const clock = new FakeClock()
    let calls = 0
    const process = (): Promise<string[]> => {
      calls++
      return fails()
    }
    const batcher = new AsyncBatcher(process, { clock, keyOf: () => undefined, bisect: true })

    for (const item of ['a', 'b']) batcher.add(item)
    await clock.advance(100)

    expect(calls).toBe(1)
  })
})

test('groups take memory for their items, not for the latest batch', async () => {
  const clock = new FakeClock()
  const options = { clock, eager: false, maxBatchSize: 10_000, capacity: 20_000, groupBy: (item: number) => item }
  const batcher = new AsyncBatcher(async (items: number[]) => items, options)
  for (let i = 0; i < 10_000; i++) batcher.add(-1)
  await clock.advance(1)

  const before = process.memoryUsage().heapUsed
  for (let i = 0; i < 2000; i++) batcher.add(i)
  const megabytes = (process.memoryUsage().heapUsed - before) / 1e6
  await batcher.close()

  // 2000 arrays of 10 000 would be 160.
  expect(megabytes).toBeLessThan(40)
})

test('a key that was held back joins its own group, though its shard has changed', async () => {
  const clock = new FakeClock()
  const shards = new Map([
    ['a', 1],
    ['c', 1],
  ])
  const batches: string[][] = []
  const write = (entries: ReadonlyMap<string, number>): Promise<void> => {
    batches.push([...entries.keys()])
    return new Promise((done) => void clock.setTimer(done, 50))
  }
  const groupBy = (key: string): unknown => shards.get(key)
  const options = { clock, merge: (_old: number, value: number) => value, concurrency: 2, groupBy, maxWaitMs: 20 }
  const buffer = new AsyncWriteBuffer<string, number>(write, options)

  buffer.put('a', 1)
  await clock.advance(21)
  shards.set('a', 2)
  buffer.put('a', 2)
  await clock.advance(39)
  buffer.put('c', 1)
  await clock.advance(200)

  expect(batches).toEqual([['a'], ['a'], ['c']])
})

describe('close', () => {
  test('by a listener of retried cuts that back-off short', async () => {
    const clock = new FakeClock()
    const batcher = new AsyncBatcher(fails, { clock, ...aRetry })
    let closed = false
    batcher.on('retried', () => {
      batcher.close().then(() => {
        closed = true
      })
    })

    batcher.add('a')
    await clock.advance(10)

    expect(closed).toBe(true)
  })

  test('never calls the batch function on its own stack', async () => {
    const clock = new FakeClock()
    let inside = false
    const calledInside: boolean[] = []
    const process = (): Promise<string[]> => {
      calledInside.push(inside)
      return fails()
    }
    const batcher = new AsyncBatcher(process, { clock, ...aRetry })
    batcher.add('a')
    await clock.advance(10)

    inside = true
    batcher.close()
    inside = false
    await clock.advance(0)

    expect(calledInside).toEqual([false, false])
  })

  test('with a deadline names in each failed event what its batch id stands for', async () => {
    const clock = new FakeClock()
    const process = (items: string[]): Promise<string[]> => (items.length === 4 ? fails() : new Promise(() => {}))
    const batcher = new AsyncBatcher(process, { clock, bisect: true })
    const failed: [string, readonly string[]][] = []
    batcher.on('failed', ({ batchId, items }) => failed.push([batchId.slice(36), items]))

    for (const item of ['a', 'b', 'c', 'd']) batcher.add(item)
    await clock.advance(1)
    batcher.close({ timeoutMs: 1 })
    await clock.advance(1)

    expect(failed).toEqual([
      ['/0', ['a', 'b']],
      ['/1', ['c', 'd']],
    ])
  })
})

test('an abort never calls the batch function on its own stack', async () => {
  const clock = new FakeClock()
  const controller = new AbortController()
  let inside = false
  const calledInside: boolean[] = []
  const process = (): Promise<string[]> => {
    calledInside.push(inside)
    return fails()
  }
  const batcher = new AsyncBatcher(process, { clock, bisect: true, ...aRetry, retry: { attempts: 2, delayMs: 1000 } })
  batcher.add('a', { signal: controller.signal })
  batcher.add('b')
  // The whole was tried twice; its first half is in back-off.
  await clock.advance(1500)

  inside = true
  controller.abort()
  inside = false
  await clock.advance(5000)

  expect(calledInside.length).toBeGreaterThan(3)
  expect(calledInside).not.toContain(true)
})

describe('an attempt that may have done the work', () => {
  const lost = new StoreError('the answer was lost', { outcomeUnknown: true })
  const refused = new StoreError('no connection', { outcomeUnknown: false })

  test('is what callers hear of when later ones surely did nothing', async () => {
    const clock = new FakeClock()
    const process = async (_items: string[], { attempt }: { attempt: number }): Promise<string[]> => {
      throw attempt === 1 ? lost : refused
    }
    const options = { clock, idempotent: true, retry: { attempts: 3, delayMs: 10 } }
    const batcher = new AsyncBatcher(process, options)
    const failed: unknown[] = []
    batcher.on('failed', ({ error }) => failed.push(error))

    const answer = batcher.add('a').catch((error: unknown) => error)
    await clock.advance(100)

    expect(await answer).toBe(lost)
    expect(failed).toEqual([lost])
  })

  test('keeps its batch from being sent again in halves, under other ids', async () => {
    const clock = new FakeClock()
    const ids: string[] = []
    const process = async (_items: string[], context: { attempt: number; batchId: string }): Promise<string[]> => {
      ids.push(context.batchId)
      throw context.attempt === 1 ? lost : refused
    }
    const batcher = new AsyncBatcher(process, {
      clock,
      idempotent: true,
      bisect: true,
      retry: { attempts: 2, delayMs: 10 },
    })

    for (const item of ['a', 'b', 'c']) batcher.add(item)
    await clock.advance(100)

    expect(ids).toHaveLength(2)
    expect(new Set(ids).size).toBe(1)
  })

  test('leaves the outcome open when close gives up the back-off after it', async () => {
    const clock = new FakeClock()
    let calls = 0
    const process = (): Promise<string[]> => (calls++ === 0 ? Promise.reject(lost) : new Promise(() => {}))
    const options = { clock, idempotent: true, random: () => 0.99, retry: { attempts: 3, delayMs: 1000 } }
    const batcher = new AsyncBatcher(process, options)

    const answer = batcher.add('a').catch((error: unknown) => error)
    await clock.advance(1)
    batcher.close({ timeoutMs: 5 })
    await clock.advance(5)

    expect(await answer).toMatchObject({ code: 'ERR_CLOSED', outcomeUnknown: true })
  })
})

test('a batch that everybody gave up says nothing of having been settled', async () => {
  const clock = new FakeClock()
  const controller = new AbortController()
  const slow = (items: string[]) => new Promise<string[]>((done) => void clock.setTimer(() => done(items), 10))
  const batcher = new AsyncBatcher(slow, { clock })
  let settled = 0
  batcher.on('settled', () => settled++)

  batcher.add('a', { signal: controller.signal })
  await clock.advance(1)
  controller.abort()
  await clock.advance(50)

  expect(settled).toBe(0)
})

test('a result that throws when it is looked at gives the slot back', async () => {
  const clock = new FakeClock()
  const trap = (): never => {
    throw new Error('trap')
  }
  const hostile = new Proxy({}, { getPrototypeOf: trap, has: trap })
  const batcher = new AsyncBatcher(async (items: string[]) => items.map(() => hostile), { clock, concurrency: 1 })

  const answer = fate(batcher.add('a'))
  await clock.advance(500)

  expect(await answer).toBe('trap')
  expect(batcher.stats()).toMatchObject({ failed: 1, inFlightBatches: 0 })
})

test('a query_timeout of pg is not retried by a buffer that is not idempotent', async () => {
  const clock = new FakeClock()
  let calls = 0
  const write = (): never => {
    calls++
    throw new Error('Query read timeout')
  }
  const buffer = new AsyncWriteBuffer<string, number>(write, { merge: (a, b) => a + b, clock })

  buffer.put('a', 1)
  await clock.advance(100_000)

  expect(calls).toBe(1)
})

test('FakeClock lets microtasks run between what was deferred, as the platform does', async () => {
  const order = async (clock: { defer(callback: () => void): void }, wait: () => Promise<unknown>) => {
    const log: string[] = []
    clock.defer(() => {
      log.push('1')
      queueMicrotask(() => log.push('micro'))
    })
    clock.defer(() => void log.push('2'))
    await wait()
    return log
  }
  const fake = new FakeClock()

  const real = await order(systemClock, () => new Promise((done) => setTimeout(done, 5)))

  expect(await order(fake, () => fake.advance(0))).toEqual(real)
})

test('closeOnExit keeps its deadline over all components, and leaves time for the last of those that hang', async () => {
  const hanging = Array.from({ length: 3 }, () => ({ close: () => new Promise(() => {}) }))
  let given: number | undefined
  const last = {
    close: (options?: { timeoutMs?: number }) => {
      given = options?.timeoutMs
    },
  }
  // Somebody else listens, so that the process doesn't end.
  const application = (): void => undefined
  process.on('SIGUSR2', application)
  const stop = closeOnExit([...hanging, last], { timeoutMs: 800, signals: ['SIGUSR2'] })

  const startedAt = performance.now()
  process.kill(process.pid, 'SIGUSR2')
  while (given === undefined) await new Promise((done) => setTimeout(done, 5))
  const tookMs = performance.now() - startedAt
  stop()
  process.off('SIGUSR2', application)

  // Far less than each of them would take by itself, whatever else the machine does.
  expect(tookMs).toBeLessThan(2_000)
  expect(given).toBeGreaterThan(0)
})
