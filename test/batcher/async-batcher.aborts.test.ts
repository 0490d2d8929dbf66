import { getEventListeners } from 'node:events'
import { AsyncBatcher } from 'spillway'
import { describe, expect } from 'vitest'
import { Gate } from './support/gate.js'
import { codeOf, expectBooks, reasonOf, watch } from './support/outcomes.js'
import { warningsDuring } from './support/process-events.js'
import { inVirtualTime } from './support/virtual-time.js'

const reason = new Error('the caller has gone')
const listenersOn = (signal: AbortSignal): number => getEventListeners(signal, 'abort').length

describe('an abort before add', () => {
  inVirtualTime(
    'rejects with the signal’s reason, counts as offered and rejected, and sends nothing',
    async (clock) => {
      const gate = new Gate<number>(clock)
      const batcher = new AsyncBatcher(gate.process, { clock })
      const signal = AbortSignal.abort(reason)

      const one = watch(batcher.add(1, { signal }))
      const many = watch(batcher.addMany([2, 3], { signal }))
      await clock.advance(1000)

      expect(one).toEqual({ status: 'rejected', reason, times: 1 })
      expect(many.value).toEqual([
        { status: 'rejected', reason },
        { status: 'rejected', reason },
      ])
      expect(gate.calls).toHaveLength(0)
      expect(listenersOn(signal)).toBe(0)
      expectBooks(batcher, { offered: 3, rejected: 3, aborted: 0 })
    },
  )

  inVirtualTime('rejects with a DOMException where no reason was given', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock })

    expect(await reasonOf(batcher.add(1, { signal: AbortSignal.abort() }))).toHaveProperty('name', 'AbortError')
  })

  inVirtualTime('with a signal so old that it has no reason still settles', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock })
    const old = { aborted: true, addEventListener: () => undefined, removeEventListener: () => undefined }

    const answer = watch(batcher.add(1, { signal: old as unknown as AbortSignal }))
    await clock.advance(1000)

    expect(answer.status).toBe('rejected')
    expectBooks(batcher, { rejected: 1 })
  })
})

describe('an abort while queued', () => {
  inVirtualTime('rejects at once with the reason, and takes the item out of its batch', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, eager: false })
    const controller = new AbortController()

    batcher.add(1)
    const aborted = watch(batcher.add(2, { signal: controller.signal }))
    batcher.add(3)
    controller.abort(reason)
    expectBooks(batcher, { aborted: 1, pending: 2 })
    gate.letGo()
    await clock.advance(0)
    expect(aborted).toEqual({ status: 'rejected', reason, times: 1 })
    await clock.advance(100)

    expect(gate.batches).toEqual([[1, 3]])
    expectBooks(batcher, { aborted: 1, succeeded: 2 })
  })

  for (const eager of [true, false]) {
    inVirtualTime(`no empty batch is ever dispatched (eager: ${eager})`, async (clock) => {
      const gate = new Gate<number>(clock)
      const batcher = new AsyncBatcher(gate.process, { clock, eager, maxBatchSize: 2 })
      const controller = new AbortController()

      batcher.add(1, { signal: controller.signal })
      batcher.add(2, { signal: controller.signal })
      controller.abort(reason)
      await clock.advance(1000)

      expect(gate.calls).toHaveLength(0)
      expectBooks(batcher, { aborted: 2, pending: 0, batches: 0 })
    })
  }

  inVirtualTime('a due batch behind a busy slot that lost all its items isn’t dispatched', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, concurrency: 1, maxBatchSize: 1 })
    const controller = new AbortController()

    batcher.add(1)
    await clock.advance(0)
    batcher.add(2, { signal: controller.signal })
    batcher.add(3)
    controller.abort(reason)
    gate.letGo()
    await clock.advance(0)

    expect(gate.batches).toEqual([[1], [3]])
  })

  inVirtualTime('frees its room, for one who waits as well', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, capacity: 1, eager: false, maxWaitMs: 50 })
    const controller = new AbortController()

    // The only place is taken, by a batch that is full; it hasn't left yet.
    batcher.add(1, { signal: controller.signal })
    const waiting = watch(batcher.addMany([2]))
    controller.abort(reason)
    gate.letGo()
    await clock.advance(50)

    expect(waiting.value).toEqual([{ status: 'fulfilled', value: 2 }])
    expect(gate.batches).toEqual([[2]])
  })

  inVirtualTime('lets a flush and a close end that waited only for it', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, concurrency: 1, maxBatchSize: 1 })
    const controller = new AbortController()
    batcher.add(1)
    await clock.advance(0)
    batcher.add(2, { signal: controller.signal })

    const flushed = watch(batcher.flush())
    gate.echo(0)
    controller.abort(reason)
    await clock.advance(0)

    expect(flushed.value).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    gate.letGo()
    expect(await batcher.close()).toEqual({ drained: true, abandoned: 0 })
  })

  inVirtualTime('of half of what a large batch holds leaves the other half in order', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, eager: false, maxBatchSize: 1000 })
    const controller = new AbortController()
    const numbers = Array.from({ length: 500 }, (_, n) => n)

    const answers = numbers.map((n) => watch(batcher.add(n, n % 2 === 0 ? { signal: controller.signal } : {})))
    controller.abort(reason)
    gate.letGo()
    await clock.advance(100)

    const odd = numbers.filter((n) => n % 2 === 1)
    expect(gate.batches).toEqual([odd])
    expect(answers.filter(({ status }) => status === 'fulfilled').map(({ value }) => value)).toEqual(odd)
  })
})

