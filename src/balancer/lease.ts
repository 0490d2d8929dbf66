import type { Permit } from '../breaker/circuit-breaker.js'
import { failOption } from '../core/options.js'
import type { InstanceSlot } from './instance-slot.js'

/** How a call to an instance ended: `'ignore'` says nothing about the instance. */
export type LeaseOutcome = 'success' | 'failure' | 'ignore'

/** An instance that was picked, until it is released. */
export interface Lease<I> extends Disposable {
  /** The instance. */
  readonly instance: I
  /**
   * Gives it back. The first release counts, whatever has become of the instance or the balancer meanwhile; later ones do
   * nothing.
   *
   * @param outcome - how the call ended, `'success'` by default. Failures count towards ejection.
   * @param error - why it failed, for the `ejected` event.
   * @throws OptionError when the outcome is none.
   */
  release(outcome?: LeaseOutcome, error?: unknown): void
  /** Releases it with `'ignore'`, unless it was released. */
  [Symbol.dispose](): void
}

/** Where leases are given back. */
export interface LeaseDesk<I> {
  settle(lease: InstanceLease<I>, outcome: LeaseOutcome, error: unknown): void
}

/** All that a pick makes: fields, no closures. */
export class InstanceLease<I> implements Lease<I> {
  readonly instance: I
  readonly slot: InstanceSlot<I>
  /** When it was picked, where the algorithm wants to know. */
  readonly startedMs: number
  /** The leave of the instance's breaker; without one, the outcome counts for nothing there. */
  readonly permit: Permit | undefined
  #desk: LeaseDesk<I> | undefined

  constructor(desk: LeaseDesk<I>, slot: InstanceSlot<I>, startedMs: number, permit: Permit | undefined) {
    this.instance = slot.instance
    this.slot = slot
    this.startedMs = startedMs
    this.permit = permit
    this.#desk = desk
  }

  release(outcome: LeaseOutcome = 'success', error?: unknown): void {
    if (outcome !== 'success' && outcome !== 'failure' && outcome !== 'ignore') {
      failOption('outcome', "must be 'success', 'failure' or 'ignore'", outcome)
    }
    const desk = this.#desk
    if (desk === undefined) return
    this.#desk = undefined
    desk.settle(this, outcome, error)
  }

  [Symbol.dispose](): void {
    this.release('ignore')
  }
}
