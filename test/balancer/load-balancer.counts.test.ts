import { type BatchContext, type CountsFunction, LoadBalancer, type LoadBalancerOptions } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { type Node, nodes, pickIds } from './support/balancers.js'

/** Takes counts, and sums what it took. */
class Sink {
  readonly calls: { counts: Record<string, number>; batchId: string; attempt: number }[] = []
  readonly sums: Record<string, number> = {}
  /** What the next calls throw, the first one first. */
  readonly failures: unknown[] = []

  readonly take: CountsFunction = async (counts: ReadonlyMap<string, number>, context: BatchContext) => {
    const { batchId, attempt } = context
    this.calls.push({ counts: Object.fromEntries(counts), batchId, attempt })
    if (this.failures.length > 0) throw this.failures.shift()
    for (const [id, count] of counts) this.sums[id] = (this.sums[id] ?? 0) + count
  }
}

function counted(
  ids: string[],
  options: LoadBalancerOptions<Node> = {},
): { balancer: LoadBalancer<Node>; sink: Sink; clock: FakeClock } {
  const clock = new FakeClock()
  const sink = new Sink()
  const balancer = new LoadBalancer(nodes(...ids), {
    clock,
    random: () => 0.5,
    onCounts: sink.take,
    countsEveryMs: 1000,
    ...options,
  })
  return { balancer, sink, clock }
}

