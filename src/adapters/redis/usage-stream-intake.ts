import { describeError } from '../../core/events.js'
import type { AcceptedUsage } from '../../core/ports.js'
import { readEntry } from './usage-stream-entry.js'
import { Taken } from './usage-stream-lot.js'
import {
  claimPending,
  ensureGroup,
  keepHouse,
  leaveGroup,
  readNew,
  settleEntries,
  touchPending,
} from './usage-stream-scripts.js'
import type { UsageShards } from './usage-stream-shards.js'

/** Who reads, and what is told about it. */
export interface IntakeSetting {
  readonly group: string
  readonly consumer: string
  readonly claimIdleMs: number
  readonly trimEveryMs: number
  /** After how many deliveries an entry counts as suspect: a further one is counted only when it is tried. */
  readonly suspectFrom: number
  /** The group wasn't there any more. */
  readonly onGroupLost: () => void
  /** Entries came that had been delivered to others. */
  readonly onClaimed: (from: ReadonlyMap<string, number>) => void
  /** Entries had been deleted before they were done. */
  readonly onVanished: (entries: number) => void
}

/** What a look brought. */
export interface Delivery {
  readonly taken: readonly Taken[]
  /** Those that can't be read, and why. */
  readonly unreadable: readonly DeadEntry[]
}

/** An entry that is given up. */
export interface DeadEntry {
  readonly taken: Taken
  readonly reason: string
}

/** Numbers are texts where the client was told to make them so. */
type RawEntry = readonly [id: string, earlier: number | string, fields: readonly string[], whose: string]

/** After how many times `claimIdleMs` a consumer with nothing pending is removed. If it is alive after all it is back with its next look. */
const forgottenAfter = 10
/** What is given back has lain for so long that whoever looks first takes it: a day. */
const givenBackMs = 86_400_000
/** More of what some stranger put there doesn't fit a call of Lua. */
const mostFields = 4000

/** One worker's place in the consumer group of one shard: what it is delivered, holds, takes over and gives back. */
export class UsageIntake {
  readonly shard: number
  /** How the stream was when it last looked. */
  length = 0
  /** What the whole group had pending then. */
  groupPending = 0
  /** What the group wasn't delivered then; -1 where Redis doesn't know. */
  undelivered = 0
  trimmed = 0
  removedConsumers = 0
  readonly #shards: UsageShards
  readonly #setting: IntakeSetting
  readonly #held = new Map<string, Taken>()
  /** What was given back and whose delivery is to be taken back. */
  readonly #returned: Taken[] = []
  /** Something of its own may lie there that it hasn't in hand: from before it started, or of an answer that was lost. */
  #ownToClaim = true
  /** Others may have let something lie. */
  #othersToClaim = false

  constructor(shards: UsageShards, shard: number, setting: IntakeSetting) {
    this.#shards = shards
    this.shard = shard
    this.#setting = setting
  }

  /** What is in hand. */
  get held(): IterableIterator<Taken> {
    return this.#held.values()
  }

  get size(): number {
    return this.#held.size
  }

