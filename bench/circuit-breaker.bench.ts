import {
  BrokenCircuitError,
  ConsecutiveBreaker,
  CountBreaker,
  circuitBreaker as cockatielBreaker,
  handleAll,
  type IBreaker,
  SamplingBreaker,
} from 'cockatiel'
import {
  BreakerError,
  BreakerMaxAllowedRequestError,
  BreakerState,
  Circuit,
  type CircuitFunction,
  SlidingCountBreaker,
  SlidingTimeBreaker,
  type SlidingWindowBreakerOptions,
} from 'mollitia'
import OpossumBreaker from 'opossum'
import { CircuitBreaker, type CircuitBreakerOptions, countWindow, isSpillwayError, timeWindow } from 'spillway'
import type { Aim, Contender, Contest, Turns } from './harness/contest.ts'
import { serveSuite } from './harness/suite-process.ts'

// Closed: what a call through the breaker costs, awaited one after the other, beside the same call without one. Open and
// half-open: what a call costs that is turned away. Each contender has a loop of its own, and shows before it is measured
// that its breaker opens.

const calls = 1000
const longMs = 3_600_000
const slower: Aim = { atMost: 1 }
const rejectionAim: Aim = { timesFaster: 2.3 }

/** A function that answers with another number each time, and the check that a turn's calls brought all of them. */
class Numbers {
  #last = 0
  #begin = 0
  #sum = 0

  readonly next = async (): Promise<number> => {
    this.#last = (this.#last % 1_000_000) + 1
    return this.#last
  }

  /** Takes the sum of what a turn's calls answered. */
  take(sum: number): void {
    this.#sum = sum
  }

