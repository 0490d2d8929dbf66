import type { Clock } from '../../core/clock.js'
import { CircuitOpenError, StoreError } from '../../core/errors.js'
import { type BreakerNews, newsWithoutEpoch, type OpenedNews, readMessage } from './breaker-news.js'
import { publishClosed, publishOpened, type Verdict } from './breaker-scripts.js'
import type { RedisScript } from './redis-script.js'
import { ServerTime } from './server-time.js'

/** What a share needs of a breaker; a CircuitBreaker has it. */
export interface ShareableBreaker {
  /** The circuit's name: breakers of one name, in whatever process, share one circuit. */
  readonly name: string
  /** Opens it; one that is open stays so for at least as long. */
  open(options: { forMs: number; error: unknown }): void
  /** Closes it. */
  reset(): void
  /** Of its stats, how many probes are in flight. */
  stats(): { readonly probes: number }
  /** Listens to its openings. */
  on(event: 'opened', listener: (event: { readonly reason: string; readonly retryAfterMs: number }) => void): () => void
  /** Listens to its closings. */
  on(event: 'closed', listener: (event: { readonly reason: string }) => void): () => void
}

/** Redis and the rest of the process, as a circuit sees them. */
export interface ShareLink {
  readonly clock: Clock
  readonly instance: string
  readonly prefix: string
  readonly channel: string
  readonly timeoutMs: number
  readonly rememberMs: number
  /** Whether Redis can be asked, as far as is known. */
  readonly sharing: boolean
  /** Runs a script. Rejects with a `SpillwayError`, after the time given at the latest. */
  call(script: RedisScript, keys: readonly string[], args: readonly string[], timeoutMs: number): Promise<string[]>
  /** Keeps what is under way, so that `flush` and `close` wait for it. It never rejects. */
  track(work: Promise<void>): void
  recordOffered(): void
  recordPublished(circuit: string, kind: BreakerNews['kind'], verdict: PublishVerdict): void
  recordPublishFailed(circuit: string, kind: BreakerNews['kind'], error: unknown): void
  recordApplied(news: BreakerNews, retryAfterMs: number | undefined): void
}

/** What became of a publication. */
export type PublishVerdict = 'published' | 'joined' | 'outdated'

/** What is to be told: it is kept until Redis has it, or it no longer matters. */
type Publication =
  | { readonly kind: 'opened'; readonly reason: string; readonly dueMs: number }
  | { readonly kind: 'closed'; readonly reason: 'recovered' | 'reset'; readonly trip: number }

/**
 * Hears of what bears on a round of probes.
 *
 * @param decided - whether the round is over.
 * @param told - whether Redis knows, or will: then it has ended all leases.
 */
export type NewsListener = (decided: boolean, told: boolean) => void

/** The keys of a circuit's latest news and of its leases: of one slot, since the braces hold the name. */
export function circuitKeys(prefix: string, name: string): readonly [news: string, leases: string] {
  const base = `{${prefix}:${name}}`
  return [`${base}:news`, `${base}:probes`]
}

/**
 * One circuit of a fleet, seen from one process. News is ordered by epochs that Redis gives; `known` is that of the latest
 * that is known here, and older news is ignored. An opening is closed only by news that names it, or a later one: so that a close which
 * crosses a trip of this process on the way never undoes it.
 */
export class SharedCircuit {
  readonly breaker: ShareableBreaker
  readonly name: string
  readonly keys: readonly [news: string, leases: string]
  readonly #link: ShareLink
  readonly #time: ServerTime
  readonly #stopListening: (() => void)[]
  readonly #newsListeners = new Set<NewsListener>()
  /** The epoch of the latest news. */
  #known = 0
  /**
   * The epoch of the opening that the breaker is open for; undefined where it is closed, was opened by hand, or has a trip of its own
   * whose epoch isn't known yet: whether a close that comes meanwhile is older than that, only the answer can tell.
   */
  #trip: number | undefined
  /** The latest opening that is known. */
  #latestTrip = 0
  /** The latest opening that is known to be over. */
  #closedTrip = 0
  #open = false
  /** Whether the last trip of its own was followed by a recovery of its own. */
  #recovered = false
  #pending: Publication | undefined
  #lastSent: Publication | undefined
  /** What came back as a message, so that Redis has it whatever becomes of the answer. */
  #heard: { readonly publication: Publication; readonly news: BreakerNews } | undefined
  #sending = false
  /** What the breaker is about to say only because it was told so here; what it says besides is news. */
  #expected: BreakerNews['kind'] | undefined
  #left = false

