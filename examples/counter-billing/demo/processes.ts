import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { Closable } from 'spillway/process'
import { defaultTariff } from '../billing/tariff.ts'
import { openUsageStream } from '../billing/usage-stream.ts'
import type { Binary } from '../binaries.ts'
import { consulOf } from '../config/options.ts'
import type { SomeValues } from '../config/settings.ts'
import type { StoresOptions } from '../counter/stores.ts'
import { type Supervised, Supervisor } from '../supervisor.ts'
import { findConsul, missingConsul, startConsul } from './consul.ts'
import { streamProcesses } from './options.ts'
import type { DemoParts, DemoServices } from './parts.ts'
import { findPostgres, missingPostgres, startPostgres } from './postgres.ts'
import { during, Progress, printed } from './progress.ts'
import { findRedis, missingRedis, startRedis } from './redis.ts'
import type { DemoServer } from './server.ts'

/** Gateways, and counter services where nobody says how many. */
const gateways = 2
const usualInstances = 2
/** How long workers may take over what gateways have published, when all is closed. */
const drainMs = 5_000

/** A server, and where it is from. */
interface FoundServer {
  readonly url: string
  readonly from: 'named' | 'started'
}

/** Starts each service in processes of its own, on real servers, watched over by a supervisor. They find each other through Consul. */
export async function startApart(parts: DemoParts): Promise<DemoServices> {
  const { options, log } = parts
  const named = parts.storesOptions()
  const consulUrl = consulOf(options.config.values)
  const postgres = await serverFor(parts, 'PostgreSQL', named.databaseUrl, findPostgres, startPostgres)
  if (postgres === undefined)
    throw new Error(`--processes needs PostgreSQL, which all of them share: ${missingPostgres}`)
  const redis = await serverFor(parts, 'Redis', named.redisUrl, findRedis, startRedis)
  if (redis === undefined) throw new Error(`--processes needs Redis, which all of them share: ${missingRedis}`)
  const consul = await serverFor(parts, 'Consul', consulUrl, findConsul, startConsul)
  if (consul === undefined) printed(`No Consul, so gateways are told where the services are: ${missingConsul}.`)
  const servers: StoresOptions = { ...named, databaseUrl: postgres.url, redisUrl: redis.url }
  const stores = await parts.openStores(servers)

  const supervisor = new Supervisor({ log, tell: parts.tell })
  const isStreamed = options.config.sources['services.usage'] === 'default' || options.usage === 'stream'
  const instances = options.instances ?? usualInstances
  const progress = new Progress('services start')
  parts.keepOpen({ name: 'progress', close: () => progress.end() })
  const startAll = async (name: string, role: string, count: number, portFlag: string | undefined, own: SomeValues) => {
    const members = await startKind(parts, supervisor, { name, role, count, portFlag, own })
    const [running, all] = [
      supervisor.parts.filter(({ pid }) => pid > 0).length,
      2 + instances + gateways + (isStreamed ? streamProcesses : 0),
    ]
    progress.set(running / all, `${running} of ${all} processes`)
    return members
  }
  const common: SomeValues = {
    'services.redisUrl': redis.url,
    'services.databaseUrl': postgres.url,
    'consul.address': consul?.url,
    // A page of one counter service has a neighbour at another.
    'query.cursorSecrets': options.config.values['query.cursorSecrets'] ?? [randomUUID()],
  }
  const [authService] = await startAll('auth', 'auth', 1, 'auth-port', {})
  const auth = authService?.address ?? ''
  const [counters, billing] = await Promise.all([
    startAll('counters', 'counters', instances, 'grpc-port', {
      ...common,
      ...parts.identity(auth, 'counter-service'),
    }),
    startAll('billing', 'billing', 1, 'billing-port', { ...common, 'services.authUrl': auth }),
  ])
  if (isStreamed) {
    await startAll('usage worker', 'usage-worker', streamProcesses, undefined, common)
    parts.keepOpen(drain(servers))
  }
  const listed = (members: readonly Supervised[]): string => members.map(({ address }) => address).join(',')
  const doors = await startAll('gateway', 'gateway', gateways, 'port', {
    ...common,
    ...parts.identity(auth, 'gateway'),
    'api.dashboard': true,
    // The load is one caller, who may make as many requests as he likes.
    'api.rateLimit.enabled': false,
    'services.usage': isStreamed ? 'stream' : 'billing',
    'services.counters': consul === undefined ? listed(counters) : undefined,
    'services.billing': consul === undefined ? listed(billing) : 'consul',
  })
  progress.end()
  const places = (): (readonly [string, string])[] => [
    ...supervisor.parts.map(({ name, address, pid, restarts }) => {
      const again = restarts === 0 ? '' : `, started ${restarts + 1} times`
      return [name, `${address || '–'}  process ${pid}${again}`] as const
    }),
    ...Object.entries({ PostgreSQL: postgres, Redis: redis, Consul: consul }).flatMap(([name, server]) =>
      server === undefined ? [] : [[name, `${new URL(server.url).host}  ${server.from}`] as const],
    ),
  ]
  return { stores, servers, fleet: counters, auth, urls: doors.map(({ address }) => address), isStreamed, places }
}

/** The server that is named, or one that the demo starts, if there is a program for it. */
async function serverFor(
  parts: DemoParts,
  name: string,
  url: string | undefined,
  find: () => Binary | undefined,
  start: (binary: Binary) => Promise<DemoServer>,
): Promise<FoundServer | undefined> {
  if (url !== undefined) return { url, from: 'named' }
  const binary = find()
  if (binary === undefined) return undefined
  return { url: parts.keepOpen(await during(`${name} starts`, start(binary))).url, from: 'started' }
}

interface Kind {
  readonly name: string
  readonly role: string
  readonly count: number
  readonly portFlag: string | undefined
  readonly own: SomeValues
}

async function startKind(parts: DemoParts, supervisor: Supervisor, kind: Kind): Promise<Supervised[]> {
  const { name, role, count, portFlag, own } = kind
  const secrets = role === 'auth' ? { AUTH_CLIENT_SECRETS: JSON.stringify(parts.secrets) } : { AUTH_CLIENT_SECRETS: '' }
  const starting = supervisor.start(
    `${name} processes`,
    Array.from({ length: count }, (_, index) => ({
      name: count === 1 ? name : `${name} ${index + 1}`,
      flags: ['--role', role],
      ...(portFlag !== undefined && { portFlag }),
      env: { ...parts.environment(`${role}-${index + 1}`, own), ...secrets },
    })),
  )
  const { members, closable } = await starting
  parts.keepOpen(closable)
  return members
}

/** Closed between gateways and workers: what those have published, these are to account before they end. */
function drain(stores: StoresOptions): Closable {
  const close = async (): Promise<void> => {
    const { stream, close } = await openUsageStream({ stores, tariff: defaultTariff })
    try {
      for (const deadline = Date.now() + drainMs; Date.now() < deadline; await delay(50)) {
        const { groups, length } = await stream.status()
        const [group] = groups
        if ((group?.pending ?? 0) + (group?.undelivered ?? length) === 0) return
      }
    } finally {
      await close()
    }
  }
  return { name: 'stream of usage', close }
}