describe('an abort in flight', () => {
  inVirtualTime('rejects at once, counts as aborted, and hurts nobody else', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })
    const controller = new AbortController()

    const aborted = watch(batcher.add(1, { signal: controller.signal }))
    const other = watch(batcher.add(2))
    await clock.advance(0)
    controller.abort(reason)
    expectBooks(batcher, { aborted: 1, inFlight: 1, pending: 1, inFlightBatches: 1 })
    await clock.advance(0)
    expect(aborted).toEqual({ status: 'rejected', reason, times: 1 })
    expect(gate.call(0).context.signal.aborted).toBe(false)
    gate.echo(0)
    await clock.advance(0)

    expect(aborted.times).toBe(1)
    expect(other.value).toBe(2)
    expectBooks(batcher, { aborted: 1, succeeded: 1 })
  })

  inVirtualTime('of the last who waited aborts the batch’s signal, with that reason', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })
    const [one, two] = [new AbortController(), new AbortController()]

    batcher.add(1, { signal: one.signal })
    batcher.add(2, { signal: two.signal })
    await clock.advance(0)
    const { signal } = gate.call(0).context
    one.abort(new Error('the first'))
    expect(signal.aborted).toBe(false)
    two.abort(reason)

    expect(signal.aborted).toBe(true)
    expect(signal.reason).toBe(reason)
    expectBooks(batcher, { aborted: 2, pending: 0, inFlightBatches: 1 })
  })

  inVirtualTime('a signal that the batch function asks for later is aborted already', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })
    const controller = new AbortController()

    batcher.add(1, { signal: controller.signal })
    await clock.advance(0)
    controller.abort(reason)

    expect(gate.call(0).context.signal.aborted).toBe(true)
    expect(gate.call(0).context.signal.reason).toBe(reason)
  })

  inVirtualTime('close still waits for a batch that nobody waits for', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })
    const controller = new AbortController()

    batcher.add(1, { signal: controller.signal })
    await clock.advance(0)
    controller.abort(reason)
    const closed = watch(batcher.close())
    await clock.advance(10_000)
    expect(closed.status).toBe('pending')
    gate.call(0).fail(reason)
    await clock.advance(0)

    expect(closed.value).toEqual({ drained: true, abandoned: 0 })
    expectBooks(batcher, { aborted: 1, failed: 0 })
  })

  inVirtualTime('such a batch keeps its slot until it settles', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, concurrency: 1 })
    const controller = new AbortController()

    batcher.add(1, { signal: controller.signal })
    await clock.advance(0)
    controller.abort(reason)
    batcher.add(2)
    await clock.advance(1000)
    expect(gate.calls).toHaveLength(1)
    gate.letGo()
    await clock.advance(0)

    expect(gate.batches).toEqual([[1], [2]])
  })

  inVirtualTime('a batch that nobody waits for is not tried again, nor does it wait in back-off', async (clock) => {
    const gate = new Gate<number>(clock)
    const retry = { attempts: 5, delayMs: 1000 }
    const batcher = new AsyncBatcher(gate.process, { clock, concurrency: 1, retry, random: () => 0.5, bisect: true })
    const [one, two] = [new AbortController(), new AbortController()]

    batcher.add(1, { signal: one.signal })
    await clock.advance(0)
    one.abort(reason)
    gate.call(0).fail(new Error('no'))
    await clock.advance(0)
    expectBooks(batcher, { inFlightBatches: 0 })

    batcher.add(2, { signal: two.signal })
    await clock.advance(0)
    gate.call(1).fail(new Error('no'))
    await clock.advance(0)
    expectBooks(batcher, { inFlightBatches: 1 })
    two.abort(reason)
    expect(clock.pending).toBe(0)
    await clock.advance(10_000)

    expect(gate.calls).toHaveLength(2)
    expectBooks(batcher, { aborted: 2, failed: 0, inFlightBatches: 0 })
  })

  inVirtualTime(
    'from a listener that hears of the dispatch aborts the signal that the batch function sees',
    async (clock) => {
      const seen: boolean[] = []
      const batcher = new AsyncBatcher<number, number>(
        (items, { signal }) => {
          seen.push(signal.aborted)
          return items
        },
        { clock },
      )
      const controller = new AbortController()
      batcher.on('dispatched', () => controller.abort(reason))

      const answer = watch(batcher.add(1, { signal: controller.signal }))
      await clock.advance(0)

      expect(answer.reason).toBe(reason)
      // Not calling it at all would be as good.
      expect(seen).not.toContain(false)
      expectBooks(batcher, { aborted: 1, inFlightBatches: 0 })
    },
  )

  inVirtualTime('after the answer changes nothing', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock })
    const controller = new AbortController()

    const answer = watch(batcher.add(1, { signal: controller.signal }))
    await clock.advance(0)
    controller.abort(reason)
    await clock.advance(0)

    expect(answer).toEqual({ status: 'fulfilled', value: 1, times: 1 })
    expectBooks(batcher, { succeeded: 1, aborted: 0 })
  })
})

