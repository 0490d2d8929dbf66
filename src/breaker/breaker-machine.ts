import type { Clock } from '../core/clock.js'
import { TimeoutError } from '../core/errors.js'
import { describeError, isThenable, warn } from '../core/events.js'
import type { TripCounter } from './trip-policy.js'

/** How a call ended, as far as the breaker is concerned: `'ignore'` says nothing about what it guards. */
export type Outcome = 'success' | 'failure' | 'ignore'

/** Why a breaker opened. */
export type OpenReason = 'tripped' | 'probe-failed' | 'probe-expired' | 'requested'

/** What a machine needs to know. */
export interface MachinePolicy {
  readonly name: string
  readonly recoveryTimeoutMs: number
  readonly halfOpenRequests: number
  readonly successThreshold: number
  readonly probeTimeoutMs: number
  readonly factor: number
  readonly maxMs: number
  readonly jitter: number
  readonly slowCallMs: number | undefined
  readonly probeGate: (() => boolean) | undefined
}

/** Whoever owns a machine is told of what happens in it, when it happens. Must not throw. */
export interface MachineOwner {
  onSucceeded(late: boolean): void
  onFailed(error: unknown, late: boolean): void
  onOpened(reason: OpenReason, error: unknown): void
  onHalfOpened(): void
  onClosed(reason: 'recovered' | 'reset'): void
}

/** The leave to make one call, until its outcome is told. */
export class Admission {
  readonly #machine: BreakerMachine
  /** The generation in which it was given. */
  readonly generation: number
  /** When its lease ends, if it is a probe; otherwise never. */
  readonly leaseEndMs: number
  /** When it was given, where slow calls matter. */
  readonly startedMs: number
  /** Whether its outcome has been counted. */
  settled = false

  constructor(machine: BreakerMachine, leaseEndMs: number, startedMs: number) {
    this.#machine = machine
    this.generation = machine.generation
    this.leaseEndMs = leaseEndMs
    this.startedMs = startedMs
  }

  success(): void {
    this.#machine.settle(this, 'success', undefined)
  }

  failure(error?: unknown): void {
    this.#machine.settle(this, 'failure', error)
  }

  ignore(): void {
    this.#machine.settle(this, 'ignore', undefined)
  }

  [Symbol.dispose](): void {
    this.ignore()
  }
}

/** A generation that none is of: while a breaker is isolated, no outcome counts. */
const noGeneration = -1

/**
 * The states of a circuit breaker, and nothing else: no promises, no timers.
 *
 * ```text
 *             the trip policy says so             time is up: the first probe
 *   closed ──────────────────────────▶ open ────────────────────────────────▶ half-open
 *     ▲                                 ▲         a probe failed or expired       │
 *     │                                 └─────────────────────────────────────────┤
 *     └────────────────────── successThreshold probes succeeded ──────────────────┘
 * ```
 *
 * Each arrow begins a generation. An outcome counts only in the generation in which its call was admitted, so that what was
 * true before a trip decides nothing after it. `isolated` lies over all that: what is below goes on in time, but nobody is admitted and no
 * outcome counts.
 *
 * What time alone brings about, the end of a probe's lease, is made up for whenever someone looks, as of when it happened.
 */
export class BreakerMachine {
  readonly #policy: MachinePolicy
  readonly #counter: TripCounter
  readonly #clock: Clock
  readonly #random: () => number
  readonly #owner: MachineOwner
  #phase: 'closed' | 'open' | 'half-open' = 'closed'
  #generation = 0
  /** The generation whose outcomes count. */
  #counting = 0
  #isolations = 0
  /** When an open breaker lets a probe through. */
  #dueMs = 0
  /** How often it opened since it was last closed. */
  #openings = 0
  #successes = 0
  /** When someone last asked for a probe. */
  #askedMs = 0
  /** Probes whose slot is taken, in the order of their leases' ends: of earlier generations too, since they still run. */
  readonly #probes: Admission[] = []
  #reportedGate = false
  /** Whether everyone is admitted: closed, not isolated, no slow calls to measure. */
  free: boolean

  offered = 0
  succeeded = 0
  failed = 0
  ignored = 0
  rejected = 0
  /** Outcomes that came too late to change a state. */
  late = 0
  /** How often it opened. */
  opened = 0

  constructor(
    policy: MachinePolicy,
    counter: TripCounter,
    environment: { clock: Clock; random: () => number },
    owner: MachineOwner,
  ) {
    this.#policy = policy
    this.#counter = counter
    this.#clock = environment.clock
    this.#random = environment.random
    this.#owner = owner
    this.free = policy.slowCallMs === undefined
  }

