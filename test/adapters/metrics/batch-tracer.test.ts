import * as api from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  ParentBasedSampler,
  type ReadableSpan,
  type Sampler,
  SimpleSpanProcessor,
  TraceIdRatioBasedSampler,
} from '@opentelemetry/sdk-trace-base'
import { AsyncBatcher, AsyncWriteBuffer, MemoryQuotaStore, QuotaConsumer } from 'spillway'
import { type BatchTracerOptions, batchTracer, type TracingApi } from 'spillway/metrics'
import { FakeClock } from 'spillway/testing'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'

const contexts = new AsyncLocalStorageContextManager().enable()
beforeAll(() => void api.context.setGlobalContextManager(contexts))
afterAll(() => api.context.disable())

let exporter: InMemorySpanExporter
let provider: BasicTracerProvider
function use(sampler?: Sampler) {
  exporter = new InMemorySpanExporter()
  provider = new BasicTracerProvider({
    spanProcessors: [new SimpleSpanProcessor(exporter)],
    ...(sampler === undefined ? {} : { sampler }),
  })
}
beforeEach(() => use())
afterEach(() => {
  vi.restoreAllMocks()
})

const make = (options?: BatchTracerOptions) => batchTracer(api, { tracer: provider.getTracer('test'), ...options })
const spans = (name?: string): ReadableSpan[] =>
  exporter.getFinishedSpans().filter((span) => name === undefined || span.name === name)

/** Runs something within a span of its own, as a request would be. */
function within<T>(name: string, fn: () => T): T {
  const span = provider.getTracer('app').startSpan(name)
  try {
    return api.context.with(api.trace.setSpan(api.context.active(), span), fn)
  } finally {
    span.end()
  }
}
const idOf = (name: string) => spans(name)[0]?.spanContext().spanId
const linksOf = (span: ReadableSpan | undefined) => span?.links.map(({ context }) => context.spanId)

describe('batchTracer, with what batches', () => {
  it('makes a span of a batch, with a link to each span that its items came in, once', async () => {
    const clock = new FakeClock()
    let inside: string | undefined
    const orders = new AsyncBatcher(
      async (items: number[]) => {
        inside = api.trace.getActiveSpan()?.spanContext().spanId
        return items
      },
      { name: 'orders', clock, tracer: make() },
    )

    const answers = [
      within('GET /a', () => Promise.all([orders.add(1), orders.add(2)])),
      within('GET /b', () => orders.add(3)),
      orders.add(4),
    ]
    await clock.advance(0)
    await Promise.all(answers)

    const [batch, ...more] = spans('orders batch')
    expect(more).toEqual([])
    expect(linksOf(batch)).toEqual([idOf('GET /a'), idOf('GET /b')])
    expect(batch?.attributes).toEqual({ 'spillway.component': 'orders', 'spillway.batch.size': 4 })
    expect(batch?.kind).toBe(api.SpanKind.INTERNAL)
    expect(batch?.status.code).toBe(api.SpanStatusCode.UNSET)
    expect(batch?.parentSpanContext).toBeUndefined()
    // What the batch calls is within its span, across its own awaits.
    expect(inside).toBe(batch?.spanContext().spanId)
  })

  it('has no parent, even where the component was made within a request', async () => {
    const clock = new FakeClock()
    const orders = within(
      'GET /first',
      () => new AsyncBatcher(async (items: number[]) => items, { name: 'orders', clock, tracer: make() }),
    )

    const answer = within('GET /second', () => orders.add(1))
    await clock.advance(0)
    await answer

    const [batch] = spans('orders batch')
    expect(batch?.parentSpanContext).toBeUndefined()
    expect(batch?.spanContext().traceId).not.toBe(spans('GET /first')[0]?.spanContext().traceId)
    expect(linksOf(batch)).toEqual([idOf('GET /second')])
  })

  it('makes a span an attempt, and says how it failed', async () => {
    const clock = new FakeClock()
    let attempts = 0
    const writes = new AsyncWriteBuffer<string, number>(
      async () => {
        if (++attempts === 1) throw new TypeError('no connection')
      },
      { name: 'writes', clock, merge: (a, b) => a + b, tracer: make({ kind: 'producer' }), idempotent: true },
    )

    within('GET /a', () => writes.put('k', 1))
    for (let turns = 0; turns < 20; turns++) await clock.advance(100)

    const [failed, written] = spans('writes batch')
    expect(spans('writes batch')).toHaveLength(2)
    expect(failed?.status).toEqual({ code: api.SpanStatusCode.ERROR, message: 'no connection' })
    expect(failed?.attributes['error.type']).toBe('TypeError')
    expect(failed?.events).toMatchObject([{ name: 'exception', attributes: { 'exception.message': 'no connection' } }])
    expect(written?.status.code).toBe(api.SpanStatusCode.UNSET)
    expect(written?.kind).toBe(api.SpanKind.PRODUCER)
    expect([linksOf(failed), linksOf(written)]).toEqual([[idOf('GET /a')], [idOf('GET /a')]])
    await writes.close()
  })

  it('traces the accounting of usage', async () => {
    const clock = new FakeClock()
    const usage = new QuotaConsumer(new MemoryQuotaStore({ clock }), { clock, maxWaitMs: 10, tracer: make() })

    within('POST /use', () => usage.offer({ userId: 'ann', quotaType: 'api', value: 1 }))
    await clock.advance(10)

    const [batch] = spans('quota-consumer batch')
    expect(linksOf(batch)).toEqual([idOf('POST /use')])
    expect(JSON.stringify(batch?.attributes)).not.toContain('ann')
    await usage.close()
  })

  it('links to nothing that no sampler keeps', async () => {
    use(new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(0) }))
    const tracer = make()

    expect(within('GET /a', () => tracer.enter())).toBeUndefined()
    expect(tracer.enter()).toBeUndefined()
    const invalid = api.trace.wrapSpanContext({ ...api.INVALID_SPAN_CONTEXT, traceFlags: 1 })
    expect(api.context.with(api.trace.setSpan(api.ROOT_CONTEXT, invalid), () => tracer.enter())).toBeUndefined()
  })

  it('does nothing where OpenTelemetry has no SDK', async () => {
    const orders = new AsyncBatcher(async (items: number[]) => items.map((n) => n * 2), { tracer: batchTracer(api) })

    expect(await Promise.all([orders.add(1), orders.add(2)])).toEqual([2, 4])
  })
})

