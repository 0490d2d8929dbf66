import { AsyncBatcher, type BatchContext, StoreError } from 'spillway'
import { seededRandom } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { Gate } from './support/gate.js'
import { expectBooks, watch } from './support/outcomes.js'
import { inVirtualTime } from './support/virtual-time.js'

/** A batch function that fails its first calls with the given errors and then gives the items back. */
function failing(...errors: unknown[]) {
  const calls: { items: number[]; attempt: number; batchId: string }[] = []
  const process = async (items: number[], { attempt, batchId }: BatchContext): Promise<number[]> => {
    calls.push({ items: [...items], attempt, batchId })
    if (calls.length <= errors.length) throw errors[calls.length - 1]
    return items
  }
  return { calls, process }
}

describe('a retry', () => {
  inVirtualTime('isn’t made by default', async (clock) => {
    const { calls, process } = failing(new Error('no'))
    const batcher = new AsyncBatcher(process, { clock })

    const answer = watch(batcher.add(1))
    await clock.advance(100_000)

    expect(answer.reason).toEqual(new Error('no'))
    expect(calls).toHaveLength(1)
  })

  inVirtualTime('is made until an attempt succeeds; attempts counts the first one', async (clock) => {
    const { calls, process } = failing(new Error('1'), new Error('2'))
    const batcher = new AsyncBatcher(process, { clock, retry: { attempts: 3 } })

    const answer = watch(batcher.add(1))
    await clock.advance(1000)

    expect(answer.value).toBe(1)
    expect(calls.map(({ attempt }) => attempt)).toEqual([1, 2, 3])
    expectBooks(batcher, { retries: 2, batches: 1, succeeded: 1, failed: 0 })
  })

  inVirtualTime('that fails the last time rejects with the last error', async (clock) => {
    const { calls, process } = failing(new Error('1'), new Error('2'), new Error('3'), new Error('4'))
    const batcher = new AsyncBatcher(process, { clock, retry: { attempts: 3 } })

    const answers = [1, 2].map((n) => watch(batcher.add(n)))
    await clock.advance(1000)

    expect(answers.map(({ reason }) => reason)).toEqual([new Error('3'), new Error('3')])
    expect(calls).toHaveLength(3)
    expectBooks(batcher, { retries: 2, failed: 2 })
  })

  inVirtualTime('is of the same frozen batch under the same id, whatever came or went meanwhile', async (clock) => {
    const gate = new Gate<number>(clock)
    const retry = { attempts: 3, delayMs: 100 }
    const batcher = new AsyncBatcher(gate.process, { clock, concurrency: 1, retry, random: seededRandom('ids') })
    const controller = new AbortController()

    const first = watch(batcher.add(1))
    batcher.add(2, { signal: controller.signal })
    await clock.advance(0)
    batcher.add(3)
    gate.call(0).fail(new Error('1'))
    await clock.advance(10)
    batcher.add(4)
    controller.abort()
    await clock.advance(100)
    gate.call(1).fail(new Error('2'))
    await clock.advance(200)
    gate.letGo()
    await clock.advance(0)

    expect(gate.batches).toEqual([
      [1, 2],
      [1, 2],
      [1, 2],
      [3, 4],
    ])
    const ids = gate.calls.map(({ context }) => context.batchId)
    expect(new Set(ids.slice(0, 3)).size).toBe(1)
    expect(ids[3]).not.toBe(ids[0])
    expect(first.value).toBe(1)
    expectBooks(batcher, { succeeded: 3, aborted: 1, retries: 2 })
  })

  inVirtualTime('gets a fresh copy of the items, though the first attempt spoilt its own', async (clock) => {
    let calls = 0
    const seen: number[][] = []
    const batcher = new AsyncBatcher<number, number>(
      async (items) => {
        seen.push([...items])
        if (calls++ === 0) {
          items.length = 0
          throw new Error('spoilt')
        }
        return items
      },
      { clock, retry: { attempts: 2 } },
    )

    const answers = [3, 1].map((n) => watch(batcher.add(n)))
    await clock.advance(1000)

    expect(seen).toEqual([
      [3, 1],
      [3, 1],
    ])
    expect(answers.map(({ value }) => value)).toEqual([3, 1])
  })

  inVirtualTime('keeps the slot while it backs off', async (clock) => {
    const gate = new Gate<number>(clock)
    const retry = { attempts: 2, delayMs: 100 }
    const batcher = new AsyncBatcher(gate.process, { clock, concurrency: 1, maxBatchSize: 1, retry, random: () => 0.9 })

    batcher.add(1)
    batcher.add(2)
    await clock.advance(0)
    gate.call(0).fail(new Error('no'))
    await clock.advance(89)
    expectBooks(batcher, { inFlightBatches: 1, inFlight: 1, pending: 2 })
    expect(gate.batches).toEqual([[1]])
    gate.letGo()
    await clock.advance(1)

    expect(gate.batches).toEqual([[1], [1], [2]])
  })

  inVirtualTime('is told of by an event with its number, its delay and the reason', async (clock) => {
    const error = new Error('no')
    const { calls, process } = failing(error, error)
    const batcher = new AsyncBatcher(process, { clock, retry: { attempts: 3, delayMs: 100 }, random: () => 0.25 })
    const retried: unknown[] = []
    batcher.on('retried', (event) => void retried.push(event))

    batcher.add(1)
    await clock.advance(1000)

    const batchId = calls[0]?.batchId
    expect(retried).toEqual([
      { batchId, attempt: 2, delayMs: 25, error },
      { batchId, attempt: 3, delayMs: 50, error },
    ])
  })
})

