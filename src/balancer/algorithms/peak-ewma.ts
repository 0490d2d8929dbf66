import type { Clock } from '../../core/clock.js'
import { TurnClock } from '../../internal/turn-clock.js'
import type { Member } from './algorithm.js'
import { TwoChoices } from './two-choices.js'

/** After so long without a sample, a mean has 1/e of its value left: the default of Finagle. */
const decayMs = 10_000
/** What a member costs that has calls in flight and no sample yet, 2 ** 47: more than any latency. */
const unknownCost = 140_737_488_355_328
/** The smallest sample, so that it can be told from none. */
const leastSampleMs = 0.001

/**
 * Of two that are drawn, the one that is expected to answer first: its latency times the calls it would then have in
 * flight, over its weight. The latency is a moving mean that is sensitive to peaks: a slower answer counts in full at once,
 * faster ones bring it down with time. It decays while nothing is heard, so that one that was slow is tried again.
 *
 * A member without a sample costs nothing while it is idle and more than any other while its first call is out: it is tried
 * at once, by one call at a time.
 *
 * @see https://github.com/twitter/finagle/blob/develop/finagle-core/src/main/scala/com/twitter/finagle/loadbalancer/PeakEwma.scala
 */
export class PeakEwma<M extends Member> extends TwoChoices<M> {
  readonly timed = true
  readonly #clock: TurnClock

  constructor(random: () => number, clock: Clock) {
    super(random)
    this.#clock = TurnClock.of(clock)
  }

  settled(member: M, latencyMs: number, nowMs: number): void {
    const sample = Math.max(latencyMs, leastSampleMs)
    const kept = decayed(member, nowMs)
    const before = member.ewmaMs
    // Another call may have ended with a later time, read more finely than this turn's.
    member.ewmaMs = sample > kept || before === 0 ? sample : kept + sample * (1 - kept / before)
    if (nowMs > member.ewmaAtMs || before === 0) member.ewmaAtMs = nowMs
  }

  protected better(first: M, second: M): M {
    const now = this.#clock.now()
    return costOf(first, now) * second.weight <= costOf(second, now) * first.weight ? first : second
  }
}

function costOf(member: Member, nowMs: number): number {
  const { inFlight } = member
  if (member.ewmaMs === 0) return inFlight === 0 ? 0 : unknownCost + inFlight
  return decayed(member, nowMs) * (inFlight + 1)
}

/** What is left of a member's mean. */
function decayed(member: Member, nowMs: number): number {
  const ageMs = nowMs - member.ewmaAtMs
  return ageMs > 0 ? member.ewmaMs * Math.exp(-ageMs / decayMs) : member.ewmaMs
}
