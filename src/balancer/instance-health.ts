import type { Clock } from '../core/clock.js'
import { TimeoutError } from '../core/errors.js'
import { checkCount, checkDuration, checkFunction, checkOptions, valueOr } from '../core/options.js'
import type { ContextRunner } from '../internal/async-context.js'
import type { InstanceSlot } from './instance-slot.js'

/** How instances are checked. */
export interface HealthOptions<I> {
  /** Asks an instance how it is: it is well unless this answers `false`, throws, rejects or takes longer than `timeoutMs`. */
  check: (instance: I, context: { readonly signal: AbortSignal }) => unknown
  /** How long after a check the next one of that instance begins, in milliseconds, give or take a tenth by chance. The default is 10 000. */
  intervalMs?: number | undefined
  /** How long a check may take, in milliseconds, at least 1; then its signal aborts and it has failed. The default is 2000. */
  timeoutMs?: number | undefined
  /** How many checks in a row must pass before an unhealthy instance is healthy. The default is 2. */
  rise?: number | undefined
  /** How many checks in a row must fail before a healthy instance is unhealthy. The default is 3. */
  fall?: number | undefined
  /** The most checks at once; the others wait for their turn. The default is 20. */
  concurrency?: number | undefined
}

/** The values that {@link HealthOptions} leave out. */
export interface HealthDefaults {
  readonly intervalMs: number
  readonly timeoutMs: number
  readonly rise: number
  readonly fall: number
  readonly concurrency: number
}

/** By which share of itself an interval is longer or shorter, so that what began together doesn't stay together. */
const jitter = 0.1

interface Setting<I> {
  readonly name: string
  readonly clock: Clock
  readonly random: () => number
  readonly inContext: ContextRunner
  /** An instance has become healthy, or unhealthy because of an error. */
  readonly onChanged: (slot: InstanceSlot<I>, error: unknown) => void
}

/** One instance under observation. */
interface Patient<I> {
  readonly slot: InstanceSlot<I>
  /** Checks in a row that spoke against what the instance is taken for. */
  against: number
  /** Aborts the check that runs; undefined between checks. */
  controller: AbortController | undefined
  cancelTimer: (() => void) | undefined
  gone: boolean
}

/**
 * Checks instances, each at its own pace and never two checks of one at once. A check that doesn't come back when its time is
 * over has failed, and fails again at each interval until it does.
 */
export class HealthChecks<I> {
  readonly #options: HealthDefaults & Pick<HealthOptions<I>, 'check'>
  readonly #setting: Setting<I>
  readonly #patients = new Map<InstanceSlot<I>, Patient<I>>()
  /** Those whose turn it is as soon as a place is free, first come first. */
  readonly #queue = new Set<Patient<I>>()
  /** The ids of those whose check hasn't come back, also long after its time was over, or after they left the list. */
  readonly #out = new Set<string>()
  #running = 0
  #letting = false
  #closed = false

