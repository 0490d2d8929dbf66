// Publishes uses by itself, in a process that may be killed at any time: what `publish` has resolved is to be accounted, whatever comes
// after. Each use is of a user of its own, so that the table tells what became of it. `fork`ed with its options as JSON.
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { QuotaConsumer } from 'spillway'
import { FileJournal } from 'spillway/file'
import { closeOnExit } from 'spillway/process'
import { RedisUsageStream } from 'spillway/redis'
import { patientFlush } from '../../examples/counter-billing/running.ts'
import { LedgerFile } from './ledger.ts'

export interface PublisherOptions {
  readonly redisUrl: string
  readonly journal: string
  readonly ledger: string
  /** How many were started before it. */
  readonly generation: number
  readonly rate: number
}

const { redisUrl, journal, ledger, generation, rate } = JSON.parse(process.argv[2] ?? '{}') as PublisherOptions
const redis = new Redis(redisUrl, { enableOfflineQueue: false, maxRetriesPerRequest: 0 })
redis.on('error', ({ message }: Error) => console.error(message))
const stream = new RedisUsageStream(redis, { prefix: 'billing:usage', periodOf: () => 'month' })
const kept = new FileJournal(journal)
const usage = new QuotaConsumer(stream, {
  journal: kept,
  maxWaitMs: 100,
  timeoutMs: 5_000,
  retry: { attempts: 20, delayMs: 100, maxDelayMs: 5_000 },
})
usage.on('journalFailed', ({ action, error }) => console.error(`the journal failed to ${action}: ${error}`))
usage.on('failed', ({ events, error }) => console.error(`${events.length} uses failed: ${error}`))
const file = new LedgerFile(ledger)
const stop = new AbortController()
// What an earlier one had given up, too.
await kept.requeue()
await usage.start()
const published = publishAll()
closeOnExit([
  {
    name: 'publisher',
    close: () => {
      stop.abort()
      return published
    },
  },
  patientFlush(() => usage.flush()),
  usage,
  stream,
  { name: 'Redis', close: async () => redis.disconnect() },
])
process.send?.({ type: 'ready', url: '' })

async function publishAll(): Promise<void> {
  for (let n = 0; !stop.signal.aborted; n++) {
    const request = `use-${generation}-${n}`
    file.append({ type: 'use', request, fate: 'sent' })
    try {
      await usage.publish({ userId: request, quotaType: 'free:published', value: 1 })
      file.append({ type: 'use', request, fate: 'acked' })
    } catch (error) {
      // The journal's disk may be full: whether this one is in it is unknown, and the next one has another id.
      console.error((error as Error).message)
    }
    await delay(1_000 / rate, undefined, { signal: stop.signal }).catch(() => undefined)
  }
}
