import {
  ClosableComponent,
  type CloseOptions,
  type CloseReport,
  type ComponentOptions,
  type FlushReport,
} from '../../core/component.js'
import { ClosedError } from '../../core/errors.js'
import { checkDuration, checkOptions, checkSignal, failOption, maxDurationMs, valueOr } from '../../core/options.js'
import { backoffMs } from '../../core/retry.js'
import { onAbort, orAbort } from '../../internal/abort.js'
import { deferred, handled, rejected } from '../../internal/deferred.js'
import { ConsulClient, type ConsulConnectionOptions } from './consul-client.js'
import { ConsulError } from './consul-error.js'
import { pause } from './pause.js'
import {
  type ConsulServiceOptions,
  defineService,
  type HealthReport,
  type HealthStatus,
  type ServiceDefinition,
} from './service-definition.js'

/** Options of {@link ConsulRegistration}. */
export interface ConsulRegistrationOptions extends ComponentOptions, ConsulConnectionOptions, ConsulServiceOptions {
  /**
   * How often it asks the agent whether the service is still there, in milliseconds, at least 1000; up to a
   * tenth sooner by chance. With a TTL check, the reports tell.
   *
   * @defaultValue 10_000
   */
  verifyMs?: number | undefined
  /**
   * How long `close` waits for Consul where it is given no deadline of its own, in milliseconds.
   *
   * @defaultValue 5000
   */
  closeTimeoutMs?: number | undefined
}

/** Events of {@link ConsulRegistration}. */
export interface ConsulRegistrationEvents {
  /** The agent took the registration: the first one, or another one since it had forgotten. */
  registered: { readonly id: string; readonly again: boolean }
  /** An attempt to register failed; another one comes after `delayMs`. */
  registerFailed: { readonly id: string; readonly error: unknown; readonly delayMs: number }
  /** A report was taken; `status` is what it said. */
  reported: { readonly id: string; readonly status: HealthStatus; readonly note: string }
  /** A report failed, or the question whether the service is still there. */
  heartbeatFailed: { readonly id: string; readonly error: unknown }
  /** The agent doesn't know the service any more; it is registered again. */
  forgotten: { readonly id: string }
  /** The agent took the registration back. */
  deregistered: { readonly id: string }
  /** An attempt to deregister failed; another one follows until the deadline of `close`. */
  deregisterFailed: { readonly id: string; readonly error: unknown }
}

/** Stats of {@link ConsulRegistration}. */
export interface ConsulRegistrationStats {
  /** Its name. */
  readonly name: string
  /** The instance's id at its agent. */
  readonly id: string
  /**
   * `idle` before `start`, `registering` until the agent took it, and again when the agent forgot it, `closed` after
   * `close`.
   */
  readonly state: 'idle' | 'registering' | 'registered' | 'closing' | 'closed'
  /** What was reported last; undefined without a TTL check, or before the first report. */
  readonly status: HealthStatus | undefined
  /** Registrations that the agent took. */
  readonly registrations: number
  /** Attempts to register that failed. */
  readonly registerFailures: number
  /** Reports, or questions whether the service is still there, that succeeded. */
  readonly heartbeats: number
  /** Those that failed. */
  readonly heartbeatFailures: number
  /** How often the agent had forgotten the service. */
  readonly forgotten: number
}

/** Delays between attempts to register or deregister, or after a heartbeat that failed. */
const retry = { delayMs: 500, maxDelayMs: 30_000 }
const retryClose = { delayMs: 100, maxDelayMs: 1000 }

/** What an agent says of a check or service that it doesn't know: 404 of later releases, or 500 with such a text. */
const unknownText = /does not have associated TTL|unknown (?:check|service)/i

/**
 * Registers a service at an agent of Consul, keeps it registered, and takes it out at `close`.
 *
 * An agent that forgets it (it restarted without its data, or somebody deregistered it) gets it again with the next
 * heartbeat. What a predecessor with the same id left behind at the agent, its checks and maintenance included, goes
 * with the first registration. It does not keep the process alive, except while `start`, `flush` or `close` is waited
 * for.
 *
 * @example
 * ```ts
 * import { ConsulRegistration } from 'spillway/consul'
 *
 * const registration = new ConsulRegistration({
 *   service: 'counter',
 *   host: '10.0.0.7',
 *   port: 50051,
 *   check: { ttlMs: 15_000 },
 *   deregisterCriticalAfterMs: 60_000,
 * })
 * await registration.start()
 * // …
 * await registration.close()
 * ```
 */
