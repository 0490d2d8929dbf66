import { link, open } from 'node:fs/promises'
import type { JournalledUsage, JournalRemains } from '../../core/ports.js'
import { usageFromJson } from '../../internal/usage-json.js'
import { type DeadLetter, DeadLetterFile, readDeadLetters } from './dead-letter-file.js'
import { DirectoryLock, type LockHolder } from './directory-lock.js'
import { type Checkpoint, draftCheckpoint, missing } from './journal-checkpoint.js'
import { codeOf, JournalDirectory, removeIfThere } from './journal-directory.js'
import { JournalLog, type JournalLogFace, type JournalLogPolicy, type JournalLogStart } from './journal-log.js'
import { type Damage, type Recovered, recover, type TornTail } from './journal-recovery.js'
import type { JournalState } from './journal-state.js'

/** What an open journal goes by. */
export interface OpenJournalPolicy extends JournalLogPolicy {
  readonly directory: string
  readonly skipDamage: boolean
}

/** What was found when a journal was opened, beside what it kept. */
export interface Findings {
  readonly takenFrom: LockHolder | undefined
  readonly tornTails: readonly TornTail[]
  readonly damage: readonly Damage[]
}

const requeuedPattern = /^requeued-.*\.jsonl$/

/** A journal's directory in use: its lock, its log and its dead letters. */
export class OpenJournal {
  readonly log: JournalLog
  readonly deadLetters: DeadLetterFile
  readonly #directory: JournalDirectory
  readonly #lock: DirectoryLock

  private constructor(directory: JournalDirectory, lock: DirectoryLock, log: JournalLog, deadLetters: DeadLetterFile) {
    this.#directory = directory
    this.#lock = lock
    this.log = log
    this.deadLetters = deadLetters
  }

  static async open(
    policy: OpenJournalPolicy,
    face: JournalLogFace,
  ): Promise<{ readonly journal: OpenJournal; readonly remains: JournalRemains; readonly found: Findings }> {
    const { journal, sync } = policy
    const { directory, lock } = await enter(policy)
    try {
      const recovered = await recover(journal, directory, policy.skipDamage)
      await tidy(directory, recovered, sync)
      const deadLetters = new DeadLetterFile(journal, directory, sync)
      const tornLetters = await deadLetters.open()
      const start = await takeIn(policy, directory, recovered)
      // A batch that comes back isn't dead: if it fails again, it is given up again.
      const { batches } = start.state
      const textOf = (position: number): string => recovered.texts.get(position) as string
      if (batches.size > 0) {
        await deadLetters.keep(({ batchId, events }) => {
          const positions = batches.get(batchId)?.positions
          return positions === undefined || missing(events, [...positions].map(textOf)).length > 0
        })
      }
      const remains = remainsOf(start.state, recovered.texts)
      const log = new JournalLog(directory, policy, start, face)
      await log.removeSettled()
      const { tornTail, damage } = recovered
      const tornTails = [tornTail, tornLetters].filter((tail) => tail !== undefined)
      return {
        journal: new OpenJournal(directory, lock, log, deadLetters),
        remains,
        found: { takenFrom: lock.takenFrom, tornTails, damage },
      }
    } catch (error) {
      await leave(directory, lock).catch(() => undefined)
      throw error
    }
  }

