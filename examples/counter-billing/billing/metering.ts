import { QuotaConsumer, type UsageFailure, type UsageSink } from 'spillway'
import { FileJournal } from 'spillway/file'
import { type Log, patience, text } from '../counter/counters.ts'
import { defaultTariff, freeQuotaOf, meteredService, periodOf, type Tariff } from './tariff.ts'

export interface MeteringOptions {
  /** Over which span each quota counts. */
  tariff?: Tariff | undefined
  /** A directory in which usage is kept until it is handed on; without it, it waits in memory. A crash loses what isn't on the disk yet. */
  journal?: string | undefined
  /** Batches of uses, and how many may wait. */
  batches?: UsageBatches | undefined
  log: Log
}

export interface UsageBatches {
  capacity?: number | undefined
  maxBatchSize?: number | undefined
  maxWaitMs?: number | undefined
  concurrency?: number | undefined
}

/** Uses that may wait to be handed on. */
const usageCapacity = 20_000

const quotaType = freeQuotaOf(meteredService)

/** Counts the writes of users as uses of their quota, behind the requests that made them. */
export class Metering {
  readonly usage: QuotaConsumer
  readonly journal: FileJournal | undefined
  /** Uses that may wait. */
  readonly capacity: number
  readonly #log: Log

  constructor(sink: UsageSink, { tariff = defaultTariff, journal, batches = {}, log }: MeteringOptions) {
    const { capacity = usageCapacity, maxBatchSize = 1_000, maxWaitMs = 250, concurrency } = batches
    this.capacity = capacity
    this.#log = log
    this.journal = journal === undefined ? undefined : new FileJournal(journal)
    this.usage = new QuotaConsumer(sink, {
      name: 'usage',
      periodOf: (type) => periodOf(tariff, type),
      capacity,
      maxBatchSize,
      maxWaitMs,
      concurrency,
      timeoutMs: 10_000,
      retry: patience,
      ...(this.journal !== undefined && { journal: this.journal }),
      onFailed: (failure) => this.#lose(failure),
    })
    this.usage.on('unhealthy', ({ reason, error }) => log('warn', `usage isn't accounted (${reason}): ${text(error)}`))
    this.usage.on('recovered', () => log('info', 'usage is accounted again'))
    this.usage.on('journalFailed', ({ action, error }) =>
      log('error', `the journal failed to ${action}: ${text(error)}`),
    )
  }

  /** Hands on what an earlier process had metered, though nobody writes: what that one had given up, too. */
  async start(): Promise<void> {
    await this.journal?.requeue()
    await this.usage.start()
  }

  /**
   * Counts writes that a user has made.
   *
   * @returns nothing as a rule. Where too much waits to be accounted, a promise for when there is room: whoever waits for it before
   * answering slows those down who write too fast, and counts them all the same.
   */
  record(userId: string, writes: number): Promise<void> | undefined {
    const event = { userId, quotaType, value: writes }
    if (this.usage.offer(event)) return undefined
    return this.usage
      .publish(event)
      .catch((error: unknown) => this.#log('error', `LOST: ${writes} writes of ${userId} (${text(error)})`))
  }

  /** Uses of a service that are counted here and not handed on yet. */
  pending(userId: string, service: string): number {
    return this.usage.pending(userId, freeQuotaOf(service))
  }

  /** Nobody waits for these any more: without a journal, the log is the last place that can know of them. */
  #lose({ events, error }: UsageFailure): void {
    if (this.journal !== undefined)
      return this.#log('warn', `${events.length} uses are tried again after the next start (${text(error)})`)
    const writes: Record<string, number> = {}
    for (const { userId, value } of events) writes[String(userId)] = (writes[String(userId)] ?? 0) + value
    const users = JSON.stringify(writes)
    this.#log('error', `LOST: ${events.length} uses weren't accounted (${text(error)}): ${users}`)
  }
}
