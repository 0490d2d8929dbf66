import { describeError, isThenable, warn } from '../../core/events.js'
import { checkOneOf, checkOptions, failOption, valueOr } from '../../core/options.js'
import type { BatchTracer, TracedBatch } from '../../core/ports.js'

/** Where a span is, as OpenTelemetry has it. */
export interface TraceSpanContext {
  /** The trace. */
  readonly traceId: string
  /** The span within it. */
  readonly spanId: string
  /** Whether it is sampled: the lowest bit. */
  readonly traceFlags: number
}

/** A span of OpenTelemetry, as much of it as is needed. */
export interface TraceSpan {
  /** Where it is. */
  spanContext(): TraceSpanContext
  /** Sets an attribute. */
  setAttribute(key: string, value: string): unknown
  /** Says how it ended. */
  setStatus(status: { code: number; message?: string }): unknown
  /** Records an error. */
  recordException(error: Error | string): void
  /** Ends it. */
  end(): void
}

/** A Tracer of `@opentelemetry/api`, as much of it as is needed. */
export interface SpanTracer {
  /** Begins a span. */
  startSpan(
    name: string,
    options?: {
      kind?: number
      root?: boolean
      attributes?: Record<string, string | number>
      links?: { context: TraceSpanContext }[]
    },
  ): TraceSpan
}

/** `@opentelemetry/api`, as much of it as is needed: the module itself, or `{ trace, context }` of it. */
export interface TracingApi {
  /** Its `trace`. */
  readonly trace: {
    /** The span that is active now. */
    getActiveSpan(): TraceSpan | undefined
    /** A tracer by its name. */
    getTracer(name: string): SpanTracer
    /** A context in which a span is active. */
    setSpan(context: never, span: never): unknown
  }
  /** Its `context`. */
  readonly context: {
    /** The context of now. */
    active(): unknown
    /** Runs a function in a context. */
    with<T>(context: never, fn: () => T): T
  }
}

/** What a span of batches is to those who draw traces. */
export type BatchSpanKind = 'internal' | 'client' | 'producer'

/** Options of {@link batchTracer}. */
export interface BatchTracerOptions {
  /** Who makes the spans. The default is `trace.getTracer('spillway')`, asked for at the first batch. */
  tracer?: SpanTracer | undefined
  /**
   * What kind the spans are: `'client'` where nothing else makes a span of the call that a batch becomes, `'producer'` where it goes to a
   * queue.
   * @defaultValue 'internal'
   */
  kind?: BatchSpanKind | undefined
}

/** The defaults of {@link BatchTracerOptions}. */
export const batchTracerDefaults: { readonly kind: BatchSpanKind } = { kind: 'internal' }

// OpenTelemetry's enums, whose values are part of its API: a value import would need the package.
const spanKinds: Readonly<Record<BatchSpanKind, number>> = { internal: 0, client: 2, producer: 3 }
const statusError = 2
const sampled = 1

/**
 * Traces batches with OpenTelemetry: each attempt is a span of its own, `orders batch`, with links to the spans in which its items came.
 * What the attempt calls is within that span. For the option `tracer` of AsyncBatcher, AsyncWriteBuffer and QuotaConsumer.
 *
 * A span has the attributes `spillway.component` and `spillway.batch.size`, and where it failed the error, its status and `error.type`. Whether it
 * is kept is for the sampler to say. Tracing changes no outcome: where it fails, it warns once, and the batch goes on without.
 *
 * @param api - `@opentelemetry/api`, as from `import * as api`.
 * @throws OptionError where that isn't what it should be, or an option is wrong.
 *
 * @example
 * ```ts
 * import * as api from '@opentelemetry/api'
 * import { AsyncBatcher } from 'spillway'
 * import { batchTracer } from 'spillway/metrics'
 *
 * const orders = new AsyncBatcher(async (ids: string[]) => ids, { name: 'orders', tracer: batchTracer(api) })
 * ```
 */
