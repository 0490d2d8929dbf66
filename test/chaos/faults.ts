/** The processes of the system that are the example's own, and the one that publishes usage by itself. */
export const parts = [
  ...['gateway-1', 'gateway-2', 'counters-1', 'counters-2', 'billing-1', 'billing-2'],
  ...['worker-1', 'worker-2', 'auth', 'publisher'],
] as const

export type PartName = (typeof parts)[number]

/** Who connects to whom: each way leads through a proxy of its own. */
export const links = [
  ...(['gateway-1', 'gateway-2'] as const).flatMap((gateway) => [
    `load>${gateway}` as const,
    `${gateway}>counters-1` as const,
    `${gateway}>counters-2` as const,
    `${gateway}>billing-1` as const,
    `${gateway}>billing-2` as const,
    `${gateway}>redis` as const,
    `${gateway}>auth` as const,
  ]),
  ...(['counters-1', 'counters-2'] as const).flatMap((service) => [
    `${service}>redis` as const,
    `${service}>postgres` as const,
    `${service}>auth` as const,
  ]),
  ...(['billing-1', 'billing-2'] as const).flatMap((service) => [
    `${service}>postgres` as const,
    `${service}>auth` as const,
  ]),
  ...(['worker-1', 'worker-2'] as const).flatMap((worker) => [
    `${worker}>redis` as const,
    `${worker}>postgres` as const,
  ]),
  'publisher>redis' as const,
] as const

export type LinkName = (typeof links)[number]

/** What each kind of fault does, for people, what it is done to, and how long it may last, in milliseconds. */
export const faults = {
  kill: { does: 'SIGKILL, and a new start after that time', to: parts, lastsMs: [200, 3_000] },
  terminate: { does: 'SIGTERM, and a new start after that time', to: parts, lastsMs: [200, 2_000] },
  freeze: { does: 'SIGSTOP, and SIGCONT after that time', to: parts, lastsMs: [500, 6_000] },
  'kill-redis': {
    does: 'SIGKILL of redis-server, which has an append-only file',
    to: ['redis'],
    lastsMs: [200, 3_000],
  },
  'freeze-redis': { does: 'SIGSTOP of redis-server', to: ['redis'], lastsMs: [500, 6_000] },
  'pause-redis': { does: 'CLIENT PAUSE', to: ['redis'], lastsMs: [500, 4_000] },
  'kill-postgres': { does: 'SIGKILL of all processes of PostgreSQL', to: ['postgres'], lastsMs: [200, 3_000] },
  'shut-postgres': { does: 'the immediate shutdown of PostgreSQL', to: ['postgres'], lastsMs: [200, 3_000] },
  'crash-postgres': {
    does: 'SIGKILL of one backend, so that PostgreSQL recovers',
    to: ['postgres'],
    lastsMs: [100, 100],
  },
  'freeze-postgres': { does: 'SIGSTOP of all processes of PostgreSQL', to: ['postgres'], lastsMs: [500, 6_000] },
  'drop-sessions': { does: 'pg_terminate_backend of all sessions', to: ['postgres'], lastsMs: [100, 100] },
  lock: {
    does: 'a lock on the table by another session',
    to: ['spillway_counters', 'spillway_usage', 'billing_requests'],
    lastsMs: [1_000, 6_000],
  },
  burst: {
    does: 'more counters than may wait, while the table of counters is locked',
    to: ['gateway-1', 'gateway-2'],
    lastsMs: [2_000, 4_000],
  },
  disk: { does: 'a disk without room under journal and log', to: ['gateway-1'], lastsMs: [1_000, 5_000] },
  cut: { does: 'all connections reset', to: links, lastsMs: [100, 100] },
  delay: { does: '100 to 900 ms more each way', to: links, lastsMs: [1_000, 5_000] },
  'half-open': { does: 'the server hears, and the client hears nothing', to: links, lastsMs: [1_000, 6_000] },
  deaf: { does: 'the server hears nothing', to: links, lastsMs: [1_000, 6_000] },
  refuse: { does: 'connections cut, new ones refused', to: links, lastsMs: [500, 5_000] },
  ignore: { does: 'connections cut, new ones accepted and ignored', to: links, lastsMs: [500, 5_000] },
  'lose-answers': { does: 'answers swallowed, and the connection reset', to: links, lastsMs: [2_000, 5_000] },
  trickle: { does: '2,000 bytes a second', to: links, lastsMs: [1_000, 4_000] },
} as const satisfies Record<string, { does: string; to: readonly string[]; lastsMs: readonly [number, number] }>

export type FaultKind = keyof typeof faults

export const faultKinds = Object.keys(faults) as FaultKind[]

/** Something that is to go wrong. */
export interface Fault {
  /** Since the load began. */
  readonly atMs: number
  readonly lastsMs: number
  readonly kind: FaultKind
  readonly target: string
}

/** What may be in the way of an answered write, each by itself. */
export type Path = 'durable' | 'live' | 'usage'

const all: readonly Path[] = ['durable', 'live', 'usage']

/**
 * Which paths from a gateway to the stores a fault lies on: while it lasts, what the gateway has accepted may wait there. What it lies on
 * for certain is not the question, but what it can't be blamed for.
 */
export function pathsOf({ kind, target }: Pick<Fault, 'kind' | 'target'>, gateway: string): readonly Path[] {
  if (kind === 'lock')
    return target === 'spillway_counters' ? ['durable'] : target === 'spillway_usage' ? ['usage'] : []
  if (kind === 'burst') return all
  if (target === 'redis') return ['live', 'usage']
  if (target === 'postgres') return ['durable', 'usage']
  const [from = '', to] = target.split('>')
  if (to === undefined) return pathsOfPart(from, gateway)
  if (from.startsWith('gateway')) return from === gateway ? pathsOfPart(to, gateway) : []
  if (to === 'auth') return pathsOfPart(from, gateway)
  if (from.startsWith('counters')) return [to === 'redis' ? 'live' : 'durable']
  return from.startsWith('billing') ? ['usage'] : []
}

function pathsOfPart(part: string, gateway: string): readonly Path[] {
  if (part === gateway || part === 'auth') return all
  if (part.startsWith('counters')) return ['durable', 'live']
  return part.startsWith('billing') || part === 'redis' ? ['usage'] : []
}
