/**
 * A process with a consumer that has no journal, in front of a ledger that is a file; run by quota-consumer.kill.test.ts.
 *
 *     memory-process <ledger file> <seed> publish | end | idle
 *
 * `publish` publishes without a pause until it is killed or told to end, and says `done 17` once request 17 resolved. `end` offers a few
 * and does no more. `idle` makes consumers and nothing else.
 */
import { appendFileSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { QuotaConsumer, StoreError, type UsageBatch, type UsageSink } from 'spillway'
import { closeOnExit } from 'spillway/process'
import { seededRandom } from 'spillway/testing'

const [ledger, seed, mode] = process.argv.slice(2) as [string, string, 'publish' | 'end' | 'idle']
const random = seededRandom(seed)

/** Pipes are written synchronously: what was said stays said, whenever the process dies. */
function say(line: string): void {
  writeSync(1, `${line}\n`)
}

const ids = new Set<string>()
const sink: UsageSink = {
  idempotent: true,
  async write({ id, events }: UsageBatch): Promise<void> {
    await sleep(random() * 5)
    if (random() < 0.1) throw new StoreError('not reachable', { retryable: true })
    if (!ids.has(id)) appendFileSync(ledger, `${events.map(({ requestId }) => requestId).join(' ')}\n`)
    ids.add(id)
    await sleep(random() * 5)
    if (random() < 0.1) throw new StoreError('the answer was lost', { retryable: true, outcomeUnknown: true })
  },
}

const use = (request: number) => ({
  userId: request % 20,
  quotaType: 'calls',
  value: 1,
  requestId: String(request),
})

if (mode === 'idle') {
  for (let n = 0; n < 1000; n++) new QuotaConsumer(sink)
} else if (mode === 'end') {
  const usage = new QuotaConsumer(sink, { maxWaitMs: 200, retry: { attempts: 20 } })
  for (let request = 1; request <= 25; request++) if (usage.offer(use(request))) say(`done ${request}`)
} else {
  const usage = new QuotaConsumer(sink, {
    capacity: 200,
    maxBatchSize: 25,
    concurrency: 2,
    maxWaitMs: 20,
    retry: { attempts: 20, delayMs: 2, maxDelayMs: 20 },
  })
  closeOnExit([usage])
  say('ready')
  let next = 1
  const publisher = async (): Promise<void> => {
    for (;;) {
      const request = next++
      try {
        await usage.publish(use(request))
      } catch {
        return // closed
      }
      say(`done ${request}`)
      if (random() < 0.1) await sleep(random() * 5)
    }
  }
  await Promise.all(Array.from({ length: 30 }, publisher))
}