  constructor(breaker: ShareableBreaker, link: ShareLink) {
    this.breaker = breaker
    this.name = breaker.name
    this.#link = link
    this.#time = new ServerTime(link.clock)
    this.keys = circuitKeys(link.prefix, this.name)
    this.#stopListening = [
      breaker.on('opened', ({ reason, retryAfterMs }) => this.#onOpened(reason, retryAfterMs)),
      breaker.on('closed', ({ reason }) => this.#onClosed(reason)),
    ]
  }

  /** The epoch of the latest news that is known here. */
  get known(): number {
    return this.#known
  }

  get sharing(): boolean {
    return this.#link.sharing && !this.#left
  }

  get probesInFlight(): number {
    return this.breaker.stats().probes
  }

  /** Has someone told when a round of probes is decided, or may have changed hands; returns what ends that. */
  onNews(listener: NewsListener): () => void {
    this.#newsListeners.add(listener)
    return () => void this.#newsListeners.delete(listener)
  }

  /** Another process gave a lease back. */
  hearReleased(): void {
    this.#tellNews(false, false)
  }

  /** Parts the breaker from the circuit. */
  leave(): void {
    this.#left = true
    this.#pending = undefined
    for (const stop of this.#stopListening) stop()
    this.#tellNews(true, false)
  }

  /** Redis' clock said so in an answer. */
  observeTime(micros: number, sentMs: number): void {
    this.#time.observe(micros, sentMs)
  }

  /** News came, by a message or out of Redis. Of what is known already nothing comes. */
  learn(news: BreakerNews): void {
    if (this.#left) return
    if (news.epoch <= this.#known) return
    this.#known = news.epoch
    if (news.by === this.#link.instance) this.#hearItself(news)
    else if (news.kind === 'opened') this.#applyOpened(news)
    else this.#applyClosed(news.trip, news)
  }

  /** Closes it everywhere. */
  resetEverywhere(): void {
    this.#close()
    this.#pending = { kind: 'closed', reason: 'reset', trip: this.#known }
    this.#tellNews(true, true)
    this.publishPending()
  }

  /** Publishes what hasn't been, if Redis can be asked. */
  publishPending(): void {
    if (this.#pending === undefined || this.#sending || !this.sharing || !this.#time.known) return
    this.#link.track(this.#publish())
  }

  /** Runs a script whose first argument is its deadline. Rejects with a `SpillwayError`. */
  async ask(
    script: RedisScript,
    args: readonly string[],
    timeoutMs: number,
  ): Promise<readonly [verdict: Verdict, rest: string]> {
    for (let again = true; ; again = false) {
      const sentMs = this.#link.clock.now()
      const deadline = String(this.#time.deadline(timeoutMs))
      const [verdict, micros, rest] = await this.#link.call(script, this.keys, [deadline, ...args], timeoutMs)
      this.#time.observe(Number(micros), sentMs)
      if (verdict !== 'late') return [verdict as Verdict, rest ?? '']
      // In time for us and late for Redis: its clock was set. What it says now is known, so once more.
      if (!again) throw new StoreError(`${this.name}: a call came to Redis too late`, { outcomeUnknown: false })
    }
  }

  /** What an answer says of the circuit. */
  readAnswer(text: string): BreakerNews {
    const news = readMessage(text)
    if (news === undefined || news.kind === 'released') {
      throw new StoreError(`${this.name}: ${this.keys[0]} holds something else`, { retryable: false })
    }
    return news
  }

  #onOpened(reason: string, retryAfterMs: number): void {
    if (this.#wasExpected('opened')) return
    this.#open = true
    this.#recovered = false
    this.#trip = undefined
    // By hand: that is this process's own affair, which a close elsewhere doesn't end.
    const told = reason !== 'requested'
    if (told) this.#pending = { kind: 'opened', reason, dueMs: this.#link.clock.now() + retryAfterMs }
    this.#tellNews(true, told)
    this.publishPending()
  }

  #onClosed(reason: string): void {
    if (this.#wasExpected('closed')) return
    const trip = this.#trip
    this.#open = false
    this.#trip = undefined
    this.#recovered = reason === 'recovered'
    const told = this.#recovered && trip !== undefined
    if (told) this.#pending = { kind: 'closed', reason: 'recovered', trip }
    // Nobody has heard of it, so nobody need hear that it is over.
    else if (this.#pending?.kind === 'opened') this.#pending = undefined
    this.#tellNews(true, told)
    this.publishPending()
  }

  /** Never rejects. */
  async #publish(): Promise<void> {
    this.#sending = true
    try {
      while (this.#pending !== undefined && this.sharing && (await this.#publishOne(this.#pending)));
    } finally {
      this.#sending = false
    }
  }

  /** Whether it was answered, or no longer mattered. */
  async #publishOne(sent: Publication): Promise<boolean> {
    const forMs = sent.kind === 'opened' ? Math.ceil(sent.dueMs - this.#link.clock.now()) : 0
    if (sent.kind === 'opened' && forMs <= 0) {
      this.#pending = undefined
      return true
    }
    this.#lastSent = sent
    this.#link.recordOffered()
    try {
      const [verdict, text] = await this.#send(sent, forMs)
      const news = this.readAnswer(text)
      if (this.#pending === sent) this.#pending = undefined
      this.#settle(sent, verdict as PublishVerdict, news)
      this.#link.recordPublished(this.name, sent.kind, verdict as PublishVerdict)
      return true
    } catch (error) {
      if (this.#heard?.publication === sent) {
        if (this.#pending === sent) this.#pending = undefined
        this.#settle(sent, 'published', this.#heard.news)
      }
      this.#link.recordPublishFailed(this.name, sent.kind, error)
      return false
    }
  }

  #send(sent: Publication, forMs: number): Promise<readonly [verdict: Verdict, rest: string]> {
    const { instance: by, channel, rememberMs, timeoutMs } = this.#link
    const told = { circuit: this.name, by, reason: sent.reason }
    const lifeMs = String(Math.ceil(rememberMs + forMs))
    const args = [String(this.#known), channel, lifeMs]
    if (sent.kind === 'opened') {
      return this.ask(publishOpened, [...args, newsWithoutEpoch({ ...told, kind: 'opened', forMs })], timeoutMs)
    }
    const { trip } = sent
    const text = newsWithoutEpoch({ ...told, kind: 'closed', trip })
    return this.ask(publishClosed, [...args, text, String(trip)], timeoutMs)
  }

  #settle(sent: Publication, verdict: PublishVerdict, news: BreakerNews): void {
    if (this.#left) return
    const resets = sent.kind === 'closed' && sent.reason === 'reset'
    if (verdict === 'outdated' && resets && this.#pending?.kind !== 'opened') {
      // It ends what it had missed as well; so what that was isn't done here, and a recovery of less need not be told.
      this.#known = Math.max(this.#known, news.epoch)
      this.#pending = { ...sent, trip: this.#known }
      return
    }
    if (verdict !== 'published') {
      if (news.epoch > this.#known) this.learn(news)
    } else this.#known = Math.max(this.#known, news.epoch)
    if (sent.kind === 'closed') this.#endTrips(sent.trip)
    else if (news.kind === 'opened') this.#belongTo(news.epoch)
  }

  /** A trip of this process has its epoch, its own or that of the opening that it joined. */
  #belongTo(epoch: number): void {
    this.#latestTrip = Math.max(this.#latestTrip, epoch)
    if (!this.#open) {
      // What was told so late is over already, and so is what came before it.
      if (this.#recovered) this.#pending = { kind: 'closed', reason: 'recovered', trip: this.#latestTrip }
      return
    }
    // It has tripped again since.
    if (this.#pending?.kind === 'opened') return
    // A later opening may have come before the answer, and so may the close of this one.
    this.#trip = this.#latestTrip
    if (this.#trip <= this.#closedTrip) this.#close()
  }

  /** An echo, or what an answer would have said that was lost. */
  #hearItself(news: BreakerNews): void {
    const sent = this.#lastSent
    if (sent?.kind !== news.kind) return
    this.#heard = { publication: sent, news }
    if (this.#sending) return
    if (this.#pending === sent) this.#pending = undefined
    this.#settle(sent, 'published', news)
    this.publishPending()
  }

  #applyOpened(news: OpenedNews): void {
    const forMs = Math.max(0, news.forMs - this.#time.ageMs(news.epoch))
    // What this process had still to say is in it, or is outdated; but its own trip goes beyond what is due already.
    const goesBeyond = forMs === 0 && this.#pending?.kind === 'opened'
    if (!this.#sending && !goesBeyond) this.#pending = undefined
    this.#open = true
    this.#belongTo(news.epoch)
    this.#tellNews(true, true)
    const error = new CircuitOpenError(`${this.name} was opened by ${news.by}: ${news.reason}`, { retryAfterMs: forMs })
    this.#apply('opened', () => this.breaker.open({ forMs, error }))
    this.#link.recordApplied(news, forMs)
  }

  #applyClosed(trip: number, news: BreakerNews): void {
    if (this.#pending?.kind === 'closed' && !this.#sending) this.#pending = undefined
    this.#tellNews(this.#open, true)
    if (this.#endTrips(trip)) this.#link.recordApplied(news, undefined)
  }

  /** Whether that closed the breaker. */
  #endTrips(trip: number): boolean {
    this.#closedTrip = Math.max(this.#closedTrip, trip)
    if (this.#trip === undefined || this.#trip > this.#closedTrip) return false
    this.#close()
    return true
  }

  #close(): void {
    this.#open = false
    this.#trip = undefined
    this.#apply('closed', () => this.breaker.reset())
  }

  #apply(kind: BreakerNews['kind'], act: () => void): void {
    const outer = this.#expected
    this.#expected = kind
    try {
      act()
    } finally {
      this.#expected = outer
    }
  }

  /** Once only: whoever listens to the breaker may have made it say more. */
  #wasExpected(kind: BreakerNews['kind']): boolean {
    if (kind !== this.#expected) return false
    this.#expected = undefined
    return true
  }

  #tellNews(decided: boolean, told: boolean): void {
    for (const listener of this.#newsListeners) listener(decided, told)
  }
}
