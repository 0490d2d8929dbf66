import { AsyncBatcher, isSpillwayError, type TimeoutError } from 'spillway'
import { describe, expect } from 'vitest'
import { Gate } from './support/gate.js'
import { codeOf, expectBooks, watch } from './support/outcomes.js'
import { inVirtualTime } from './support/virtual-time.js'

describe('timeoutMs', () => {
  inVirtualTime(
    'rejects all of a batch that takes longer, and aborts its signal with the same error',
    async (clock) => {
      const gate = new Gate<number>(clock)
      const batcher = new AsyncBatcher(gate.process, { clock, name: 'orders', timeoutMs: 50 })

      const answers = [1, 2].map((n) => watch(batcher.add(n)))
      await clock.advance(49)
      const { signal, batchId } = gate.call(0).context
      expect(answers.map(({ status }) => status)).toEqual(['pending', 'pending'])
      expect(signal.aborted).toBe(false)
      await clock.advance(1)

      const error = answers[0]?.reason as TimeoutError
      expect(isSpillwayError(error, 'ERR_TIMEOUT')).toBe(true)
      expect(error).toMatchObject({ name: 'TimeoutError', timeoutMs: 50, retryable: true })
      expect(error.message).toBe(`orders: attempt 1 at batch ${batchId} took longer than 50 ms`)
      expect(answers[1]?.reason).toBe(error)
      expect(signal.reason).toBe(error)
      expectBooks(batcher, { failed: 2, pending: 0, timeouts: 1, overruns: 0 })
      gate.letGo()
      await clock.advance(0)
    },
  )

  inVirtualTime('lets a batch in peace that is in time, and leaves no timer', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, timeoutMs: 50 })

    const answer = watch(batcher.add(1))
    await clock.advance(49)
    gate.echo(0)
    await clock.advance(0)

    expect(answer.value).toBe(1)
    expect(clock.pending).toBe(0)
    expect(gate.call(0).context.signal.aborted).toBe(false)
    expectBooks(batcher, { timeouts: 0 })
  })

  inVirtualTime('is counted for each attempt anew', async (clock) => {
    const gate = new Gate<number>(clock)
    const retry = { attempts: 3, delayMs: 10, maxDelayMs: 10 }
    const batcher = new AsyncBatcher(gate.process, { clock, timeoutMs: 50, retry, random: () => 0.999 })

    const answer = watch(batcher.add(1))
    await clock.advance(40)
    gate.call(0).fail(new Error('once'))
    await clock.advance(10)
    await clock.advance(40)
    gate.call(1).fail(new Error('twice'))
    await clock.advance(10)
    await clock.advance(40)
    gate.echo(2)
    await clock.advance(0)

    expect(answer.value).toBe(1)
    expectBooks(batcher, { timeouts: 0, retries: 2 })
  })
})

describe('the slot of a timed-out attempt', () => {
  const options = { timeoutMs: 50, concurrency: 1, maxBatchSize: 1 }

  inVirtualTime('stays taken until the work settles', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, ...options })

    batcher.add(1)
    batcher.add(2)
    await clock.advance(50 + 700)
    expect(gate.batches).toEqual([[1]])
    expectBooks(batcher, { failed: 1, inFlightBatches: 1, inFlight: 0, pending: 1 })
    gate.call(0).fail(new Error('stopped at last'))
    await clock.advance(0)

    expect(gate.batches).toEqual([[1], [2]])
    expectBooks(batcher, { overruns: 0, timeouts: 1 })
    gate.letGo()
    await clock.advance(0)
  })

  inVirtualTime('or until timeoutGraceMs has passed, 1000 by default; that is counted as an overrun', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, ...options })

    batcher.add(1)
    batcher.add(2)
    await clock.advance(50 + 999)
    expect(gate.calls).toHaveLength(1)
    await clock.advance(1)
    gate.letGo()
    await clock.advance(0)

    expect(gate.calls.map(({ at }) => at)).toEqual([0, 1050])
    expectBooks(batcher, { overruns: 1, timeouts: 1, failed: 1, succeeded: 1 })
  })

  inVirtualTime('a grace of 0 gives the slot back at once', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, ...options, timeoutGraceMs: 0 })

    batcher.add(1)
    batcher.add(2)
    await clock.advance(50)

    expect(gate.calls.map(({ at }) => at)).toEqual([0, 50])
    gate.letGo()
    await clock.advance(0)
  })

  inVirtualTime('a batch function that heeds its signal gives it back at once', async (clock) => {
    let calls = 0
    const batcher = new AsyncBatcher<number, number>(
      (items, { signal }) =>
        calls++ > 0
          ? items
          : new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true })),
      { clock, ...options },
    )

    const answers = [1, 2].map((n) => watch(batcher.add(n)))
    await clock.advance(50)

    expect(codeOf(answers[0]?.reason)).toBe('ERR_TIMEOUT')
    expect(answers[1]?.value).toBe(2)
    expectBooks(batcher, { overruns: 0 })
  })
})

