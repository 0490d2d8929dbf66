import { AsyncBatcher, type BatchContext, SpillwayError, StoreError } from 'spillway'
import { describe, expect } from 'vitest'
import { expectBooks, watch } from './support/outcomes.js'
import { inVirtualTime } from './support/virtual-time.js'

/** A batch function that can't stand some items, and what it was called with. */
function allergic(poison: readonly number[], error: unknown = new Error('poison')) {
  const calls: { items: number[]; attempt: number; batchId: string }[] = []
  const process = async (items: number[], { attempt, batchId }: BatchContext): Promise<number[]> => {
    calls.push({ items: [...items], attempt, batchId })
    if (items.some((item) => poison.includes(item))) throw error
    return items.map((item) => item * 10)
  }
  return { calls, process }
}

/** An id with the root's own taken off: '' for the whole batch, '/0' and '/1' for its halves. */
const relative = (calls: readonly { batchId: string }[]): string[] => {
  const root = calls[0]?.batchId ?? ''
  return calls.map(({ batchId }) => (batchId.startsWith(root) ? batchId.slice(root.length) : batchId))
}

describe('bisect', () => {
  inVirtualTime('halves a batch that fails for good until the poison stands alone', async (clock) => {
    const { calls, process } = allergic([6])
    const batcher = new AsyncBatcher(process, { clock, bisect: true })

    const answers = [1, 2, 3, 4, 5, 6, 7, 8].map((n) => watch(batcher.add(n)))
    await clock.advance(0)

    expect(answers.map(({ value }) => value)).toEqual([10, 20, 30, 40, 50, undefined, 70, 80])
    expect(answers[5]?.reason).toEqual(new Error('poison'))
    expect(calls.map(({ items }) => items)).toEqual([
      [1, 2, 3, 4, 5, 6, 7, 8],
      [1, 2, 3, 4],
      [5, 6, 7, 8],
      [5, 6],
      [5],
      [6],
      [7, 8],
    ])
    expectBooks(batcher, { succeeded: 7, failed: 1, batches: 1, inFlightBatches: 0 })
  })

  inVirtualTime('gives the halves the ids id/0 and id/1, and so on down', async (clock) => {
    const { calls, process } = allergic([1, 4])
    const batcher = new AsyncBatcher(process, { clock, bisect: true })

    for (const n of [1, 2, 3, 4]) batcher.add(n)
    await clock.advance(0)

    expect(calls[0]?.batchId).toMatch(/^[0-9a-f-]{36}$/)
    expect(relative(calls)).toEqual(['', '/0', '/0/0', '/0/1', '/1', '/1/0', '/1/1'])
    expect(new Set(relative(calls)).size).toBe(7)
  })

  inVirtualTime('an odd batch loses no item', async (clock) => {
    const { calls, process } = allergic([3])
    const batcher = new AsyncBatcher(process, { clock, bisect: true })

    const answers = [1, 2, 3, 4, 5].map((n) => watch(batcher.add(n)))
    await clock.advance(0)

    expect(answers.map(({ status }) => status === 'fulfilled')).toEqual([true, true, false, true, true])
    const alone = calls.filter(({ items }) => items.length === 1 && items[0] === 3)
    expect(alone).toHaveLength(1)
  })

  inVirtualTime('is off by default', async (clock) => {
    const { calls, process } = allergic([1])
    const batcher = new AsyncBatcher(process, { clock })

    const answers = [1, 2].map((n) => watch(batcher.add(n)))
    await clock.advance(0)

    expect(answers.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    expect(calls).toHaveLength(1)
  })

  inVirtualTime('comes after the retries, and each half has retries of its own', async (clock) => {
    const { calls, process } = allergic([1])
    const batcher = new AsyncBatcher(process, { clock, bisect: true, retry: { attempts: 2, delayMs: 10 } })

    for (const n of [1, 2]) batcher.add(n)
    await clock.advance(1000)

    expect(calls.map(({ items, attempt }) => [items, attempt])).toEqual([
      [[1, 2], 1],
      [[1, 2], 2],
      [[1], 1],
      [[1], 2],
      [[2], 1],
    ])
    expect(relative(calls)).toEqual(['', '', '/0', '/0', '/1'])
    expectBooks(batcher, { retries: 2, succeeded: 1, failed: 1 })
  })

  inVirtualTime('halves also what is not retryable', async (clock) => {
    const { calls, process } = allergic([1], Object.assign(new Error('invalid'), { retryable: false }))
    const batcher = new AsyncBatcher(process, { clock, bisect: true, retry: { attempts: 5 } })

    const answers = [1, 2].map((n) => watch(batcher.add(n)))
    await clock.advance(0)

    expect(calls).toHaveLength(3)
    expect(answers.map(({ status }) => status)).toEqual(['rejected', 'fulfilled'])
  })

  inVirtualTime('takes no more than the one slot', async (clock) => {
    const { calls, process } = allergic([1, 2, 3, 4])
    let open = 0
    let widest = 0
    const batcher = new AsyncBatcher<number, number>(
      async (items, context) => {
        widest = Math.max(widest, ++open)
        await new Promise<void>((resolve) => void clock.setTimer(resolve, 10))
        open--
        return process(items, context)
      },
      { clock, bisect: true, concurrency: 4 },
    )

    for (const n of [1, 2, 3, 4]) batcher.add(n)
    await clock.advance(1000)

    expect(calls).toHaveLength(7)
    expect(widest).toBe(1)
  })

  inVirtualTime('with keys, a poisonous key rejects all its callers and no others', async (clock) => {
    const { process } = allergic([1])
    const batcher = new AsyncBatcher(process, { clock, bisect: true, keyOf: (n) => n })

    const answers = [1, 2, 1, 3, 2].map((n) => watch(batcher.add(n)))
    await clock.advance(0)

    expect(answers.map(({ value }) => value)).toEqual([undefined, 20, undefined, 30, 20])
    expectBooks(batcher, { succeeded: 3, failed: 2 })
  })

  inVirtualTime('a key on both sides is still sent once in each batch, and one alone isn’t halved', async (clock) => {
    const { calls, process } = allergic([1])
    const batcher = new AsyncBatcher(process, { clock, bisect: true, keyOf: (n) => n })

    for (const n of [1, 1, 1, 1]) batcher.add(n)
    await clock.advance(0)

    expect(calls.map(({ items }) => items)).toEqual([[1]])
  })

  inVirtualTime('skips those whose callers have gone', async (clock) => {
    const controller = new AbortController()
    const { calls, process } = allergic([1, 4])
    const batcher = new AsyncBatcher<number, number>(
      (items, context) => {
        if (calls.length === 1) controller.abort()
        return process(items, context)
      },
      { clock, bisect: true },
    )

    const answers = [1, 2, 3, 4].map((n) => watch(batcher.add(n, n > 2 ? { signal: controller.signal } : {})))
    await clock.advance(0)

    expect(calls.map(({ items }) => items)).toEqual([[1, 2, 3, 4], [1, 2], [1], [2]])
    expect(answers.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'rejected', 'rejected'])
    expectBooks(batcher, { aborted: 2, succeeded: 1, failed: 1 })
  })

  inVirtualTime('tells of each part by its own id', async (clock) => {
    const { calls, process } = allergic([1])
    const batcher = new AsyncBatcher(process, { clock, bisect: true })
    const failed: unknown[] = []
    const settled: unknown[] = []
    batcher.on('failed', (event) => void failed.push(event))
    batcher.on('settled', ({ batchId, succeeded, failed }) => void settled.push([batchId, succeeded, failed]))

    for (const n of [1, 2]) batcher.add(n)
    await clock.advance(0)

    const id = calls[0]?.batchId
    expect(failed).toEqual([{ batchId: `${id}/0`, items: [1], attempts: 1, error: new Error('poison') }])
    expect(settled).toEqual([
      [`${id}/0`, 0, 1],
      [`${id}/1`, 1, 0],
    ])
  })
})

