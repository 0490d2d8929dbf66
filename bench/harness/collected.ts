import { MeterProvider, MetricReader } from '@opentelemetry/sdk-metrics'
import { Registry } from 'prom-client'
import { type Components, instrument, prometheus } from 'spillway/metrics'

/** Who makes metrics of a component. */
export type Output = 'OpenTelemetry' | 'Prometheus'

const everyMs = 1000

/** A reader that collects when it is asked to, as one for a scraper does. */
class PullReader extends MetricReader {
  protected override async onForceFlush(): Promise<void> {}
  protected override async onShutdown(): Promise<void> {}
}

/** Components whose metrics are collected once a second, for real. */
export class Collected {
  readonly #collect: (() => Promise<string>)[] = []
  #count = 0
  #ms = 0
  #checked = false

  constructor(components: Components, outputs: readonly Output[]) {
    if (outputs.includes('OpenTelemetry')) {
      const reader = new PullReader()
      const provider = new MeterProvider({ readers: [reader] })
      instrument(provider.getMeter('bench'), components)
      this.#collect.push(async () => JSON.stringify((await reader.collect()).resourceMetrics.scopeMetrics))
    }
    if (outputs.includes('Prometheus')) {
      const registry = new Registry()
      prometheus(registry, components)
      this.#collect.push(() => registry.metrics())
    }
    if (this.#collect.length > 0) setInterval(() => void this.#collectAll(), everyMs).unref()
  }

  /** Throws, once, unless what each output has says something of the component. */
  async check(name: string): Promise<void> {
    if (this.#checked) return
    this.#checked = true
    const texts = await this.#collectAll()
    for (const text of texts) {
      if (!text.includes(`component="${name}"`) && !text.includes(`"component":"${name}"`)) {
        throw new Error(`wrong answer: there are no metrics of ${name}`)
      }
    }
  }

  /** What collecting took. */
  note(): string {
    return this.#collect.length === 0
      ? ''
      : `collected ${this.#count} times, ${(this.#ms / this.#count).toFixed(1)} ms each`
  }

  async #collectAll(): Promise<string[]> {
    const start = performance.now()
    const texts = await Promise.all(this.#collect.map((collect) => collect()))
    this.#count++
    this.#ms += performance.now() - start
    return texts
  }
}