describe('a late result', () => {
  for (const late of ['in the grace', 'after the grace']) {
    for (const how of ['success', 'failure', 'a wrong length']) {
      inVirtualTime(`is ignored: ${how} ${late}`, async (clock) => {
        const gate = new Gate<number>(clock)
        const batcher = new AsyncBatcher(gate.process, { clock, timeoutMs: 50, timeoutGraceMs: 100 })
        const settled: unknown[] = []
        batcher.on('settled', (event) => void settled.push(event))

        const answer = watch(batcher.add(1))
        await clock.advance(50)
        const next = watch(batcher.add(2))
        await clock.advance(late === 'in the grace' ? 50 : 150)
        if (how === 'success') gate.echo(0)
        else if (how === 'failure') gate.call(0).fail(new Error('late'))
        else gate.call(0).answer([])
        gate.letGo()
        await clock.advance(200)

        expect(answer).toMatchObject({ status: 'rejected', reason: { code: 'ERR_TIMEOUT' }, times: 1 })
        expect(next.times).toBe(1)
        const { succeeded, failed } = batcher.stats()
        expect(succeeded + failed).toBe(2)
        expect(settled).toHaveLength(2)
        expectBooks(batcher, { pending: 0, inFlightBatches: 0 })
      })
    }
  }

  inVirtualTime('of an attempt that was given up doesn’t answer for the retry', async (clock) => {
    const gate = new Gate<number, string>(clock)
    const batcher = new AsyncBatcher(gate.process, {
      clock,
      timeoutMs: 50,
      timeoutGraceMs: 10,
      idempotent: true,
      retry: { attempts: 2, delayMs: 0 },
    })

    const answer = watch(batcher.add(1))
    await clock.advance(60)
    expect(gate.calls).toHaveLength(2)
    gate.call(0).answer(['of the first attempt'])
    await clock.advance(0)
    expect(answer.status).toBe('pending')
    gate.call(1).answer(['of the second'])
    await clock.advance(0)

    expect(answer.value).toBe('of the second')
    expectBooks(batcher, { timeouts: 1, overruns: 1, retries: 1, succeeded: 1 })
  })
})

describe('a retry after a timeout', () => {
  const options = { timeoutMs: 50, timeoutGraceMs: 100, retry: { attempts: 2, delayMs: 20 }, random: () => 0.5 }

  inVirtualTime('isn’t made unless the batch function is idempotent: the outcome is unknown', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, ...options })

    const answer = watch(batcher.add(1))
    await clock.advance(10_000)

    expect(codeOf(answer.reason)).toBe('ERR_TIMEOUT')
    expect(gate.calls).toHaveLength(1)
    expectBooks(batcher, { retries: 0, failed: 1 })
  })

  inVirtualTime('waits until the attempt has settled, then backs off', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, ...options, idempotent: true })

    const answer = watch(batcher.add(1))
    await clock.advance(80)
    expect(gate.calls).toHaveLength(1)
    expect(gate.call(0).context.signal.aborted).toBe(true)
    expect(answer.status).toBe('pending')
    gate.echo(0)
    await clock.advance(10)
    gate.letGo()
    await clock.advance(0)

    expect(gate.calls.map(({ at }) => at)).toEqual([0, 90])
    expect(gate.widest).toBe(1)
    expect(gate.call(1).context.signal.aborted).toBe(false)
    expect(answer.value).toBe(1)
    expectBooks(batcher, { retries: 1, timeouts: 1, overruns: 0 })
  })

  inVirtualTime('or waits for the grace, then backs off', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, ...options, idempotent: true })

    const answer = watch(batcher.add(1))
    await clock.advance(159)
    expect(gate.calls).toHaveLength(1)
    await clock.advance(1)
    gate.letGo()
    await clock.advance(0)

    expect(gate.calls.map(({ at }) => at)).toEqual([0, 160])
    expect(answer.value).toBe(1)
    expectBooks(batcher, { retries: 1, timeouts: 1, overruns: 1 })
  })

  inVirtualTime('that times out as well fails, when it was the last attempt', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, ...options, idempotent: true })

    const answer = watch(batcher.add(1))
    await clock.advance(160 + 50)
    expect(codeOf(answer.reason)).toBe('ERR_TIMEOUT')
    expect((answer.reason as Error).message).toContain('attempt 2')
    await clock.advance(100)

    expectBooks(batcher, { timeouts: 2, overruns: 2, retries: 1, failed: 1, inFlightBatches: 0 })
  })

  inVirtualTime('isn’t made when all callers have gone meanwhile', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, ...options, idempotent: true })
    const controller = new AbortController()

    batcher.add(1, { signal: controller.signal })
    await clock.advance(60)
    controller.abort()
    await clock.advance(10_000)

    expect(gate.calls).toHaveLength(1)
    expectBooks(batcher, { aborted: 1, inFlightBatches: 0 })
  })
})
