import type { Member } from './algorithm.js'
import { TwoChoices } from './two-choices.js'

/** Of two that are drawn, the one with fewer calls in flight for its weight. */
export class P2c<M extends Member> extends TwoChoices<M> {
  readonly timed = false

  settled(): void {}

  protected better(first: M, second: M): M {
    return first.inFlight * second.weight <= second.inFlight * first.weight ? first : second
  }
}
