import { chmodSync } from 'node:fs'
import type { StoreError } from 'spillway'
import { FileJournal } from 'spillway/file'
import { afterAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { Directories, segmentsOf } from './support/directories.js'
import { disk, type Fault, type Step } from './support/disk.js'
import { contentOf, openJournal, range, readAgain, use } from './support/usage.js'

vi.mock('node:fs/promises', async (original) => (await import('./support/disk.js')).disk.wrap(await original()))

const directories = new Directories()
afterAll(() => directories[Symbol.asyncDispose]())

let directory: string
beforeEach(async () => {
  directory = await directories.make()
  disk.watch(directory)
})

const segment = /segment-\d+$/

/** Makes steps on segments fail until it is told to stop. */
function failing(operations: readonly Step['operation'][], fault: Fault): () => void {
  disk.fault = ({ operation, path }) => (operations.includes(operation) && segment.test(path) ? fault : undefined)
  return () => disk.rest()
}

async function errorOf(call: Promise<unknown>): Promise<StoreError> {
  return call.then(
    () => expect.fail('it must be refused'),
    (error) => error,
  )
}

describe('group commit', () => {
  test('all calls of a turn share one write and one sync', async () => {
    const { journal } = await openJournal(directory)
    await journal.append(use(0))
    disk.steps = []

    await Promise.all(range(1000).map((value) => journal.append(use(value))))

    expect(disk.steps.map(({ operation }) => operation)).toEqual(['write', 'datasync'])
    expect(journal.stats()).toMatchObject({ appended: 1001, syncs: 2 })
    await journal.close()
  })

  test('what comes while a sync runs goes out with the next one, and nobody is answered before his sync', async () => {
    const { journal } = await openJournal(directory)
    await journal.append(use(0))
    disk.steps = []
    const late: Promise<number>[] = []
    let answered = 0
    disk.onStep = ({ operation }) => {
      if (operation !== 'datasync') return
      if (late.length === 0) {
        for (const value of range(50, 100)) late.push(journal.append(use(value)))
        for (const call of late) void call.then(() => answered++)
      } else expect(answered).toBe(0)
    }

    await journal.append(use(1))
    await Promise.all(late)

    expect(disk.count('datasync')).toBe(2)
    expect(disk.count('write')).toBe(2)
    await journal.close()
  })

  test('a single call waits for no other', async () => {
    const { journal } = await openJournal(directory)
    const timers = vi.spyOn(globalThis, 'setTimeout')

    await journal.append(use(1))

    expect(timers).not.toHaveBeenCalled()
    timers.mockRestore()
    await journal.close()
  })

  test('with sync: false nothing is synced', async () => {
    const { journal } = await openJournal(directory, { sync: false, segmentBytes: 4096 })
    disk.steps = []
    for (const value of range(30)) await journal.append(use(value, { metadata: { text: 'x'.repeat(500) } }))

    expect(disk.count('datasync') + disk.count('sync')).toBe(0)
    await journal.close()
  })

  test('a segment’s name is durable before what is in it is answered, and its removal before the next one', async () => {
    const { journal } = await openJournal(directory, { segmentBytes: 4096 })
    disk.steps = []

    const positions = []
    for (const value of range(20)) {
      positions.push(await journal.append(use(value, { metadata: { text: 'x'.repeat(500) } })))
    }
    const [begun] = disk.steps.flatMap(({ operation, path }, i) =>
      operation === 'open' && segment.test(path) ? [i] : [],
    )
    expect(
      disk.steps.slice(begun, (begun as number) + 4).map(({ operation, path }) => [operation, segment.test(path)]),
    ).toEqual([
      ['open', true],
      ['write', true],
      ['datasync', true],
      ['sync', false],
    ])
    disk.steps = []
    await journal.assign('batch', positions)
    await journal.settle('batch')
    await journal.close()
    const removals = disk.steps.flatMap(({ operation }, i) =>
      operation === 'unlink' && segment.test(disk.steps[i]?.path as string) ? [i] : [],
    )
    expect(removals.length).toBeGreaterThan(1)
    for (const i of removals) expect(disk.steps[i + 1]).toEqual({ operation: 'sync', path: directory })
  })
})

describe('a disk that fails', () => {
  for (const after of [0, 13]) {
    test(`a full disk, ${after} bytes into a write: append is refused, nothing of it is kept, and later ones work`, async () => {
      const { journal } = await openJournal(directory)
      await journal.append(use(1))
      const failures: StoreError[] = []
      journal.on('failed', ({ error }) => failures.push(error))
      const stop = failing(['write'], { code: 'ENOSPC', after })
      if (after > 0) {
        // A short write, and then there is no room at all.
        let writes = 0
        disk.fault = ({ operation, path }) => {
          if (operation !== 'write' || !segment.test(path)) return undefined
          return writes++ === 0 ? { code: 'ENOSPC', after } : { code: 'ENOSPC', after: 0 }
        }
      }

      const errors = await Promise.all([2, 3].map((value) => errorOf(journal.append(use(value)))))
      stop()
      await journal.append(use(4))
      await journal.close()

      for (const error of errors) {
        expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
        expect(error.message).toMatch(/segment-00000001 failed: ENOSPC/)
      }
      expect(failures).toHaveLength(1)
      expect(journal.stats()).toMatchObject({ appended: 2, pending: 2, failures: 1 })
      expect(await readAgain(directory)).toEqual({ batches: {}, events: [1, 4] })
    })
  }

  test('a sync that failed: its bytes are not trusted again, and the log goes on in another segment', async () => {
    const { journal } = await openJournal(directory)
    await journal.append(use(1))
    let syncs = 0
    disk.fault = ({ operation }) => (operation === 'datasync' && syncs++ === 0 ? { code: 'EIO' } : undefined)

    const error = await errorOf(journal.append(use(2)))
    await journal.append(use(3))

    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
    expect(journal.stats().segments).toBe(2)
    expect(disk.count('datasync', /segment-00000001$/)).toBe(2)
    // What the kernel took for written isn't on the disk: a power failure now must not lose use 3.
    const left = await directories.make()
    disk.imageAfterPowerFailure(left, () => 0)
    expect(await readAgain(left)).toEqual({ batches: {}, events: [1, 3] })
    disk.rest()
    await journal.close()
    expect(await readAgain(directory)).toEqual({ batches: {}, events: [1, 3] })
  })

  test('where not even that can be undone, the outcome is unknown', async () => {
    const { journal } = await openJournal(directory)
    await journal.append(use(1))
    const stop = failing(['datasync', 'open'], { code: 'EIO' })

    const error = await errorOf(journal.append(use(2)))
    const crashed = await directories.crashed(directory)
    const second = await errorOf(journal.append(use(3)))
    stop()
    await journal.append(use(4))
    await journal.close()

    expect(error).toMatchObject({ code: 'ERR_STORE', outcomeUnknown: true })
    expect(second).toMatchObject({ code: 'ERR_STORE', outcomeUnknown: false })
    expect((await readAgain(crashed)).events).toEqual([1, 2])
    expect((await readAgain(directory)).events).toEqual([1, 4])
  })

  test('the next process does not trust what may be in the kernel’s memory only: it writes that again', async () => {
    const { journal } = await openJournal(directory)
    await journal.append(use(1))
    const stop = failing(['datasync', 'open'], { code: 'EIO' })
    await errorOf(journal.append(use(2)))
    stop()
    const crashed = await directories.crashed(directory)
    await journal.close()

    expect(await segmentsOf(crashed)).toEqual(['segment-00000001'])
    expect((await readAgain(crashed)).events).toEqual([1, 2])
    expect(await segmentsOf(crashed)).toEqual(['segment-00000002'])
    expect((await readAgain(crashed)).events).toEqual([1, 2])
  })

  test('where there is no room for that, the journal is opened all the same', async () => {
    const { journal } = await openJournal(directory)
    const position = await journal.append(use(1))
    const crashed = await directories.crashed(directory)
    await journal.close()
    disk.watch(crashed)
    disk.fault = ({ operation, path }) =>
      operation === 'write' && path.endsWith('.tmp') ? { code: 'ENOSPC', after: 0 } : undefined

    const { journal: after, remains } = await openJournal(crashed)
    await after.assign('batch', [position])
    await after.close()

    expect(contentOf(remains).events).toEqual([1])
    expect(await readAgain(crashed)).toEqual({ batches: { batch: [1] }, events: [] })
  })

  test('a full disk takes no new use, but what is small: so that batches can end and make room', async () => {
    const { journal } = await openJournal(directory)
    const position = await journal.append(use(1))
    let writes = 0
    disk.fault = ({ operation }) => (operation === 'write' && writes++ === 0 ? { code: 'ENOSPC', after: 0 } : undefined)

    const [append, assign] = await Promise.allSettled([
      journal.append(use(2, { metadata: { text: 'x'.repeat(5000) } })),
      journal.assign('batch', [position]),
    ])

    expect([append.status, assign.status]).toEqual(['rejected', 'fulfilled'])
    await journal.close()
    expect(await readAgain(directory)).toEqual({ batches: { batch: [1] }, events: [] })
  })

  test('a settlement that could not be written is with the next call that can be', async () => {
    const { journal } = await openJournal(directory)
    const position = await journal.append(use(1))
    await journal.assign('batch', [position])
    const stop = failing(['write', 'open'], { code: 'ENOSPC', after: 0 })
    const error = await errorOf(journal.settle('batch'))
    stop()
    await journal.append(use(2))
    const crashed = await directories.crashed(directory)

    expect(error).toMatchObject({ code: 'ERR_STORE' })
    expect(await readAgain(crashed)).toEqual({ batches: {}, events: [2] })
    expect(journal.stats()).toMatchObject({ settled: 1, pending: 1 })
    await journal.close()
  })

  test('nor is it written more than once, however often that was tried', async () => {
    const { journal } = await openJournal(directory)
    await journal.assign('batch', [await journal.append(use(1))])
    const stop = failing(['write', 'open'], { code: 'ENOSPC', after: 0 })
    for (let i = 0; i < 5; i++) await errorOf(journal.settle('batch'))
    stop()
    const groups: number[] = []
    journal.on('committed', ({ records }) => groups.push(records))

    await journal.append(use(2))

    expect(groups).toEqual([1, 1])
    expect(journal.stats()).toMatchObject({ settled: 1, pending: 1 })
    await journal.close()
  })

  test('a segment that cannot be removed is told, and removed later', async () => {
    const { journal } = await openJournal(directory, { segmentBytes: 4096 })
    const failures: string[] = []
    journal.on('failed', ({ error }) => failures.push(error.message))
    const stop = failing(['unlink'], { code: 'EACCES' })
    for (const value of range(12)) {
      const position = await journal.append(use(value, { metadata: { text: 'x'.repeat(1000) } }))
      await journal.assign(`batch-${value}`, [position])
      await journal.settle(`batch-${value}`)
    }
    expect(failures[0]).toContain('segment-00000001 failed: EACCES')
    expect(journal.stats().segments).toBeGreaterThan(2)
    stop()
    await journal.append(use(13))
    await journal.close()

    expect(journal.stats().segments).toBe(1)
    expect(await readAgain(directory)).toEqual({ batches: {}, events: [13] })
  })

  test('open may be tried again', async () => {
    const journal = new FileJournal(directory)
    disk.fault = ({ operation, path }) =>
      operation === 'open' && path.includes('lock') ? { code: 'ENOSPC' } : undefined
    expect(await errorOf(journal.open())).toMatchObject({ code: 'ERR_STORE', retryable: true })
    expect(await errorOf(journal.append(use(1)))).toMatchObject({
      message: 'file-journal is not open',
      retryable: false,
    })
    disk.rest()

    expect(contentOf(await journal.open())).toEqual({ batches: {}, events: [] })
    await journal.append(use(1))
    await journal.close()
  })

  test.skipIf(process.getuid?.() === 0)('a directory that may not be written is told', async () => {
    chmodSync(directory, 0o500)
    expect(await errorOf(new FileJournal(directory).open())).toMatchObject({ code: 'ERR_STORE' })
    chmodSync(directory, 0o700)
  })
})
