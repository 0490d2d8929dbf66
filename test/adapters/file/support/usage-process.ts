/**
 * A process that publishes usage without a pause, into a journal in a directory and from there into a sink that is a file; run by
 * file-journal.kill.test.ts, which ends it one way or another.
 *
 *     usage-process <journal directory> <sink file> <seed> <first request> publish | drain
 *
 * It says `called 17` before it publishes request 17, and `done 17` once that resolved. When it drains, it writes what the journal
 * brought back, and ends.
 */
import { closeSync, fsyncSync, openSync, readFileSync, truncateSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { QuotaConsumer, StoreError, type UsageBatch, type UsageSink } from 'spillway'
import { FileJournal } from 'spillway/file'
import { closeOnExit } from 'spillway/process'
import { seededRandom } from 'spillway/testing'

const [directory, sinkFile, seed, first, mode] = process.argv.slice(2) as [string, string, string, string, string]
const random = seededRandom(seed)

/** Pipes are written synchronously: what was said stays said, whenever the process dies. */
function say(line: string): void {
  writeSync(1, `${line}\n`)
}

/** A ledger of one line a batch, each of them whole and durable, that knows the ids of its batches. */
class LedgerFile implements UsageSink {
  readonly idempotent = true
  readonly #descriptor: number
  readonly #ids = new Set<string>()

  constructor(path: string) {
    this.#descriptor = openSync(path, 'a+')
    const text = readFileSync(path, 'utf8')
    const whole = text.slice(0, text.lastIndexOf('\n') + 1)
    truncateSync(path, Buffer.byteLength(whole))
    for (const line of whole.split('\n').filter(Boolean)) this.#ids.add(JSON.parse(line).id)
  }

  async write({ id, events, totals }: UsageBatch): Promise<void> {
    if (random() < 0.1) throw new StoreError('not reachable')
    if (this.#ids.has(id)) say(`repeated ${id}`)
    else {
      writeSync(
        this.#descriptor,
        `${JSON.stringify({ id, requests: events.map((e) => Number(e.requestId)), totals })}\n`,
      )
      fsyncSync(this.#descriptor)
      this.#ids.add(id)
    }
    // The answer takes its time, or gets lost: the moment to die in.
    await sleep(random() * 10)
    if (random() < 0.1) throw new StoreError('the connection was lost', { outcomeUnknown: true })
  }

  close(): void {
    closeSync(this.#descriptor)
  }
}

const sink = new LedgerFile(sinkFile)
const usage = new QuotaConsumer(sink, {
  journal: new FileJournal(directory, { segmentBytes: 8192 }),
  maxBatchSize: 25,
  maxWaitMs: 5,
  capacity: 500,
  retry: { attempts: 20, delayMs: 2, maxDelayMs: 20 },
})
closeOnExit([usage, sink])

await usage.start()
say('ready')

let next = Number(first)
async function publisher(): Promise<void> {
  for (;;) {
    const request = next++
    say(`called ${request}`)
    const event = {
      userId: request % 20,
      quotaType: request % 3 === 0 ? 'tokens' : 'calls',
      value: (request % 100) + 1,
    }
    try {
      await usage.publish({ ...event, requestId: String(request) })
    } catch {
      return // closed
    }
    say(`done ${request}`)
    if (random() < 0.1) await sleep(random() * 5)
  }
}

if (mode === 'publish') await Promise.all(Array.from({ length: 30 }, publisher))
else await usage.close()
