import type { AddEntry, Book, Evidence, Loss, ReadEntry } from './evidence.ts'
import type { Path } from './faults.ts'

/** What a key must hold: at least what was answered and can't have been lost, at most that and all that may have been done. */
class Bounds {
  least = 0
  acked = 0
  most = 0
}

/**
 * The durable values: an answer of `committed` is for good, as any is under a key; each of the others is, unless its gateway was killed
 * right after it.
 */
export function durableBook({ entries, losses, stored }: Evidence): Book {
  const adds = addsIn(entries)
  const bounds = boundsOf(adds, losses, 'durable', ({ ack, keyed }) => ack === 'committed' || keyed === true)
  const book = compare('durable counters', bounds, stored.durable)
  return { ...book, problems: [...oddAnswers(adds), ...book.problems] }
}

/** What a good request is answered with while things go wrong; 0 is no answer. Anything else would be taken for a refusal in silence. */
const statuses = [0, 200, 202, 207, 429, 502, 503, 504]

function oddAnswers(adds: readonly AddEntry[]): string[] {
  const odd = adds.filter(({ status }) => !statuses.includes(status))
  return odd.map(({ status, operations: [first] }) => `${first?.[0]} was answered with ${status}`)
}

/** The live values: the same with `redis`. They may lack what waited in a gateway that was killed. */
export function liveBook({ entries, losses, stored }: Evidence): Book {
  const bounds = boundsOf(addsIn(entries), losses, 'live', ({ ack }) => ack === 'redis')
  return compare('live counters', bounds, stored.live)
}

/** Metered uses: one for each increment that was answered. They go behind the answer, whatever that waited for. */
export function meteredBook({ entries, losses, stored }: Evidence): Book {
  const uses = addsIn(entries).map((entry): AddEntry => {
    const { user } = entry
    return { ...entry, operations: user === undefined ? [] : entry.operations.map(([, , fate]) => [user, 1, fate]) }
  })
  return compare(
    'metered uses',
    boundsOf(uses, losses, 'usage', () => false),
    stored.metered,
  )
}

function addsIn(entries: Evidence['entries']): AddEntry[] {
  return entries.filter((entry) => entry.type === 'add')
}

function boundsOf(
  adds: readonly AddEntry[],
  losses: readonly Loss[],
  path: Path,
  isForGood: (entry: AddEntry) => boolean,
): Map<string, Bounds> {
  const bounds = new Map<string, Bounds>()
  for (const entry of adds) {
    const safe = isForGood(entry) || !mayBeLost(entry, losses, path)
    for (const [key, delta, fate] of entry.operations) {
      const bound = bounds.get(key) ?? new Bounds()
      bounds.set(key, bound)
      if (fate === 'refused') continue
      bound.most += delta
      if (fate !== 'acked') continue
      bound.acked += delta
      if (safe) bound.least += delta
    }
  }
  return bounds
}

function mayBeLost({ gateway, endedAt, keyed }: AddEntry, losses: readonly Loss[], path: Path): boolean {
  // Under a key the live value follows the durable one, and may stay behind: the log says so.
  if (keyed === true && path === 'live') return true
  return losses.some(
    (loss) => loss.gateway === gateway && loss.path === path && endedAt >= loss.from && endedAt <= loss.to,
  )
}

function compare(name: string, bounds: ReadonlyMap<string, Bounds>, stored: ReadonlyMap<string, number>): Book {
  const problems: string[] = []
  const sums = { acked: 0, unknown: 0, stored: 0, lost: 0 }
  for (const [key, { least, acked, most }] of bounds) {
    const value = stored.get(key) ?? 0
    sums.acked += acked
    sums.unknown += most - acked
    sums.stored += value
    sums.lost += Math.max(0, acked - value)
    if (value < least) {
      problems.push(`${key} LOST ${least - value}: ${value} stored, ${least} acknowledged beyond what a kill may cost`)
    }
    if (value > most) problems.push(`${key} DOUBLED ${value - most}: ${value} stored, ${most} at the most were sent`)
  }
  for (const [key, value] of stored) {
    if (!bounds.has(key)) problems.push(`${key} was never sent, and ${value} is stored`)
  }
  const compared =
    `${bounds.size} keys: ${sums.acked} acknowledged, ${sums.unknown} unknown, ${sums.stored} stored` +
    (sums.lost > 0 ? `, ${sums.lost} lost as a kill may` : '')
  return { name, compared, proved: sums.acked, problems }
}