  /** The generation of calls that are admitted while the breaker is closed. */
  get generation(): number {
    return this.#generation
  }

  get isolated(): boolean {
    return this.#isolations > 0
  }

  /** Whether a first probe has been let through and the circuit is not decided yet. */
  get probing(): boolean {
    return this.#phase === 'half-open'
  }

  get openings(): number {
    return this.#openings
  }

  get dueMs(): number {
    return this.#dueMs
  }

  /** The state below an isolation. */
  phase(): 'closed' | 'open' | 'half-open' {
    this.#catchUp()
    return this.#phase === 'open' && this.#clock.now() >= this.#dueMs ? 'half-open' : this.#phase
  }

  get probesInFlight(): number {
    this.#catchUp()
    return this.#probes.length
  }

  /** How long until it may let a call through; undefined where that isn't known, 0 where it may now. */
  retryAfterMs(): number | undefined {
    if (this.#isolations > 0) return undefined
    this.#catchUp()
    return this.#waitMs(this.#clock.now())
  }

  /** The same as of when a call was last refused. */
  refusedForMs(): number | undefined {
    return this.#isolations > 0 ? undefined : this.#waitMs(this.#askedMs)
  }

  #waitMs(now: number): number {
    if (this.#phase === 'closed') return 0
    const [firstProbe] = this.#probes
    const full = firstProbe !== undefined && this.#probes.length >= this.#policy.halfOpenRequests
    const slotMs = full ? firstProbe.leaseEndMs - now : 0
    return Math.max(0, slotMs, this.#phase === 'open' ? this.#dueMs - now : 0)
  }

  /** Admits a call, or counts it as rejected. */
  admit(): Admission | undefined {
    this.offered++
    if (this.#phase === 'closed' && this.#isolations === 0) return this.#admitFreely()
    const probe = this.#admitProbe()
    if (probe === undefined) this.rejected++
    return probe
  }

  #admitProbe(): Admission | undefined {
    this.#askedMs = this.#clock.now()
    if (this.#isolations > 0) return undefined
    if (this.#phase === 'open' && this.#askedMs < this.#dueMs) return undefined
    this.#catchUp()
    if (this.#refuses() || (this.#phase !== 'closed' && !this.#mayProbe())) return undefined
    // Asked again: listeners and the gate may have done anything, even closed it.
    if (this.#refuses()) return undefined
    if (this.#phase === 'closed') return this.#admitFreely()
    const now = this.#clock.now()
    const halfOpens = this.#phase === 'open'
    if (halfOpens) {
      this.#enter('half-open')
      this.#successes = 0
    }
    const probe = new Admission(this, now + this.#policy.probeTimeoutMs, now)
    this.#probes.push(probe)
    if (halfOpens) this.#owner.onHalfOpened()
    return probe
  }

  #admitFreely(): Admission {
    return new Admission(this, Number.POSITIVE_INFINITY, this.free ? 0 : this.#clock.now())
  }

  /** Whether there is no way in: isolated, not due yet, or as many probes in flight as may be. */
  #refuses(): boolean {
    if (this.#isolations > 0) return true
    if (this.#phase === 'closed') return false
    if (this.#phase === 'open' && this.#clock.now() < this.#dueMs) return true
    return this.#probes.length >= this.#policy.halfOpenRequests
  }

  /** Counts a call's outcome, once, and frees its slot unless the call is still running. */
  settle(admission: Admission, outcome: Outcome, error: unknown, running = false): void {
    if (admission.leaseEndMs !== Number.POSITIVE_INFINITY) {
      // Its lease may have ended without anyone having looked since.
      this.#catchUp()
      if (!running) this.#freeSlot(admission)
    }
    if (admission.settled) return
    admission.settled = true
    if (outcome === 'ignore') {
      this.ignored++
      return
    }
    const { slowCallMs } = this.#policy
    const slow = slowCallMs !== undefined && this.#clock.now() - admission.startedMs >= slowCallMs ? 1 : 0
    if (outcome === 'success') this.countSuccess(admission.generation, slow)
    else this.countFailure(admission.generation, slow, error)
  }

  #freeSlot(probe: Admission): void {
    const place = this.#probes.indexOf(probe)
    if (place >= 0) this.#probes.splice(place, 1)
  }

  /** Counts a success of a call that was admitted in a generation. */
  countSuccess(generation: number, slow: 0 | 1): void {
    this.succeeded++
    if (generation !== this.#counting) this.late++
    this.#owner.onSucceeded(generation !== this.#counting)
    // Asked again: who was told may have reset it.
    if (generation !== this.#counting) return
    if (this.#phase === 'closed') {
      if (this.#counter.succeeded(slow)) this.#open('tripped', undefined, this.#clock.now())
    } else if (++this.#successes >= this.#policy.successThreshold) this.#close('recovered')
  }

  /** Counts a failure of a call that was admitted in a generation. */
  countFailure(generation: number, slow: 0 | 1, error: unknown): void {
    this.failed++
    if (generation !== this.#counting) this.late++
    this.#owner.onFailed(error, generation !== this.#counting)
    if (generation !== this.#counting) return
    if (this.#phase !== 'closed') this.#open('probe-failed', error, this.#clock.now())
    else if (this.#counter.failed(slow)) this.#open('tripped', error, this.#clock.now())
  }

  /** Opens it, or lets it stay open for another while. */
  open(error: unknown, forMs: number | undefined): void {
    const now = this.#clock.now()
    if (this.phase() === 'open') this.#dueMs = Math.max(this.#dueMs, now + (forMs ?? 0))
    else this.#open('requested', error, now, forMs)
  }

  /** Closes it and forgets what was counted. An isolation stays. */
  reset(): void {
    this.#catchUp()
    this.#close('reset')
  }

  /** Turns everyone away until the function that it returns is called. */
  isolate(): () => boolean {
    this.#catchUp()
    this.#isolations++
    this.#refresh()
    let released = false
    return () => {
      if (released) return false
      released = true
      this.#catchUp()
      this.#isolations--
      this.#refresh()
      return this.#isolations === 0
    }
  }

  /** Becomes what a snapshot says: open, until a time that may have passed. */
  restoreOpen(dueMs: number, openings: number): void {
    this.#enter('open')
    this.#dueMs = dueMs
    this.#openings = openings
  }

  #open(reason: OpenReason, error: unknown, atMs: number, forMs = this.#recoveryMs()): void {
    this.#enter('open')
    this.#counter.clear()
    this.#openings++
    this.opened++
    this.#dueMs = atMs + forMs
    this.#owner.onOpened(reason, error)
  }

  #close(reason: 'recovered' | 'reset'): void {
    const wasClosed = this.#phase === 'closed'
    this.#enter('closed')
    this.#counter.clear()
    this.#openings = 0
    if (!wasClosed) this.#owner.onClosed(reason)
  }

  #recoveryMs(): number {
    const { recoveryTimeoutMs, factor, maxMs, jitter } = this.#policy
    const grown = Math.min(maxMs, recoveryTimeoutMs * factor ** Math.min(this.#openings, 1023))
    return jitter === 0 ? grown : Math.min(maxMs, grown * (1 + jitter * (2 * this.#random() - 1)))
  }

  #enter(phase: 'closed' | 'open' | 'half-open'): void {
    this.#phase = phase
    this.#generation++
    this.#refresh()
  }

  #refresh(): void {
    const isolated = this.#isolations > 0
    this.#counting = isolated ? noGeneration : this.#generation
    this.free = this.#phase === 'closed' && !isolated && this.#policy.slowCallMs === undefined
  }

  /** Ends the leases whose time is over, as of that time. */
  #catchUp(): void {
    while (this.#probes.length > 0) {
      const probe = this.#probes[0] as Admission
      if (this.#clock.now() < probe.leaseEndMs) return
      this.#probes.shift()
      if (probe.settled) continue
      probe.settled = true
      this.failed++
      const late = probe.generation !== this.#counting
      if (late) this.late++
      const { name, probeTimeoutMs } = this.#policy
      const error = new TimeoutError(`a probe of ${name} has not ended within ${probeTimeoutMs} ms`, probeTimeoutMs)
      this.#owner.onFailed(error, late)
      if (probe.generation === this.#counting) this.#open('probe-expired', error, probe.leaseEndMs)
    }
  }

  #mayProbe(): boolean {
    const { probeGate } = this.#policy
    if (probeGate === undefined) return true
    let problem: string
    try {
      const answer: unknown = probeGate()
      if (!isThenable(answer)) return answer !== false
      answer.then(undefined, () => undefined)
      problem = 'answered a promise'
    } catch (error) {
      problem = `failed: ${describeError(error)}`
    }
    if (!this.#reportedGate) warn(`the probe gate of ${this.#policy.name} ${problem}`)
    this.#reportedGate = true
    return true
  }
}
