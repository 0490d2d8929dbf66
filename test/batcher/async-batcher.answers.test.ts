import { AsyncBatcher, type BatchResultError, isSpillwayError } from 'spillway'
import { describe, expect, test } from 'vitest'
import { Gate } from './support/gate.js'
import { codeOf, expectBooks, reasonOf, watch } from './support/outcomes.js'
import { inVirtualTime } from './support/virtual-time.js'

describe('each caller gets its own answer', () => {
  inVirtualTime('the i-th result belongs to the i-th item', async (clock) => {
    const gate = new Gate<number, string>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })

    const answers = [1, 2, 3].map((n) => watch(batcher.add(n)))
    await clock.advance(0)
    gate.call(0).answer(['one', 'two', 'three'])
    await clock.advance(0)

    expect(gate.batches).toEqual([[1, 2, 3]])
    expect(answers.map((answer) => answer.value)).toEqual(['one', 'two', 'three'])
    expectBooks(batcher, { offered: 3, succeeded: 3, pending: 0, batches: 1 })
  })

  inVirtualTime('an Error among the results rejects its own caller and nobody else', async (clock) => {
    const poison = new RangeError('two is too many')
    const batcher = new AsyncBatcher((items: number[]) => items.map((n) => (n === 2 ? poison : n * 10)), { clock })

    const answers = [1, 2, 3].map((n) => watch(batcher.add(n)))
    await clock.advance(0)

    expect(answers.map((answer) => answer.value)).toEqual([10, undefined, 30])
    expect(answers[1]?.reason).toBe(poison)
    expectBooks(batcher, { succeeded: 2, failed: 1 })
  })

  inVirtualTime('an Error as one result is final: it is neither retried nor bisected', async (clock) => {
    let calls = 0
    const batcher = new AsyncBatcher(
      (items: number[]) => {
        calls++
        return items.map((n) => (n === 1 ? new Error('no') : n))
      },
      { clock, retry: { attempts: 5, delayMs: 1 }, bisect: true, idempotent: true },
    )

    const answers = [watch(batcher.add(1)), watch(batcher.add(2))]
    await clock.advance(1000)

    expect(answers.map((answer) => answer.status)).toEqual(['rejected', 'fulfilled'])
    expect(calls).toBe(1)
    expectBooks(batcher, { retries: 0, batches: 1 })
  })

  inVirtualTime('a processor that sorts, empties or fills its input changes nobody’s answer', async (clock) => {
    const batcher = new AsyncBatcher(
      (items: number[]) => {
        const answers = items.map((n) => n * 2)
        items.sort((a, b) => b - a)
        items.length = 1
        items.push(7, 8, 9)
        return answers
      },
      { clock },
    )

    const answers = [3, 1, 2].map((n) => watch(batcher.add(n)))
    await clock.advance(0)

    expect(answers.map((answer) => answer.value)).toEqual([6, 2, 4])
  })

  inVirtualTime('a processor that fills its own input array and returns it answers in that order', async (clock) => {
    const batcher = new AsyncBatcher<number, number>(
      (items) => {
        for (let i = 0; i < items.length; i++) items[i] = (items[i] as number) + 100
        return items
      },
      { clock },
    )

    const answers = [1, 2].map((n) => watch(batcher.add(n)))
    await clock.advance(0)

    expect(answers.map((answer) => answer.value)).toEqual([101, 102])
  })

  inVirtualTime(
    '0, the empty string, null, undefined, NaN and false are items and answers like any other',
    async (clock) => {
      const falsy = [0, '', null, undefined, Number.NaN, false, 0n]
      const seen: unknown[] = []
      const batcher = new AsyncBatcher<unknown, unknown>(
        (items) => {
          seen.push(...items)
          return items
        },
        { clock },
      )

      const answers = falsy.map((item) => watch(batcher.add(item)))
      await clock.advance(0)

      expect(seen).toEqual(falsy)
      expect(answers.map((answer) => answer.status)).toEqual(falsy.map(() => 'fulfilled'))
      expect(answers.map((answer) => answer.value)).toEqual(falsy)
      expectBooks(batcher, { succeeded: falsy.length })
    },
  )

  inVirtualTime('an item that is an Error is an item like any other', async (clock) => {
    const batcher = new AsyncBatcher((items: Error[]) => items.map((error) => error.message), { clock })

    const answer = batcher.add(new Error('just data'))
    await clock.advance(0)

    expect(await answer).toBe('just data')
  })
})

