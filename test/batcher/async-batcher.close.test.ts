import { AsyncBatcher, type ClosedError, isSpillwayError } from 'spillway'
import { describe, expect } from 'vitest'
import { Gate } from './support/gate.js'
import { codeOf, expectBalanced, expectBooks, reasonOf, watch } from './support/outcomes.js'
import { inVirtualTime } from './support/virtual-time.js'

const clean = { drained: true, abandoned: 0 }

describe('close', () => {
  inVirtualTime('settles what was accepted, refuses more, leaves no timer', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, eager: false, name: 'orders' })

    const accepted = watch(batcher.add(1))
    const closed = watch(batcher.close())
    const refused = (await reasonOf(batcher.add(2))) as ClosedError
    await clock.advance(0)
    expect(clock.pending).toBe(0)
    expect(closed.status).toBe('pending')
    gate.echo(0)
    await clock.advance(0)

    expect(accepted.value).toBe(1)
    expect(closed.value).toEqual(clean)
    expect(isSpillwayError(refused, 'ERR_CLOSED')).toBe(true)
    expect(refused.name).toBe('ClosedError')
    expect(refused.message).toBe('orders is closed')
    expectBooks(batcher, { offered: 2, succeeded: 1, rejected: 1, pending: 0 })
  })

  inVirtualTime('of an idle batcher resolves without time passing', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock })

    expect(await batcher.close()).toEqual(clean)
    expect(await batcher.close({ timeoutMs: 10 })).toEqual(clean)
  })

  inVirtualTime('drains a long queue through its slots', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, eager: false, maxBatchSize: 10, concurrency: 2 })
    gate.letGo()

    for (let n = 0; n < 105; n++) batcher.add(n)

    expect(await batcher.close()).toEqual(clean)
    expect(gate.calls).toHaveLength(11)
    expect(gate.widest).toBeLessThanOrEqual(2)
    expectBooks(batcher, { succeeded: 105 })
  })

  inVirtualTime('resolves when failures are all that is left, too', async (clock) => {
    const batcher = new AsyncBatcher<number, number>(() => Promise.reject(new Error('no')), { clock, eager: false })

    batcher.add(1)

    expect(await batcher.close()).toEqual(clean)
    expectBooks(batcher, { failed: 1 })
  })

  inVirtualTime('cuts the wait before a retry short, and makes the retry', async (clock) => {
    const gate = new Gate<number>(clock)
    const retry = { attempts: 4, delayMs: 60_000 }
    const batcher = new AsyncBatcher(gate.process, { clock, retry, random: () => 0.9 })

    const answer = watch(batcher.add(1))
    await clock.advance(0)
    gate.call(0).fail(new Error('1'))
    await clock.advance(0)
    expect(clock.pending).toBe(1)
    const closed = watch(batcher.close())
    await clock.advance(0)
    expect(gate.calls).toHaveLength(2)
    // The waits of later retries are cut as well.
    gate.call(1).fail(new Error('2'))
    await clock.advance(0)
    expect(gate.calls).toHaveLength(3)
    gate.echo(2)
    await clock.advance(0)

    expect(answer.value).toBe(1)
    expect(closed.value).toEqual(clean)
    expect(clock.now()).toBe(0)
  })

  inVirtualTime('is idempotent: every call gets the same report, and nothing is done twice', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })
    gate.letGo()

    batcher.add(1)
    const reports = await Promise.all([batcher.close(), batcher.close(), batcher.close()])

    expect(reports).toEqual([clean, clean, clean])
    expect(await batcher.close()).toEqual(clean)
    expect(gate.calls).toHaveLength(1)
  })

  inVirtualTime('waits for the slot of a timed-out attempt', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, timeoutMs: 50 })

    batcher.add(1)
    await clock.advance(50)
    const closed = watch(batcher.close())
    await clock.advance(999)
    expect(closed.status).toBe('pending')
    await clock.advance(1)

    expect(closed.value).toEqual(clean)
  })

  inVirtualTime('refuses a wrong deadline and stays open', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock })

    for (const timeoutMs of [-1, Number.NaN, '10', null, Number.POSITIVE_INFINITY]) {
      expect(codeOf(await reasonOf(batcher.close({ timeoutMs: timeoutMs as number })))).toBe('ERR_OPTION')
      // Nobody looks at this one.
      batcher.close({ timeoutMs: timeoutMs as number })
    }
    const answer = batcher.add(1)
    await clock.advance(0)

    expect(await answer).toBe(1)
  })

  inVirtualTime('a deadline of undefined is none', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })

    batcher.add(1)
    const closed = watch(batcher.close({ timeoutMs: undefined }))
    await clock.advance(1e9)
    expect(closed.status).toBe('pending')
    gate.letGo()
    await clock.advance(0)

    expect(closed.value).toEqual(clean)
  })
})