export function batchTracer(api: TracingApi, options?: BatchTracerOptions): BatchTracer {
  for (const method of ['getActiveSpan', 'getTracer', 'setSpan'] as const) {
    if (typeof api?.trace?.[method] !== 'function') failOption('api', `must have the function trace.${method}`, api)
  }
  for (const method of ['active', 'with'] as const) {
    if (typeof api.context?.[method] !== 'function') failOption('api', `must have the function context.${method}`, api)
  }
  checkOptions('options', options)
  const kind = valueOr(options?.kind, batchTracerDefaults.kind)
  checkOneOf('kind', kind, Object.keys(spanKinds) as BatchSpanKind[])
  const { tracer } = options ?? {}
  if (tracer !== undefined && typeof tracer?.startSpan !== 'function') {
    failOption('tracer', 'must have a method startSpan', tracer)
  }
  return new SpanBatchTracer(api, tracer, spanKinds[kind])
}

class SpanBatchTracer implements BatchTracer {
  readonly #api: TracingApi
  readonly #kind: number
  #tracer: SpanTracer | undefined
  #warned = false

  constructor(api: TracingApi, tracer: SpanTracer | undefined, kind: number) {
    this.#api = api
    this.#tracer = tracer
    this.#kind = kind
  }

  enter(): TraceSpanContext | undefined {
    try {
      const origin = this.#api.trace.getActiveSpan()?.spanContext()
      return origin !== undefined && isSampled(origin) ? origin : undefined
    } catch (error) {
      this.#warn(error)
      return undefined
    }
  }

  run<T>(batch: TracedBatch, attempt: () => T): T {
    const span = this.#guard(() => this.#start(batch))
    if (span === undefined) return attempt()
    const { trace, context } = this.#api
    // Written by the attempt itself, so that nothing on the way can change what came out, or make it come twice.
    let outcome: { readonly value: T } | { readonly error: unknown } | undefined
    const once = (): void => {
      if (outcome !== undefined) return
      try {
        outcome = { value: attempt() }
      } catch (error) {
        outcome = { error }
      }
    }
    this.#guard(() => context.with(trace.setSpan(context.active() as never, span as never) as never, once))
    once()
    return this.#settle(span, outcome as unknown as { readonly value: T } | { readonly error: unknown })
  }

  #start({ component, size, origins }: TracedBatch): TraceSpan {
    this.#tracer ??= this.#api.trace.getTracer('spillway')
    return this.#tracer.startSpan(`${component} batch`, {
      kind: this.#kind,
      // A component that was made within a request would have that one for the parent of all its batches.
      root: true,
      attributes: { 'spillway.component': component, 'spillway.batch.size': size },
      links: linksTo(origins),
    })
  }

  #settle<T>(span: TraceSpan, outcome: { readonly value: T } | { readonly error: unknown }): T {
    if ('error' in outcome) {
      this.#fail(span, outcome.error)
      throw outcome.error
    }
    const { value } = outcome
    if (!isThenable(value)) {
      this.#guard(() => span.end())
      return value
    }
    // A query builder runs its query at each `then`: it is asked once, and its promise goes on. A promise stays the same.
    const promise = Promise.resolve(value)
    promise.then(
      () => void this.#guard(() => span.end()),
      (error: unknown) => this.#fail(span, error),
    )
    return promise as T
  }

  #fail(span: TraceSpan, error: unknown): void {
    this.#guard(() => {
      const known = error instanceof Error
      span.recordException(known ? error : String(error))
      span.setAttribute('error.type', known ? error.name : '_OTHER')
      span.setStatus({ code: statusError, message: known ? error.message : String(error) })
    })
    this.#guard(() => span.end())
  }

  /** Does what must change no outcome. */
  #guard<R>(act: () => R): R | undefined {
    try {
      return act()
    } catch (error) {
      this.#warn(error)
      return undefined
    }
  }

  #warn(error: unknown): void {
    if (this.#warned) return
    this.#warned = true
    warn(`batches can't be traced: ${describeError(error)}`)
  }
}

function isSampled({ traceId, spanId, traceFlags }: TraceSpanContext): boolean {
  return (traceFlags & sampled) !== 0 && /[^0]/.test(traceId) && /[^0]/.test(spanId)
}

/** Links to spans, to each of them once. */
function linksTo(origins: readonly unknown[]): { context: TraceSpanContext }[] {
  const spans = new Map<string, TraceSpanContext>()
  for (const origin of origins as readonly TraceSpanContext[]) spans.set(`${origin.traceId}-${origin.spanId}`, origin)
  return [...spans.values()].map((context) => ({ context }))
}
