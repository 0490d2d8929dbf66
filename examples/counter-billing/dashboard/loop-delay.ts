import { performance } from 'node:perf_hooks'
import type { LoopSample } from './sample.ts'

const everyMs = 20

/** By how much timers of this process are late: what every answer waits for, too. */
export class LoopDelay {
  #timer: NodeJS.Timeout | undefined
  #dueAt = 0
  #sum = 0
  #count = 0
  #max = 0
  #utilization = performance.eventLoopUtilization()

  start(): void {
    this.#reset()
    this.#dueAt = performance.now() + everyMs
    this.#timer = setInterval(() => this.#measure(), everyMs).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** What there was since the last look. */
  take(): LoopSample {
    const { utilization: busy } = performance.eventLoopUtilization(this.#utilization)
    const sample = { meanMs: this.#count === 0 ? 0 : this.#sum / this.#count, maxMs: this.#max, busy }
    this.#reset()
    return sample
  }

  #measure(): void {
    const now = performance.now()
    const lateMs = Math.max(0, now - this.#dueAt)
    this.#dueAt = now + everyMs
    this.#sum += lateMs
    this.#count++
    this.#max = Math.max(this.#max, lateMs)
  }

  #reset(): void {
    this.#sum = 0
    this.#count = 0
    this.#max = 0
    this.#utilization = performance.eventLoopUtilization()
  }
}
