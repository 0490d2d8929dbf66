import { readdirSync, readFileSync, statSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { isSpillwayError } from 'spillway'
import { FileJournal, type FileJournalEvents } from 'spillway/file'
import { afterAll, describe, expect, test } from 'vitest'
import { Directories, segmentsOf } from './support/directories.js'
import { appendEach, contentOf, openJournal, range, readAgain, use } from './support/usage.js'

const directories = new Directories()
afterAll(() => directories[Symbol.asyncDispose]())

const first = 'segment-00000001'
/** Enough of them make segments of 4096 bytes. */
const long = { metadata: { text: 'x'.repeat(1000) } }

/** What a journal tells while it is opened, and what it gives back. */
async function recover(directory: string, damage: 'fail' | 'skip' = 'fail') {
  const journal = new FileJournal(directory, { damage, sync: false })
  const torn: FileJournalEvents['tornTailCut'][] = []
  const skipped: FileJournalEvents['damageSkipped'][] = []
  journal.on('tornTailCut', (event) => torn.push(event))
  journal.on('damageSkipped', (event) => skipped.push(event))
  const content = contentOf(await journal.open())
  return { journal, content, torn, skipped }
}

/** A journal that crashed, or was closed, after four writes of one record each; and where those end. */
async function fourWrites(end: 'crash' | 'close') {
  const directory = await directories.make()
  const { journal } = await openJournal(directory, { sync: false })
  const path = join(directory, first)
  const ends: number[] = []
  const [one] = await appendEach(journal, [1])
  ends.push(statSync(path).size)
  await appendEach(journal, [2])
  ends.push(statSync(path).size)
  await journal.assign('batch', [one as number])
  ends.push(statSync(path).size)
  await appendEach(journal, [3])
  ends.push(statSync(path).size)
  const crashed = await directories.crashed(directory)
  await journal.close()
  return { directory: end === 'crash' ? crashed : directory, ends }
}

/** Where something may go wrong: at every byte near the beginning or the end of a record, and at some between those. */
function bytesThatMatter(whole: Buffer): number[] {
  const chosen = new Set<number>()
  for (let at = 0; at < whole.length; at += 8 + whole.readUInt32LE(at)) {
    for (const byte of range(13, at - 2)) if (byte >= 0 && byte <= whole.length) chosen.add(byte)
  }
  for (let at = 0; at < whole.length; at += 7) chosen.add(at)
  return [...chosen.add(whole.length)].sort((a, b) => a - b)
}

/** What a journal gives back that ends behind so many of those writes. */
const afterWrites = [
  { batches: {}, events: [] },
  { batches: {}, events: [1] },
  { batches: {}, events: [1, 2] },
  { batches: { batch: [1] }, events: [2] },
  { batches: { batch: [1] }, events: [2, 3] },
]

describe('a crash in the middle of a write', () => {
  test('at any byte: the whole records come back, the rest is cut off and told, and the journal goes on', async () => {
    const { directory, ends } = await fourWrites('crash')
    const whole = readFileSync(join(directory, first))
    expect(whole.length).toBe(ends[3])

    for (const length of bytesThatMatter(whole)) {
      const cut = await directories.make()
      writeFileSync(join(cut, first), whole.subarray(0, length))

      const { journal, content, torn } = await recover(cut)
      const writes = ends.filter((end) => end <= length).length
      expect({ length, ...content }).toEqual({ length, ...afterWrites[writes] })
      for (const { path, offset, bytes } of torn) {
        expect([path, offset + bytes]).toEqual([join(cut, first), length])
        expect(journal.stats().tornTailCuts).toBe(1)
      }
      // A tail without an event is the mark alone with which a write begins.
      if (torn.length === 0 && !ends.includes(length) && length > 0)
        expect(length - (ends[writes - 1] ?? 0)).toBeGreaterThan(8)
      if (length % 7 !== 0) {
        await journal.close()
        continue
      }
      await appendEach(journal, [4])
      await journal.close()
      const { batches, events } = afterWrites[writes] as (typeof afterWrites)[number]
      expect(await readAgain(cut, { sync: false })).toEqual({ batches, events: [...events, 4] })
    }
  }, 120_000)

  test('a power failure that lost a sector of a large write cuts the write off there', async () => {
    const directory = await directories.make()
    const { journal } = await openJournal(directory)
    await appendEach(journal, [1])
    await Promise.all(range(6, 2).map((value) => journal.append(use(value, long))))
    const crashed = await directories.crashed(directory)
    await journal.close()
    const path = join(crashed, first)
    const bytes = readFileSync(path)
    bytes.fill(0, 2048, 2560)
    writeFileSync(path, bytes)

    const { journal: after, content, torn } = await recover(crashed)
    await after.close()

    expect(content).toEqual({ batches: {}, events: [1, 2] })
    expect(torn.map(({ offset }) => offset <= 2048)).toEqual([true])
  })
})

describe('damage of what was durable', () => {
  test('at any byte of a journal that was closed: open names file and byte, and changes nothing', async () => {
    const { directory, ends } = await fourWrites('close')
    const path = join(directory, first)
    const whole = readFileSync(path)

    for (const at of bytesThatMatter(whole).filter((at) => at < (ends[3] as number))) {
      const damaged = Buffer.from(whole)
      damaged[at] = (damaged[at] as number) ^ 0x11
      writeFileSync(path, damaged)

      const error = await new FileJournal(directory, { sync: false }).open().catch((error: unknown) => error)

      expect(isSpillwayError(error, 'ERR_STORE') && !error.retryable, `at ${at}: ${error}`).toBe(true)
      const [, byte] = /segment-00000001 can't be read there, at byte (\d+)/.exec((error as Error).message) ?? []
      expect(Number(byte)).toBeLessThanOrEqual(at)
      expect((error as Error).message).toContain(path)
      expect(readFileSync(path).equals(damaged)).toBe(true)
      expect(readdirSync(directory)).toEqual([first])
    }
    writeFileSync(path, whole)
    expect(await readAgain(directory)).toEqual(afterWrites[4])
  }, 120_000)

  test('after a crash: of the last write, a bad record with good ones behind it is damage', async () => {
    const directory = await directories.make()
    const { journal } = await openJournal(directory)
    await Promise.all(range(5).map((value) => journal.append(use(value))))
    const crashed = await directories.crashed(directory)
    await journal.close()
    const path = join(crashed, first)
    const bytes = readFileSync(path)
    const at = bytes.indexOf('"value":3')
    bytes[at] = 0x20
    writeFileSync(path, bytes)

    await expect(new FileJournal(crashed).open()).rejects.toThrow(/at byte \d+: it was durable and is damaged/)

    const { journal: after, content, skipped } = await recover(crashed, 'skip')
    await after.close()
    expect(content).toEqual({ batches: {}, events: [1, 2, 4, 5] })
    expect(skipped).toMatchObject([{ path }])
    const [{ offset, bytes: lost }] = skipped as [FileJournalEvents['damageSkipped']]
    expect(offset < at && at < offset + lost).toBe(true)
  })

  /** A journal of several segments, in which all events count. */
  async function segments() {
    const directory = await directories.make()
    const { journal } = await openJournal(directory, { segmentBytes: 4096, sync: false })
    for (const value of range(20)) await journal.append(use(value, long))
    const crashed = await directories.crashed(directory)
    await journal.close()
    const names = await segmentsOf(crashed)
    expect(names.length).toBeGreaterThan(4)
    return { directory: crashed, names }
  }

  test('at the end of a segment that isn’t the last one it is no torn write', async () => {
    const { directory, names } = await segments()
    const path = join(directory, names[1] as string)
    const { size } = statSync(path)
    truncateSync(path, size - 1)

    await expect(new FileJournal(directory).open()).rejects.toMatchObject({
      code: 'ERR_STORE',
      retryable: false,
      message: expect.stringContaining(names[1] as string),
    })

    truncateSync(path, 0)
    await expect(new FileJournal(directory).open()).rejects.toThrow(
      `${names[1]} ends there, and had ${size} bytes, at byte 0`,
    )
  })

  test('a segment that is missing in the middle is told', async () => {
    const { directory, names } = await segments()
    unlinkSync(join(directory, names[2] as string))

    await expect(new FileJournal(directory).open()).rejects.toThrow(`${names[2]} is missing`)
  })

  test("with damage: 'skip' the rest comes back and stays, and the damaged file is kept", async () => {
    const { directory, names } = await segments()
    const path = join(directory, names[1] as string)
    const bytes = readFileSync(path)
    const at = bytes.indexOf('xxxx')
    bytes[at] = 0
    writeFileSync(path, bytes)
    unlinkSync(join(directory, names[3] as string))

    const { journal, content, skipped } = await recover(directory, 'skip')
    expect(content.events.length).toBeGreaterThan(10)
    expect(content.events).not.toEqual(range(20))
    expect(skipped.map((part) => part.path)).toEqual([path, join(directory, names[3] as string)])
    await journal.append(use(21))
    const crashed = await directories.crashed(directory)
    await journal.close()

    expect(readFileSync(`${path}.damaged`).equals(bytes)).toBe(true)
    expect(await readAgain(crashed)).toEqual({ batches: {}, events: [...content.events, 21] })
    expect(await readAgain(directory)).toEqual({ batches: {}, events: [...content.events, 21] })
  })

  test('a journal of a later version is left alone', async () => {
    const directory = await directories.make()
    const { journal } = await openJournal(directory)
    await appendEach(journal, [1])
    await journal.close()
    const path = join(directory, first)
    const bytes = readFileSync(path)
    const length = bytes.readUInt32LE(0)
    bytes.write(bytes.toString('utf8', 8, 8 + length).replace('"format":1', '"format":9'), 8)
    const { crc32 } = await import('node:zlib')
    bytes.writeUInt32LE(crc32(bytes.subarray(8, 8 + length)), 4)
    writeFileSync(path, bytes)

    const opening = new FileJournal(directory, { damage: 'skip' }).open()

    await expect(opening).rejects.toMatchObject({ retryable: false, message: expect.stringContaining('has format 9') })
    expect(readFileSync(path).equals(bytes)).toBe(true)
  })
})

test('dead letters of any number of requeues are taken in, and what took them in is read again', async () => {
  const directory = await directories.make()
  // With long names, as many more of the usual ones would be.
  for (const i of range(350)) {
    const [at, events] = ['2026-11-20T00:00:00.000Z', [use(i)]]
    const letter = JSON.stringify({ batchId: `batch-${i}`, at, error: 'Error: no', refused: false, events })
    const name = `requeued-${String(i).padStart(200, '0')}.jsonl`
    writeFileSync(join(directory, name), `${letter}\n`)
  }

  const wanted = { batches: Object.fromEntries(range(350).map((i) => [`batch-${i}`, [i]])), events: [] }
  expect(await readAgain(directory, { sync: false })).toEqual(wanted)
  expect(await readAgain(directory, { sync: false })).toEqual(wanted)
})

test('what open gave back is in memory no longer than its caller has it', async () => {
  const directory = await directories.make()
  const { journal: before } = await openJournal(directory)
  await appendEach(before, [1])
  await before.close()
  setFlagsFromString('--expose-gc')
  const collectGarbage: () => void = runInNewContext('gc')

  const journal = new FileJournal(directory)
  const remains = await journal.open().then((remains) => new WeakRef(remains))
  for (let i = 0; i < 3; i++) await new Promise(setImmediate)
  collectGarbage()

  expect(remains.deref()).toBeUndefined()
  expect(journal.stats().pending).toBe(1)
  await journal.close()
})
