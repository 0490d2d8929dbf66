import { getEventListeners } from 'node:events'
import fc from 'fast-check'
import {
  CircuitBreaker,
  type CircuitBreakerOptions,
  consecutive,
  countWindow,
  isSpillwayError,
  type Permit,
  type TripPolicy,
  timeWindow,
} from 'spillway'
import { FakeClock } from 'spillway/testing'
import { expect, test, vi } from 'vitest'
import { unhandledDuring } from '../batcher/support/process-events.js'
import {
  ModelBreaker,
  type ModelCall,
  type ModelOptions,
  type ModelTrip,
  type Outcome,
} from './support/model-breaker.js'

/** How many worlds are tried; `SPILLWAY_PROPERTY_RUNS` asks for more, `SPILLWAY_PROPERTY_SEED` for others. */
const numRuns = Number(process.env['SPILLWAY_PROPERTY_RUNS'] ?? 2500)
const seed = Number(process.env['SPILLWAY_PROPERTY_SEED'] ?? 20_261_125)

interface World {
  readonly options: ModelOptions
  readonly timeoutMs: number | undefined
  readonly classified: boolean
  /** Nobody listens, somebody listens, or the listeners throw. */
  readonly listeners: 'none' | 'calm' | 'throwing'
  /** Whether the breaker is looked at after every step, or only now and then: looking may do what time should have done. */
  readonly watched: boolean
}

type Step =
  | {
      readonly do: 'execute'
      readonly fn: 'hang' | 'return' | 'throw'
      readonly outcome: Outcome
      readonly signal: number
    }
  | { readonly do: 'acquire' }
  | { readonly do: 'settle'; readonly call: number; readonly outcome: Outcome }
  | { readonly do: 'abort'; readonly signal: number }
  | { readonly do: 'advance'; readonly ms: number }
  | { readonly do: 'advance-to'; readonly moment: 'due' | 'lease'; readonly offsetMs: number }
  | { readonly do: 'open'; readonly forMs: number | undefined }
  | { readonly do: 'isolate' }
  | { readonly do: 'release'; readonly isolation: number }
  | { readonly do: 'reset' }
  | { readonly do: 'restore' }
  | { readonly do: 'look' }

const rate = fc.constantFrom(0.25, 0.5, 0.75, 1)
const trip: fc.Arbitrary<ModelTrip> = fc.oneof(
  fc.record({ kind: fc.constant('consecutive' as const), failures: fc.integer({ min: 1, max: 4 }) }),
  fc
    .record({
      kind: fc.constant('count' as const),
      size: fc.integer({ min: 1, max: 6 }),
      failureRate: rate,
      minimumCalls: fc.integer({ min: 1, max: 6 }),
    })
    .map((drawn) => ({ ...drawn, minimumCalls: Math.min(drawn.minimumCalls, drawn.size) })),
  fc
    .record({
      kind: fc.constant('time' as const),
      windowMs: fc.constantFrom(20, 100, 400),
      buckets: fc.constantFrom(1, 2, 4),
      failureRate: rate,
      minimumCalls: fc.integer({ min: 1, max: 4 }),
      slow: fc.option(fc.record({ slowCallMs: fc.constantFrom(0, 5, 30), slowCallRate: rate }), { nil: undefined }),
    })
    .map(({ slow, ...drawn }) => ({ ...drawn, ...slow })),
)

const world: fc.Arbitrary<World> = fc.record({
  options: fc
    .record({
      trip,
      recoveryTimeoutMs: fc.constantFrom(1, 30, 100),
      factor: fc.constantFrom(1, 1.5, 2),
      maxMs: fc.constantFrom(100, 250, 10_000),
      halfOpenRequests: fc.integer({ min: 1, max: 3 }),
      successThreshold: fc.integer({ min: 1, max: 3 }),
      probeTimeoutMs: fc.option(fc.constantFrom(1, 20, 100, 300), { nil: undefined }),
    })
    .map(({ probeTimeoutMs, ...drawn }) => ({ ...drawn, probeTimeoutMs: probeTimeoutMs ?? drawn.recoveryTimeoutMs })),
  timeoutMs: fc.option(fc.constantFrom(1, 10, 50), { nil: undefined }),
  classified: fc.boolean(),
  listeners: fc.constantFrom('none' as const, 'calm' as const, 'throwing' as const),
  watched: fc.boolean(),
})

