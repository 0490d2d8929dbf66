import {
  type BreakerState,
  CircuitBreaker,
  type CircuitBreakerOptions,
  type Outcome,
} from '../breaker/circuit-breaker.js'
import type { Clock } from '../core/clock.js'
import { BatchResultError, isSpillwayError, StoreError, TimeoutError } from '../core/errors.js'
import { valueOr } from '../core/options.js'

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

/** A call that isn't over: neither answered nor given up. */
interface OpenCall {
  /** What is done, for errors. */
  readonly what: string
  /** On the clock: when it is given up. */
  readonly dueAt: number
  giveUp(error: unknown): void
}

/** Hears how a call ended: its answers, and what speaks against the store, if anything does. */
type OnEnd<T> = (answers: readonly (T | Error)[], failure: unknown) => void

/** Calls a store through a breaker, each call within its time. */
export class SharedCalls {
  /** Calls that took longer than they may. */
  timeouts = 0
  /** Calls that the breaker turned away. */
  rejected = 0
  readonly #settings: SharedCallsSettings
  #answered = false
  readonly #breaker: CircuitBreaker | undefined
  /** Whether all that the breaker has to know, while it is closed, is how calls end. */
  readonly #plain: boolean
  /** In the order of their ends, since all may take as long. */
  readonly #open = new Set<OpenCall>()
  /** Of the first of them, or of one that was before it: a timer for each call would cost more than the rest of what is done here. */
  #cancelTimer: (() => void) | undefined

  /** @throws OptionError when an option of the breaker is wrong. */
  constructor(settings: SharedCallsSettings) {
    this.#settings = settings
    const { breaker, name, clock, random } = settings
    this.#plain = breaker === false || isPlain(breaker)
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
  make<T>(call: SharedCall<T>): Promise<readonly (T | Error)[]> {
    return new Promise((resolve) => this.begin(call, resolve))
  }

  /**
   * The same without a promise.
   *
   * @param done - hears the answers, once and not within this call. It must not throw.
   */
  begin<T>(call: SharedCall<T>, done: (answers: readonly (T | Error)[]) => void): void {
    const breaker = this.#breaker
    const end = (answers: readonly (T | Error)[]): void => {
      if (!this.#answered && answers.some((answer) => !(answer instanceof Error))) this.#answered = true
      done(answers)
    }
    if (breaker === undefined) {
      this.#start(call, end)
      return
    }
    const permit = this.#plain && breaker.state === 'closed' ? breaker.tryAcquire() : undefined
    if (permit === undefined) {
      void this.#execute(breaker, call).then(end)
      return
    }
    this.#start(call, (answers, failure) => {
      if (failure === undefined) permit.success()
      else if (outcomeOf(failure) === 'failure') permit.failure(failure)
      else permit.ignore()
      end(answers)
    })
  }

  /** Makes a call through a breaker that may have more to say. */
  async #execute<T>(breaker: CircuitBreaker, call: SharedCall<T>): Promise<readonly (T | Error)[]> {
    let answers: readonly (T | Error)[] | undefined
    let open: OpenCall | undefined
    try {
      await breaker.execute(
        () =>
          new Promise((resolve, reject) => {
            open = this.#start(call, (made, failure) => {
              answers = made
              if (failure === undefined) resolve(made)
              else reject(failure)
            })
          }),
      )
    } catch (error) {
      if (open === undefined) this.rejected++
      // It is the breaker's own time that was over.
      if (answers === undefined) open?.giveUp(error)
      answers ??= all(call.count, error)
    }
    return answers ?? []
  }

  #start<T>(call: SharedCall<T>, onEnd: OnEnd<T>): OpenCall {
    const { clock, timeoutMs } = this.#settings
    let over = false
    const end = (answers: readonly (T | Error)[], failure: unknown): void => {
      over = true
      this.#open.delete(open)
      if (this.#open.size === 0) this.#stopTimer()
      onEnd(answers, failure)
    }
    const open: OpenCall = {
      what: call.what,
      dueAt: clock.now() + timeoutMs,
      giveUp: (error) => {
        if (!over) end(all(call.count, error), error)
      },
    }
    this.#open.add(open)
    if (this.#cancelTimer === undefined) this.#setTimer(timeoutMs)
    answerOf(call.make).then(
      (answer) => {
        let answers: readonly (T | Error)[]
        let failure: unknown
        try {
          answers = checked(call, answer)
          failure = failureOf(answers)
        } catch (error) {
          answers = all(call.count, error)
          failure = error
        }
        if (over) call.onLate?.(answers)
        else end(answers, failure)
      },
      (error: unknown) => {
        const answers = all(call.count, error)
        if (over) call.onLate?.(answers)
        else end(answers, error)
      },
    )
    return open
  }

  #setTimer(delayMs: number): void {
    this.#cancelTimer = this.#settings.clock.setTimer(this.#onTimer, delayMs)
  }

  #stopTimer(): void {
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
  }

  readonly #onTimer = (): void => {
    this.#cancelTimer = undefined
    const { clock, name, timeoutMs } = this.#settings
    for (const open of this.#open) {
      const leftMs = open.dueAt - clock.now()
      if (leftMs > 0) {
        if (this.#cancelTimer === undefined) this.#setTimer(leftMs)
        return
      }
      this.timeouts++
      open.giveUp(new TimeoutError(`${name}: ${open.what} took longer than ${timeoutMs} ms`, timeoutMs))
    }
  }
}

/** Whether a breaker neither judges outcomes nor times calls by itself: then leave to call it does for a call. */
function isPlain({ timeoutMs, classifyError, classifyResult }: CircuitBreakerOptions): boolean {
  return timeoutMs === undefined && classifyError === undefined && classifyResult === undefined
}

/** Calls, and makes a promise of whatever comes of it. */
function answerOf(make: () => unknown): Promise<unknown> {
  try {
    const answer = make()
    return answer instanceof Promise ? answer : Promise.resolve(answer)
  } catch (error) {
    return Promise.reject(error)
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
  for (let i = 0; i < answer.length; i++) {
    if (!(answer[i] instanceof Error || call.isAnswer(answer[i]))) return replaced(call, answer)
  }
  return answer
}

function replaced<T>(call: SharedCall<T>, answer: readonly unknown[]): readonly (T | Error)[] {
  return Array.from(answer, (one: unknown) => {
    if (one instanceof Error || call.isAnswer(one)) return one
    return new BatchResultError(`the store answered ${call.what} with a result that isn't one`)
  })
}

function all(count: number, reason: unknown): readonly Error[] {
  const error = reason instanceof Error ? reason : new StoreError('the store failed', { cause: reason })
  return Array.from({ length: count }, () => error)
}