describe('the delay before a retry', () => {
  inVirtualTime(
    'is random between 0 and delayMs * 2^(n-1), at most maxDelayMs, over the whole range',
    async (clock) => {
      const retry = { attempts: 6, delayMs: 100, maxDelayMs: 1000 }
      const batcher = new AsyncBatcher<number, number>(() => Promise.reject(new Error('no')), {
        clock,
        retry,
        concurrency: 500,
        maxBatchSize: 1,
        random: seededRandom('full jitter'),
      })
      const delays: number[][] = [[], [], [], [], []]
      batcher.on('retried', ({ attempt, delayMs }) => void delays[attempt - 2]?.push(delayMs))

      for (let n = 0; n < 500; n++) batcher.add(n)
      await clock.advance(10_000)

      for (const [index, ceiling] of [100, 200, 400, 800, 1000].entries()) {
        const drawn = delays[index] as number[]
        expect(drawn).toHaveLength(500)
        expect(Math.min(...drawn)).toBeGreaterThanOrEqual(0)
        expect(Math.min(...drawn)).toBeLessThan(ceiling * 0.05)
        expect(Math.max(...drawn)).toBeGreaterThan(ceiling * 0.95)
        expect(Math.max(...drawn)).toBeLessThan(ceiling)
        const mean = drawn.reduce((sum, delay) => sum + delay, 0) / drawn.length
        expect(mean / ceiling).toBeGreaterThan(0.45)
        expect(mean / ceiling).toBeLessThan(0.55)
      }
      expectBooks(batcher, { retries: 2500, failed: 500 })
    },
  )

  inVirtualTime('passes before the attempt is made', async (clock) => {
    const gate = new Gate<number>(clock)
    const retry = { attempts: 4, delayMs: 100, maxDelayMs: 250 }
    const batcher = new AsyncBatcher(gate.process, { clock, retry, random: () => 0.5 })

    batcher.add(1)
    for (let call = 0; call < 4; call++) {
      await clock.advance(call === 0 ? 0 : 1000)
      gate.call(call).fail(new Error('no'))
    }
    await clock.advance(0)

    // Each failure came 1000 ms after the one before; the delays are 50, 100 and 125.
    expect(gate.calls.map(({ at }) => at)).toEqual([0, 50, 1100, 2125])
  })

  inVirtualTime('of 0 means at once', async (clock) => {
    const { calls, process } = failing(new Error('1'), new Error('2'))
    const batcher = new AsyncBatcher(process, { clock, retry: { attempts: 3, delayMs: 0 } })

    const answer = watch(batcher.add(1))
    await clock.advance(0)

    expect(answer.value).toBe(1)
    expect(calls).toHaveLength(3)
  })
})

