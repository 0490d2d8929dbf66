import { existsSync } from 'node:fs'
import type { FileJournal } from 'spillway/file'
import { afterAll, describe, expect, test } from 'vitest'
import { Directories, segmentsOf } from './support/directories.js'
import { openJournal, range, readAgain, use } from './support/usage.js'

const directories = new Directories()
afterAll(() => directories[Symbol.asyncDispose]())

const long = { metadata: { text: 'x'.repeat(1000) } }
const options = { segmentBytes: 4096, sync: false }

/** Events that are settled as they come, each in a batch of its own. */
async function pass(journal: FileJournal, values: readonly number[]): Promise<void> {
  for (const value of values) {
    const position = await journal.append(use(value, long))
    await journal.assign(`batch-${value}`, [position])
    await journal.settle(`batch-${value}`)
  }
}

describe('segments', () => {
  test('are removed once all of their events are settled', async () => {
    const directory = await directories.make()
    const { journal } = await openJournal(directory, options)
    const removed: string[] = []
    journal.on('segmentRemoved', ({ path }) => removed.push(path))

    await pass(journal, range(100))

    expect(removed.length).toBeGreaterThan(20)
    expect(removed.filter((path) => existsSync(path))).toEqual([])
    expect(journal.stats().segments).toBeLessThanOrEqual(2)
    expect(await segmentsOf(directory)).toHaveLength(journal.stats().segments)
    await journal.close()
    expect(await readAgain(directory)).toEqual({ batches: {}, events: [] })
  })

  test('do not grow by batches that are in none, and a settlement called right behind its batch counts', async () => {
    const directory = await directories.make()
    const { journal } = await openJournal(directory, options)
    const [a, b] = [await journal.append(use(1)), await journal.append(use(2))]
    await Promise.all([journal.assign('batch', [a]), journal.settle('batch')])
    const { bytes } = journal.stats()

    await Promise.all(range(1000).map((i) => journal.settle(i % 2 === 0 ? 'batch' : `unknown-${i}`)))

    expect(journal.stats()).toMatchObject({ bytes, settled: 1, pending: 1 })
    await journal.assign('other', [b])
    await journal.close()
    expect(await readAgain(directory)).toEqual({ batches: { other: [2] }, events: [] })
  })

  test('one old event and one old batch pin no more than a few of them, however much passes', async () => {
    const directory = await directories.make()
    const { journal } = await openJournal(directory, options)
    const compacted: number[] = []
    journal.on('segmentCompacted', ({ records }) => compacted.push(records))
    const [loose, one, two] = await Promise.all([1, 2, 3].map((value) => journal.append(use(value))))
    await journal.assign('old', [two as number, one as number])

    await pass(journal, range(300, 10))

    expect(compacted.length).toBeGreaterThan(3)
    expect(Math.max(...compacted)).toBe(4)
    expect(journal.stats().segments).toBeLessThanOrEqual(6)
    expect(journal.stats().bytes).toBeLessThan(8 * 4096)
    const crashed = await directories.crashed(directory)
    await journal.assign('young', [loose as number])
    await journal.settle('old')
    await pass(journal, range(100, 1000))
    await journal.close()
    expect(await readAgain(crashed)).toEqual({ batches: { old: [3, 2] }, events: [1] })
    expect(await readAgain(directory)).toEqual({ batches: { young: [1] }, events: [] })
  })

  test('that mostly count are left as they are: nothing is written twice for nothing', async () => {
    const directory = await directories.make()
    const { journal } = await openJournal(directory, options)
    let compacted = 0
    journal.on('segmentCompacted', () => compacted++)

    for (const value of range(60)) await journal.append(use(value, long))

    expect(compacted).toBe(0)
    expect(journal.stats()).toMatchObject({ pending: 60, appended: 60 })
    await journal.close()
    expect((await readAgain(directory, options)).events).toEqual(range(60))
  })

  test('are read again in any number of lives, each of which compacts', async () => {
    const directory = await directories.make()
    let kept: string[] = []
    for (const life of range(5)) {
      const { journal, remains } = await openJournal(directory, options)
      expect(remains.batches.map(({ id }) => id)).toEqual(kept)
      const position = await journal.append(use(life))
      await journal.assign(`life-${life}`, [position])
      kept = [...kept, `life-${life}`]
      await pass(journal, range(60, life * 1000))
      await journal.close()
    }
    expect(Object.keys((await readAgain(directory)).batches)).toEqual(kept)
  })
})
