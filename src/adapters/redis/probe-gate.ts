import { checkCount, checkDuration, checkOptions, valueOr } from '../../core/options.js'
import { batchId } from '../../internal/batch-id.js'
import { giveBack, takeLease } from './breaker-scripts.js'
import type { SharedCircuit, ShareLink } from './shared-circuit.js'

/** Options of `RedisBreakerShare.probeGate`. */
export interface ProbeGateOptions {
  /**
   * How many probes there may be at once in the whole fleet.
   *
   * @defaultValue 1
   */
  probes?: number | undefined
  /**
   * After which time a process's leave to probe ends if nothing is heard of it, in milliseconds, at least 1. Keep it above the
   * breaker's `probeTimeoutMs`, or more probes than `probes` may be in flight.
   *
   * @defaultValue 30_000
   */
  leaseMs?: number | undefined
  /**
   * After which time without a probe in flight a process gives its leave back, in milliseconds, at least 1: no further call may come to
   * it, or a probe may have said nothing. If it had not used it, its next call probes without: calls are rare there.
   *
   * @defaultValue 1000
   */
  idleMs?: number | undefined
}

/** The defaults of {@link ProbeGateOptions}. */
export const probeGateDefaults = { probes: 1, leaseMs: 30_000, idleMs: 1000 } as const

/** Redis and the rest of the process, as a gate sees them. */
export interface GateLink extends ShareLink {
  readonly leaseTimeoutMs: number
  recordLeaseAsked(): void
  recordLeased(circuit: string): void
  recordDenied(circuit: string, retryAfterMs: number): void
  recordLeaseFailed(circuit: string, error: unknown): void
}

/** The right to have one probe in flight, until then. */
interface ProbeLease {
  readonly token: string
  readonly endMs: number
  /** Whether a probe was let through with it. */
  used: boolean
}

/**
 * Says who may probe. It must answer at once, so the first who ask are turned away while a lease is asked for; as long as this process
 * holds leases, it may have as many probes in flight.
 */
export class ProbeGate {
  readonly #link: GateLink
  readonly #find: () => SharedCircuit | undefined
  readonly #settings: { readonly probes: number; readonly leaseMs: number; readonly idleMs: number }
  #circuit: SharedCircuit | undefined
  #stopListening: (() => void) | undefined
  #leases: ProbeLease[] = []
  /** Until when nobody need ask. */
  #deniedUntilMs = Number.NEGATIVE_INFINITY
  #asking = false
  /** Changes whenever a denial may no longer hold: one that was asked for before says nothing then. */
  #chances = 0
  /** Changes whenever a round of probes is decided: what was asked for before is given back. */
  #round = 0
  #usedMs = 0
  /** Whether a lease ended before a call came that could use it: where calls are that rare, the next one is let through without. */
  #owed = false
  #cancelTimer: (() => void) | undefined

