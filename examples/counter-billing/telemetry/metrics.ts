import type { FastifyInstance } from 'fastify'
import { Counter, Histogram, Registry } from 'prom-client'
import { type Instrumentable, prometheus } from 'spillway/metrics'
import type { Closable } from 'spillway/process'

/** Parts of a service that have something to measure, by name. */
export type Instruments = Readonly<Record<string, Instrumentable>>

const tallies = {
  lost_counters: 'Counters whose accepted increments were given up.',
  not_live_counters: 'Counters whose live value lacks what the durable one has.',
  accepted_calls: 'Calls that were let in with a token.',
  refused_calls: 'Calls whose token was refused, or that had none.',
  issued_tokens: 'Tokens that were issued.',
  refused_tokens: 'Requests for a token that were refused.',
} as const

/** What only the services themselves count. */
export type Tallies = { readonly [Name in keyof typeof tallies]?: () => number }

type Tally = keyof typeof tallies

/** From half a millisecond to ten seconds, the longest that an answer is waited for. */
const buckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

/** What is measured in a process, whichever services run in it: read when somebody asks, in the text format of Prometheus. */
export class Metrics implements Closable {
  readonly name = 'metrics'
  readonly #registry = new Registry()
  readonly #off: (() => void)[] = []
  readonly #tallies = new Map<Tally, Map<string, () => number>>()
  readonly #durations: Histogram

  /** @param eventLoop - whether its delay is measured. */
  constructor({ eventLoop = true }: { eventLoop?: boolean } = {}) {
    this.#off.push(prometheus(this.#registry, {}, { eventLoop }))
    this.#durations = new Histogram({
      name: 'http_server_request_duration_seconds',
      help: 'How long requests took, by route and status.',
      labelNames: ['service', 'method', 'route', 'status'],
      buckets,
      registers: [this.#registry],
    })
  }

  get contentType(): string {
    return this.#registry.contentType
  }

  /** Measures parts of a service until what it returns is closed. They are called `service.part`. */
  add(service: string, instruments: Instruments, counted: Tallies = {}): Closable {
    const named = Object.entries(instruments).map(([part, component]) => [`${service}.${part}`, component] as const)
    const off = prometheus(this.#registry, Object.fromEntries(named), { eventLoop: false })
    const names = Object.keys(counted) as Tally[]
    for (const name of names) this.#tallyOf(name).set(service, counted[name] as () => number)
    const close = (): void => {
      off()
      for (const name of names) this.#tallyOf(name).delete(service)
    }
    this.#off.push(close)
    return { name: `metrics of the ${service}`, close }
  }

  /** Measures how long the requests of a server take. A route that isn't there has no name, so that nobody can make up series. */
  time(service: string, app: FastifyInstance): void {
    const series = new Map<string, { observe(seconds: number): void }>()
    app.addHook('onResponse', (request, reply, done) => {
      const { method, routeOptions } = request
      const { url: route = 'none' } = routeOptions
      const key = `${method} ${reply.statusCode} ${route}`
      let found = series.get(key)
      if (found === undefined) {
        found = this.#durations.labels({ service, method, route, status: String(reply.statusCode) })
        series.set(key, found)
      }
      found.observe(reply.elapsedTime / 1_000)
      done()
    })
  }

  text(): Promise<string> {
    return this.#registry.metrics()
  }

  close(): void {
    for (const off of this.#off.splice(0)) off()
    this.#registry.clear()
  }

  #tallyOf(name: Tally): Map<string, () => number> {
    const found = this.#tallies.get(name)
    if (found !== undefined) return found
    const reads = new Map<string, () => number>()
    this.#tallies.set(name, reads)
    new Counter({
      name: `counter_billing_${name}_total`,
      help: tallies[name],
      labelNames: ['service'],
      registers: [this.#registry],
      collect() {
        this.reset()
        for (const [service, read] of reads) this.inc({ service }, read())
      },
    })
    return reads
  }
}