describe('addMany and its signal', () => {
  inVirtualTime('one abort ends what waits, what is queued and what is in flight', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, capacity: 2, maxBatchSize: 1, concurrency: 1 })
    const controller = new AbortController()

    const outcomes = watch(batcher.addMany([1, 2, 3, 4, 5, 6], { signal: controller.signal }))
    await clock.advance(0)
    expect(listenersOn(controller.signal)).toBe(1)
    expectBooks(batcher, { inFlight: 1, pending: 3, offered: 3 })
    controller.abort(reason)
    await clock.advance(0)

    expect(outcomes.value).toEqual(Array(6).fill({ status: 'rejected', reason }))
    expect(gate.call(0).context.signal.aborted).toBe(true)
    expect(gate.batches).toEqual([[1]])
    expect(listenersOn(controller.signal)).toBe(0)
    expectBooks(batcher, { offered: 6, aborted: 6, pending: 0 })
  })

  inVirtualTime('items that were answered before keep their answers', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxBatchSize: 1, concurrency: 1 })
    const controller = new AbortController()

    const outcomes = watch(batcher.addMany([1, 2], { signal: controller.signal }))
    await clock.advance(0)
    gate.echo(0)
    await clock.advance(0)
    controller.abort(reason)
    await clock.advance(0)

    expect(outcomes.value).toEqual([
      { status: 'fulfilled', value: 1 },
      { status: 'rejected', reason },
    ])
  })
})

