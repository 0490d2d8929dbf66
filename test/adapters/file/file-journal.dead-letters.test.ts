import { appendFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { QuotaConsumer, StoreError, type UsageBatch } from 'spillway'
import { FileJournal, type FileJournalEvents } from 'spillway/file'
import { FakeClock } from 'spillway/testing'
import { afterAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { collect, Directories } from './support/directories.js'
import { disk } from './support/disk.js'
import { contentOf, openJournal, readAgain, use } from './support/usage.js'

vi.mock('node:fs/promises', async (original) => (await import('./support/disk.js')).disk.wrap(await original()))

const directories = new Directories()
afterAll(() => directories[Symbol.asyncDispose]())

let directory: string
beforeEach(async () => {
  directory = await directories.make()
  disk.watch(directory)
})

const error = new StoreError('no such plan', { cause: new Error('23503') })

/** Gives a batch up, as the consumer does; or what was refused of it, when that is said. */
async function bury(
  journal: FileJournal,
  batchId: string,
  values: readonly number[],
  refused?: readonly number[],
): Promise<void> {
  const positions = await Promise.all(values.map((value) => journal.append(use(value))))
  await journal.assign(batchId, positions)
  const events = (refused ?? values).map((value) => use(value))
  await journal.deadLetter({ batchId, events, error, refused: refused !== undefined })
  await journal.settle(batchId)
}

async function lettersOf(path: string): Promise<unknown[]> {
  const letters = await collect(new FileJournal(path).deadLetters())
  return letters.map(({ batchId, refused, events }) => [batchId, refused, events.map(({ value }) => value)])
}

describe('dead letters', () => {
  test('are lines of JSON that say what was given up, when and why, for whoever reads them', async () => {
    const clock = new FakeClock({ wallMs: Date.UTC(2026, 10, 20) })
    const { journal } = await openJournal(directory, { clock })
    const told: FileJournalEvents['deadLettered'][] = []
    journal.on('deadLettered', (event) => told.push(event))

    await bury(journal, 'batch-a', [1, 2])

    const line = JSON.parse(readFileSync(join(directory, 'dead-letters.jsonl'), 'utf8'))
    const reason = 'StoreError: no such plan / caused by Error: 23503'
    const events = [use(1), use(2)]
    expect(line).toEqual({ batchId: 'batch-a', at: '2026-11-20T00:00:00.000Z', error: reason, refused: false, events })
    const letter = { batchId: 'batch-a', at: Date.UTC(2026, 10, 20), error: reason, refused: false, events }
    expect(await collect(journal.deadLetters())).toEqual([letter])
    expect(told).toEqual([{ batchId: 'batch-a', events: 2, error }])
    expect(journal.stats()).toMatchObject({ deadLettered: 2, pending: 0 })
    await journal.close()
    expect(await collect(new FileJournal(directory).deadLetters())).toEqual([letter])
  })

  test('given up at the same time share a write and a sync', async () => {
    const { journal } = await openJournal(directory)
    disk.steps = []

    await Promise.all(
      [1, 2, 3].map((value) => journal.deadLetter({ batchId: `b${value}`, events: [use(value)], error })),
    )

    expect(disk.count('write', /dead-letters/)).toBe(1)
    expect(disk.count('sync', /dead-letters/)).toBe(1)
    expect(await lettersOf(directory)).toHaveLength(3)
    await journal.close()
  })

  test('a directory without any, or without anything, has none', async () => {
    expect(await lettersOf(join(directory, 'nothing'))).toEqual([])
    expect(existsSync(join(directory, 'nothing'))).toBe(false)
  })

  test('a line that a crash left unfinished is nobody’s, and is cut off', async () => {
    const { journal } = await openJournal(directory)
    await bury(journal, 'batch-a', [1])
    await journal.close()
    appendFileSync(join(directory, 'dead-letters.jsonl'), '{"batchId":"batch-b","at"')

    expect(await lettersOf(directory)).toEqual([['batch-a', false, [1]]])
    const { journal: after } = await openJournal(directory)
    await bury(after, 'batch-c', [2])
    await after.close()
    expect(await lettersOf(directory)).toEqual([
      ['batch-a', false, [1]],
      ['batch-c', false, [2]],
    ])
  })

  test('lines of which a power failure lost a part are nobody’s either, and are told', async () => {
    const { journal } = await openJournal(directory)
    await bury(journal, 'batch-a', [1])
    await journal.close()
    const path = join(directory, 'dead-letters.jsonl')
    const whole = readFileSync(path, 'utf8')
    const lost = whole.replace('batch-a', 'batch-b').replace('2026', '\0\0\0\0')
    writeFileSync(path, `${whole}${lost}${whole.replace('batch-a', 'batch-c')}`)

    const after = new FileJournal(directory)
    const torn: unknown[] = []
    after.on('tornTailCut', (event) => torn.push(event))
    expect(await lettersOf(directory)).toHaveLength(2)
    await after.open()
    await after.close()

    expect(torn).toEqual([{ path, offset: whole.length + lost.indexOf('\0'), bytes: lost.length }])
    expect(readFileSync(path, 'utf8')).toBe(`${whole}${whole.replace('batch-a', 'batch-c')}`)
  })

  test('a line that is none is told with its number, and nothing is requeued then', async () => {
    const { journal } = await openJournal(directory)
    await bury(journal, 'batch-a', [1])
    const path = join(directory, 'dead-letters.jsonl')
    appendFileSync(path, '\n{"batchId":"b"}\n')
    const text = readFileSync(path, 'utf8')

    const wrong = { code: 'ERR_STORE', retryable: false, message: expect.stringContaining('line 3 of ') }
    await expect(lettersOf(directory)).rejects.toMatchObject(wrong)
    await expect(journal.requeue()).rejects.toMatchObject(wrong)
    expect(readFileSync(path, 'utf8')).toBe(text)
    await journal.close()
  })

  test('of a batch that was not settled before a crash there is none: it comes back', async () => {
    const { journal } = await openJournal(directory)
    const position = await journal.append(use(1))
    await journal.assign('batch-a', [position])
    await journal.deadLetter({ batchId: 'batch-a', events: [use(1)], error })
    const crashed = await directories.crashed(directory)
    await journal.close()

    expect(await readAgain(crashed)).toEqual({ batches: { 'batch-a': [1] }, events: [] })
    expect(await lettersOf(crashed)).toEqual([])
  })

  test('but what the batch that comes back doesn’t have stays', async () => {
    const { journal } = await openJournal(directory)
    const position = await journal.append(use(1))
    await journal.assign('batch-a', [position])
    // Offered while the disk was full: it was never in the journal.
    await journal.deadLetter({ batchId: 'batch-a', events: [use(1), use(2)], error })
    await journal.close()

    expect(await readAgain(directory)).toEqual({ batches: { 'batch-a': [1] }, events: [] })
    expect(await lettersOf(directory)).toEqual([['batch-a', false, [1, 2]]])
    await new FileJournal(directory).requeue()
    expect(await readAgain(directory)).toEqual({ batches: { 'batch-a': [1, 2] }, events: [] })
  })

  test('of which none comes back are not written anew, however many there are', async () => {
    const { journal } = await openJournal(directory)
    await bury(journal, 'batch-a', [1])
    await journal.assign('batch-b', [await journal.append(use(2))])
    await journal.close()
    disk.steps = []

    expect(await readAgain(directory)).toEqual({ batches: { 'batch-b': [2] }, events: [] })

    expect(disk.count('write', /dead-letters/)).toBe(0)
    expect(await lettersOf(directory)).toEqual([['batch-a', false, [1]]])
  })

  test('a full disk refuses one whole: there is none, and later ones are', async () => {
    const { journal } = await openJournal(directory)
    await bury(journal, 'batch-a', [1])
    disk.fault = ({ operation, path }) =>
      operation === 'write' && path.includes('dead') ? { code: 'ENOSPC', after: 20 } : undefined

    const refused = journal.deadLetter({ batchId: 'batch-b', events: [use(2)], error })

    await expect(refused).rejects.toMatchObject({ code: 'ERR_STORE', outcomeUnknown: false })
    disk.rest()
    await journal.deadLetter({ batchId: 'batch-c', events: [use(3)], error })
    await journal.close()
    expect(await lettersOf(directory)).toEqual([
      ['batch-a', false, [1]],
      ['batch-c', false, [3]],
    ])
  })

  test('after a sync that failed they go into a new file, which was synced as a whole', async () => {
    const { journal } = await openJournal(directory)
    await bury(journal, 'batch-a', [1])
    let failed = false
    disk.fault = ({ operation, path }) => {
      if (failed || operation !== 'sync' || !path.includes('dead')) return undefined
      failed = true
      return { code: 'EIO' }
    }
    await expect(journal.deadLetter({ batchId: 'b', events: [use(2)], error })).rejects.toMatchObject({
      outcomeUnknown: true,
    })

    await journal.deadLetter({ batchId: 'batch-c', events: [use(3)], error })

    const left = await directories.make()
    disk.imageAfterPowerFailure(left, () => 0)
    expect(await lettersOf(left)).toEqual([
      ['batch-a', false, [1]],
      ['batch-c', false, [3]],
    ])
    await journal.close()
  })
})

describe('requeue', () => {
  test('brings them back under their ids with the next open, and they are dead letters no more', async () => {
    const { journal } = await openJournal(directory)
    await bury(journal, 'batch-a', [1, 2])
    await bury(journal, 'batch-b', [3])
    const told: unknown[] = []
    journal.on('requeued', (event) => told.push(event))

    expect(await journal.requeue()).toEqual({ letters: 2, events: 3 })

    expect(told).toEqual([{ letters: 2, events: 3 }])
    expect(await lettersOf(directory)).toEqual([])
    expect(await journal.requeue()).toEqual({ letters: 0, events: 0 })
    await bury(journal, 'batch-c', [4])
    await journal.close()
    const wanted = { batches: { 'batch-a': [1, 2], 'batch-b': [3] }, events: [] }
    expect(await readAgain(directory)).toEqual(wanted)
    expect(await readAgain(directory)).toEqual(wanted)
    expect(await lettersOf(directory)).toEqual([['batch-c', false, [4]]])
  })

  test('works before open too, and for a directory that another process holds it is refused', async () => {
    const { journal } = await openJournal(directory)
    await bury(journal, 'batch-a', [1])
    await expect(new FileJournal(directory).requeue()).rejects.toThrow('is held by')
    await journal.close()

    const after = new FileJournal(directory)
    expect(await after.requeue()).toEqual({ letters: 1, events: 1 })
    expect(contentOf(await after.open())).toEqual({ batches: { 'batch-a': [1] }, events: [] })
    await after.close()
    await expect(after.requeue()).rejects.toMatchObject({ code: 'ERR_CLOSED' })
  })

  test('events that were refused out of a batch that was applied come back in no batch, were they all of it or more', async () => {
    const { journal } = await openJournal(directory)
    await bury(journal, 'batch-a', [1, 2, 3], [2])
    await bury(journal, 'batch-b', [4, 5], [4, 5])
    // Offered while the disk was full: the batch had them, and the journal didn't.
    await bury(journal, 'batch-c', [6], [7, 8])
    expect(await lettersOf(directory)).toEqual([
      ['batch-a', true, [2]],
      ['batch-b', true, [4, 5]],
      ['batch-c', true, [7, 8]],
    ])
    await journal.requeue()
    await journal.close()

    expect(await readAgain(directory)).toEqual({ batches: {}, events: [2, 4, 5, 7, 8] })
  })

  test('what was given up of a batch that comes back joins it, and what was refused of it does not', async () => {
    const { journal } = await openJournal(directory)
    for (const [id, value] of [['batch-a', 1] as const, ['batch-b', 2] as const]) {
      await journal.assign(id, [await journal.append(use(value))])
    }
    // Offered while the disk was full, and so in the batches alone.
    await journal.deadLetter({ batchId: 'batch-a', events: [use(3)], error })
    await journal.deadLetter({ batchId: 'batch-b', events: [use(4)], error, refused: true })
    await journal.requeue()
    await journal.close()

    expect(await readAgain(directory)).toEqual({ batches: { 'batch-a': [1, 3], 'batch-b': [2] }, events: [4] })
  })

  test('a crash at any of its steps, and of the next open, leaves each of them once', async () => {
    const { journal } = await openJournal(directory)
    await bury(journal, 'batch-a', [1, 2])
    await bury(journal, 'batch-b', [3])
    const images: string[] = []
    let taking = 0
    disk.onStep = () => {
      for (const how of ['kill', 'power'] as const) {
        const image = join(directory, `../spillway-image-${process.pid}-${taking++}`)
        images.push(image)
        if (how === 'kill') disk.imageAfterKill(image)
        else disk.imageAfterPowerFailure(image, () => 0)
      }
    }

    await journal.requeue()
    await journal.close()
    await readAgain(directory)
    disk.rest()

    directories.adopt(images)
    expect(images.length).toBeGreaterThan(10)
    for (const image of images) {
      const { batches } = await readAgain(image)
      const letters = (await lettersOf(image)) as [string, boolean, number[]][]
      const all = { ...batches, ...Object.fromEntries(letters.map(([id, , values]) => [id, values])) }
      expect(all).toEqual({ 'batch-a': [1, 2], 'batch-b': [3] })
      expect(Object.keys(batches).length + letters.length).toBe(2)
      expect(readdirSync(image).filter((name) => name.startsWith('requeued'))).toEqual([])
    }
  })

  test('a consumer counts what was given up, once its sink is mended; what had been applied after all only once', async () => {
    const applied = new Map<string, UsageBatch>()
    let mended = false
    const sink = {
      idempotent: true,
      write: async (batch: UsageBatch) => {
        if (!applied.has(batch.id) && (mended || batch.events[0]?.value === 1)) applied.set(batch.id, batch)
        if (!mended) throw new StoreError('the connection was lost', { outcomeUnknown: true })
      },
    }
    const options = { maxBatchSize: 1, retry: { attempts: 1 } }
    const consumer = new QuotaConsumer(sink, { ...options, journal: new FileJournal(directory) })
    for (const value of [1, 2]) await consumer.publish(use(value))
    await consumer.flush()
    await consumer.close()
    expect(await lettersOf(directory)).toHaveLength(2)

    mended = true
    const journal = new FileJournal(directory)
    await journal.requeue()
    const after = new QuotaConsumer(sink, { ...options, journal })
    expect(await after.start()).toMatchObject({ recoveredBatches: 2, recoveredEvents: 2 })
    await after.close()

    const values = [...applied.values()].flatMap(({ events }) => events.map(({ value }) => value))
    expect(values.sort()).toEqual([1, 2])
    expect(await readAgain(directory)).toEqual({ batches: {}, events: [] })
  })

  test('a consumer counts what its sink had refused, once that takes it, under another id', async () => {
    const applied = new Map<string, number[]>()
    let mended = false
    const sink = {
      idempotent: true,
      write: async ({ id, events }: UsageBatch) => {
        if (applied.has(id)) return undefined
        applied.set(id, mended ? events.map(({ value }) => value) : [])
        return mended ? undefined : events.map((_, index) => ({ index, error }))
      },
    }
    const consumer = new QuotaConsumer(sink, { journal: new FileJournal(directory), maxBatchSize: 2 })
    await Promise.all([1, 2].map((value) => consumer.publish(use(value))))
    await consumer.close()
    expect(await lettersOf(directory)).toEqual([[expect.any(String), true, [1, 2]]])

    mended = true
    const journal = new FileJournal(directory)
    await journal.requeue()
    const after = new QuotaConsumer(sink, { journal })
    await after.start()
    await after.close()

    expect([...applied.values()]).toEqual([[], [1, 2]])
    expect(await lettersOf(directory)).toEqual([])
  })

  test('an edited file is read as it is: lines may be taken out', async () => {
    const { journal } = await openJournal(directory)
    await bury(journal, 'batch-a', [1])
    await bury(journal, 'batch-b', [2])
    await journal.close()
    const path = join(directory, 'dead-letters.jsonl')
    const [, second] = readFileSync(path, 'utf8').split('\n')
    writeFileSync(path, `${second}\r\n\n`)

    await new FileJournal(directory).requeue()

    expect(await readAgain(directory)).toEqual({ batches: { 'batch-b': [2] }, events: [] })
  })
})
