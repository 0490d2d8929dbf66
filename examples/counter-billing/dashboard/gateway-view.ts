import type {
  AsyncLogBufferStats,
  BatchStats,
  CircuitBreaker,
  MultiLevelCacheStats,
  QuotaConsumerStats,
} from 'spillway'
import type { BillingServices } from '../billing/billing-services.ts'
import type { Counters } from '../counter/counters.ts'
import type { CounterReads } from '../counter/reads.ts'
import type { Logging } from '../telemetry/logging.ts'
import { Rates } from './rates.ts'
import type {
  BreakerSample,
  BufferSample,
  CacheSample,
  InstanceSample,
  LogSample,
  QuotaSample,
  Sample,
} from './sample.ts'

/** What a gateway has, and knows of the services behind it. */
export interface GatewayParts {
  readonly counters: Counters
  readonly reads: CounterReads
  /** Of the stores, by name. */
  readonly breakers: Readonly<Record<string, CircuitBreaker>>
  /** What is told of the counter services, where they have processes of their own. */
  readonly services?: (() => Record<string, unknown>) | undefined
  readonly billing?: Pick<BillingServices, 'metering' | 'stats'> | undefined
  readonly logging?: Logging | undefined
}

/** What `connectToServices` tells of an instance. */
interface InstanceStats {
  readonly id: string
  readonly state: InstanceSample['state']
  readonly inFlight: number
  readonly calls: number
  readonly over: number
  readonly busyMs: number
}

/** Moments of which it is remembered how much usage had been offered: a minute of them. */
const maxMoments = 600

/** Looks at the stats of a gateway's parts, and tells what changed between two looks. */
export class GatewayView {
  readonly #parts: GatewayParts
  readonly #rates = new Rates()
  #offered: { readonly at: number; readonly offered: number }[] = []

  constructor(parts: GatewayParts) {
    this.#parts = parts
  }

  look(at: number, seconds: number): Omit<Sample, 'at' | 'requests' | 'loop' | 'sums' | 'faults'> {
    const { counters, reads, billing, services, logging } = this.#parts
    const { lost, notLive } = counters.losses
    return {
      buffers: this.#buffers(seconds),
      cache: this.#cache(reads.cache.stats(), seconds),
      breakers: this.#breakers(),
      instances: [
        ...this.#instances('counter', services?.(), seconds),
        ...this.#instances('billing', billing?.stats(), seconds),
      ],
      log: logging && this.#log(logging.lines.stats(), seconds),
      quota: billing && this.#quota(billing.metering.usage.stats(), at),
      losses: { lost, notLive },
    }
  }

  #buffers(seconds: number): Record<string, BufferSample> {
    const { counters, billing, logging } = this.#parts
    const { capacities } = counters
    const samples: Record<string, BufferSample> = {}
    for (const part of ['liveWrites', 'durableWrites'] as const) {
      const stats = counters[part].stats()
      samples[titles[part]] = this.#buffer(stats, stats.pendingKeys, capacities[part], seconds)
    }
    for (const part of ['liveAnswers', 'durableAnswers', 'liveReads', 'durableReads'] as const) {
      const stats = counters[part].stats()
      samples[titles[part]] = this.#buffer(stats, stats.pending - stats.inFlight, capacities[part], seconds)
    }
    if (billing !== undefined) {
      const usage = billing.metering.usage.stats()
      samples['usage'] = this.#buffer(usage, usage.pending - usage.inFlight, billing.metering.capacity, seconds)
    }
    if (logging !== undefined) {
      const lines = logging.lines.stats()
      samples['log'] = this.#buffer(lines, lines.pending - lines.inFlight, logging.capacity, seconds)
    }
    return samples
  }

  #buffer({ name, batches, batchSize }: BatchStats, waiting: number, capacity: number, seconds: number): BufferSample {
    const left = this.#rates.growthOf(`${name}.batches`, batches)
    const items = this.#rates.growthOf(`${name}.items`, batchSize.mean * batches)
    return { batchSize: left === 0 ? undefined : items / left, batchesPerSecond: left / seconds, waiting, capacity }
  }

  #cache({ reads }: MultiLevelCacheStats, seconds: number): CacheSample {
    const rate = (name: string, count: number): number => this.#rates.growthOf(`cache.${name}`, count) / seconds
    return { l1: rate('l1', reads.hits.l1), l2: rate('l2', reads.hits.l2), loaded: rate('loaded', reads.loaded) }
  }

  #breakers(): Record<string, BreakerSample> {
    const { breakers, reads } = this.#parts
    const samples: Record<string, BreakerSample> = {}
    for (const [name, { state }] of Object.entries(breakers)) samples[name] = { state }
    const { l2 } = reads.cache.stats()
    if (l2 !== undefined) samples['cache L2'] = { state: l2.state }
    return samples
  }

  #instances(service: string, stats: Record<string, unknown> | undefined, seconds: number): InstanceSample[] {
    const instances = (stats?.['instances'] ?? []) as readonly InstanceStats[]
    return instances.map(({ id, state, inFlight, calls, over, busyMs }) => {
      const picks = this.#rates.growthOf(`${id}.calls`, calls)
      const ended = this.#rates.growthOf(`${id}.over`, over)
      const took = this.#rates.growthOf(`${id}.busyMs`, busyMs)
      const latencyMs = ended === 0 ? undefined : took / ended
      return { service, id, state, picksPerSecond: picks / seconds, outstanding: inFlight, latencyMs }
    })
  }

  #log({ offered, dropped, failed }: AsyncLogBufferStats, seconds: number): LogSample {
    return {
      linesPerSecond: this.#rates.growthOf('log.offered', offered) / seconds,
      dropsPerSecond: this.#rates.growthOf('log.dropped', dropped + failed) / seconds,
    }
  }

  /** The oldest use that isn't applied came after the last moment at which no more had been offered than is applied now. */
  #quota({ totalEvents: offered, processedEvents, failedEvents, droppedEvents }: QuotaConsumerStats, at: number) {
    const applied = processedEvents + failedEvents + droppedEvents
    this.#offered = this.#offered.filter((moment) => moment.offered > applied).slice(-maxMoments)
    if (offered > applied) this.#offered.push({ at, offered })
    const [oldest] = this.#offered
    const ageMs = oldest === undefined ? 0 : at - oldest.at
    return { offered, applied, ageMs } satisfies QuotaSample
  }
}

/** What they are called on the page. */
const titles = {
  liveWrites: 'live writes',
  durableWrites: 'durable writes',
  liveAnswers: 'live answers',
  durableAnswers: 'durable answers',
  liveReads: 'live reads',
  durableReads: 'durable reads',
} as const