describe('the deadline of close', () => {
  inVirtualTime('abandons what is left: queued and in flight reject with ClosedError, signals abort', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, concurrency: 1, maxBatchSize: 2, name: 'orders' })

    const answers = [1, 2, 3, 4, 5].map((n) => watch(batcher.add(n)))
    await clock.advance(0)
    const closed = watch(batcher.close({ timeoutMs: 100 }))
    await clock.advance(99)
    expect(closed.status).toBe('pending')
    expect(gate.call(0).context.signal.aborted).toBe(false)
    await clock.advance(1)

    expect(closed.value).toEqual({ drained: false, abandoned: 5 })
    for (const { reason, times } of answers) {
      expect(isSpillwayError(reason, 'ERR_CLOSED')).toBe(true)
      expect((reason as Error).message).toContain('orders')
      expect(times).toBe(1)
    }
    expect(codeOf(gate.call(0).context.signal.reason)).toBe('ERR_CLOSED')
    expect(gate.calls).toHaveLength(1)
    expectBooks(batcher, { offered: 5, failed: 5, pending: 0, inFlight: 0, inFlightBatches: 0 })
  })

  for (const how of ['success', 'failure']) {
    inVirtualTime(`makes what comes later count for nothing: ${how}`, async (clock) => {
      const gate = new Gate<number>(clock)
      const retry = { attempts: 3, delayMs: 10 }
      const batcher = new AsyncBatcher(gate.process, { clock, timeoutMs: 1000, retry, bisect: true })

      const answers = [1, 2].map((n) => watch(batcher.add(n)))
      await clock.advance(0)
      const closed = watch(batcher.close({ timeoutMs: 100 }))
      await clock.advance(100)
      const stats = batcher.stats()
      if (how === 'success') gate.echo(0)
      else gate.call(0).fail(new Error('late'))
      await clock.advance(10_000)

      expect(batcher.stats()).toEqual(stats)
      expect(gate.calls).toHaveLength(1)
      expect(answers.map(({ times }) => times)).toEqual([1, 1])
      expect(closed.times).toBe(1)
    })
  }

  inVirtualTime('counts as abandoned only what wasn’t settled in time', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxBatchSize: 1, concurrency: 1 })

    const answers = [1, 2, 3].map((n) => watch(batcher.add(n)))
    const closed = watch(batcher.close({ timeoutMs: 100 }))
    await clock.advance(50)
    gate.echo(0)
    await clock.advance(50)

    expect(answers.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected'])
    expect(closed.value).toEqual({ drained: false, abandoned: 2 })
  })

  inVirtualTime('leaves no timer when all was settled before', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })

    batcher.add(1)
    const closed = batcher.close({ timeoutMs: 60_000 })
    await clock.advance(0)
    gate.letGo()

    expect(await closed).toEqual(clean)
    expect(clock.pending).toBe(0)
  })

  inVirtualTime('interrupts back-off', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, retry: { attempts: 2, delayMs: 10 } })

    const answer = watch(batcher.add(1))
    await clock.advance(0)
    gate.call(0).fail(new Error('no'))
    await clock.advance(0)
    const closed = watch(batcher.close({ timeoutMs: 100 }))
    await clock.advance(100)

    expect(gate.calls).toHaveLength(2)
    expect(codeOf(answer.reason)).toBe('ERR_CLOSED')
    expect(closed.value).toEqual({ drained: false, abandoned: 1 })
  })

  inVirtualTime('of 0 gives up what doesn’t settle at once', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })

    const answer = watch(batcher.add(1))
    const closed = watch(batcher.close({ timeoutMs: 0 }))
    await clock.advance(0)

    expect(codeOf(answer.reason)).toBe('ERR_CLOSED')
    expect(closed.value).toEqual({ drained: false, abandoned: 1 })
  })

  inVirtualTime('ends flushes that wait, and they count what was abandoned as failed', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, concurrency: 1, maxBatchSize: 1 })

    batcher.add(1)
    const first = watch(batcher.flush())
    batcher.add(2)
    const second = watch(batcher.flush())
    batcher.close({ timeoutMs: 100 })
    await clock.advance(100)

    expect(first.value).toEqual({ succeeded: 0, failed: 1, dropped: 0 })
    expect(second.value).toEqual({ succeeded: 0, failed: 2, dropped: 0 })
  })

  inVirtualTime('abandons nothing where all callers of a hanging batch have gone', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })
    const controller = new AbortController()

    batcher.add(1, { signal: controller.signal })
    await clock.advance(0)
    controller.abort()
    const closed = watch(batcher.close({ timeoutMs: 100 }))
    await clock.advance(100)

    expect(closed.value?.abandoned).toBe(0)
    expectBooks(batcher, { aborted: 1, failed: 0, inFlightBatches: 0 })
  })

  inVirtualTime('keeps the books in balance for who looks while the signals abort', async (clock) => {
    const batcher: AsyncBatcher<number, number> = new AsyncBatcher<number, number>(
      (_items, { signal }) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => {
            expectedAtAbort.push(() => expectBalanced(stats))
            const stats = batcher.stats()
            reject(signal.reason)
          })
        }),
      { clock, maxBatchSize: 1, concurrency: 3 },
    )
    const expectedAtAbort: (() => void)[] = []

    for (const n of [1, 2, 3, 4]) batcher.add(n)
    await clock.advance(0)
    batcher.close({ timeoutMs: 0 })
    await clock.advance(0)

    expect(expectedAtAbort).toHaveLength(3)
    for (const check of expectedAtAbort) check()
  })
})

