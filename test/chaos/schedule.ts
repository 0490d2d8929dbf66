import { seededRandom } from 'spillway/testing'
import { type Fault, type FaultKind, faultKinds, faults } from './faults.ts'

/** How a gateway hands usage on. */
export type UsageWay = 'journal' | 'memory' | 'stream' | 'stream and journal'

/** All that a seed decides. */
export interface Schedule {
  readonly seed: number
  readonly seconds: number
  readonly usage: Readonly<Record<'gateway-1' | 'gateway-2', UsageWay>>
  readonly faults: readonly Fault[]
}

export interface ScheduleOptions {
  readonly seed: number
  /** How long the load lasts; faults end before it does. */
  readonly seconds: number
  /** Kinds that may come; all by default. */
  readonly kinds?: readonly FaultKind[] | undefined
}

/** Nothing goes wrong before that, and the first to go wrong stands alone: what is lost then has nothing else to blame. */
const beginMs = 2_500
const aloneMs = 2_500
/** The load has as long without faults in the end. */
const calmMs = 2_000
/**
 * For how long the uses of a gateway with a journal can't go on any more then, and when it is killed in the midst of that: what it was told by
 * then it must have again when it is back.
 */
const journalled = { lastsMs: 3_500, killAfterMs: 1_500, awayMs: 500 } as const
/** How long a target is left alone after a fault. */
const restMs = 1_500
/** Faults that may last at the same time. */
const atOnce = 2

/** Makes the same schedule for the same seed, length and kinds. */
export function scheduleOf({ seed, seconds, kinds = faultKinds }: ScheduleOptions): Schedule {
  const random = seededRandom(`chaos ${seed}`)
  const between = (from: number, to: number): number => Math.round(from + (to - from) * random())
  const oneOf = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T
  const usage = {
    'gateway-1': oneOf(['journal', 'journal', 'stream and journal'] as const),
    'gateway-2': oneOf(['memory', 'stream', 'journal'] as const),
  }
  const planned: Fault[] = []
  const endMs = seconds * 1_000 - calmMs
  let deck: FaultKind[] = []
  let atMs = beginMs
  if (kinds.includes('kill')) {
    planned.push({ atMs, kind: 'kill', target: oneOf(['gateway-1', 'gateway-2']), lastsMs: between(200, 1_000) })
    atMs += aloneMs
  }
  planned.push(...journalledKill(usage['gateway-1'], endMs, kinds))
  while (atMs < endMs) {
    if (deck.length === 0) deck = shuffled(kinds, random)
    const kind = deck.pop() as FaultKind
    const { to, lastsMs } = faults[kind]
    const fault: Fault = { atMs, kind, target: oneOf<string>(to), lastsMs: between(lastsMs[0], lastsMs[1]) }
    if (atMs + fault.lastsMs <= endMs && isPossible(fault, planned)) planned.push(fault)
    atMs += between(400, 1_800)
  }
  return { seed, seconds, usage, faults: planned.sort((a, b) => a.atMs - b.atMs) }
}

/** A kill of gateway-1, which always has a journal, while its way to where uses are counted is closed. */
function journalledKill(way: UsageWay, endMs: number, kinds: readonly FaultKind[]): Fault[] {
  const { lastsMs, killAfterMs, awayMs } = journalled
  const atMs = beginMs + aloneMs
  const inTheWay = way.startsWith('stream')
    ? ({ kind: 'pause-redis', target: 'redis' } as const)
    : ({ kind: 'lock', target: 'spillway_usage' } as const)
  if (atMs + lastsMs > endMs || !kinds.includes('kill') || !kinds.includes(inTheWay.kind)) return []
  return [
    { atMs, ...inTheWay, lastsMs },
    { atMs: atMs + killAfterMs, kind: 'kill', target: 'gateway-1', lastsMs: awayMs },
  ]
}

/** Whether it leaves alone what something else is being done to, and isn't one too many. */
function isPossible(fault: Fault, planned: readonly Fault[]): boolean {
  const within = (ms: number) => (other: Fault) =>
    fault.atMs < other.atMs + other.lastsMs + ms && other.atMs < fault.atMs + fault.lastsMs + ms
  const near = planned.filter(within(restMs))
  const meanwhile = near.filter(within(0))
  return (
    meanwhile.length < atOnce && !near.some((other) => subjects(other).some((one) => subjects(fault).includes(one)))
  )
}

/** What a fault is done to: a way is not to be broken while an end of it is. */
function subjects({ kind, target }: Fault): string[] {
  if (kind === 'lock' || kind === 'burst') return ['postgres', target]
  return target.split('>')
}

function shuffled<T>(list: readonly T[], random: () => number): T[] {
  const deck = [...list]
  for (let left = deck.length; left > 1; left--) {
    const other = Math.floor(random() * left)
    const last = deck[left - 1] as T
    deck[left - 1] = deck[other] as T
    deck[other] = last
  }
  return deck
}