describe('batchTracer', () => {
  const batch = { component: 'orders', size: 1, origins: [] }

  it('answers what the attempt answers: the same promise, the same value, the same error', async () => {
    const tracer = make()
    const promise = Promise.resolve(1)
    const rejected = Promise.reject(new Error('late'))
    const thrown = new Error('at once')

    expect(tracer.run(batch, () => promise)).toBe(promise)
    expect(tracer.run(batch, () => 42)).toBe(42)
    expect(tracer.run(batch, () => undefined)).toBeUndefined()
    expect(tracer.run(batch, () => rejected)).toBe(rejected)
    await expect(rejected).rejects.toThrow('late')
    let caught: unknown
    try {
      tracer.run(batch, () => {
        throw thrown
      })
    } catch (error) {
      caught = error
    }
    expect(caught).toBe(thrown)
    await promise

    expect(
      spans()
        .map(({ status }) => status.message ?? 'fine')
        .sort(),
    ).toEqual(['at once', 'fine', 'fine', 'fine', 'late'])
  })

  it('asks what runs at each then only once', async () => {
    let runs = 0
    // biome-ignore lint/suspicious/noThenProperty: query builders have one.
    const query: PromiseLike<number> = { then: (...settle) => Promise.resolve(++runs).then(...settle) }

    expect(await make().run(batch, () => query)).toBe(1)
    expect(runs).toBe(1)
  })

  it('ends the span when the promise settles, not before', async () => {
    const tracer = make()
    let finish: (() => void) | undefined
    const answer = tracer.run(batch, () => new Promise<void>((resolve) => (finish = resolve)))

    await Promise.resolve()
    expect(spans()).toEqual([])
    finish?.()
    await answer
    expect(spans()).toHaveLength(1)
  })

  it.each<[string, (broken: TracingApi) => void]>([
    ['getActiveSpan', ({ trace }) => vi.spyOn(trace, 'getActiveSpan').mockImplementation(broken)],
    ['setSpan', ({ trace }) => vi.spyOn(trace, 'setSpan').mockImplementation(broken)],
    ['getTracer', ({ trace }) => vi.spyOn(trace, 'getTracer').mockImplementation(broken)],
    ['context.with', ({ context }) => vi.spyOn(context, 'with').mockImplementation(broken)],
    [
      'context.with, afterwards',
      ({ context }) =>
        vi.spyOn(context, 'with').mockImplementation((_, fn) => {
          fn()
          return broken()
        }),
    ],
    [
      'context.with, twice',
      ({ context }) =>
        vi.spyOn(context, 'with').mockImplementation((_, fn) => {
          fn()
          return fn()
        }),
    ],
    ['context.active', ({ context }) => vi.spyOn(context, 'active').mockImplementation(broken)],
  ])('makes each attempt once, with its outcome, when %s fails', async (_, breakIt) => {
    vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
    const fakeSpan = { spanContext: () => ({}), setAttribute() {}, setStatus() {}, recordException() {}, end() {} }
    const fake: TracingApi = {
      trace: {
        getActiveSpan: () => undefined,
        getTracer: () => ({ startSpan: () => fakeSpan as never }),
        setSpan: () => ({}),
      },
      context: { active: () => ({}), with: (_context, fn) => fn() },
    }
    breakIt(fake)
    const tracer = batchTracer(fake)
    let times = 0

    tracer.enter()
    expect(await tracer.run(batch, async () => ++times)).toBe(1)
    await expect(
      tracer.run(batch, async () => {
        times++
        throw new Error('its own')
      }),
    ).rejects.toThrow('its own')
    expect(times).toBe(2)
  })

  it('warns once when spans fail, and ends what it can', async () => {
    const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
    const ended = vi.fn()
    const span = { spanContext: broken, setAttribute: broken, setStatus: broken, recordException: broken, end: ended }
    const tracer = make({ tracer: { startSpan: () => span as never } })

    for (let n = 0; n < 3; n++) {
      await expect(tracer.run(batch, () => Promise.reject(new Error('its own')))).rejects.toThrow('its own')
    }

    expect(ended).toHaveBeenCalledTimes(3)
    expect(warned).toHaveBeenCalledTimes(1)
    expect(String(warned.mock.calls[0]?.[0])).toContain("batches can't be traced: Error: broken")
  })

  it('records what is no Error', async () => {
    await expect(make().run(batch, () => Promise.reject('a text'))).rejects.toBe('a text')

    expect(spans()[0]?.status.message).toBe('a text')
    expect(spans()[0]?.attributes['error.type']).toBe('_OTHER')
  })
})

function broken(): never {
  throw new Error('broken')
}