describe('a later call of close', () => {
  const hanging = async (
    clock: ConstructorParameters<typeof Gate>[0] & Parameters<Parameters<typeof inVirtualTime>[1]>[0],
  ) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })
    batcher.add(1)
    await clock.advance(0)
    return batcher
  }

  inVirtualTime('sets a deadline where there was none', async (clock) => {
    const batcher = await hanging(clock)

    const first = watch(batcher.close())
    await clock.advance(1000)
    const second = watch(batcher.close({ timeoutMs: 50 }))
    await clock.advance(50)

    expect(first.value).toEqual({ drained: false, abandoned: 1 })
    expect(second.value).toEqual(first.value)
  })

  inVirtualTime('shortens the deadline', async (clock) => {
    const batcher = await hanging(clock)

    const first = watch(batcher.close({ timeoutMs: 1000 }))
    await clock.advance(100)
    batcher.close({ timeoutMs: 50 })
    await clock.advance(49)
    expect(first.status).toBe('pending')
    await clock.advance(1)

    expect(first.value).toEqual({ drained: false, abandoned: 1 })
  })

  for (const timeoutMs of [2000, 901, undefined]) {
    inVirtualTime(`never prolongs it (${timeoutMs})`, async (clock) => {
      const batcher = await hanging(clock)

      const first = watch(batcher.close({ timeoutMs: 1000 }))
      await clock.advance(100)
      batcher.close({ timeoutMs })
      await clock.advance(899)
      expect(first.status).toBe('pending')
      await clock.advance(1)

      expect(first.status).toBe('fulfilled')
    })
  }
})

describe('after close', () => {
  inVirtualTime('flush resolves to zeros, stats and on still work', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock })
    batcher.add(1)
    await batcher.close()

    expect(await batcher.flush()).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
    expect(batcher.stats().succeeded).toBe(1)
    batcher.on('settled', () => undefined)()
  })

  inVirtualTime('flush during a close waits for what is left', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })

    batcher.add(1)
    batcher.close()
    const flushed = watch(batcher.flush())
    await clock.advance(0)
    expect(flushed.status).toBe('pending')
    gate.letGo()
    await clock.advance(0)

    expect(flushed.value).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
  })

  inVirtualTime('an await using block has settled what was accepted in it', async (clock) => {
    let answer: Promise<number> | undefined
    let outer: AsyncBatcher<number, number> | undefined
    {
      await using batcher = new AsyncBatcher(async (items: number[]) => items, { clock, eager: false })
      outer = batcher
      answer = batcher.add(1)
    }

    expect(await answer).toBe(1)
    expect(codeOf(await reasonOf(outer.add(2)))).toBe('ERR_CLOSED')
  })
})