describe('what a processor may return', () => {
  inVirtualTime('an array at once', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock })

    const answer = batcher.add(1)
    await clock.advance(0)

    expect(await answer).toBe(1)
  })

  inVirtualTime('a thenable that is no promise', async (clock) => {
    const batcher = new AsyncBatcher<number, number>(
      (items) => ({
        // biome-ignore lint/suspicious/noThenProperty: a thenable is the point of the test
        then: (resolve) => Promise.resolve(items.map((n) => n + 1)).then(resolve),
      }),
      { clock },
    )

    const answer = batcher.add(1)
    await clock.advance(0)

    expect(await answer).toBe(2)
  })

  inVirtualTime('a frozen array', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => Object.freeze([...items]), { clock })

    const answer = batcher.add(1)
    await clock.advance(0)

    expect(await answer).toBe(1)
  })

  const wrong: [string, unknown, string][] = [
    ['too few results', [1], '1 results'],
    ['too many results', [1, 2, 3], '3 results'],
    ['nothing', undefined, 'undefined'],
    ['null', null, 'null'],
    ['a string of the right length', 'ab', 'string'],
    ['something like an array', { 0: 1, 1: 2, length: 2 }, 'object'],
    ['a Map', new Map([[1, 1]]), 'object'],
    ['an Error', new Error('returned, not thrown'), 'object'],
  ]
  for (const [what, answer, text] of wrong) {
    inVirtualTime(`${what} for two items rejects both with ERR_BATCH_RESULT`, async (clock) => {
      const batcher = new AsyncBatcher<number, number>(async () => answer as number[], { clock, name: 'orders' })

      const reasons = [batcher.add(1), batcher.add(2)].map(reasonOf)
      await clock.advance(0)

      for (const reason of await Promise.all(reasons)) {
        expect(isSpillwayError(reason, 'ERR_BATCH_RESULT')).toBe(true)
        expect((reason as BatchResultError).name).toBe('BatchResultError')
        expect((reason as BatchResultError).message).toContain('orders')
        expect((reason as BatchResultError).message).toContain('2 items')
        expect((reason as BatchResultError).message).toContain(text)
      }
      expectBooks(batcher, { failed: 2 })
    })
  }

  inVirtualTime('a wrong length is neither retried nor bisected', async (clock) => {
    let calls = 0
    const batcher = new AsyncBatcher<number, number>(
      () => {
        calls++
        return []
      },
      { clock, retry: { attempts: 3, delayMs: 1 }, bisect: true, idempotent: true },
    )

    const reasons = [batcher.add(1), batcher.add(2)].map(reasonOf)
    await clock.advance(1000)

    expect((await Promise.all(reasons)).map(codeOf)).toEqual(['ERR_BATCH_RESULT', 'ERR_BATCH_RESULT'])
    expect(calls).toBe(1)
  })

  inVirtualTime(
    'a promise as one result is waited for, and its rejection is nobody’s unhandledRejection',
    async (clock) => {
      const batcher = new AsyncBatcher<number, number>(
        (items) => items.map(async (n) => (n === 2 ? Promise.reject(new Error('late')) : n)) as unknown as number[],
        { clock },
      )

      const one = batcher.add(1)
      // Nobody looks at this one.
      batcher.add(2)
      await clock.advance(0)

      expect(await one).toBe(1)
    },
  )
})