  /** Writes what was added before, and gives the directory back. */
  async close(): Promise<void> {
    try {
      await this.deadLetters.idle()
      await this.log.close()
    } finally {
      await leave(this.#directory, this.#lock)
    }
  }
}

/** Requeues the dead letters of a journal that isn't open. */
export async function requeueClosed(
  policy: OpenJournalPolicy,
  name: string,
): Promise<{ readonly letters: number; readonly events: number }> {
  const { directory, lock } = await enter(policy)
  try {
    return await new DeadLetterFile(policy.journal, directory, policy.sync).moveTo(name)
  } finally {
    await leave(directory, lock)
  }
}

async function enter(policy: OpenJournalPolicy): Promise<{ directory: JournalDirectory; lock: DirectoryLock }> {
  const directory = await JournalDirectory.open(policy.directory, policy.sync)
  try {
    return { directory, lock: await DirectoryLock.acquire(policy.journal, directory) }
  } catch (error) {
    await directory.close()
    throw error
  }
}

async function leave(directory: JournalDirectory, lock: DirectoryLock): Promise<void> {
  try {
    await lock.release()
  } finally {
    await directory.close()
  }
}

/** Removes what counts no more, and makes durable what does: the process that wrote the end of it may have died before it could. */
async function tidy(directory: JournalDirectory, recovered: Recovered, sync: boolean): Promise<void> {
  for (const path of recovered.leftovers) await directory.remove(path)
  const last = recovered.segments.at(-1)
  if (last === undefined) return
  const handle = await open(last.path, 'r+')
  try {
    if (recovered.tornTail?.path === last.path) await handle.truncate(last.bytes)
    if (sync) await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Takes in the dead letters that were requeued, and leaves behind what is damaged and what may not be on the disk. */
async function takeIn(
  policy: OpenJournalPolicy,
  directory: JournalDirectory,
  recovered: Recovered,
): Promise<JournalLogStart> {
  const files = (await directory.list()).filter((name) => requeuedPattern.test(name))
  const fresh = files.filter((name) => !recovered.requeued.has(name))
  const letters: DeadLetter[] = []
  for (const name of fresh) {
    for await (const letter of readDeadLetters(policy.journal, directory.file(name))) letters.push(letter)
  }
  for (const path of new Set(recovered.damage.map((part) => part.path))) await keepDamaged(path)
  const mustChange = fresh.length > 0 || recovered.damage.length > 0
  let checkpoint: Checkpoint | undefined
  // The sync of an unproven write may have failed before the process did: then it is in the kernel's memory only, and no other sync
  // writes it. It is written again, where there is room for that.
  if (mustChange || (policy.sync && recovered.unproven)) {
    try {
      checkpoint = await draftCheckpoint(directory, recovered, { files, letters }, policy)
    } catch (error) {
      if (mustChange) throw error
    }
  }
  const needless = files.map((name) => directory.file(name))
  if (checkpoint !== undefined) {
    await checkpoint.put()
    needless.push(...recovered.segments.map(({ path }) => path))
  }
  for (const path of needless) await removeIfThere(path)
  if (needless.length > 0) await directory.sync()
  return checkpoint?.start ?? recovered
}

/** Gives a damaged segment a second name, under which it stays when the first one is removed. */
async function keepDamaged(path: string): Promise<void> {
  try {
    await link(path, `${path}.damaged`)
  } catch (error) {
    // A segment that is missing has nothing to keep; one that has the name already was kept before a crash.
    if (codeOf(error) !== 'ENOENT' && codeOf(error) !== 'EEXIST') throw error
  }
}

function remainsOf(state: JournalState, texts: ReadonlyMap<number, string>): JournalRemains {
  const journalled = (position: number): JournalledUsage => {
    return { position, event: usageFromJson(JSON.parse(texts.get(position) as string)) }
  }
  const batches = [...state.batches.values()].map(({ id, positions }) => ({
    id,
    oldest: oldestOf(positions),
    positions,
  }))
  batches.sort((a, b) => a.oldest - b.oldest)
  const loose = [...state.events].filter(([, { batch }]) => batch === undefined).map(([position]) => position)
  loose.sort((a, b) => a - b)
  return {
    batches: batches.map(({ id, positions }) => ({ id, events: [...positions].map(journalled) })),
    events: loose.map(journalled),
  }
}

function oldestOf(positions: Iterable<number>): number {
  let oldest = Number.POSITIVE_INFINITY
  for (const position of positions) oldest = Math.min(oldest, position)
  return oldest
}
