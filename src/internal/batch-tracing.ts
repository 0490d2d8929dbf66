import { failOption } from '../core/options.js'
import type { BatchTracer } from '../core/ports.js'

/** What OpenTelemetry keeps of a span's links. */
const maxOrigins = 128

/** A batch's list of where its items came from. */
export interface TracedItems {
  origins: unknown[] | undefined
}

/** Checks a tracer that may be left out. */
export function checkTracer(tracer: BatchTracer | undefined): BatchTracer | undefined {
  if (tracer === undefined) return undefined
  for (const method of ['enter', 'run'] as const) {
    if (typeof tracer?.[method] !== 'function') failOption('tracer', `must have a method ${method}`, tracer)
  }
  return tracer
}

/** A tracer at arm's length: whatever it does, items are accepted and each attempt is made once, with its own outcome. */
export class BatchTracing {
  readonly #component: string
  readonly #tracer: BatchTracer

  constructor(component: string, tracer: BatchTracer) {
    this.#component = component
    this.#tracer = tracer
  }

  /** What leads back to whoever brings an item now. */
  origin(): unknown {
    try {
      return this.#tracer.enter()
    } catch {
      return undefined
    }
  }

  /** Notes where an item of this batch came from. */
  note(batch: TracedItems, origin: unknown): void {
    if (origin === undefined) return
    if (batch.origins === undefined) batch.origins = [origin]
    // Many items of one caller in a row lead back to the same place.
    else if (batch.origins.length < maxOrigins && batch.origins.at(-1) !== origin) batch.origins.push(origin)
  }

  run(batch: TracedItems, size: number, attempt: () => unknown): unknown {
    let outcome: { readonly answer: unknown } | { readonly error: unknown } | undefined
    const once = (): unknown => {
      if (outcome !== undefined) throw new Error('a tracer runs an attempt once')
      try {
        // A thenable may do its work when it is asked, and two ask it: the tracer and the engine.
        const answer = settledOnce(attempt())
        outcome = { answer }
        return answer
      } catch (error) {
        outcome = { error }
        throw error
      }
    }
    try {
      this.#tracer.run({ component: this.#component, size, origins: batch.origins ?? [] }, once)
    } catch {
      // Its own trouble, or the attempt's, which is in the outcome.
    }
    // By the same way: a tracer that calls it later is too late.
    if (outcome === undefined) return once()
    if ('error' in outcome) throw outcome.error
    return outcome.answer
  }
}

function settledOnce(answer: unknown): unknown {
  const isThenable = typeof (answer as { then?: unknown } | null | undefined)?.then === 'function'
  return isThenable && !(answer instanceof Promise) ? Promise.resolve(answer) : answer
}