const outcome = fc.oneof(
  { weight: 3, arbitrary: fc.constant<Outcome>('failure') },
  { weight: 2, arbitrary: fc.constant<Outcome>('success') },
  { weight: 1, arbitrary: fc.constant<Outcome>('ignore') },
)
const index = fc.nat(9)

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 16,
    arbitrary: fc.record({
      do: fc.constant('execute' as const),
      fn: fc.constantFrom('hang' as const, 'hang' as const, 'return' as const, 'throw' as const),
      outcome,
      // The first two are signals, the others none.
      signal: fc.nat(4),
    }),
  },
  { weight: 6, arbitrary: fc.constant({ do: 'acquire' as const }) },
  { weight: 14, arbitrary: fc.record({ do: fc.constant('settle' as const), call: index, outcome }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('abort' as const), signal: fc.nat(1) }) },
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant('advance' as const), ms: fc.constantFrom(0, 1, 5, 10, 25, 50, 100, 400) }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('advance-to' as const),
      moment: fc.constantFrom('due' as const, 'lease' as const),
      offsetMs: fc.constantFrom(-0.5, 0, 0, 0.5),
    }),
  },
  {
    weight: 1,
    // No more than a breaker of any world can be open: a longer one isn't restored as it was.
    arbitrary: fc.record({ do: fc.constant('open' as const), forMs: fc.constantFrom(undefined, 0, 40, 100) }),
  },
  { weight: 2, arbitrary: fc.constant({ do: 'isolate' as const }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('release' as const), isolation: index }) },
  { weight: 1, arbitrary: fc.constant({ do: 'reset' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'restore' as const }) },
  { weight: 3, arbitrary: fc.constant({ do: 'look' as const }) },
)

/** What a call through the breaker answers or fails with; the classifiers read it. */
class Said extends Error {
  readonly outcome: Outcome

  constructor(outcome: Outcome) {
    super(outcome)
    this.outcome = outcome
  }
}

/** What a caller of `execute` is to get, and has got. */
interface Caller {
  expected: 'pending' | { value: unknown } | { reason: unknown } | 'refused' | 'timed out'
  retryAfterMs: number | undefined
  got: { value: unknown } | { reason: unknown } | undefined
  times: number
}

/** A call in flight, on both sides. */
interface Flight {
  readonly model: ModelCall
  readonly signal: AbortSignal | undefined
  /** When it times out, unless nobody waits any more. */
  timeoutAt: number | undefined
  readonly caller: Caller | undefined
  readonly permit: Permit | undefined
  settle: ((outcome: Outcome) => void) | undefined
}

function policyOf(trip: ModelTrip): TripPolicy {
  if (trip.kind === 'consecutive') return consecutive(trip.failures)
  const { kind, ...options } = trip
  return kind === 'count' ? countWindow(options as never) : timeWindow(options as never)
}

/** A breaker and its model, to which the same things happen. */
class Twins {
  readonly #world: World
  readonly #options: CircuitBreakerOptions
  readonly #clock = new FakeClock()
  readonly #controllers = [new AbortController(), new AbortController()]
  #heard: string[] = []
  #breaker: CircuitBreaker
  #model: ModelBreaker
  #flights: Flight[] = []
  #callers: Caller[] = []
  #isolations: { release: () => void; released: boolean }[] = []

