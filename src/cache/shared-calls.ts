import {
  type BreakerState,
  CircuitBreaker,
  type CircuitBreakerOptions,
  type Outcome,
} from '../breaker/circuit-breaker.js'
import type { Clock } from '../core/clock.js'
import { BatchResultError, isSpillwayError, StoreError, TimeoutError } from '../core/errors.js'
import { valueOr } from '../core/options.js'
import { handled } from '../internal/deferred.js'
import { attempt } from '../internal/tasks.js'

/** What calls of a shared tier's store are made with. */
export interface SharedCallsSettings {
  readonly name: string
  readonly clock: Clock
  readonly random: () => number
  readonly timeoutMs: number
  readonly breaker: CircuitBreakerOptions | false
}

/** One call of the store. */
export interface SharedCall<T> {
  /** What is done, for errors. */
  readonly what: string
  /** How many answers there must be. */
  readonly count: number
  readonly make: () => PromiseLike<readonly (T | Error)[]>
  /** Whether an answer is what the port says. */
  readonly isAnswer: (answer: unknown) => answer is T
  /** Hears what became of a call that was given up before it was answered. */
  readonly onLate?: (answers: readonly (T | Error)[]) => void
}

/** Calls a store through a breaker, each call within its time. */
export class SharedCalls {
  /** Calls that took longer than they may. */
  timeouts = 0
  /** Calls that the breaker turned away. */
  rejected = 0
  readonly #settings: SharedCallsSettings
  #answered = false
  readonly #breaker: CircuitBreaker | undefined

  /** @throws OptionError when an option of the breaker is wrong. */
  constructor(settings: SharedCallsSettings) {
    this.#settings = settings
    const { breaker, name, clock, random } = settings
    if (breaker === false) return
    this.#breaker = new CircuitBreaker({
      ...breaker,
      name: valueOr(breaker.name, `${name}-l2`),
      clock: valueOr(breaker.clock, clock),
      random: valueOr(breaker.random, random),
      classifyError: valueOr(breaker.classifyError, outcomeOf),
    })
  }

  /** The breaker's state. */
  get state(): BreakerState {
    return this.#breaker?.state ?? 'closed'
  }

  /** How long until a call may go through, in milliseconds; undefined where that isn't known. */
  get retryAfterMs(): number | undefined {
    return this.#breaker === undefined ? 0 : this.#breaker.retryAfterMs
  }

  /** Whether the store has answered for any part of any call since this was last asked. */
  takeAnswered(): boolean {
    const answered = this.#answered
    this.#answered = false
    return answered
  }

  /** Makes a call. Never rejects: where all of it failed, each answer is the error. */
  async make<T>(call: SharedCall<T>): Promise<readonly (T | Error)[]> {
    let answers: readonly (T | Error)[] | undefined
    let over = false
    let started = false
    const work = async (): Promise<unknown> => {
      started = true
      const answering = attempt(call.make).then((answer) => checked(call, answer))
      answering.then(
        (late) => over && call.onLate?.(late),
        (error: unknown) => over && call.onLate?.(all(call.count, error)),
      )
      const inTime = await this.#inTime(call.what, answering, () => {
        over = true
      })
      if (over) return inTime
      answers = inTime
      const failure = failureOf(inTime)
      if (failure !== undefined) throw failure
      return inTime
    }
    try {
      await (this.#breaker === undefined ? work() : this.#breaker.execute(work))
    } catch (error) {
      if (!started) this.rejected++
      answers ??= all(call.count, error)
    }
    over = true
    const made = answers ?? []
    if (made.some((answer) => !(answer instanceof Error))) this.#answered = true
    return made
  }

  async #inTime<A>(what: string, answering: Promise<A>, onTimeout: () => void): Promise<A> {
    const { clock, timeoutMs, name } = this.#settings
    let cancel: (() => void) | undefined
    try {
      return await new Promise<A>((resolve, reject) => {
        cancel = clock.setTimer(() => {
          this.timeouts++
          onTimeout()
          reject(new TimeoutError(`${name}: ${what} took longer than ${timeoutMs} ms`, timeoutMs))
        }, timeoutMs)
        handled(answering).then(resolve, reject)
      })
    } finally {
      cancel?.()
    }
  }
}

/** A key or a value that the store can't carry says nothing about the store. */
function outcomeOf(error: unknown): Outcome {
  return isSpillwayError(error, 'ERR_OPTION') ? 'ignore' : 'failure'
}

/** What the breaker is told of a call: nothing against the store as long as a part of it was answered. */
function failureOf(answers: readonly unknown[]): Error | undefined {
  if (!answers.every((answer) => answer instanceof Error)) return undefined
  return answers.find((error) => !isSpillwayError(error, 'ERR_OPTION')) ?? answers[0]
}

function checked<T>(call: SharedCall<T>, answer: unknown): readonly (T | Error)[] {
  if (!Array.isArray(answer))
    throw new BatchResultError(`the store answered ${call.what} with something that is no array`)
  if (answer.length !== call.count) {
    throw new BatchResultError(`the store answered ${call.what} of ${call.count} with ${answer.length} results`)
  }
  return Array.from(answer, (one: unknown) => {
    if (one instanceof Error || call.isAnswer(one)) return one
    return new BatchResultError(`the store answered ${call.what} with a result that isn't one`)
  })
}

function all(count: number, reason: unknown): readonly Error[] {
  const error = reason instanceof Error ? reason : new StoreError('the store failed', { cause: reason })
  return Array.from({ length: count }, () => error)
}
