// The process is killed between publishing and accounting. Its journal has every use, and the next process counts each of them once.
import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { MemoryQuotaStore, QuotaConsumer, type UsageSink } from 'spillway'
import { FileJournal } from 'spillway/file'

const [directory] = process.argv.slice(2)
if (directory !== undefined) await service(directory)
else await parent()

/** A service whose database hangs. */
async function service(path: string): Promise<void> {
  const sink: UsageSink = { idempotent: true, write: () => new Promise(() => undefined) }
  const usage = new QuotaConsumer(sink, { journal: new FileJournal(path), maxBatchSize: 2 })
  for (let i = 0; i < 5; i++) await usage.publish({ userId: 42, quotaType: 'tokens', value: 100 })
  process.send?.('published')
}

async function parent(): Promise<void> {
  const path = await mkdtemp(join(tmpdir(), 'usage-journal-'))
  const child = fork(fileURLToPath(import.meta.url), [path])
  await once(child, 'message')
  child.kill('SIGKILL')
  await once(child, 'exit')

  const store = new MemoryQuotaStore()
  const journal = new FileJournal(path)
  journal.on('lockTakenOver', ({ pid }) => console.log('the process before was killed:', pid === child.pid))
  const usage = new QuotaConsumer(store, { journal })
  const recovered = await usage.start()
  await usage.close()

  const period = new Date().toISOString().slice(0, 7)
  const [sum] = await store.readUsage([{ userId: '42', quotaType: 'tokens', period }])
  console.log(recovered, sum, journal.stats().pending)
  // Two full batches, that may have reached the database, come back as they were; the fifth use was in none yet.
  assert.deepEqual(recovered, { recoveredBatches: 2, recoveredEvents: 5 })
  assert.deepEqual(sum, { used: 500, held: 0 })
  assert.equal(journal.stats().pending, 0)
  await rm(path, { recursive: true })
}