  constructor(world: World) {
    this.#world = world
    const { trip, factor, maxMs, ...options } = world.options
    this.#options = {
      ...options,
      trip: policyOf(trip),
      recovery: { factor, maxMs: Math.max(maxMs, options.recoveryTimeoutMs) },
      timeoutMs: world.timeoutMs,
      clock: this.#clock,
      random: () => {
        throw new Error('chance is asked for without jitter')
      },
    }
    if (world.classified) {
      this.#options.classifyError = (error) => (error instanceof Said ? error.outcome : 'failure')
      this.#options.classifyResult = (result) => (result as Said).outcome
    }
    this.#model = new ModelBreaker({ ...world.options, maxMs: Math.max(maxMs, options.recoveryTimeoutMs) })
    this.#breaker = new CircuitBreaker(this.#options)
    this.#listen()
  }

  async step(step: Step): Promise<void> {
    if (step.do === 'execute') this.#execute(step)
    else if (step.do === 'acquire') this.#acquire()
    else if (step.do === 'settle') this.#settle(step.call, step.outcome)
    else if (step.do === 'abort') this.#abort(step.signal)
    else if (step.do === 'advance') await this.#advance(step.ms)
    else if (step.do === 'advance-to') await this.#advanceTo(step.moment, step.offsetMs)
    else if (step.do === 'open') this.#open(step.forMs)
    else if (step.do === 'isolate') this.#isolate()
    else if (step.do === 'release') this.#release(step.isolation)
    else if (step.do === 'reset') this.#reset()
    else if (step.do === 'restore') this.#restore()
    await settled()
    this.#compare(step.do === 'look' || this.#world.watched)
  }

  /** Lets everything end, and sees that nothing is left and that every slot can be had. */
  async end(): Promise<void> {
    for (const isolation of this.#isolations) isolation.release()
    this.#model.isolations = 0
    while (this.#flights.length > 0) {
      this.#settle(0, 'success')
      // A permit tells its outcome at once, a promise a little later.
      await settled()
    }
    this.#compare(true)
    expect(this.#breaker.stats()).toMatchObject({ pending: 0, probes: 0 })
    expect(this.#clock.pending).toBe(0)
    for (const { signal } of this.#controllers) expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    this.#reset()
    const { halfOpenRequests } = this.#world.options
    for (let calls = 0; this.#breaker.state === 'closed' && calls < 10; calls++) this.#fail()
    await this.#advanceTo('due', 0)
    for (let probe = 0; probe <= halfOpenRequests; probe++) this.#acquire()
    expect(this.#breaker.stats().probes).toBe(halfOpenRequests)
  }

  #fail(): void {
    this.#acquire()
    this.#settle(this.#flights.length - 1, 'failure')
  }

  #listen(): void {
    const { listeners } = this.#world
    if (listeners === 'none') return
    const heard: string[] = []
    this.#heard = heard
    const hear = (event: string): void => {
      heard.push(event)
      if (listeners === 'throwing') throw new Error('a listener failed')
    }
    this.#breaker.on('opened', ({ reason }) => hear(`opened: ${reason}`))
    this.#breaker.on('half-opened', () => hear('half-opened'))
    this.#breaker.on('closed', ({ reason }) => hear(`closed: ${reason}`))
    for (const event of ['rejected', 'succeeded', 'failed'] as const) {
      this.#breaker.on(event, () => {
        if (listeners === 'throwing') throw new Error('a listener failed')
      })
    }
  }

  #execute({ fn, outcome, signal: choice }: Extract<Step, { do: 'execute' }>): void {
    const model = this.#model
    const signal = this.#controllers[choice]?.signal
    const caller: Caller = { expected: 'pending', retryAfterMs: undefined, got: undefined, times: 0 }
    const said = new Said(outcome)
    let called = 0
    let answer: ((outcome: Outcome) => void) | undefined
    const promise = this.#breaker.execute(
      (): Said | Promise<Said> => {
        called++
        if (fn === 'return') return said
        if (fn === 'throw') throw said
        return new Promise((resolve, reject) => {
          answer = (given) => (given === 'success' ? resolve(new Said(given)) : reject(new Said(given)))
        })
      },
      signal === undefined ? undefined : { signal },
    )
    this.#await(promise, caller)
    if (signal?.aborted) {
      model.books.offered++
      model.books.ignored++
      caller.expected = { reason: signal.reason }
      expect(called).toBe(0)
      return
    }
    model.expire()
    const call = model.admit()
    expect(called, 'whether the function was called').toBe(call === undefined ? 0 : 1)
    if (call === undefined) {
      caller.expected = 'refused'
      caller.retryAfterMs = model.retryAfterMs
      return
    }
    if (fn === 'hang') {
      const { timeoutMs } = this.#world
      const timeoutAt = timeoutMs === undefined ? undefined : model.now + timeoutMs
      this.#flights.push({ model: call, signal, timeoutAt, caller, permit: undefined, settle: answer })
      return
    }
    caller.expected = fn === 'return' ? { value: said } : { reason: said }
    model.end(call, this.#classified(fn === 'return' ? 'success' : 'failure', outcome))
  }

  #acquire(): void {
    const model = this.#model
    const permit = this.#breaker.tryAcquire()
    model.expire()
    const call = model.admit()
    expect(permit !== undefined, 'whether there is a permit').toBe(call !== undefined)
    if (permit === undefined || call === undefined) return
    this.#flights.push({
      model: call,
      signal: undefined,
      timeoutAt: undefined,
      caller: undefined,
      permit,
      settle: (outcome) => {
        if (outcome === 'success') permit.success()
        else if (outcome === 'failure') permit.failure(new Said(outcome))
        else permit[Symbol.dispose]()
        // Only the first counts.
        permit.failure()
        permit.success()
        permit.ignore()
      },
    })
  }

  #settle(index: number, outcome: Outcome): void {
    const flight = this.#flights[index % this.#flights.length]
    if (flight === undefined) return
    this.#flights = this.#flights.filter((other) => other !== flight)
    const { model, caller } = flight
    this.#model.expire()
    flight.settle?.(outcome)
    if (caller === undefined) {
      this.#model.end(model, outcome)
      return
    }
    // A lease that has ended says nothing to the caller, who goes on waiting.
    const waited = caller.expected === 'pending'
    if (waited) caller.expected = outcome === 'success' ? { value: new Said(outcome) } : { reason: new Said(outcome) }
    this.#model.end(model, waited ? this.#classified(outcome === 'success' ? 'success' : 'failure', outcome) : 'ignore')
  }

  #abort(choice: number): void {
    const controller = this.#controllers[choice] as AbortController
    this.#model.expire()
    const reason = new Error('the caller has given up')
    controller.abort(reason)
    for (const flight of this.#flights) {
      const { signal, caller, model } = flight
      if (signal !== controller.signal || caller === undefined || caller.expected !== 'pending') continue
      caller.expected = { reason }
      flight.timeoutAt = undefined
      this.#model.count(model, 'ignore')
    }
    // The next calls get one that isn't aborted yet.
    this.#controllers[choice] = new AbortController()
  }

  async #advance(ms: number): Promise<void> {
    const model = this.#model
    const target = model.now + ms
    await this.#clock.advance(ms)
    for (;;) {
      const due = (flight: Flight): number => flight.timeoutAt ?? Number.POSITIVE_INFINITY
      const [next] = this.#flights.filter((flight) => due(flight) <= target).sort((a, b) => due(a) - due(b))
      if (next === undefined) break
      model.now = due(next)
      model.expire()
      next.timeoutAt = undefined
      if (next.caller !== undefined) next.caller.expected = 'timed out'
      model.count(next.model, 'failure')
    }
    model.now = target
    model.expire()
  }

  async #advanceTo(moment: 'due' | 'lease', offsetMs: number): Promise<void> {
    const model = this.#model
    const at = moment === 'due' ? model.dueAt : Math.min(...model.slots.map((call) => call.leaseEndAt as number))
    const ms = at + offsetMs - model.now
    if (ms > 0 && Number.isFinite(ms)) await this.#advance(ms)
  }

  #open(forMs: number | undefined): void {
    this.#model.expire()
    this.#breaker.open({ forMs })
    this.#model.open(forMs)
  }

  #isolate(): void {
    this.#model.expire()
    this.#isolations.push({ release: this.#breaker.isolate(), released: false })
    this.#model.isolations++
  }

  #release(index: number): void {
    const isolation = this.#isolations[index % this.#isolations.length]
    if (isolation === undefined) return
    this.#model.expire()
    isolation.release()
    if (!isolation.released) this.#model.isolations--
    isolation.released = true
  }

  #reset(): void {
    this.#model.expire()
    this.#breaker.reset()
    this.#model.reset()
  }

  /** Another breaker goes on from here, as after a restart: what was in flight is gone. */
  #restore(): void {
    this.#model.expire()
    const snapshot: unknown = JSON.parse(JSON.stringify(this.#breaker))
    this.#compare(true)
    for (const flight of this.#flights) flight.settle?.('success')
    this.#flights = []
    this.#callers = []
    this.#isolations = []
    this.#breaker = CircuitBreaker.restore(snapshot, this.#options)
    this.#model = this.#model.restored()
    this.#listen()
  }

  #classified(plain: Outcome, said: Outcome): Outcome {
    return this.#world.classified ? said : plain
  }

  #await(promise: Promise<unknown>, caller: Caller): void {
    this.#callers.push(caller)
    promise.then(
      (value) => {
        caller.got = { value }
        caller.times++
      },
      (reason: unknown) => {
        caller.got = { reason }
        caller.times++
      },
    )
  }

  #compare(looking: boolean): void {
    for (const caller of this.#callers) this.#compareCaller(caller)
    this.#callers = this.#callers.filter((caller) => caller.expected === 'pending')
    const { timeoutMs } = this.#world
    const waiting = this.#flights.filter(({ timeoutAt }) => timeoutAt !== undefined).length
    expect(this.#clock.pending, 'timers').toBe(timeoutMs === undefined ? 0 : waiting)
    if (!looking) return
    const model = this.#model
    const stats = this.#breaker.stats()
    expect({ ...stats, retryAfterMs: undefined }).toMatchObject({
      ...model.books,
      state: model.state,
      pending: model.pending,
      openings: model.openings,
      probes: model.slots.length,
    })
    const { offered, succeeded, failed, ignored, rejected, pending } = stats
    expect(succeeded + failed + ignored + rejected + pending).toBe(offered)
    expect(this.#breaker.state).toBe(model.state)
    expect(this.#heard).toEqual(this.#world.listeners === 'none' ? [] : model.events)
  }

  #compareCaller({ expected, got, times, retryAfterMs }: Caller): void {
    expect(times, 'how often a caller was answered').toBe(expected === 'pending' ? 0 : 1)
    if (expected === 'pending') return
    const reason = (got as { reason?: unknown }).reason
    if (expected === 'refused') {
      expect(isSpillwayError(reason, 'ERR_CIRCUIT_OPEN'), String(reason)).toBe(true)
      expect((reason as { retryAfterMs?: number }).retryAfterMs).toBe(retryAfterMs)
    } else if (expected === 'timed out') expect(isSpillwayError(reason, 'ERR_TIMEOUT'), String(reason)).toBe(true)
    else expect(got).toEqual(expected)
  }
}

function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

test('a breaker and its plain model agree, whatever happens in whatever order', {
  timeout: 60_000 + numRuns * 100,
}, async () => {
  vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)

  const unhandled = await unhandledDuring(async () => {
    await fc.assert(
      fc.asyncProperty(world, fc.array(step, { minLength: 5, maxLength: 60 }), async (drawn, steps) => {
        const twins = new Twins(drawn)
        for (const next of steps) await twins.step(next)
        await twins.end()
      }),
      { numRuns, seed },
    )
  })

  expect(unhandled).toEqual([])
})