describe('one signal for many calls', () => {
  inVirtualTime('ends all of them, wherever they are, and keeps no listener', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, capacity: 2, maxBatchSize: 1, concurrency: 1 })
    const controller = new AbortController()
    const { signal } = controller

    const inFlight = watch(batcher.add(1, { signal }))
    await clock.advance(0)
    const queued = [2, 3].map((n) => watch(batcher.add(n, { signal })))
    const ready = watch(batcher.ready({ signal }))
    const many = watch(batcher.addMany([4, 5], { signal }))
    controller.abort(reason)
    await clock.advance(0)

    for (const watched of [inFlight, ...queued, ready])
      expect(watched).toEqual({ status: 'rejected', reason, times: 1 })
    expect(many.value).toEqual(Array(2).fill({ status: 'rejected', reason }))
    expect(listenersOn(signal)).toBe(0)
    expectBooks(batcher, { offered: 5, aborted: 5 })
  })

  inVirtualTime('a call that is answered takes its listener away and leaves the others theirs', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxBatchSize: 1 })
    const controller = new AbortController()
    const { signal } = controller

    const answered = watch(batcher.add(1, { signal }))
    const waiting = watch(batcher.add(2, { signal }))
    await clock.advance(0)
    gate.echo(0)
    await clock.advance(0)
    controller.abort(reason)
    await clock.advance(0)

    expect(answered).toEqual({ status: 'fulfilled', value: 1, times: 1 })
    expect(waiting).toEqual({ status: 'rejected', reason, times: 1 })
  })

  const endings: [string, (batcher: AsyncBatcher<number, number>, gate: Gate<number>) => unknown][] = [
    ['success', (_, gate) => gate.letGo()],
    ['failure', (_, gate) => gate.calls.forEach((call) => void call.fail(new Error('no')))],
    ['a deadline', (batcher) => batcher.close({ timeoutMs: 0 })],
  ]
  for (const [ending, end] of endings) {
    inVirtualTime(`keeps no listener after ${ending}`, async (clock) => {
      const gate = new Gate<number>(clock)
      const batcher = new AsyncBatcher(gate.process, { clock, maxBatchSize: 10, concurrency: 1, capacity: 100 })
      const { signal } = new AbortController()

      for (let n = 0; n < 10; n++) batcher.add(n, { signal })
      await clock.advance(0)
      expect(listenersOn(signal)).toBeGreaterThan(0)
      end(batcher, gate)
      await clock.advance(0)

      expect(listenersOn(signal)).toBe(0)
    })
  }

  inVirtualTime('keeps no listener after being refused or dropped', async (clock) => {
    for (const overflow of ['reject', 'drop-newest', 'drop-oldest'] as const) {
      const batcher = new AsyncBatcher((items: number[]) => items, { clock, capacity: 1, overflow, eager: false })
      const { signal } = new AbortController()

      for (let n = 0; n < 5; n++) batcher.add(n, { signal })
      expect(listenersOn(signal)).toBe(1)
      await batcher.close()

      expect(listenersOn(signal)).toBe(0)
    }
  })

  inVirtualTime('gives no MaxListenersExceededWarning at a hundred calls', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock, eager: false, capacity: 200 })
    const { signal } = new AbortController()

    const warnings = await warningsDuring(async () => {
      for (let n = 0; n < 100; n++) batcher.add(n, { signal })
      await clock.advance(100)
    })

    expect(warnings).toEqual([])
    expectBooks(batcher, { succeeded: 100 })
  })
})

describe('something that is no signal', () => {
  for (const signal of [null, 'abort', 1, {}, { aborted: false }]) {
    inVirtualTime(`${JSON.stringify(signal)} rejects with ERR_OPTION and never throws`, async (clock) => {
      const batcher = new AsyncBatcher((items: number[]) => items, { clock })
      const options = { signal: signal as AbortSignal }

      const calls = [batcher.add(1, options), batcher.addMany([1], options), batcher.ready(options)].map(reasonOf)
      await clock.advance(1000)

      for (const reason of await Promise.all(calls)) {
        expect(codeOf(reason)).toBe('ERR_OPTION')
        expect((reason as Error).message).toMatch(/^signal must be an AbortSignal, got /)
      }
      expectBooks(batcher, { pending: 0, succeeded: 0 })
    })
  }
})