  constructor(options: HealthOptions<I>, defaults: HealthDefaults, setting: Setting<I>) {
    checkOptions('health', options)
    this.#options = {
      check: checkFunction('health.check', options.check),
      intervalMs: checkDuration('health.intervalMs', valueOr(options.intervalMs, defaults.intervalMs), 1),
      timeoutMs: checkDuration('health.timeoutMs', valueOr(options.timeoutMs, defaults.timeoutMs), 1),
      rise: checkCount('health.rise', valueOr(options.rise, defaults.rise)),
      fall: checkCount('health.fall', valueOr(options.fall, defaults.fall)),
      concurrency: checkCount('health.concurrency', valueOr(options.concurrency, defaults.concurrency)),
    }
    this.#setting = setting
  }

  /** Begins with an instance: the first check at once. */
  watch(slot: InstanceSlot<I>): void {
    if (this.#closed || this.#patients.has(slot)) return
    const patient: Patient<I> = {
      slot,
      against: 0,
      controller: undefined,
      cancelTimer: undefined,
      gone: false,
    }
    this.#patients.set(slot, patient)
    this.#admit(patient)
  }

  unwatch(slot: InstanceSlot<I>): void {
    const patient = this.#patients.get(slot)
    if (patient === undefined) return
    this.#patients.delete(slot)
    this.#dismiss(patient, `${this.#setting.name}: the instance left the list`)
  }

  close(): void {
    this.#closed = true
    const patients = [...this.#patients.values()]
    this.#patients.clear()
    this.#queue.clear()
    for (const patient of patients) this.#dismiss(patient, `${this.#setting.name} is closed`)
  }

  #dismiss(patient: Patient<I>, why: string): void {
    patient.gone = true
    patient.cancelTimer?.()
    this.#queue.delete(patient)
    const { controller } = patient
    if (controller === undefined) return
    patient.controller = undefined
    this.#running--
    controller.abort(new DOMException(why, 'AbortError'))
    this.#next()
  }

  #admit(patient: Patient<I>): void {
    // The one before is still out, so this one has failed without being made.
    if (this.#out.has(patient.slot.id)) return this.#record(patient, false, this.#overdueError(patient))
    this.#queue.add(patient)
    // A microtask later: what begins it may be a pick, and the check is the user's.
    queueMicrotask(() => this.#next())
  }

  #next(): void {
    // A check that throws frees its place within this loop, which then goes on: called from there, it would call itself as
    // often as there are instances.
    if (this.#letting) return
    this.#letting = true
    for (const patient of this.#queue) {
      if (this.#closed || this.#running >= this.#options.concurrency) break
      this.#queue.delete(patient)
      this.#check(patient)
    }
    this.#letting = false
  }

  #check(patient: Patient<I>): void {
    const { check, timeoutMs } = this.#options
    const { clock, inContext } = this.#setting
    const controller = new AbortController()
    patient.controller = controller
    this.#out.add(patient.slot.id)
    this.#running++
    const end = (passed: boolean, error: unknown): void => {
      if (patient.controller !== controller) return
      patient.cancelTimer?.()
      patient.controller = undefined
      this.#running--
      this.#record(patient, passed, error)
      this.#next()
    }
    patient.cancelTimer = clock.setTimer(
      () => {
        const error = this.#overdueError(patient)
        controller.abort(error)
        end(false, error)
      },
      timeoutMs,
      { keepAlive: false },
    )
    const back = (): void => {
      this.#out.delete(patient.slot.id)
    }
    inContext(() => {
      try {
        Promise.resolve(check(patient.slot.instance, { signal: controller.signal })).then(
          (answer) => {
            back()
            end(answer !== false, answer === false ? new Error('the check answered false') : undefined)
          },
          (error: unknown) => {
            back()
            end(false, error)
          },
        )
      } catch (error) {
        back()
        end(false, error)
      }
    })
  }

  #record(patient: Patient<I>, passed: boolean, error: unknown): void {
    if (patient.gone) return
    const { slot } = patient
    const { intervalMs, rise, fall } = this.#options
    const { clock, random } = this.#setting
    patient.against = passed === slot.healthy ? 0 : patient.against + 1
    const delayMs = intervalMs * (1 + jitter * (2 * random() - 1))
    patient.cancelTimer = clock.setTimer(() => this.#admit(patient), delayMs, { keepAlive: false })
    if (patient.against < (slot.healthy ? fall : rise)) return
    patient.against = 0
    slot.healthy = !slot.healthy
    this.#setting.onChanged(slot, error)
  }

  #overdueError({ slot }: Patient<I>): TimeoutError {
    const { timeoutMs } = this.#options
    const message = `${this.#setting.name}: a check of ${slot.id} took longer than ${timeoutMs} ms`
    return new TimeoutError(message, timeoutMs, { outcomeUnknown: false })
  }
}