  /** @param find - the circuit that has joined under the gate's name. */
  constructor(link: GateLink, find: () => SharedCircuit | undefined, options: ProbeGateOptions | undefined) {
    checkOptions('options', options)
    this.#link = link
    this.#find = find
    this.#settings = {
      probes: checkCount('probes', valueOr<number>(options?.probes, probeGateDefaults.probes)),
      leaseMs: checkDuration('leaseMs', valueOr<number>(options?.leaseMs, probeGateDefaults.leaseMs), 1),
      idleMs: checkDuration('idleMs', valueOr<number>(options?.idleMs, probeGateDefaults.idleMs), 1),
    }
  }

  /** Whether a probe may be made now. */
  ask(): boolean {
    const circuit = this.#bind()
    if (circuit === undefined || !circuit.sharing) return true
    const now = this.#link.clock.now()
    this.#expire(now)
    // Those from before count, too: they still run.
    const { probesInFlight } = circuit
    if (probesInFlight < this.#leases.length) {
      const lease = this.#leases.find(({ used }) => !used)
      if (lease !== undefined) lease.used = true
      this.#usedMs = now
      return true
    }
    if (this.#owed && this.#leases.length === 0) {
      this.#owed = false
      return true
    }
    // A lease more would be of use, and there may be one.
    const isShort = probesInFlight === this.#leases.length && probesInFlight < this.#settings.probes
    if (isShort && !this.#asking && now >= this.#deniedUntilMs) this.#link.track(this.#takeLease(circuit))
    return false
  }

  #bind(): SharedCircuit | undefined {
    const circuit = this.#find()
    if (circuit !== this.#circuit) {
      this.#stopListening?.()
      this.#circuit = circuit
      this.#drop()
      this.#stopListening = circuit?.onNews((decided, told) => this.#onNews(circuit, decided, told))
    }
    return circuit
  }

  /**
   * @param decided - whether the round is over.
   * @param told - whether Redis knows, or will: then it has ended all leases.
   */
  #onNews(circuit: SharedCircuit, decided: boolean, told: boolean): void {
    this.#endDenial()
    if (!decided) return
    const leases = this.#drop()
    if (!told) this.#giveBack(circuit, leases)
  }

  /** Never rejects. */
  async #takeLease(circuit: SharedCircuit): Promise<void> {
    const { clock, leaseTimeoutMs } = this.#link
    const { probes, leaseMs, idleMs } = this.#settings
    const round = this.#round
    const chances = this.#chances
    const lease = { token: batchId(clock.wallNow()), endMs: clock.now() + leaseMs, used: false }
    const lifeMs = String(Math.ceil(leaseMs))
    this.#asking = true
    this.#link.recordLeaseAsked()
    try {
      const args = [String(circuit.known), String(probes), lease.token, lifeMs]
      const [verdict, rest] = await circuit.ask(takeLease, args, leaseTimeoutMs)
      if (verdict === 'leased') {
        if (round !== this.#round) this.#giveBack(circuit, [lease])
        else {
          this.#leases.push(lease)
          this.#usedMs = clock.now()
          this.#watch(circuit, idleMs)
        }
        this.#link.recordLeased(circuit.name)
      } else if (verdict === 'denied') {
        const retryAfterMs = Math.max(1, Number(rest))
        if (chances === this.#chances) this.#deniedUntilMs = clock.now() + retryAfterMs
        this.#link.recordDenied(circuit.name, retryAfterMs)
      } else {
        circuit.learn(circuit.readAnswer(rest))
      }
    } catch (error) {
      // Redis may have given it, and nobody else could probe as long as it lasts.
      this.#giveBack(circuit, [lease])
      this.#link.recordLeaseFailed(circuit.name, error)
    } finally {
      this.#asking = false
    }
  }

  /** A lease that nobody uses is given back: the calls that asked for it may have been the last ones here for a while. */
  #watch(circuit: SharedCircuit, delayMs: number): void {
    this.#cancelTimer?.()
    this.#cancelTimer = this.#link.clock.setTimer(() => this.#look(circuit), delayMs, { keepAlive: false })
  }

  #look(circuit: SharedCircuit): void {
    this.#cancelTimer = undefined
    const { idleMs } = this.#settings
    const now = this.#link.clock.now()
    // Looking may find that a probe has expired, which ends the leases.
    const { probesInFlight } = circuit
    this.#expire(now)
    const unused = this.#leases.length - probesInFlight
    const idleForMs = now - this.#usedMs
    if (unused > 0 && idleForMs >= idleMs) {
      const leases = this.#leases.splice(this.#leases.length - unused)
      this.#noteUnused(leases)
      this.#giveBack(circuit, leases)
    }
    if (this.#leases.length > 0) this.#watch(circuit, idleForMs < idleMs ? idleMs - idleForMs : idleMs)
  }

  #expire(now: number): void {
    if (this.#leases.every(({ endMs }) => endMs > now)) return
    this.#noteUnused(this.#leases.filter(({ endMs }) => endMs <= now))
    this.#leases = this.#leases.filter(({ endMs }) => endMs > now)
  }

  #noteUnused(ended: readonly ProbeLease[]): void {
    if (ended.some(({ used }) => !used)) this.#owed = true
  }

  #drop(): readonly ProbeLease[] {
    const leases = this.#leases
    this.#leases = []
    this.#owed = false
    this.#endDenial()
    this.#round++
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
    return leases
  }

  #endDenial(): void {
    this.#deniedUntilMs = Number.NEGATIVE_INFINITY
    this.#chances++
  }

  #giveBack(circuit: SharedCircuit, leases: readonly ProbeLease[]): void {
    if (leases.length === 0 || !this.#link.sharing) return
    const { channel, timeoutMs } = this.#link
    const message = JSON.stringify({ circuit: circuit.name, kind: 'released' })
    const args = [channel, message, ...leases.map(({ token }) => token)]
    // What can't be given back ends by itself.
    const given = this.#link.call(giveBack, [circuit.keys[1]], args, timeoutMs)
    this.#link.track(given.then(undefined, () => undefined).then(() => undefined))
  }
}