describe('a processor that fails', () => {
  inVirtualTime('by throwing synchronously rejects all of its batch with that very error', async (clock) => {
    const error = new Error('thrown')
    const batcher = new AsyncBatcher<number, number>(
      () => {
        throw error
      },
      { clock },
    )

    const reasons = [batcher.add(1), batcher.add(2)].map(reasonOf)
    await clock.advance(0)

    expect(await Promise.all(reasons)).toEqual([error, error])
    expectBooks(batcher, { failed: 2, inFlightBatches: 0 })
  })

  for (const nothing of [undefined, null, 0, '']) {
    inVirtualTime(`by rejecting with ${JSON.stringify(nothing)} rejects its callers with that`, async (clock) => {
      const batcher = new AsyncBatcher<number, number>(() => Promise.reject(nothing), { clock, retry: { attempts: 2 } })

      const answer = watch(batcher.add(1))
      await clock.advance(1000)

      expect(answer).toEqual({ status: 'rejected', reason: nothing, times: 1 })
      expectBooks(batcher, { failed: 1, retries: 1 })
    })
  }

  inVirtualTime('with an error that can’t even be read still gives its slot back', async (clock) => {
    const hostile = new Proxy(new Error('hostile'), {
      get: () => {
        throw new Error('do not look at me')
      },
    })
    const batcher = new AsyncBatcher<number, number>(() => Promise.reject(hostile), {
      clock,
      concurrency: 1,
      bisect: true,
      retry: { attempts: 2, delayMs: 1 },
    })

    const answer = watch(batcher.add(1))
    await clock.advance(1000)

    expect(answer.status).toBe('rejected')
    expectBooks(batcher, { failed: 1, inFlightBatches: 0 })
  })

  inVirtualTime('hurts no other batch', async (clock) => {
    const batcher = new AsyncBatcher(
      async (items: number[]) => {
        if (items.includes(1)) throw new Error('one')
        return items
      },
      { clock, maxBatchSize: 1 },
    )

    const answers = [1, 2].map((n) => watch(batcher.add(n)))
    await clock.advance(0)

    expect(answers.map((answer) => answer.status)).toEqual(['rejected', 'fulfilled'])
  })
})

describe('when a processor is called', () => {
  inVirtualTime('never on the stack of add, addMany, flush or close, though the batch is due', async (clock) => {
    let calls = 0
    const batcher = new AsyncBatcher(
      (items: number[]) => {
        calls++
        return items
      },
      { clock, maxBatchSize: 1, maxWaitMs: 0 },
    )

    batcher.add(1)
    expect(calls).toBe(0)
    batcher.addMany([2, 3])
    expect(calls).toBe(0)
    batcher.flush()
    expect(calls).toBe(0)
    const closed = batcher.close()
    expect(calls).toBe(0)
    await closed

    expect(calls).toBe(3)
  })

  inVirtualTime('with a batch id of UUID version 7, another one for each batch', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxBatchSize: 1 })

    batcher.add(1)
    batcher.add(2)
    await clock.advance(0)

    const ids = gate.calls.map((call) => call.context.batchId)
    for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
    expect(new Set(ids).size).toBe(2)
    expect(Number.parseInt((ids[0] as string).replace('-', '').slice(0, 12), 16)).toBe(clock.wallNow())
    expect(gate.call(0).context.attempt).toBe(1)
    gate.letGo()
    await clock.advance(0)
  })
})

test('it works on the platform’s own clock as well', async () => {
  const batcher = new AsyncBatcher(async (items: number[]) => items.map((n) => n * n))

  expect(await Promise.all([batcher.add(2), batcher.add(3)])).toEqual([4, 9])
  expect(batcher.stats()).toMatchObject({ batches: 1, succeeded: 2 })
  expect(await batcher.close()).toEqual({ drained: true, abandoned: 0 })
})
