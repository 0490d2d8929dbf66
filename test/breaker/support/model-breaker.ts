import type { BreakerState } from 'spillway'

/** What a call says about what the breaker guards. */
export type Outcome = 'success' | 'failure' | 'ignore'

/** When a closed breaker opens, in the plainest words. */
export type ModelTrip =
  | { readonly kind: 'consecutive'; readonly failures: number }
  | { readonly kind: 'count'; readonly size: number; readonly failureRate: number; readonly minimumCalls: number }
  | {
      readonly kind: 'time'
      readonly windowMs: number
      readonly buckets: number
      readonly failureRate: number
      readonly minimumCalls: number
      readonly slowCallMs?: number
      readonly slowCallRate?: number
    }

export interface ModelOptions {
  readonly trip: ModelTrip
  readonly recoveryTimeoutMs: number
  readonly factor: number
  readonly maxMs: number
  readonly halfOpenRequests: number
  readonly successThreshold: number
  readonly probeTimeoutMs: number
}

/** A call that was let through. */
export interface ModelCall {
  readonly generation: number
  readonly startedAt: number
  /** When its lease ends, for a probe. */
  readonly leaseEndAt: number | undefined
  /** Whether its outcome is in the books. */
  counted: boolean
  /** Whether it holds a half-open slot. */
  holdsSlot: boolean
}

/**
 * What a circuit breaker is, as its contract says it: slow and plain, with all that ever happened kept in arrays. Whoever
 * drives it moves the time, and lets `expire` be the first to know.
 */
export class ModelBreaker {
  now = 0
  phase: 'closed' | 'open' | 'half-open' = 'closed'
  generation = 0
  isolations = 0
  dueAt = 0
  openings = 0
  readonly books = { offered: 0, succeeded: 0, failed: 0, ignored: 0, rejected: 0, late: 0, opened: 0 }
  readonly events: string[] = []
  readonly #options: ModelOptions
  readonly #calls: ModelCall[] = []
  /** Outcomes that counted since it was last closed. */
  #outcomes: { at: number; failed: boolean; slow: boolean }[] = []
  #probeSuccesses = 0

  constructor(options: ModelOptions) {
    this.#options = options
  }

  get state(): BreakerState {
    if (this.isolations > 0) return 'isolated'
    return this.below
  }

  /** The state below an isolation. */
  get below(): 'closed' | 'open' | 'half-open' {
    return this.phase === 'open' && this.now >= this.dueAt ? 'half-open' : this.phase
  }

  get slots(): ModelCall[] {
    return this.#calls.filter((call) => call.holdsSlot)
  }

  get pending(): number {
    return this.#calls.filter((call) => !call.counted).length
  }

  /** What a refused caller is told. */
  get retryAfterMs(): number | undefined {
    if (this.isolations > 0) return undefined
    // A probe of earlier that still runs holds its slot beyond the moment when it was due.
    const full = this.slots.length >= this.#options.halfOpenRequests
    const slotAt = full ? Math.min(...this.slots.map((call) => call.leaseEndAt as number)) : this.now
    return (this.phase === 'open' ? Math.max(this.dueAt, slotAt) : slotAt) - this.now
  }

  admit(): ModelCall | undefined {
    this.books.offered++
    const admitted = this.isolations > 0 ? undefined : this.#admitted()
    if (admitted === undefined) this.books.rejected++
    return admitted
  }

  #admitted(): ModelCall | undefined {
    if (this.below === 'open') return undefined
    const probe = this.below === 'half-open'
    if (probe && this.slots.length >= this.#options.halfOpenRequests) return undefined
    if (probe && this.phase === 'open') {
      this.phase = 'half-open'
      this.generation++
      this.#probeSuccesses = 0
      this.events.push('half-opened')
    }
    const call: ModelCall = {
      generation: this.generation,
      startedAt: this.now,
      leaseEndAt: probe ? this.now + this.#options.probeTimeoutMs : undefined,
      counted: false,
      holdsSlot: probe,
    }
    this.#calls.push(call)
    return call
  }