/**
 * No gateway tells a value that is older than one it told before the question came; and as deltas are positive, no two increments are
 * answered with one value, and none is read that is more than there is in the end.
 */
export function readsBook({ entries, absences, stored }: Evidence): Book {
  const told = new Map<string, { at: number; value: number }[]>()
  const reads: (ReadEntry & { readonly place: string })[] = []
  const answers = new Set<string>()
  const problems: string[] = []
  const epochOf = (gateway: string, at: number): number =>
    absences.filter((absence) => absence.gateway === gateway && absence.from <= at).length
  /** Within one life of the gateway, or undefined where it can't be told in which it was answered. */
  const placeOf = (gateway: string, source: string, key: string, from: number, to: number): string | undefined => {
    const epoch = epochOf(gateway, from)
    return epoch === epochOf(gateway, to) ? `${gateway} ${epoch} ${source} ${key}` : undefined
  }
  const tell = (place: string | undefined, at: number, value: number): void => {
    if (place === undefined) return
    const list = told.get(place)
    if (list === undefined) told.set(place, [{ at, value }])
    else list.push({ at, value })
  }
  for (const entry of entries) {
    if (entry.type === 'read') {
      const { gateway, source, key, sentAt, endedAt, value, fresh } = entry
      const end = stored[source].get(key) ?? 0
      if (value > end) {
        problems.push(`${gateway} answered ${value} for ${key} (${source}), and there are only ${end} in the end`)
      }
      const place = placeOf(gateway, source, key, sentAt, endedAt)
      if (place !== undefined) reads.push({ ...entry, place })
      if (fresh) tell(place, endedAt, value)
    }
    if (entry.type !== 'add' || entry.ack === 'accepted') continue
    const source = entry.ack === 'redis' ? 'live' : 'durable'
    for (const [key, , fate, value] of entry.operations) {
      if (fate !== 'acked' || value === undefined) continue
      // What is answered again under its key was told before, by another one perhaps.
      if (entry.keyed !== true)
        tell(placeOf(entry.gateway, source, key, entry.sentAt, entry.endedAt), entry.endedAt, value)
      const answer = `${source} ${key} ${value}`
      if (answers.has(answer)) problems.push(`two increments of ${key} were answered with ${value} (${source})`)
      answers.add(answer)
    }
  }
  problems.push(...staleReads(reads, told))
  const compared = `${reads.length} reads, ${answers.size} answered values`
  return { name: 'reads', compared, proved: reads.length, problems }
}

function staleReads(
  reads: readonly (ReadEntry & { readonly place: string })[],
  told: ReadonlyMap<string, { at: number; value: number }[]>,
): string[] {
  const problems: string[] = []
  for (const list of told.values()) {
    list.sort((a, b) => a.at - b.at)
    // Each has the most that was told until then.
    let most = 0
    for (const one of list) most = one.value = Math.max(most, one.value)
  }
  for (const { place, sentAt, value, key, gateway, source } of reads) {
    const before = lastBefore(told.get(place) ?? [], sentAt)
    if (before !== undefined && value < before.value) {
      problems.push(`${gateway} answered ${value} for ${key} (${source}), after it had told ${before.value}`)
    }
  }
  return problems
}

/** The last that was before a time, of a list in order. */
function lastBefore(list: readonly { at: number; value: number }[], time: number): { value: number } | undefined {
  let from = 0
  let to = list.length
  while (from < to) {
    const middle = (from + to) >> 1
    if ((list[middle] as { at: number }).at < time) from = middle + 1
    else to = middle
  }
  return list[from - 1]
}
