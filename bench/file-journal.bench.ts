import { type FileHandle, mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { AcceptedUsage } from 'spillway'
import { FileJournal, type FileJournalOptions } from 'spillway/file'
import type { Aim, Contender, Contest } from './harness/contest.ts'
import { serveSuite } from './harness/suite-process.ts'

// Uses made durable on a real disk, from the first call of a turn until the last one is answered.

const uses = 200

const directories: string[] = []
const closing: (() => Promise<unknown>)[] = []

async function directory(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'spillway-bench-'))
  directories.push(path)
  return path
}

const finish = async (): Promise<void> => {
  for (const close of closing) await close()
  for (const path of directories) await rm(path, { recursive: true, force: true })
}

const use = (value: number): AcceptedUsage => ({
  userId: 10_000 + (value % 100),
  quotaType: 'requests',
  value,
  timestamp: 1_790_000_000_000,
  period: '2026-09',
  requestId: `request-${value}`,
})

/** All at once; what was written in a turn is settled before the next one, out of the time. */
const journal = (name: string, options: FileJournalOptions): Contender => ({
  name,
  prepare: async () => {
    const kept = new FileJournal(await directory(), options)
    await kept.open()
    closing.push(() => kept.close())
    let positions: readonly number[] = []
    let batches = 0
    return {
      async: true,
      turn: async () => {
        positions = await Promise.all(Array.from({ length: uses }, (_, i) => kept.append(use(i))))
      },
      check: async () => {
        if (new Set(positions).size !== uses) throw new Error(`wrong answer: ${new Set(positions).size} positions`)
        const { pending } = kept.stats()
        if (pending < uses) throw new Error(`wrong answer: ${pending} uses are kept`)
        const id = `batch-${batches++}`
        await kept.assign(id, positions)
        await kept.settle(id)
      },
    }
  },
})

/** A line and a sync a use, as one writes it by hand. */
const byHand = (name: string, perSync: number, aim?: Aim): Contender => ({
  name,
  ...(aim === undefined ? {} : { aim }),
  prepare: async () => {
    const handle: FileHandle = await open(join(await directory(), 'uses.jsonl'), 'a')
    closing.push(() => handle.close())
    let written = 0
    return {
      async: true,
      turn: async () => {
        for (let i = 0; i < uses; i += perSync) {
          const lines = Array.from({ length: perSync }, (_, k) => `${JSON.stringify(use(i + k))}\n`).join('')
          written += Buffer.byteLength(lines)
          await handle.appendFile(lines)
          await handle.datasync()
        }
      },
      check: async () => {
        const { size } = await handle.stat()
        if (size !== written) throw new Error(`wrong answer: ${size} bytes, not ${written}`)
      },
    }
  },
})

const contest = (name: string, contenders: Contest['contenders']): Contest => ({
  name,
  operation: 'use',
  operations: uses,
  contenders,
  finish,
})

await serveSuite([
  contest('200 uses published at once, each durable when it is answered', [
    journal('spillway, group commit', {}),
    byHand('by hand, a line and a sync a use', 1, { timesFaster: 10 }),
    byHand('by hand, one write and one sync for all of them', uses),
  ]),
  contest('200 uses published at once, without a sync', [
    journal('spillway, sync: false', { sync: false }),
    journal('spillway, group commit', {}),
  ]),
])