describe('bisect never comes after', () => {
  const cases: [string, unknown][] = [
    ['a lost connection', Object.assign(new Error('reset'), { code: 'ECONNRESET' })],
    ['an unknown outcome', new StoreError('lost', { outcomeUnknown: true })],
    ['a timeout of the store’s own', new DOMException('timed out', 'TimeoutError')],
    ['a store that is down', new StoreError('refused')],
    ['an open circuit', new SpillwayError('ERR_CIRCUIT_OPEN', 'the circuit is open')],
  ]
  for (const idempotent of [false, true]) {
    for (const [what, error] of cases) {
      inVirtualTime(`${what} (idempotent: ${idempotent})`, async (clock) => {
        const { calls, process } = allergic([1], error)
        const batcher = new AsyncBatcher(process, { clock, bisect: true, idempotent })

        const answers = [1, 2].map((n) => watch(batcher.add(n)))
        await clock.advance(1000)

        expect(answers.map(({ reason }) => reason)).toEqual([error, error])
        expect(calls).toHaveLength(1)
      })
    }

    inVirtualTime(`a timeout (idempotent: ${idempotent})`, async (clock) => {
      let calls = 0
      const batcher = new AsyncBatcher<number, number>(
        () => {
          calls++
          return new Promise(() => undefined)
        },
        { clock, bisect: true, timeoutMs: 10, idempotent },
      )

      const answers = [1, 2].map((n) => watch(batcher.add(n)))
      await clock.advance(10_000)

      expect(answers.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
      expect(calls).toBe(1)
    })
  }

  inVirtualTime('a wrong length', async (clock) => {
    let calls = 0
    const batcher = new AsyncBatcher<number, number>(
      () => {
        calls++
        return []
      },
      { clock, bisect: true },
    )

    const answers = [1, 2].map((n) => watch(batcher.add(n)))
    await clock.advance(0)

    expect(answers.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    expect(calls).toBe(1)
  })
})
