import {
  type BreakerRegistry,
  type BreakerSnapshot,
  type BreakerState,
  CircuitBreaker,
  type CircuitBreakerEvents,
  type CircuitBreakerStats,
  type Component,
  consecutive,
  countWindow,
  type Permit,
  type TripPolicy,
  timeWindow,
} from 'spillway'
import { expectTypeOf } from 'vitest'

const breaker = new CircuitBreaker()

expectTypeOf(breaker).toExtend<Component<CircuitBreakerEvents, CircuitBreakerStats>>()
expectTypeOf(breaker.state).toEqualTypeOf<'closed' | 'open' | 'half-open' | 'isolated'>()
expectTypeOf<BreakerState>().toEqualTypeOf<'closed' | 'open' | 'half-open' | 'isolated'>()
expectTypeOf(breaker.stats()).toEqualTypeOf<CircuitBreakerStats>()
expectTypeOf(breaker.toJSON()).toEqualTypeOf<BreakerSnapshot>()
expectTypeOf(breaker.isolate()).toEqualTypeOf<() => void>()
expectTypeOf(breaker.reset()).toEqualTypeOf<void>()
expectTypeOf(CircuitBreaker.restore(breaker.toJSON(), { failureThreshold: 3 })).toEqualTypeOf<CircuitBreaker>()

// @ts-expect-error: the state is read only
breaker.state = 'open'
// @ts-expect-error: it holds nothing, so there is nothing to close
breaker.close

// The function's result, whether it comes now or later.
expectTypeOf(breaker.execute(() => 7)).resolves.toEqualTypeOf<number>()
expectTypeOf(breaker.execute(async () => 'seven')).resolves.toEqualTypeOf<string>()
expectTypeOf(breaker.execute((): number | Promise<number> => 7)).resolves.toEqualTypeOf<number>()
expectTypeOf(
  breaker.execute(({ signal }) => {
    expectTypeOf(signal).toEqualTypeOf<AbortSignal>()
  }),
).resolves.toEqualTypeOf<void>()
breaker.execute(() => 7, { signal: new AbortController().signal })
breaker.execute(() => 7, { signal: undefined })
// @ts-expect-error: a promise is no function
breaker.execute(Promise.resolve(7))

// The parameters stay what they were.
const wrapped = breaker.wrap(async (id: string, limit?: number) => ({ id, limit }))
expectTypeOf(wrapped).parameters.toEqualTypeOf<[id: string, limit?: number | undefined]>()
expectTypeOf(wrapped('a')).resolves.toEqualTypeOf<{ id: string; limit: number | undefined }>()
expectTypeOf(breaker.wrap((...ids: number[]) => ids.length)).toEqualTypeOf<(...args: number[]) => Promise<number>>()
// @ts-expect-error: a wrong argument
wrapped(7)

expectTypeOf(breaker.tryAcquire()).toEqualTypeOf<Permit | undefined>()
expectTypeOf<Permit>().toExtend<Disposable>()
expectTypeOf<Permit['failure']>().parameters.toEqualTypeOf<[error?: unknown]>()

expectTypeOf(consecutive(3)).toEqualTypeOf<TripPolicy>()
expectTypeOf(countWindow({ size: 10, failureRate: 0.5, minimumCalls: 5 })).toEqualTypeOf<TripPolicy>()
expectTypeOf(
  timeWindow({ windowMs: 1000, buckets: 4, failureRate: 0.5, minimumCalls: 5, slowCallMs: 100, slowCallRate: 0.5 }),
).toEqualTypeOf<TripPolicy>()

new CircuitBreaker({
  trip: timeWindow(),
  recovery: { factor: 2, maxMs: 60_000, jitter: 0.2 },
  classifyError: (error) => {
    expectTypeOf(error).toEqualTypeOf<unknown>()
    return 'ignore'
  },
  classifyResult: (result) => {
    expectTypeOf(result).toEqualTypeOf<unknown>()
    return 'failure'
  },
})
// @ts-expect-error: no such outcome
new CircuitBreaker({ classifyError: () => 'maybe' })
// @ts-expect-error: no such option
new CircuitBreaker({ threshold: 5 })

breaker.on('opened', (event) => {
  expectTypeOf(event.retryAfterMs).toEqualTypeOf<number>()
  expectTypeOf(event.error).toEqualTypeOf<unknown>()
  // @ts-expect-error: payloads are read only
  event.openings = 2
})
breaker.on('half-opened', () => undefined)
// @ts-expect-error: no such event
breaker.on('half-open', () => undefined)

declare const registry: BreakerRegistry
expectTypeOf(registry.get('10.0.0.1')).toEqualTypeOf<CircuitBreaker>()