  /** A call's function has ended. */
  end(call: ModelCall, outcome: Outcome): void {
    call.holdsSlot = false
    this.count(call, outcome)
  }

  /** A call's outcome is known, whether its function has ended or not. */
  count(call: ModelCall, outcome: Outcome): void {
    if (call.counted) return
    call.counted = true
    if (outcome === 'ignore') {
      this.books.ignored++
      return
    }
    const failed = outcome === 'failure'
    this.books[failed ? 'failed' : 'succeeded']++
    if (call.generation !== this.generation || this.isolations > 0) {
      this.books.late++
      return
    }
    if (this.phase === 'half-open') {
      if (failed) this.#open('probe-failed', this.now)
      else if (++this.#probeSuccesses >= this.#options.successThreshold) this.#close('recovered')
      return
    }
    const { trip } = this.#options
    const slowCallMs = trip.kind === 'time' ? trip.slowCallMs : undefined
    const slow = slowCallMs !== undefined && this.now - call.startedAt >= slowCallMs
    this.#outcomes.push({ at: this.now, failed, slow })
    if (this.#trips()) this.#open('tripped', this.now)
  }

  #trips(): boolean {
    const { trip } = this.#options
    const all = this.#outcomes
    if (trip.kind === 'consecutive') {
      return all.length >= trip.failures && all.slice(-trip.failures).every(({ failed }) => failed)
    }
    const bucketOf = (at: number): number => Math.floor((at * (trip as { buckets: number }).buckets) / windowMs)
    const windowMs = trip.kind === 'time' ? trip.windowMs : 0
    const window =
      trip.kind === 'count'
        ? all.slice(-trip.size)
        : all.filter(({ at }) => bucketOf(at) > bucketOf(this.now) - trip.buckets)
    if (window.length < trip.minimumCalls) return false
    const share = (of: 'failed' | 'slow'): number => window.filter((call) => call[of]).length / window.length
    if (share('failed') >= trip.failureRate) return true
    return trip.kind === 'time' && trip.slowCallRate !== undefined && share('slow') >= trip.slowCallRate
  }

  /** Ends the leases whose time is over, the earliest first, as of when it was over. */
  expire(): void {
    const over = this.slots.filter((call) => (call.leaseEndAt as number) <= this.now)
    for (const call of over.sort((a, b) => (a.leaseEndAt as number) - (b.leaseEndAt as number))) {
      call.holdsSlot = false
      if (call.counted) continue
      call.counted = true
      this.books.failed++
      if (call.generation === this.generation && this.isolations === 0) {
        this.#open('probe-expired', call.leaseEndAt as number)
      } else this.books.late++
    }
  }

  /** Opens it by hand; one that is open stays so for at least as long. */
  open(forMs: number | undefined): void {
    if (this.below === 'open') this.dueAt = Math.max(this.dueAt, this.now + (forMs ?? 0))
    else this.#open('requested', this.now, forMs)
  }

  reset(): void {
    this.#close('reset')
  }

  /** What `restore` makes of what `toJSON` said. */
  restored(): ModelBreaker {
    const model = new ModelBreaker(this.#options)
    model.now = this.now
    if (this.below === 'closed') return model
    model.phase = 'open'
    model.generation++
    model.dueAt = this.below === 'open' ? this.dueAt : this.now
    model.openings = this.openings
    return model
  }

  #open(reason: string, at: number, forMs?: number): void {
    const { recoveryTimeoutMs, factor, maxMs } = this.#options
    this.dueAt = at + (forMs ?? Math.min(maxMs, recoveryTimeoutMs * factor ** this.openings))
    this.phase = 'open'
    this.generation++
    this.openings++
    this.books.opened++
    this.#outcomes = []
    this.events.push(`opened: ${reason}`)
  }

  #close(reason: string): void {
    if (this.phase !== 'closed') this.events.push(`closed: ${reason}`)
    this.phase = 'closed'
    this.generation++
    this.openings = 0
    this.#outcomes = []
  }
}
