import type { BatchTracer, TracedBatch } from '../../core/ports.js'
import { type ContractCase, expectEqual, expectThat } from './contract.js'

/** What {@link batchTracerContract} needs of an implementation. */
export interface BatchTracerHarness {
  /** Makes a tracer. */
  open(): BatchTracer
  /** Runs something where there is a trace to lead back to, as a request's handler would be. The default just runs it. */
  inTrace?<T>(run: () => T): T
}

/**
 * What every `BatchTracer` must do, as cases for any test runner: it looks on, and changes nothing. What it notes is its own affair.
 *
 * @example
 * ```ts
 * import { batchTracerContract } from 'spillway/testing'
 *
 * declare function test(name: string, run: () => Promise<void>): void
 *
 * const open = () => ({ enter: () => undefined, run: <T>(_: unknown, attempt: () => T): T => attempt() })
 * for (const { name, run } of batchTracerContract({ open })) test(name, run)
 * ```
 */
export function batchTracerContract(harness: BatchTracerHarness): readonly ContractCase[] {
  const cases: ContractCase[] = []
  const test = (name: string, body: (tracer: BatchTracer) => void | Promise<void>): void => {
    cases.push({ name, run: async () => body(harness.open()) })
  }
  const inTrace = <T>(run: () => T): T => (harness.inTrace === undefined ? run() : harness.inTrace(run))

  test('run calls the attempt once, before it returns, and answers what that answers', (tracer) => {
    for (const answer of [undefined, null, 0, 'text', { an: 'object' }, [1]]) {
      let calls = 0
      const got: unknown = tracer.run(batch([]), () => {
        calls++
        return answer
      })
      expectEqual(calls, 1, 'how often the attempt was called')
      expectThat(got === answer, 'it must answer just what the attempt answers')
    }
  })

  test('run answers the promise of the attempt, or one that settles as that does', async (tracer) => {
    expectEqual(await tracer.run(batch([]), async () => 7), 7, 'what it resolves to')
    const error = new Error('attempt')
    const got = await tracer
      .run(batch([]), () => Promise.reject(error))
      .then(
        () => undefined,
        (reason: unknown) => reason,
      )
    expectThat(got === error, 'it must reject with just what the attempt rejects with')
  })

  test('run throws what the attempt throws', (tracer) => {
    const error = new Error('attempt')
    let got: unknown
    try {
      tracer.run(batch([]), () => {
        throw error
      })
    } catch (thrown) {
      got = thrown
    }
    expectThat(got === error, 'it must throw just what the attempt throws')
  })

  test('enter never throws, with a trace and without one', (tracer) => {
    tracer.enter()
    inTrace(() => tracer.enter())
  })

  test('origins are what enter answered, none of them or many', (tracer) => {
    const origins = Array.from({ length: 128 }, () => inTrace(() => tracer.enter()))
    for (const count of [0, 1, 2, 128]) {
      expectEqual(
        tracer.run(batch(origins.slice(0, count)), () => count),
        count,
        'what it answers',
      )
    }
  })

  test('origins that lead nowhere do no harm', (tracer) => {
    expectEqual(
      tracer.run(batch([undefined, tracer.enter(), undefined]), () => 'done'),
      'done',
      'what it answers',
    )
  })

  test('attempts may overlap, and be made within one another', async (tracer) => {
    const order: string[] = []
    const [first, second] = [1, 2].map((nth) =>
      tracer.run(batch([inTrace(() => tracer.enter())]), async () => {
        order.push(`${nth} begins`)
        for (let i = 0; i < nth * 2; i++) await undefined
        const inner = tracer.run(batch([]), () => nth * 10)
        order.push(`${nth} ends`)
        return inner
      }),
    )
    expectEqual(await Promise.all([first, second]), [10, 20], 'what they answer')
    expectEqual(order, ['1 begins', '2 begins', '1 ends', '2 ends'], 'their order')
  })

  test('a batch may be tried several times', async (tracer) => {
    const traced = batch([inTrace(() => tracer.enter())])
    for (let attempt = 1; attempt <= 3; attempt++) {
      const answer = tracer.run(traced, async () => (attempt < 3 ? Promise.reject(new Error('again')) : 'done'))
      expectEqual(await answer.catch(() => 'failed'), attempt < 3 ? 'failed' : 'done', `attempt ${attempt}`)
    }
  })

  return cases
}

/** A batch, frozen as those of a component are. */
function batch(origins: readonly unknown[]): TracedBatch {
  return Object.freeze({
    component: 'contract',
    size: Math.max(1, origins.length),
    origins: Object.freeze([...origins]),
  })
}