export class ConsulRegistration extends ClosableComponent<ConsulRegistrationEvents, ConsulRegistrationStats> {
  /** The options' defaults. */
  static readonly defaults = {
    address: 'http://127.0.0.1:8500',
    timeoutMs: 5000,
    verifyMs: 10_000,
    closeTimeoutMs: 5000,
  } as const

  readonly #service: ServiceDefinition
  readonly #client: ConsulClient
  readonly #verifyMs: number
  readonly #closeTimeoutMs: number
  /**
   * Ends waits and heartbeats. A registration on its way is waited for: taken back before it arrives, it would stay.
   */
  readonly #stop = new AbortController()
  /** Ends everything. */
  readonly #abandon = new AbortController()
  readonly #books = { registrations: 0, registerFailures: 0, heartbeats: 0, heartbeatFailures: 0, forgotten: 0 }
  #state: ConsulRegistrationStats['state'] = 'idle'
  #status: HealthStatus | undefined
  /** Whether the agent may have it. */
  #maybeThere = false
  /** The loop, once it was started. */
  #running: Promise<void> | undefined
  /** Those who wait for the next attempt to register. */
  #starting: ReturnType<typeof deferred<void>> | undefined
  /** The call that is under way; heartbeats don't overlap. */
  #turn: Promise<unknown> = Promise.resolve()
  /** Cuts the wait for the next step short. */
  #wakeUp: () => void = nothing
  /** How long to wait before the next attempt to register. */
  #retryDelayMs = 0
  /** A `health` that was asked and hasn't answered. */
  #asked: Promise<Report> | undefined

