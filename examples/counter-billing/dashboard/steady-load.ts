import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Closable } from 'spillway/process'
import { FaultRefused } from './fault-control.ts'
import type { LoadState } from './sample.ts'
import type { LoadCount, SteadyLoadAnswer, SteadyLoadOptions, SteadyLoadOrder } from './steady-load-process.ts'

export interface SteadyLoadSettings extends SteadyLoadOptions {
  readonly requestsPerSecond: number
  /** After how long it stops by itself, each time that it was started. */
  readonly seconds: number
  /** What the process finds in its environment: who it is at the auth service. */
  readonly env: Readonly<Record<string, string>>
}

/** A load that goes on until it is told to stop, or its time is over; in a process of its own. */
export class SteadyLoad implements Closable {
  readonly name = 'load'
  readonly #settings: SteadyLoadSettings
  readonly #process: ChildProcess
  readonly #killIt = (): boolean => this.#process.kill()
  #count: LoadCount = { acknowledged: 0, unsure: 0, skipped: 0 }
  #isRunning = false
  #isComparing = false
  #burst: LoadState['burst']
  #endsAt = 0
  #burstTimer: NodeJS.Timeout | undefined
  #endTimer: NodeJS.Timeout | undefined

  constructor(settings: SteadyLoadSettings) {
    this.#settings = settings
    const { urls, prefix, keys, env } = settings
    const file = fileURLToPath(new URL('./steady-load-process.ts', import.meta.url))
    const options = { urls, prefix, keys } satisfies SteadyLoadOptions
    this.#process = fork(file, [JSON.stringify(options)], { env: { ...process.env, ...env } })
    // It ends with this one, however that ends.
    process.once('exit', this.#killIt)
    this.#process.on('message', ({ count }: SteadyLoadAnswer) => {
      this.#count = count
    })
    this.#process.once('exit', () => this.#end())
  }

  /** What it knows of what it sent, some milliseconds ago. */
  get count(): LoadCount {
    return this.#count
  }

  state(): LoadState {
    const { requestsPerSecond } = this.#settings
    const perSecond = requestsPerSecond * (this.#burst?.factor ?? 1)
    const { skipped } = this.#count
    const state = this.#isComparing ? 'comparing' : this.#isRunning ? 'running' : 'stopped'
    return { state, requestsPerSecond: perSecond, burst: this.#burst, endsAt: this.#endsAt, skipped }
  }

  start(): void {
    if (!this.#process.connected) throw new FaultRefused('the process of the load has ended')
    clearTimeout(this.#endTimer)
    const forMs = this.#settings.seconds * 1_000
    this.#endsAt = Date.now() + forMs
    this.#endTimer = setTimeout(() => this.stop(), forMs).unref()
    this.#isRunning = true
    this.#apply()
  }

  stop(): void {
    this.#end()
    this.#apply()
  }

  burst(factor: number, seconds: number): void {
    if (!this.#isRunning) throw new FaultRefused('there is no load that could be more')
    clearTimeout(this.#burstTimer)
    this.#burst = { factor, until: Date.now() + seconds * 1_000 }
    this.#burstTimer = setTimeout(() => this.calm(), seconds * 1_000).unref()
    this.#apply()
  }

  /** Ends a burst. */
  calm(): void {
    clearTimeout(this.#burstTimer)
    this.#burst = undefined
    this.#apply()
  }

  /**
   * Sends nothing while work lasts that begins when everything is answered, whatever is asked for meanwhile. It gets what was acknowledged
   * until then.
   */
  async still<T>(work: (count: LoadCount) => Promise<T>): Promise<T> {
    if (this.#isComparing) throw new FaultRefused('sums are being compared already')
    this.#isComparing = true
    try {
      return await work(await this.#pause())
    } finally {
      this.#isComparing = false
      this.#apply()
    }
  }

  async close(): Promise<void> {
    process.off('exit', this.#killIt)
    this.#end()
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return
    const exited = once(this.#process, 'exit')
    if (this.#process.connected) this.#process.disconnect()
    else this.#process.kill()
    await exited
  }

  #end(): void {
    clearTimeout(this.#burstTimer)
    clearTimeout(this.#endTimer)
    this.#burst = undefined
    this.#isRunning = false
  }

  #apply(): void {
    if (this.#isComparing) return
    this.#order({ type: 'rate', perSecond: this.#isRunning ? this.state().requestsPerSecond : 0 })
  }

  #order(order: SteadyLoadOrder): void {
    if (this.#process.connected) this.#process.send(order)
  }

  async #pause(): Promise<LoadCount> {
    if (!this.#process.connected) return this.#count
    const answered = new Promise<LoadCount>((resolve) => {
      const settle = (count: LoadCount): void => {
        this.#process.off('message', onMessage).off('exit', onExit)
        resolve(count)
      }
      const onMessage = ({ type, count }: SteadyLoadAnswer): void => void (type === 'still' && settle(count))
      const onExit = (): void => settle(this.#count)
      this.#process.on('message', onMessage).on('exit', onExit)
    })
    this.#order({ type: 'pause' })
    return answered
  }
}
