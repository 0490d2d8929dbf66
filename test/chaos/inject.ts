import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import pg from 'pg'
import type { ProxyFaults } from 'spillway/testing'
import type { Fault, FaultKind, LinkName, PartName } from './faults.ts'
import type { System } from './system.ts'

/** Takes a fault away again, and waits until what was killed is back. */
type Heal = () => Promise<void> | void

/** What else a fault may need. */
export interface Tools {
  /** Has the load send more counters to a gateway than it has room for. */
  burst(gateway: string): void
}

const connectMs = 15_000

/** What is set on a way, for the faults that are no more than that. */
const linkFaults: Partial<Record<FaultKind, ProxyFaults>> = {
  delay: { latencyMs: 100, jitterMs: 800 },
  'half-open': { toClient: { frozen: true } },
  deaf: { toServer: { frozen: true } },
  trickle: { bytesPerSecond: 2_000 },
  refuse: { mode: 'refuse' },
  ignore: { mode: 'ignore' },
}

/** Makes something go wrong; undefined where that can't be done here. */
export async function inject(
  system: System,
  { kind, target, lastsMs }: Fault,
  tools: Tools,
): Promise<Heal | undefined> {
  if (target.includes('>')) return injectLink(system, kind, target as LinkName)
  switch (kind) {
    case 'kill':
    case 'terminate': {
      const part = system.part(target as PartName)
      await part.end(kind === 'kill' ? 'SIGKILL' : 'SIGTERM')
      return () => part.start()
    }
    case 'freeze': {
      const part = system.part(target as PartName)
      part.signal('SIGSTOP')
      return () => part.signal('SIGCONT')
    }
    case 'kill-redis':
      await system.redis.kill()
      return () => system.redis.restart()
    case 'freeze-redis':
      return freeze([await redisPid(system)])
    case 'pause-redis':
      await withRedis(system, (redis) => redis.call('CLIENT', 'PAUSE', String(lastsMs), 'ALL'))
      return () => undefined
    case 'kill-postgres':
      await system.postgres.kill()
      return () => system.postgres.restart()
    case 'shut-postgres': {
      const { postmaster } = await postgresPids(system)
      process.kill(postmaster, 'SIGQUIT')
      while (isThere(postmaster)) await delay(20)
      return () => system.postgres.restart()
    }
    case 'crash-postgres': {
      const { sessions } = await postgresPids(system)
      const [victim] = sessions
      if (victim !== undefined) process.kill(victim, 'SIGKILL')
      return () => undefined
    }
    case 'freeze-postgres': {
      const { postmaster } = await postgresPids(system)
      return freeze([postmaster, ...childrenOf(postmaster)])
    }
    case 'drop-sessions':
      await withPostgres(system, (client) =>
        client.query(
          'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename IS NOT NULL',
        ),
      )
      return () => undefined
    case 'lock':
      return lock(system, target)
    case 'burst': {
      const unlock = await lock(system, 'spillway_counters')
      tools.burst(target)
      return unlock
    }
    case 'disk':
      if (system.disk === undefined) return undefined
      system.disk.fill()
      return () => system.disk?.free()
    default:
      return undefined
  }
}

function injectLink(system: System, kind: FaultKind, link: LinkName): Heal | undefined {
  const proxy = system.proxies.get(link)
  if (proxy === undefined) return undefined
  if (kind === 'cut') {
    proxy.cut()
    return () => undefined
  }
  if (kind === 'lose-answers') {
    // Of what the load asks for, one in twelve is made under a key, one in five changes money: those that come again are the point.
    proxy.loseAnswers(link.startsWith('load>') ? 25 : 3)
    return () => proxy.heal()
  }
  const faults = linkFaults[kind]
  if (faults === undefined) return undefined
  proxy.set(faults)
  if (faults.mode === undefined) return () => proxy.heal()
  proxy.cut()
  return () => {
    // What was ignored stays so, until it is cut.
    proxy.cut()
    proxy.heal()
  }
}

/** Those that have ended meanwhile are left out. */
function freeze(pids: readonly number[]): Heal {
  const signalAll = (signal: 'SIGSTOP' | 'SIGCONT'): void => {
    for (const pid of pids) {
      try {
        process.kill(pid, signal)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
      }
    }
  }
  signalAll('SIGSTOP')
  return () => signalAll('SIGCONT')
}

/** Holds a table, as a session that has forgotten its transaction does. */
async function lock(system: System, table: string): Promise<Heal> {
  const client = await connectPostgres(system)
  await client.query('BEGIN')
  await client.query("SET LOCAL lock_timeout = '2s'")
  // Where others are too busy to let it have the lock, there is none.
  await client.query(`LOCK TABLE ${table} IN EXCLUSIVE MODE`).catch(() => undefined)
  return async () => {
    await client.query('ROLLBACK').catch(() => undefined)
    await client.end().catch(() => undefined)
  }
}

async function redisPid(system: System): Promise<number> {
  const info = await withRedis(system, (redis) => redis.info('server'))
  return Number(/process_id:(\d+)/.exec(String(info))?.[1])
}

async function withRedis<T>(system: System, ask: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(system.redis.url, { lazyConnect: true })
  redis.on('error', () => undefined)
  try {
    await redis.connect()
    return await ask(redis)
  } finally {
    redis.disconnect()
  }
}

async function withPostgres<T>(system: System, ask: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = await connectPostgres(system)
  try {
    return await ask(client)
  } finally {
    await client.end().catch(() => undefined)
  }
}

/** After a crash, or while it is away, the server takes nobody for a while. */
async function connectPostgres(system: System): Promise<pg.Client> {
  for (const deadline = performance.now() + connectMs; ; await delay(100)) {
    const client = new pg.Client({ connectionString: system.postgres.url })
    client.on('error', () => undefined)
    try {
      await client.connect()
      return client
    } catch (error) {
      await client.end().catch(() => undefined)
      if (performance.now() > deadline) throw error
    }
  }
}

/** The process that all others of the server descend from, and the sessions of the example. */
async function postgresPids(system: System): Promise<{ postmaster: number; sessions: number[] }> {
  return withPostgres(system, async (client) => {
    const { rows } = await client.query<{ pid: number; own: boolean }>(
      `SELECT pid, pid = pg_backend_pid() AS own FROM pg_stat_activity WHERE backend_type = 'client backend'`,
    )
    const self = rows.find(({ own }) => own)?.pid as number
    return { postmaster: parentOf(self), sessions: rows.filter(({ own }) => !own).map(({ pid }) => pid) }
  })
}

function childrenOf(parent: number): number[] {
  const pids = readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .map(Number)
  return pids.filter((pid) => parentOf(pid) === parent)
}

/** The field after the name, which is in brackets and may hold anything, and the state. */
function parentOf(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
  } catch {
    return 0
  }
}

function isThere(pid: number): boolean {
  try {
    // A process that has ended and waits to be reaped is none.
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2)[0] !== 'Z'
  } catch {
    return false
  }
}
