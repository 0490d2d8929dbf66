import type { LedgerEntry, Loss } from './evidence.ts'
import { type Fault, type Path, pathsOf } from './faults.ts'
import type { Schedule } from './schedule.ts'

/** A fault that happened, in milliseconds since the epoch; `to` is when it was over and what was killed was back. */
export interface Happened {
  readonly fault: Fault
  readonly from: number
  /** When it was begun to be taken away: what was killed was not there until then, at least. */
  readonly healedFrom: number
  readonly to: number
}

/**
 * What waits in a gateway when all is well: a flush follows 100 ms after the first increment, 250 ms after the first use, when the one
 * before it is over, and then takes as long as it takes.
 */
const waitsMs: Readonly<Record<Path, number>> = { durable: 400, live: 400, usage: 600 }
/** What a journal has not brought to the disk. */
const journalMs = 400
/** Before a kill, the slowest answer within that time says how long a flush took; there may be one on its way, and one behind it. */
const latelyMs = 5_000
const flushes = 2
/** The last retry of that time may be as long before its end. */
const retryMs = 2_000
/** How long retries may wait after all is well again: up to 5 s between two, and up to 10 s for a service that was found to fail. */
const aftermathMs = 15_000
/** After SIGTERM a gateway is patient for so long. What stood in its way longer may have cost what waited. */
const patienceMs = 5_000

/**
 * Which answers of gateways the documents allow to be lost: of one that was killed, what waited in it. That is what came in the time of a
 * flush or two, or more where something was in the way of it. SIGTERM costs nothing, unless something was in the way for as long as it waits.
 */
export function lossesOf(
  happened: readonly Happened[],
  usage: Schedule['usage'],
  entries: readonly LedgerEntry[],
): Loss[] {
  return happened.flatMap((ending) => {
    const { kind, target } = ending.fault
    if ((kind !== 'kill' && kind !== 'terminate') || (target !== 'gateway-1' && target !== 'gateway-2')) return []
    return (['durable', 'live', 'usage'] as const).flatMap((path) => {
      const journal = path === 'usage' && usage[target].endsWith('journal')
      const others = happened.filter((other) => {
        if (other === ending) return false
        // A journal keeps what waits, unless its disk is in the way.
        return journal
          ? other.fault.kind === 'disk' && target === other.fault.target
          : pathsOf(other.fault, target).includes(path)
      })
      const calm =
        ending.from - (journal ? journalMs : waitsMs[path] + flushes * slowestMs(entries, target, ending.from))
      const from = extended(calm, ending.from, others)
      const disturbed = others.some(
        ({ from, to }) => from <= ending.from + patienceMs && to >= ending.from + patienceMs - retryMs,
      )
      if (kind === 'terminate' && (journal || !disturbed)) return []
      return [{ gateway: target, path, from, to: ending.to }]
    })
  })
}

/** How long the gateway's slowest answer took, of those that it gave lately. */
function slowestMs(entries: readonly LedgerEntry[], gateway: string, at: number): number {
  let slowest = 0
  for (const entry of entries) {
    if (entry.type !== 'add' || entry.gateway !== gateway || entry.status === 0) continue
    if (entry.endedAt > at || entry.endedAt < at - latelyMs) continue
    slowest = Math.max(slowest, entry.endedAt - entry.sentAt)
  }
  return slowest
}

/** Since when something may have waited: what was in the way before has made all wait that came since it began. */
function extended(calm: number, until: number, others: readonly Happened[]): number {
  let from = calm
  for (;;) {
    const earlier = others.filter((other) => other.from < from && other.to + aftermathMs >= from && other.from <= until)
    if (earlier.length === 0) return from
    from = Math.min(...earlier.map((other) => other.from)) - (until - calm)
  }
}
