import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks'
import { gauge, type Metric } from './metric.js'
import type { Observe } from './stats-rule.js'

/** How often the event loop is looked at, in milliseconds. */
const resolutionMs = 10

type Read = (histogram: IntervalHistogram) => number

const delay = (rest: string, description: string, read: Read): readonly [Metric, Read] => [
  gauge(`nodejs.eventloop.delay.${rest}`, 's', `Event loop ${description} delay, since the collection before.`),
  read,
]

const delays = [
  delay('min', 'minimum', ({ min }) => min),
  delay('max', 'maximum', ({ max }) => max),
  delay('mean', 'mean', ({ mean }) => mean),
  delay('p50', '50 percentile', (histogram) => histogram.percentile(50)),
  delay('p90', '90 percentile', (histogram) => histogram.percentile(90)),
  delay('p99', '99 percentile', (histogram) => histogram.percentile(99)),
]

/**
 * The delay of the event loop, as OpenTelemetry's conventions for Node name it: what `monitorEventLoopDelay` measures, which is the time
 * between two looks, 10 ms when nothing holds the loop up.
 */
export const eventLoopMetrics: readonly Metric[] = delays.map(([metric]) => metric)

/** Measures the delay of the event loop, from one collection to the next. It keeps no process alive. */
export class EventLoopDelay {
  readonly #histogram = monitorEventLoopDelay({ resolution: resolutionMs })

  #last: readonly (readonly [Metric, number])[] = []

  constructor() {
    this.#histogram.enable()
  }

  /** Reads what was measured since the last time; where that is nothing yet, the same as then. */
  collect(observe: Observe): void {
    if (this.#histogram.count > 0) {
      this.#last = delays.map(([metric, read]) => [metric, read(this.#histogram) / 1e9])
      this.#histogram.reset()
    }
    for (const [metric, seconds] of this.#last) observe(metric, seconds, {})
  }

  /** Measures no more. */
  stop(): void {
    this.#histogram.disable()
  }
}
