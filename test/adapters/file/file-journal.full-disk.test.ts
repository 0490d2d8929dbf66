import { isSpillwayError } from 'spillway'
import { describe, expect, test } from 'vitest'
import { mountSmallDisk } from '../../servers/small-disk.ts'
import { openJournal, range, readAgain, use } from './support/usage.js'

const long = { metadata: { text: 'x'.repeat(1000) } }

describe('a full disk', () => {
  const mounted = mountSmallDisk(256)

  test.skipIf(mounted === undefined)('refuses uses and loses none: as soon as there is room, all goes on', async () => {
    const disk = mounted as NonNullable<typeof mounted>
    try {
      const directory = `${disk.path}/journal`
      const { journal } = await openJournal(directory)
      const kept = [await journal.append(use(0, long))]
      const values = [0]
      disk.fill()
      let refused = 0
      for (const value of range(40)) {
        try {
          kept.push(await journal.append(use(value, long)))
          values.push(value)
        } catch (error) {
          expect(isSpillwayError(error, 'ERR_STORE') && error.retryable && error.outcomeUnknown === false).toBe(true)
          expect((error as Error).message).toContain('ENOSPC')
          refused++
        }
      }
      expect(refused).toBeGreaterThan(0)
      disk.free()
      kept.push(await journal.append(use(41, long)))
      await journal.assign('batch', kept)
      await journal.close()

      expect(await readAgain(directory)).toEqual({ batches: { batch: [...values, 41] }, events: [] })
    } finally {
      disk[Symbol.dispose]()
    }
  })
})
