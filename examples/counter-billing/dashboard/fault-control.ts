import type { FaultAction, FaultState, Sums } from './sample.ts'

/** Makes things go wrong, for one who wants to see what the service does then. The demo has one, and no other process does. */
export interface FaultControl {
  /** What is wrong now. */
  state(): FaultState
  /** Does what was asked for; it may go on after the promise has resolved. */
  apply(action: FaultAction): Promise<void>
  /** What was sent to the service, beside what its stores have. */
  sums(): Promise<Sums>
}

/** Something can't be done now, for a reason that people are told. */
export class FaultRefused extends Error {}