describe('what is retried', () => {
  const attemptsFor = async (
    clock: Parameters<Parameters<typeof inVirtualTime>[1]>[0],
    error: unknown,
    options: { idempotent?: boolean; retryable?: (error: unknown) => boolean } = {},
  ): Promise<number> => {
    const { calls, process } = failing(error)
    const { retryable, idempotent } = options
    const batcher = new AsyncBatcher(process, { clock, idempotent, retry: { attempts: 2, delayMs: 1, retryable } })
    const answer = watch(batcher.add(1))
    await clock.advance(1000)
    expect(answer.status).toBe(calls.length === 2 ? 'fulfilled' : 'rejected')
    if (answer.status === 'rejected') expect(answer.reason).toBe(error)
    return calls.length
  }

  inVirtualTime('everything by default, even what is no Error', async (clock) => {
    for (const error of [new Error('any'), 'a string', undefined, null, 42, { retryable: true }]) {
      expect(await attemptsFor(clock, error)).toBe(2)
    }
  })

  inVirtualTime('but what says `retryable: false`', async (clock) => {
    expect(await attemptsFor(clock, Object.assign(new Error('for good'), { retryable: false }))).toBe(1)
    expect(await attemptsFor(clock, { retryable: false })).toBe(1)
    expect(await attemptsFor(clock, new StoreError('for good', { retryable: false }))).toBe(1)
  })

  inVirtualTime('what retry.retryable says, where it is given', async (clock) => {
    const asked: unknown[] = []
    const onlyTimeouts = (error: unknown): boolean => {
      asked.push(error)
      return error instanceof RangeError
    }
    const range = new RangeError('yes')
    const type = new TypeError('no')

    expect(await attemptsFor(clock, range, { retryable: onlyTimeouts })).toBe(2)
    expect(await attemptsFor(clock, type, { retryable: onlyTimeouts })).toBe(1)
    expect(asked).toEqual([range, type])
    const stubborn = Object.assign(new Error('for good?'), { retryable: false })
    expect(await attemptsFor(clock, stubborn, { retryable: () => true })).toBe(2)
  })

  inVirtualTime('nothing when retry.retryable throws; the caller gets the batch’s own error', async (clock) => {
    const retryable = (): boolean => {
      throw new Error('broken')
    }

    expect(await attemptsFor(clock, new Error('own'), { retryable })).toBe(1)
  })

  const unknown: [string, unknown][] = [
    ['a StoreError that says so', new StoreError('lost', { outcomeUnknown: true })],
    ['a reset connection', Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' })],
    ['a broken pipe', Object.assign(new Error('write EPIPE'), { code: 'EPIPE' })],
    ['a socket that undici lost', Object.assign(new Error('other side closed'), { code: 'UND_ERR_SOCKET' })],
    ['a Postgres connection that ended', Object.assign(new Error('terminating'), { code: '57P01' })],
    ['a cause that was lost', new Error('outer', { cause: Object.assign(new Error('x'), { code: 'ECONNRESET' }) })],
    ['a timeout of the platform’s', new DOMException('The operation timed out', 'TimeoutError')],
    ['an aborted request', new DOMException('This operation was aborted', 'AbortError')],
  ]
  for (const [what, error] of unknown) {
    inVirtualTime(`an unknown outcome only where idempotent: ${what}`, async (clock) => {
      expect(await attemptsFor(clock, error)).toBe(1)
      expect(await attemptsFor(clock, error, { idempotent: true })).toBe(2)
      expect(await attemptsFor(clock, error, { retryable: () => true })).toBe(1)
    })
  }

  inVirtualTime('a refused connection anyway: nothing was sent', async (clock) => {
    const refused = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })

    expect(await attemptsFor(clock, refused)).toBe(2)
  })
})
