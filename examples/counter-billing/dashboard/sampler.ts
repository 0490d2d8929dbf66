import type { ServerResponse } from 'node:http'
import { EventStream } from './event-stream.ts'
import type { FaultControl } from './fault-control.ts'
import type { GatewayView } from './gateway-view.ts'
import { LoopDelay } from './loop-delay.ts'
import { RequestTimes } from './request-times.ts'
import type { Hello, Sample } from './sample.ts'

const everyMs = 1_000
/** How many samples a new viewer sees, and for how many more they are taken after the last one has gone: it may only have reloaded. */
const historySeconds = 120

/** Takes a sample a second while somebody looks, and sends it to all who do. */
export class Sampler {
  readonly times = new RequestTimes()
  readonly #view: GatewayView
  readonly #faults: FaultControl | undefined
  readonly #loop = new LoopDelay()
  readonly #viewers = new EventStream((viewers) => this.#watch(viewers))
  #history: Sample[] = []
  #timer: NodeJS.Timeout | undefined
  #takenAt = 0
  #unseen = 0
  #busy = false

  constructor(view: GatewayView, faults: FaultControl | undefined) {
    this.#view = view
    this.#faults = faults
  }

  /** Whether samples are taken. */
  get running(): boolean {
    return this.#timer !== undefined
  }

  add(response: ServerResponse, headers: Readonly<Record<string, string>>): void {
    this.#viewers.add(response, headers)
    const oldest = Date.now() - historySeconds * 1_000
    this.#history = this.#history.filter(({ at }) => at > oldest)
    this.#viewers.send('hello', { history: this.#history, historySeconds } satisfies Hello, [response])
  }

  close(): void {
    this.#stop()
    this.#viewers.close()
  }

  #watch(viewers: number): void {
    if (viewers === 0) return
    this.#unseen = 0
    if (this.running) return
    this.times.start()
    this.#loop.start()
    // What was before nobody looked is no part of the first second.
    this.#view.look(Date.now(), 1)
    this.#takenAt = performance.now()
    this.#timer = setInterval(() => void this.#tick(), everyMs).unref()
  }

  #stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
    this.times.stop()
    this.#loop.stop()
  }

  async #tick(): Promise<void> {
    if (this.#viewers.viewers === 0 && ++this.#unseen > historySeconds) return this.#stop()
    // Asking the stores may take longer than a second while they are slow.
    if (this.#busy) return
    this.#busy = true
    try {
      const sample = await this.#take()
      this.#history = [...this.#history, sample].slice(-historySeconds)
      this.#viewers.send('sample', sample)
    } finally {
      this.#busy = false
    }
  }

  async #take(): Promise<Sample> {
    const now = performance.now()
    const seconds = Math.max(0.001, (now - this.#takenAt) / 1_000)
    this.#takenAt = now
    const at = Date.now()
    const requests = this.times.take(seconds)
    const loop = this.#loop.take()
    const view = this.#view.look(at, seconds)
    return { at, requests, loop, ...view, faults: this.#faults?.state(), sums: await this.#faults?.sums() }
  }
}