  /** @throws OptionError when an option is wrong. */
  constructor(options: ConsulRegistrationOptions) {
    super('consul-registration', options)
    if (options === undefined) failOption('options', 'must be an object', options)
    const { defaults } = ConsulRegistration
    this.#client = new ConsulClient(this.name, this.clock, options, defaults)
    this.#service = defineService(options)
    this.#verifyMs = checkDuration('verifyMs', valueOr<number>(options.verifyMs, defaults.verifyMs), 1000)
    this.#closeTimeoutMs = checkDuration(
      'closeTimeoutMs',
      valueOr<number>(options.closeTimeoutMs, defaults.closeTimeoutMs),
    )
  }

  /** The instance's id at its agent. */
  get id(): string {
    return this.#service.id
  }

  /**
   * Registers the service, and keeps it registered from then on. Calling it again starts nothing more.
   *
   * @param options - `signal` gives up the wait, not the registration.
   * @returns resolves once the agent has taken the registration, and the first report where there is a TTL check.
   * Rejects with `ConsulError` when the attempt that is being made fails; others follow by themselves, and another
   * `start` waits for the next, which it brings forward. Rejects with `ClosedError` after `close`, `OptionError`, or
   * the signal's reason.
   */
  start(options?: { signal?: AbortSignal | undefined }): Promise<void> {
    let signal: AbortSignal | undefined
    try {
      checkOptions('options', options)
      signal = checkSignal(options?.signal)
    } catch (error) {
      return rejected(error)
    }
    if (signal?.aborted) return rejected(signal.reason)
    if (this.#closed) return rejected(this.#closedError())
    if (this.#state === 'registered') return Promise.resolve()
    if (this.#starting === undefined) {
      this.#starting = deferred()
      handled(this.#starting.promise)
    }
    const { promise } = this.#starting
    if (this.#running === undefined) {
      this.#state = 'registering'
      this.#running = this.#run()
    } else this.#wakeUp()
    return handled(this.#held(orAbort(promise, signal)))
  }

  /**
   * Reports how the service is at once, rather than with the next heartbeat: before a shutdown, say, when `health` has
   * turned to critical. Without a TTL check it asks whether the service is still there. Never rejects; while it isn't
   * registered it does nothing.
   */
  override async flush(): Promise<FlushReport> {
    if (this.#state !== 'registered') return { succeeded: 0, failed: 0, dropped: 0 }
    const failure = await this.#held(this.#heartbeat())
    return { succeeded: failure === undefined ? 1 : 0, failed: failure === undefined ? 0 : 1, dropped: 0 }
  }

  /**
   * Takes the service out of Consul, and stops reporting. It waits for Consul for at most `timeoutMs`, by default for
   * `closeTimeoutMs`; what it couldn't take out counts as `abandoned`, and is left to the TTL and to
   * `deregisterCriticalAfterMs`.
   */
  override close(options?: CloseOptions): Promise<CloseReport> {
    const own =
      options === undefined || (options !== null && typeof options === 'object' && options.timeoutMs === undefined)
    return super.close(own ? { timeoutMs: this.#closeTimeoutMs } : options)
  }

  override stats(): ConsulRegistrationStats {
    return { name: this.name, id: this.id, state: this.#state, status: this.#status, ...this.#books }
  }

  protected override async drain(): Promise<void> {
    this.#state = 'closing'
    this.#stop.abort(this.#closedError())
    this.#wakeUp()
    this.#starting?.reject(this.#closedError())
    this.#starting = undefined
    await this.#running
    await this.#turn
    await this.#deregister()
  }

  protected override abandon(): number {
    this.#abandon.abort(this.#closedError())
    return this.#maybeThere ? 1 : 0
  }

  protected override release(): void {
    this.#state = 'closed'
  }

  get #closed(): boolean {
    return this.#stop.signal.aborted
  }

  #closedError(): ClosedError {
    return new ClosedError(`${this.name} is closed`)
  }

  /** Never rejects. */
  async #run(): Promise<void> {
    let failures = 0
    while (!this.#closed) {
      const failure = this.#state === 'registered' ? await this.#heartbeat() : await this.#register(failures)
      if (this.#closed) return
      failures = failure === undefined ? 0 : failures + 1
      if (this.#state === 'registered') await this.#wait(this.#heartbeatDelay(failures))
      else if (failure !== undefined) await this.#wait(this.#retryDelayMs)
    }
  }

  /** Three reports a TTL, so that one may fail; sooner after a failure, so that two may. */
  #heartbeatDelay(failures: number): number {
    const everyMs = this.#service.ttl === undefined ? this.#verifyMs : this.#service.ttl.ttlMs / 3
    const regularMs = everyMs * (0.9 + 0.1 * this.random())
    return failures === 0 ? regularMs : Math.min(regularMs, backoffMs(failures, retry, this.random))
  }

  /** @returns the error, if it failed. */
  async #register(failures: number): Promise<unknown> {
    const again = this.#books.registrations > 0
    try {
      const report = await this.#health()
      if (this.#closed) return this.#closedError()
      this.#maybeThere = true
      await this.#client.request({
        method: 'PUT',
        path: '/v1/agent/service/register',
        // What a predecessor with the same id left behind goes: its check would be critical for ever, or report beside
        // ours. What was put there since, maintenance say, stays.
        ...(again ? undefined : { query: new URLSearchParams({ 'replace-existing-checks': 'true' }) }),
        body: this.#service.body(report.status),
        signal: this.#abandon.signal,
      })
      if (this.#closed) return undefined
      if (this.#service.ttl !== undefined) await this.#report(report)
      if (this.#closed) return undefined
      this.#books.registrations++
      this.#state = 'registered'
      if (this.events.has('registered')) this.events.emit('registered', { id: this.id, again })
      this.#starting?.resolve()
      this.#starting = undefined
      return undefined
    } catch (error) {
      if (this.#closed) return error
      this.#books.registerFailures++
      this.#retryDelayMs = backoffMs(failures + 1, retry, this.random)
      // First: a listener that starts it again waits for the next attempt.
      this.#starting?.reject(error)
      this.#starting = undefined
      if (this.events.has('registerFailed')) {
        this.events.emit('registerFailed', { id: this.id, error, delayMs: this.#retryDelayMs })
      }
      return error
    }
  }

  /** Reports, or asks whether the service is there. Never rejects; gives the error, if it failed. */
  #heartbeat(): Promise<unknown> {
    const turn = this.#turn.then(() => this.#beat())
    this.#turn = turn
    return turn
  }

  async #beat(): Promise<unknown> {
    if (this.#state !== 'registered') return this.#closedError()
    try {
      if (this.#service.ttl === undefined) await this.#verify()
      else await this.#report(await this.#health())
      this.#books.heartbeats++
      return undefined
    } catch (error) {
      if (this.#closed) return error
      this.#books.heartbeatFailures++
      if (this.events.has('heartbeatFailed')) this.events.emit('heartbeatFailed', { id: this.id, error })
      if (isUnknown(error)) this.#forget()
      return error
    }
  }

  #forget(): void {
    this.#books.forgotten++
    this.#state = 'registering'
    this.#retryDelayMs = 0
    this.#wakeUp()
    if (this.events.has('forgotten')) this.events.emit('forgotten', { id: this.id })
  }

  async #report({ status, note }: Report): Promise<void> {
    const path = `/v1/agent/check/update/${encodeURIComponent(this.#service.checkId)}`
    const { ttlMs = Number.POSITIVE_INFINITY } = this.#service.ttl ?? {}
    // One that is lost must not take the time of the next.
    const timeoutMs = Math.min(this.#client.timeoutMs, ttlMs / 3)
    await this.#put(path, { Status: status, Output: note }, this.#stop.signal, timeoutMs)
    this.#status = status
    if (this.events.has('reported')) this.events.emit('reported', { id: this.id, status, note })
  }

  async #verify(): Promise<void> {
    await this.#client.request({
      method: 'GET',
      path: `/v1/agent/service/${encodeURIComponent(this.id)}`,
      signal: this.#stop.signal,
    })
  }

  /** How the service is. A `health` that doesn't answer in time isn't asked again until it has. */
  async #health(): Promise<Report> {
    const { ttl } = this.#service
    if (ttl === undefined) return { status: 'passing', note: '' }
    this.#asked ??= (async () => reportOf(await ttl.health()))()
      .catch((error): Report => ({ status: 'critical', note: noteOf(error) }))
      .finally(() => {
        this.#asked = undefined
      })
    const asked = this.#asked
    const limitMs = ttl.ttlMs / 3
    // `health` itself may have closed it, and waits for that.
    if (this.#closed) return { status: 'critical', note: 'it is closed' }
    return new Promise((resolve) => {
      const settle = (report: Report): void => {
        cancelTimer()
        stopListening()
        resolve(report)
      }
      const expire = (): void =>
        settle({ status: 'critical', note: `health took longer than ${Math.round(limitMs)} ms` })
      const cancelTimer = this.clock.setTimer(expire, limitMs, { keepAlive: false })
      const stopListening = onAbort(this.#stop.signal, expire)
      void asked.then(settle)
    })
  }

  /** Takes the service out, again and again until it is or the deadline comes. Never rejects. */
  async #deregister(): Promise<void> {
    for (let attempt = 1; this.#maybeThere && !this.#abandon.signal.aborted; attempt++) {
      try {
        const path = `/v1/agent/service/deregister/${encodeURIComponent(this.id)}`
        await this.#put(path, undefined, this.#abandon.signal)
        this.#gone()
      } catch (error) {
        if (this.#abandon.signal.aborted) return
        if (isUnknown(error)) return this.#gone()
        if (this.events.has('deregisterFailed')) this.events.emit('deregisterFailed', { id: this.id, error })
        const delayMs = backoffMs(attempt, retryClose, this.random)
        await pause(this.clock, delayMs, this.#abandon.signal)
      }
    }
  }

  #gone(): void {
    this.#maybeThere = false
    if (this.events.has('deregistered')) this.events.emit('deregistered', { id: this.id })
  }

  async #put(path: string, body: unknown, signal: AbortSignal, timeoutMs = this.#client.timeoutMs): Promise<void> {
    await this.#client.request({ method: 'PUT', path, body, signal, timeoutMs })
  }

  #wait(delayMs: number): Promise<void> {
    if (delayMs <= 0) return Promise.resolve()
    return new Promise((resolve) => {
      const done = (): void => {
        cancelTimer()
        this.#wakeUp = nothing
        resolve()
      }
      const cancelTimer = this.clock.setTimer(done, delayMs, { keepAlive: false })
      this.#wakeUp = done
    })
  }

  /**
   * Keeps the process alive while somebody waits. No request or timer of the registration does; `close` has its
   * deadline's.
   */
  #held<T>(wait: Promise<T>): Promise<T> {
    const cancelTimer = this.clock.setTimer(nothing, maxDurationMs)
    return wait.finally(cancelTimer)
  }
}

const nothing = (): void => {}

/** A `HealthReport`, checked. */
interface Report {
  readonly status: HealthStatus
  readonly note: string
}

function reportOf(answer: HealthStatus | HealthReport): Report {
  const { status, note = '' }: HealthReport = typeof answer === 'string' ? { status: answer } : (answer ?? {})
  if (['passing', 'warning', 'critical'].includes(status)) return { status, note: String(note) }
  return { status: 'critical', note: `health gave ${JSON.stringify(answer)}` }
}

function noteOf(error: unknown): string {
  try {
    return error instanceof Error ? String(error.message) : String(error)
  } catch {
    return 'health failed with an error that could not be read'
  }
}

function isUnknown(error: unknown): boolean {
  if (!(error instanceof ConsulError)) return false
  return error.status === 404 || (error.status === 500 && unknownText.test(error.message))
}