  /** Makes the group unless it is there. */
  async open(): Promise<void> {
    await this.#shards.run(ensureGroup, [this.#stream], [this.#setting.group], {
      operation: 'start',
      writes: false,
      timed: true,
    })
  }

  /** With its next look it also looks for what others have let lie. */
  claimSoon(): void {
    this.#othersToClaim = true
  }

  /** Takes in up to so many entries: its own first, then those of others, then new ones. */
  async take(room: number): Promise<Delivery> {
    const found: RawEntry[] = []
    const { connection } = this.#shards
    try {
      // Anew where Redis had lost what it knew.
      await this.#shards.checkLayout()
      if (this.#ownToClaim) {
        found.push(...(await this.#claim(room, '-1')))
        this.#ownToClaim = found.length >= room
      }
      if (found.length < room && this.#othersToClaim) {
        const left = room - found.length
        const claimed = await this.#claim(left, String(this.#setting.claimIdleMs))
        this.#othersToClaim = claimed.length >= left
        found.push(...claimed)
      }
      if (found.length < room) found.push(...(await this.#readNew(room - found.length)))
    } catch (error) {
      // Whatever it was delivered lies there under its name.
      this.#ownToClaim = true
      if (found.length === 0) throw error
    }
    // The client may have sent a call twice, and have heard only what the second one brought.
    if (this.#shards.connection !== connection) this.#ownToClaim = true
    return this.#hold(found)
  }

  /** Says that it still has what it has, so that nobody takes it over. */
  async touch(): Promise<void> {
    if (this.#held.size > 0) await this.#touch('0', 0, this.#held.keys())
  }

  /** Whether an entry was delivered so often that it is tried alone. */
  isSuspect({ earlier }: Taken): boolean {
    return earlier >= this.#setting.suspectFrom
  }

  /** Counts the delivery of a suspect, which is about to be tried. */
  async charge(entry: Taken): Promise<void> {
    await this.#touch('0', 1, [entry.id])
    entry.counted = true
  }

  /** Takes back the deliveries of entries that ended in an outage: those don't count. */
  async refund(entries: readonly Taken[]): Promise<void> {
    const due = entries.filter(({ counted, failedAlone }) => counted && !failedAlone)
    for (const entry of due) entry.counted = false
    if (due.length > 0) await this.#touch('0', -1, idsOf(due))
  }

  /**
   * Acknowledges entries, and moves those that are given up to the dead letters.
   *
   * @returns the ids of those that were moved: none that somebody else has acknowledged.
   */
  async settle(entries: readonly Taken[], dead: readonly DeadEntry[]): Promise<readonly string[]> {
    const args = [this.#setting.group, String(entries.length)]
    for (const { id } of entries) args.push(id)
    for (const { taken, reason } of dead) {
      const fields = taken.fields.slice(0, mostFields)
      args.push(taken.id, reason, String(taken.deliveries), String(fields.length), ...fields)
    }
    const call = { operation: 'settle', writes: true, timed: true }
    const keys = [this.#stream, this.#shards.dead(this.shard)]
    return (await this.#shards.run(settleEntries, keys, args, call)) as string[]
  }

  has(entry: Taken): boolean {
    return this.#held.get(entry.id) === entry
  }

  /** Lets an entry go that is done; whether it was in hand. */
  letGo(entry: Taken): boolean {
    return this.has(entry) && this.#held.delete(entry.id)
  }

  /** Lets an entry go that isn't done: it stays pending in Redis. */
  giveBack(entry: Taken): boolean {
    if (!this.letGo(entry)) return false
    this.#returned.push(entry)
    return true
  }

  /** Removes consumers that are gone, trims if it is time to, and looks how long the stream is. */
  async keepHouse(trimEveryMs: number = this.#setting.trimEveryMs): Promise<void> {
    const { group, consumer, claimIdleMs } = this.#setting
    const keys = [this.#stream, this.#shards.lease(this.shard)]
    const args = [group, consumer, String(claimIdleMs * forgottenAfter), String(trimEveryMs)]
    const call = { operation: 'housekeeping', writes: false, timed: true }
    const answer = (await this.#shards.run(keepHouse, keys, args, call)) as (number | string)[]
    const [removed, trimmed, length, pending, undelivered] = answer.map(Number) as [
      number,
      number,
      number,
      number,
      number,
    ]
    this.removedConsumers += removed
    this.trimmed += trimmed
    this.length = length
    this.groupPending = pending
    this.undelivered = undelivered
  }

  /** Gives back all that is its own, in hand or not, for others to take at once, and leaves the group. */
  async leave(): Promise<void> {
    await this.keepHouse(0)
    await this.refund(this.#returned.splice(0))
    if ((await this.#touch(String(givenBackMs), 0, [])) > 0) return
    const { group, consumer } = this.#setting
    const call = { operation: 'leave', writes: false, timed: true }
    await this.#shards.run(leaveGroup, [this.#stream], [group, consumer], call)
  }

  async #readNew(count: number): Promise<readonly RawEntry[]> {
    const { group, consumer, onGroupLost } = this.#setting
    const call = { operation: 'reading', writes: true, timed: true }
    const answer = await this.#shards.run(readNew, [this.#stream], [group, consumer, String(count)], call)
    const [made, length, entries] = answer as [number | string, number | string, RawEntry[]]
    this.length = Number(length)
    if (Number(made) === 1) {
      this.#shards.forgetLayout()
      onGroupLost()
    }
    return entries
  }

  async #claim(count: number, idleMs: string): Promise<readonly RawEntry[]> {
    const { group, consumer, suspectFrom, onClaimed, onVanished } = this.#setting
    const args = [group, consumer, String(count), idleMs, String(suspectFrom), ...this.#held.keys()]
    const call = { operation: 'claiming', writes: true, timed: true }
    const answer = await this.#shards.run(claimPending, [this.#stream], args, call)
    const [forgotten, entries] = answer as [number | string, RawEntry[]]
    const vanished = Number(forgotten)
    const from = new Map<string, number>()
    for (const [, , , whose] of entries) if (whose !== consumer) from.set(whose, (from.get(whose) ?? 0) + 1)
    if (from.size > 0) onClaimed(from)
    if (vanished > 0) onVanished(vanished)
    return entries
  }

  #hold(found: readonly RawEntry[]): Delivery {
    const taken: Taken[] = []
    const unreadable: DeadEntry[] = []
    for (const [id, earlier, fields] of found) {
      // A group that was made again delivers once more what is in hand: that will be acknowledged as it is.
      if (this.#held.has(id)) continue
      const { event, problem } = eventOf(fields, id, (first) => this.#shards.entryName(this.shard, first))
      const entry = new Taken(this.shard, id, fields, Number(earlier), event)
      entry.counted = !this.isSuspect(entry)
      if (problem === undefined) taken.push(entry)
      else unreadable.push({ taken: entry, reason: `can't be read: ${problem}` })
      this.#held.set(id, entry)
    }
    return { taken, unreadable }
  }

  async #touch(idleMs: string, more: -1 | 0 | 1, ids: Iterable<string>): Promise<number> {
    const { group, consumer } = this.#setting
    const call = { operation: 'keeping what it has', writes: false, timed: true }
    const args = [group, consumer, idleMs, String(more), ...ids]
    return Number(await this.#shards.run(touchPending, [this.#stream], args, call))
  }

  get #stream(): string {
    return this.#shards.stream(this.shard)
  }
}

function idsOf(entries: readonly Taken[]): string[] {
  return entries.map(({ id }) => id)
}

/** An entry's event, or what is wrong with it. */
function eventOf(
  fields: readonly string[],
  id: string,
  nameOf: (entryId: string) => string,
): { event: AcceptedUsage | undefined; problem?: string } {
  try {
    return { event: readEntry(fields, id, nameOf) }
  } catch (error) {
    const [problem = ''] = describeError(error).split('\n')
    return { event: undefined, problem }
  }
}