  check(): void {
    let expected = 0
    for (let i = 0; i < calls; i++) expected += ((this.#begin + i) % 1_000_000) + 1
    this.#begin = this.#last
    if (this.#sum !== expected) throw new Error(`wrong answer: the sum should be ${expected}, got ${this.#sum}`)
    this.#sum = 0
  }
}

/** What refused calls were refused with, and the check that all of a turn's were, by an error that says so. */
class Refusals {
  readonly #isRefusal: (error: unknown) => boolean
  #count = 0
  #first: unknown
  #last: unknown

  constructor(isRefusal: (error: unknown) => boolean) {
    this.#isRefusal = isRefusal
  }

  /** Is never to be called: its breaker is open. */
  readonly never = async (): Promise<number> => {
    throw new Error('wrong answer: the function was called')
  }

  take(error: unknown): void {
    if (this.#count++ === 0) this.#first = error
    this.#last = error
  }

  check(): void {
    if (this.#count !== calls) throw new Error(`wrong answer: expected ${calls} refusals, got ${this.#count}`)
    if (!this.#isRefusal(this.#first) || !this.#isRefusal(this.#last)) {
      throw new Error(`wrong answer: refused with ${this.#last}`)
    }
    if (this.#first === this.#last) throw new Error('wrong answer: the callers share one error')
    this.#count = 0
  }
}

const failure = new Error('what the breaker is to count')
const fail = (): Promise<number> => Promise.reject(failure)

/** Fails calls until one is turned away without being made; throws when that never happens. */
async function open(execute: (fn: () => Promise<number>) => Promise<unknown>): Promise<void> {
  for (let call = 0; call < 200; call++) {
    let made = false
    const fn = (): Promise<number> => {
      made = true
      return fail()
    }
    await execute(fn).catch(() => undefined)
    if (!made) return
  }
  throw new Error('wrong answer: 200 failures in a row open no breaker')
}

const awaited = (numbers: Numbers, turn: () => Promise<void>): Turns => ({
  async: true,
  turn,
  check: () => numbers.check(),
})
const refused = (refusals: Refusals, turn: () => Promise<void>): Turns => ({
  async: true,
  turn,
  check: () => refusals.check(),
})

// --- closed

const spillway = (options: CircuitBreakerOptions): Contender => ({
  name: 'spillway',
  prepare: async () => {
    const proof = new CircuitBreaker(options)
    await open((fn) => proof.execute(fn))
    const numbers = new Numbers()
    const breaker = new CircuitBreaker(options)
    return awaited(numbers, async () => {
      let sum = 0
      for (let i = 0; i < calls; i++) sum += await breaker.execute(numbers.next)
      numbers.take(sum)
    })
  },
})

const bareAwait = (aim: Aim): Contender => ({
  name: 'bare await',
  aim,
  prepare: () => {
    const numbers = new Numbers()
    return awaited(numbers, async () => {
      let sum = 0
      for (let i = 0; i < calls; i++) sum += await numbers.next()
      numbers.take(sum)
    })
  },
})

const cockatiel = (name: string, makeBreaker: () => IBreaker): Contender => ({
  name: `cockatiel ${name}`,
  aim: slower,
  prepare: async () => {
    const make = () => cockatielBreaker(handleAll, { halfOpenAfter: longMs, breaker: makeBreaker() })
    const proof = make()
    await open((fn) => proof.execute(fn))
    const numbers = new Numbers()
    const breaker = make()
    return awaited(numbers, async () => {
      let sum = 0
      for (let i = 0; i < calls; i++) sum += await breaker.execute(numbers.next)
      numbers.take(sum)
    })
  },
})

/** No time limit, no percentiles, no snapshots: the least that it does. It has no other window than one of time. */
const opossumBareOptions: OpossumBreaker.Options = {
  timeout: false,
  rollingPercentilesEnabled: false,
  enableSnapshots: false,
  resetTimeout: longMs,
}
const opossumDefaultOptions: OpossumBreaker.Options = { resetTimeout: longMs }

const opossum = (name: string, options: OpossumBreaker.Options): Contender => ({
  name: `opossum, ${name}`,
  aim: slower,
  prepare: async () => {
    const proof = new OpossumBreaker((fn: () => Promise<number>) => fn(), { ...options })
    await open((fn) => proof.fire(fn))
    proof.shutdown()
    const numbers = new Numbers()
    const breaker = new OpossumBreaker(numbers.next, { ...options })
    return awaited(numbers, async () => {
      let sum = 0
      for (let i = 0; i < calls; i++) sum += await breaker.fire()
      numbers.take(sum)
    })
  },
})

/** Mollitia counts no consecutive failures; its breakers are windows of calls or of time (the last 1000 calls at most). */
const mollitia = (
  name: string,
  makeBreaker: (options: SlidingWindowBreakerOptions) => SlidingCountBreaker | SlidingTimeBreaker,
  options: SlidingWindowBreakerOptions,
): Contender => ({
  name: `mollitia ${name}`,
  aim: slower,
  prepare: async () => {
    const make = (func: CircuitFunction): Circuit =>
      new Circuit({ func, options: { modules: [makeBreaker({ ...options, openStateDelay: longMs })] } })
    const proof = make((fn: () => Promise<number>) => fn())
    await open((fn) => proof.execute(fn))
    const numbers = new Numbers()
    const circuit = make(numbers.next)
    return awaited(numbers, async () => {
      let sum = 0
      for (let i = 0; i < calls; i++) sum += await circuit.execute<number>()
      numbers.take(sum)
    })
  },
})

/** What one writes oneself at first: no half-open limit, no generations, no events, no stats. */
class HandConsecutive {
  #failures = 0
  #openUntil = 0

  async execute<T>(fn: () => Promise<T>): Promise<T> {
    if (this.#openUntil !== 0) {
      if (performance.now() < this.#openUntil) throw new Error('the circuit is open')
      this.#openUntil = 0
    }
    try {
      const value = await fn()
      this.#failures = 0
      return value
    } catch (error) {
      if (++this.#failures >= 5) this.#openUntil = performance.now() + longMs
      throw error
    }
  }
}

/** The same over the last 100 calls. */
class HandCountWindow {
  readonly #ring = new Uint8Array(100)
  #at = 0
  #count = 0
  #failures = 0
  #openUntil = 0

  async execute<T>(fn: () => Promise<T>): Promise<T> {
    if (this.#openUntil !== 0) {
      if (performance.now() < this.#openUntil) throw new Error('the circuit is open')
      this.#openUntil = 0
    }
    try {
      const value = await fn()
      this.#record(0)
      return value
    } catch (error) {
      this.#record(1)
      throw error
    }
  }

  #record(failed: 0 | 1): void {
    this.#failures += failed - (this.#ring[this.#at] as number)
    this.#ring[this.#at] = failed
    this.#at = (this.#at + 1) % 100
    if (this.#count < 100) this.#count++
    if (failed === 1 && this.#count >= 10 && this.#failures >= this.#count / 2) {
      this.#openUntil = performance.now() + longMs
    }
  }
}

/** The same over the last ten seconds, in ten buckets. */
class HandTimeWindow {
  readonly #calls = new Uint32Array(10)
  readonly #failures = new Uint32Array(10)
  #second = 0
  #openUntil = 0

  async execute<T>(fn: () => Promise<T>): Promise<T> {
    if (this.#openUntil !== 0) {
      if (performance.now() < this.#openUntil) throw new Error('the circuit is open')
      this.#openUntil = 0
    }
    try {
      const value = await fn()
      this.#record(0)
      return value
    } catch (error) {
      this.#record(1)
      throw error
    }
  }

  #record(failed: 0 | 1): void {
    const second = Math.floor(performance.now() / 1000)
    for (let passed = Math.max(this.#second, second - 10) + 1; passed <= second; passed++) {
      this.#calls[passed % 10] = 0
      this.#failures[passed % 10] = 0
    }
    this.#second = second
    ;(this.#calls[second % 10] as number)++
    if (failed === 0) return
    ;(this.#failures[second % 10] as number)++
    const count = this.#calls.reduce((sum, n) => sum + n)
    const failures = this.#failures.reduce((sum, n) => sum + n)
    if (count >= 10 && failures >= count / 2) this.#openUntil = performance.now() + longMs
  }
}

type Hand = HandConsecutive | HandCountWindow | HandTimeWindow

const byHand = (name: string, make: () => Hand): Contender => ({
  name: `${name} by hand`,
  prepare: async () => {
    const proof = make()
    await open((fn) => proof.execute(fn))
    const numbers = new Numbers()
    const breaker = make()
    return awaited(numbers, async () => {
      let sum = 0
      for (let i = 0; i < calls; i++) sum += await breaker.execute(numbers.next)
      numbers.take(sum)
    })
  },
})

const mollitiaWindow: SlidingWindowBreakerOptions = { minimumNumberOfCalls: 10, failureRateThreshold: 50 }

const closed: readonly Contest[] = [
  {
    name: 'closed, consecutive failures, 1000 calls one after the other',
    operation: 'call',
    operations: calls,
    contenders: [
      spillway({ recoveryTimeoutMs: longMs }),
      bareAwait({ atMost: 2.6 }),
      byHand('a counter', () => new HandConsecutive()),
      cockatiel('ConsecutiveBreaker', () => new ConsecutiveBreaker(5)),
      opossum('bare options', opossumBareOptions),
      opossum('default options', opossumDefaultOptions),
    ],
  },
  {
    name: 'closed, a window of 100 calls, 1000 calls one after the other',
    operation: 'call',
    operations: calls,
    contenders: [
      spillway({
        recoveryTimeoutMs: longMs,
        trip: countWindow({ size: 100, failureRate: 0.5, minimumCalls: 10 }),
      }),
      bareAwait({ atMost: 3.6 }),
      byHand('a ring', () => new HandCountWindow()),
      cockatiel('CountBreaker', () => new CountBreaker({ threshold: 0.5, size: 100, minimumNumberOfCalls: 10 })),
      mollitia('SlidingCountBreaker', (options) => new SlidingCountBreaker(options), {
        ...mollitiaWindow,
        slidingWindowSize: 100,
      }),
    ],
  },
  {
    name: 'closed, a window of 10 s, 1000 calls one after the other',
    operation: 'call',
    operations: calls,
    contenders: [
      spillway({
        recoveryTimeoutMs: longMs,
        trip: timeWindow({ windowMs: 10_000, buckets: 10, failureRate: 0.5, minimumCalls: 10 }),
      }),
      bareAwait({ atMost: 3.6 }),
      byHand('buckets', () => new HandTimeWindow()),
      cockatiel('SamplingBreaker', () => new SamplingBreaker({ threshold: 0.5, duration: 10_000, minimumRps: 1 })),
      opossum('bare options', opossumBareOptions),
      opossum('default options', opossumDefaultOptions),
      mollitia('SlidingTimeBreaker', (options) => new SlidingTimeBreaker(options), {
        ...mollitiaWindow,
        slidingWindowSize: 10_000,
      }),
    ],
  },
]

// --- open

const isOpenError = (error: unknown): boolean => isSpillwayError(error, 'ERR_CIRCUIT_OPEN')
const isOpossumError = (error: unknown): boolean => (error as { code?: unknown }).code === 'EOPENBREAKER'

const spillwayOpen: Contender = {
  name: 'spillway',
  prepare: async () => {
    const breaker = new CircuitBreaker({ recoveryTimeoutMs: longMs })
    await open((fn) => breaker.execute(fn))
    const refusals = new Refusals(isOpenError)
    return refused(refusals, async () => {
      for (let i = 0; i < calls; i++) {
        try {
          await breaker.execute(refusals.never)
        } catch (error) {
          refusals.take(error)
        }
      }
    })
  },
}

const handOpen: Contender = {
  name: 'a counter by hand, its error with a stack',
  prepare: async () => {
    const breaker = new HandConsecutive()
    await open((fn) => breaker.execute(fn))
    const refusals = new Refusals((error) => error instanceof Error && error.message === 'the circuit is open')
    return refused(refusals, async () => {
      for (let i = 0; i < calls; i++) {
        try {
          await breaker.execute(refusals.never)
        } catch (error) {
          refusals.take(error)
        }
      }
    })
  },
}

const cockatielOpen: Contender = {
  name: 'cockatiel',
  aim: rejectionAim,
  prepare: async () => {
    const breaker = cockatielBreaker(handleAll, { halfOpenAfter: longMs, breaker: new ConsecutiveBreaker(5) })
    await open((fn) => breaker.execute(fn))
    const refusals = new Refusals((error) => error instanceof BrokenCircuitError)
    return refused(refusals, async () => {
      for (let i = 0; i < calls; i++) {
        try {
          await breaker.execute(refusals.never)
        } catch (error) {
          refusals.take(error)
        }
      }
    })
  },
}

const opossumOpen = (name: string, options: OpossumBreaker.Options): Contender => ({
  name: `opossum, ${name}`,
  aim: rejectionAim,
  prepare: () => {
    const refusals = new Refusals(isOpossumError)
    const breaker = new OpossumBreaker(refusals.never, { ...options })
    breaker.open()
    return refused(refusals, async () => {
      for (let i = 0; i < calls; i++) {
        try {
          await breaker.fire()
        } catch (error) {
          refusals.take(error)
        }
      }
    })
  },
})

const mollitiaOpen: Contender = {
  name: 'mollitia',
  aim: slower,
  prepare: async () => {
    const refusals = new Refusals((error) => error instanceof BreakerError)
    const breaker = new SlidingCountBreaker({ openStateDelay: longMs })
    const circuit = new Circuit({ func: refusals.never, options: { modules: [breaker] } })
    await breaker.open()
    return refused(refusals, async () => {
      for (let i = 0; i < calls; i++) {
        try {
          await circuit.execute<number>()
        } catch (error) {
          refusals.take(error)
        }
      }
    })
  },
}

const opened: Contest = {
  name: 'open, 1000 calls turned away',
  operation: 'rejection',
  operations: calls,
  contenders: [
    spillwayOpen,
    handOpen,
    cockatielOpen,
    opossumOpen('bare options', opossumBareOptions),
    opossumOpen('default options', opossumDefaultOptions),
    mollitiaOpen,
  ],
}

// --- half-open: one probe is out for as long as the contest runs, and all others are turned away. Cockatiel isn't here: it
// lets the others wait for the probe.

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
const hang = (): Promise<number> => new Promise(() => undefined)

const spillwayHalfOpen: Contender = {
  name: 'spillway',
  prepare: async () => {
    const breaker = new CircuitBreaker({ failureThreshold: 1, recoveryTimeoutMs: 1, probeTimeoutMs: longMs })
    await breaker.execute(fail).catch(() => undefined)
    await pause(20)
    void breaker.execute(hang)
    if (breaker.state !== 'half-open') throw new Error(`wrong answer: the breaker is ${breaker.state}`)
    const refusals = new Refusals(isOpenError)
    return refused(refusals, async () => {
      for (let i = 0; i < calls; i++) {
        try {
          await breaker.execute(refusals.never)
        } catch (error) {
          refusals.take(error)
        }
      }
    })
  },
}

const opossumHalfOpen: Contender = {
  name: 'opossum, bare options',
  aim: rejectionAim,
  prepare: async () => {
    const breaker = new OpossumBreaker((fn: () => Promise<number>) => fn(), { ...opossumBareOptions, resetTimeout: 1 })
    breaker.open()
    await pause(20)
    void breaker.fire(hang)
    if (!breaker.halfOpen) throw new Error('wrong answer: the breaker is not half-open')
    const refusals = new Refusals(isOpossumError)
    return refused(refusals, async () => {
      for (let i = 0; i < calls; i++) {
        try {
          await breaker.fire(refusals.never)
        } catch (error) {
          refusals.take(error)
        }
      }
    })
  },
}

const mollitiaHalfOpen: Contender = {
  name: 'mollitia',
  aim: slower,
  prepare: async () => {
    const breaker = new SlidingCountBreaker({ openStateDelay: longMs, permittedNumberOfCallsInHalfOpenState: 1 })
    const circuit = new Circuit({
      func: (fn: () => Promise<number>) => fn(),
      options: { modules: [breaker] },
    })
    await breaker.halfOpen()
    void circuit.execute(hang)
    await pause(1)
    if (breaker.state !== BreakerState.HALF_OPENED) throw new Error(`wrong answer: the breaker is ${breaker.state}`)
    // Its constructor gives it the prototype of the other one.
    const refusals = new Refusals(
      (error) => error instanceof BreakerMaxAllowedRequestError || error instanceof BreakerError,
    )
    return refused(refusals, async () => {
      for (let i = 0; i < calls; i++) {
        try {
          await circuit.execute<number>(refusals.never)
        } catch (error) {
          refusals.take(error)
        }
      }
    })
  },
}

const halfOpen: Contest = {
  name: 'half-open, a probe in flight, 1000 others turned away',
  operation: 'rejection',
  operations: calls,
  contenders: [spillwayHalfOpen, opossumHalfOpen, mollitiaHalfOpen],
}

// --- permits: no peer has them, so what one writes oneself stands beside

const permits = 10_000

/** A counter that is asked before and told afterwards. */
class HandAsked {
  failures = 0
  #openUntil = 0

  ask(): boolean {
    return this.#openUntil === 0 || performance.now() >= this.#openUntil
  }

  success(): void {
    this.failures = 0
  }

  failure(): void {
    if (++this.failures >= 5) this.#openUntil = performance.now() + longMs
  }
}

const counted = (turn: () => number, expected: number): Turns => {
  let count = 0
  return {
    async: false,
    turn: () => {
      count = turn()
    },
    check: () => {
      if (count !== expected) throw new Error(`wrong answer: expected ${expected} permits, got ${count}`)
    },
  }
}

const closedPermits: Contest = {
  name: 'closed, 10000 permits, each a success',
  operation: 'permit',
  operations: permits,
  contenders: [
    {
      name: 'spillway',
      prepare: () => {
        const breaker = new CircuitBreaker()
        let settled = 0
        const turns = counted(() => {
          let count = 0
          for (let i = 0; i < permits; i++) {
            const permit = breaker.tryAcquire()
            if (permit === undefined) continue
            permit.success()
            count++
          }
          settled += count
          return count
        }, permits)
        const check = (): void => {
          void turns.check()
          const { succeeded } = breaker.stats()
          if (succeeded !== settled) throw new Error(`wrong answer: ${settled} successes, ${succeeded} counted`)
        }
        return { ...turns, check }
      },
    },
    {
      name: 'a counter by hand, asked and told',
      prepare: () => {
        const breaker = new HandAsked()
        return counted(() => {
          let count = 0
          for (let i = 0; i < permits; i++) {
            if (!breaker.ask()) continue
            breaker.success()
            count++
          }
          return count
        }, permits)
      },
    },
  ],
}

const openPermits: Contest = {
  name: 'open, 10000 permits refused',
  operation: 'refusal',
  operations: permits,
  contenders: [
    {
      name: 'spillway',
      prepare: () => {
        const breaker = new CircuitBreaker({ failureThreshold: 1, recoveryTimeoutMs: longMs })
        breaker.tryAcquire()?.failure()
        return counted(() => {
          let count = 0
          for (let i = 0; i < permits; i++) if (breaker.tryAcquire() !== undefined) count++
          return count
        }, 0)
      },
    },
    {
      name: 'a counter by hand, asked',
      prepare: () => {
        const breaker = new HandAsked()
        for (let i = 0; i < 5; i++) breaker.failure()
        return counted(() => {
          let count = 0
          for (let i = 0; i < permits; i++) if (breaker.ask()) count++
          return count
        }, 0)
      },
    },
  ],
}

await serveSuite([...closed, opened, halfOpen, closedPermits, openPermits])