describe('request counts', () => {
  test('leave countsEveryMs after the first pick, all in one batch, and an idle balancer has no timer', async () => {
    const { balancer, sink, clock } = counted(['a', 'b'])
    const delivered: unknown[] = []
    balancer.on('countsDelivered', ({ counts, attempts }) => delivered.push([Object.fromEntries(counts), attempts]))
    expect(clock.pending).toBe(0)

    pickIds(balancer, 3)
    await clock.advance(999)
    pickIds(balancer, 2)
    expect(sink.calls).toHaveLength(0)
    await clock.advance(1)

    expect(sink.calls).toMatchObject([{ counts: { a: 3, b: 2 }, attempt: 1 }])
    expect(delivered).toEqual([[{ a: 3, b: 2 }, 1]])
    expect(clock.pending).toBe(0)
    pickIds(balancer, 1)
    expect(clock.pending).toBe(1)
    await clock.advance(1000)
    expect(sink.sums).toEqual({ a: 3, b: 3 })
    expect(balancer.stats().counts).toEqual({ delivered: 6, lost: 0, pending: 0 })
    expect(clock.pending).toBe(0)
  })

  test('every pick counts, also those of retries and those whose lease is still out', async () => {
    const { balancer, sink, clock } = counted(['a', 'b'])
    balancer.pick()
    await balancer.run(() => Promise.reject(new Error('down')), { attempts: 2 }).catch(() => undefined)

    await clock.advance(1000)

    expect(sink.sums).toEqual({ a: 2, b: 1 })
  })

  test('a batch that fails once comes again as the same one, and nothing is mixed into it', async () => {
    const { balancer, sink, clock } = counted(['a', 'b'])
    const retried: unknown[] = []
    balancer.on('countsRetried', ({ attempt, delayMs, error }) =>
      retried.push([attempt, delayMs, (error as Error).message]),
    )
    sink.failures.push(new Error('down'))
    pickIds(balancer, 4)
    await clock.advance(1000)

    pickIds(balancer, 2)
    await clock.advance(50)

    expect(sink.calls).toMatchObject([
      { counts: { a: 2, b: 2 }, attempt: 1 },
      { counts: { a: 2, b: 2 }, attempt: 2 },
    ])
    expect(sink.calls[1]?.batchId).toBe(sink.calls[0]?.batchId)
    expect(retried).toEqual([[2, 50, 'down']])
    await clock.advance(1000)
    expect(sink.sums).toEqual({ a: 3, b: 3 })
    expect(clock.pending).toBe(0)
  })

  test('a lost connection is retried too, under the same id', async () => {
    const { balancer, sink, clock } = counted(['a'])
    sink.failures.push(Object.assign(new Error('reset'), { code: 'ECONNRESET' }))
    pickIds(balancer, 4)

    await clock.advance(1100)

    expect(sink.calls.map(({ attempt }) => attempt)).toEqual([1, 2])
    expect(new Set(sink.calls.map(({ batchId }) => batchId)).size).toBe(1)
    expect(sink.sums).toEqual({ a: 4 })
  })

  test('a batch that fails for good goes back among the counts, unless its error says that it never can', async () => {
    const { balancer, sink, clock } = counted(['a', 'b'])
    const failed: unknown[] = []
    balancer.on('countsFailed', ({ counts, attempts, kept }) =>
      failed.push([Object.fromEntries(counts), attempts, kept]),
    )
    sink.failures.push(...Array.from({ length: 3 }, () => new Error('down')))
    pickIds(balancer, 4)
    await clock.advance(1500)
    expect(failed).toEqual([[{ a: 2, b: 2 }, 3, true]])
    expect(balancer.stats().counts).toEqual({ delivered: 0, lost: 0, pending: 4 })

    pickIds(balancer, 2)
    await clock.advance(2000)
    expect(sink.sums).toEqual({ a: 3, b: 3 })

    sink.failures.push(Object.assign(new Error('too old'), { retryable: false }))
    pickIds(balancer, 2)
    await clock.advance(1000)
    expect(failed).toEqual([
      [{ a: 2, b: 2 }, 3, true],
      [{ a: 1, b: 1 }, 1, false],
    ])
    expect(balancer.stats().counts).toEqual({ delivered: 6, lost: 2, pending: 0 })
    expect(clock.pending).toBe(0)
  })

  test('flush hands on what is there at once and says what became of it', async () => {
    const { balancer, sink, clock } = counted(['a', 'b'])
    pickIds(balancer, 5)

    expect(await balancer.flush()).toEqual({ succeeded: 5, failed: 0, dropped: 0 })
    expect(await balancer.flush()).toEqual({ succeeded: 0, failed: 0, dropped: 0 })

    expect(sink.sums).toEqual({ a: 3, b: 2 })
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('close delivers the rest, with retries at once', async () => {
    const { balancer, sink, clock } = counted(['a', 'b'])
    sink.failures.push(new Error('down'), new Error('down'))
    pickIds(balancer, 5)

    const closed = balancer.close()
    await clock.advance(0)

    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expect(sink.sums).toEqual({ a: 3, b: 2 })
    expect(sink.calls).toHaveLength(3)
    expect(clock.pending).toBe(0)
  })

  test('close does not wait for leases before it delivers', async () => {
    const { balancer, sink, clock } = counted(['a'])
    const lease = balancer.pick()

    const closed = balancer.close()
    await clock.advance(0)

    expect(sink.sums).toEqual({ a: 1 })
    lease.release()
    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expect(clock.pending).toBe(0)
  })

  test('close cuts a wait between attempts short, whatever leases are still out', async () => {
    const { balancer, sink, clock } = counted(['a'], { random: () => 0.999 })
    sink.failures.push(new Error('down'))
    const lease = balancer.pick()
    await clock.advance(1000)
    expect(sink.calls).toHaveLength(1)

    const closed = balancer.close({ timeoutMs: 10 })
    await clock.advance(0)

    expect(sink.sums).toEqual({ a: 1 })
    await clock.advance(10)
    expect(await closed).toEqual({ drained: false, abandoned: 1 })
    lease.release()
    expect(clock.pending).toBe(0)
  })

  test('what a retry picks after close is delivered too, by the end of the turn', async () => {
    const { balancer, sink, clock } = counted(['a', 'b'])
    const lease = balancer.pick()
    const result = balancer.run(
      async ({ id }, { attempt }) => {
        await undefined
        if (attempt === 1) throw new Error('down')
        return id
      },
      { attempts: 2 },
    )

    const closed = balancer.close({ timeoutMs: 10 })
    await clock.advance(0)

    expect(await result).toBe('a')
    expect(sink.sums).toEqual({ a: 2, b: 1 })
    await clock.advance(10)
    expect(await closed).toEqual({ drained: false, abandoned: 1 })
    expect(balancer.stats().counts).toEqual({ delivered: 3, lost: 0, pending: 0 })
    lease.release()
  })

  test('what can not be delivered by the deadline of close is abandoned, told and counted', async () => {
    const clock = new FakeClock()
    const hanging = (): Promise<void> => new Promise(() => undefined)
    const balancer = new LoadBalancer(nodes('a', 'b'), { clock, onCounts: hanging, countsEveryMs: 1000 })
    const failed: unknown[] = []
    balancer.on('countsFailed', ({ counts, error, kept }) =>
      failed.push([Object.fromEntries(counts), (error as { code: string }).code, kept]),
    )
    pickIds(balancer, 4)
    await clock.advance(1000)
    pickIds(balancer, 2)

    const closed = balancer.close({ timeoutMs: 100 })
    await clock.advance(100)

    expect(await closed).toEqual({ drained: false, abandoned: 6 })
    expect(failed).toEqual([
      [{ a: 2, b: 2 }, 'ERR_CLOSED', false],
      [{ a: 1, b: 1 }, 'ERR_CLOSED', false],
    ])
    expect(balancer.stats().counts).toEqual({ delivered: 0, lost: 6, pending: 0 })
    expect(clock.pending).toBe(0)
  })

  test('a call that hangs is given up after countsTimeoutMs and made again', async () => {
    const clock = new FakeClock()
    const sums: Record<string, number> = {}
    let calls = 0
    const onCounts = (counts: ReadonlyMap<string, number>): Promise<void> | undefined => {
      calls++
      if (calls === 1) return new Promise(() => undefined)
      for (const [id, count] of counts) sums[id] = (sums[id] ?? 0) + count
      return undefined
    }
    const balancer = new LoadBalancer(nodes('a'), { clock, onCounts, countsEveryMs: 1000, countsTimeoutMs: 500 })
    pickIds(balancer, 3)

    await clock.advance(3000)

    expect(sums).toEqual({ a: 3 })
    expect(calls).toBe(2)
    expect(clock.pending).toBe(0)
  })

  test('while a batch is on its way nothing is brought after it, so that memory is one number an instance', async () => {
    const clock = new FakeClock()
    const batches: Record<string, number>[] = []
    let answer: () => void = () => undefined
    const onCounts = (counts: ReadonlyMap<string, number>): Promise<void> => {
      batches.push(Object.fromEntries(counts))
      return new Promise((resolve) => {
        answer = resolve
      })
    }
    const balancer = new LoadBalancer(nodes('a'), { clock, onCounts, countsEveryMs: 1000, countsTimeoutMs: 60_000 })
    for (let second = 0; second < 10; second++) {
      pickIds(balancer, 1)
      await clock.advance(1000)
    }
    expect(batches).toEqual([{ a: 1 }])

    answer()
    await clock.advance(1000)

    expect(batches).toEqual([{ a: 1 }, { a: 9 }])
    answer()
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('the counts of an instance that left are not lost', async () => {
    const clock = new FakeClock()
    const sink = new Sink()
    let list = nodes('a', 'b')
    const balancer = new LoadBalancer<Node>(async () => list, { clock, onCounts: sink.take, countsEveryMs: 1000 })
    await balancer.start()
    const leases = Array.from({ length: 4 }, () => balancer.pick())

    list = nodes('b')
    await balancer.refresh()
    for (const lease of leases) lease.release()
    list = nodes('a', 'b')
    await balancer.refresh()
    pickIds(balancer, 2)
    await clock.advance(1000)

    expect(sink.sums).toEqual({ a: 3, b: 3 })
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('onCounts may pick from its own balancer, and that counts too', async () => {
    const clock = new FakeClock()
    let sum = 0
    let extra = 2
    const onCounts = async (counts: ReadonlyMap<string, number>): Promise<void> => {
      for (const count of counts.values()) sum += count
      if (extra-- > 0) balancer.pick().release()
    }
    const balancer: LoadBalancer<Node> = new LoadBalancer(nodes('a'), { clock, onCounts, countsEveryMs: 1000 })
    pickIds(balancer, 3)

    await clock.advance(5000)

    expect(sum).toBe(5)
    expect(clock.pending).toBe(0)
  })
})
