import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { FaultProxy, seededRandom } from 'spillway/testing'
import { type PostgresServer, startPostgres } from '../servers/postgres.ts'
import { type OwnRedisServer, startRedis } from '../servers/redis.ts'
import { mountSmallDisk, type SmallDisk } from '../servers/small-disk.ts'
import { type LinkName, links, type PartName, parts } from './faults.ts'
import { Part } from './part.ts'
import type { Programs } from './programs.ts'
import type { Schedule, UsageWay } from './schedule.ts'
import { steadyPort } from './steady-port.ts'

/** What a use costs: little of it is free, so that money is soon taken. */
const tariff = {
  'counter-writes': { free: 1_000_000_000, period: 'month' },
  print: { free: 10, period: 'month', price: 3 },
}

/** Tokens are short-lived, so that they are renewed while things go wrong. */
const tokenLifeSeconds = 20
const issuer = 'http://auth.chaos.invalid'
const diskKilobytes = 16_384

/** What all processes of a run have in their environment, so that none is forgotten. */
export const mark = 'SPILLWAY_CHAOS_RUN'

/** The whole system, in processes of its own, with a proxy on each way. */
export class System implements AsyncDisposable {
  readonly parts: ReadonlyMap<PartName, Part>
  readonly proxies: ReadonlyMap<LinkName, FaultProxy>
  readonly redis: OwnRedisServer
  readonly postgres: PostgresServer
  /** A disk that may be filled; undefined where none can be mounted. */
  readonly disk: SmallDisk | undefined
  readonly folder: string
  /** Where each part answers /metrics, past all proxies; gateways answer all else there, too. */
  readonly ports: ReadonlyMap<PartName, number>

  /** A run that is cut short must not leave processes or a mounted disk behind. */
  readonly #onExit = (): void => {
    for (const part of this.parts.values()) part.child?.kill('SIGKILL')
    this.disk?.[Symbol.dispose]()
  }

  private constructor(
    servers: { redis: OwnRedisServer; postgres: PostgresServer; disk: SmallDisk | undefined },
    made: Pick<System, 'parts' | 'proxies' | 'ports' | 'folder'>,
  ) {
    this.redis = servers.redis
    this.postgres = servers.postgres
    this.disk = servers.disk
    this.parts = made.parts
    this.proxies = made.proxies
    this.ports = made.ports
    this.folder = made.folder
    process.once('exit', this.#onExit)
  }

  /** Starts all of it, in the order in which they need each other. */
  static async start(schedule: Schedule, programs: Programs, folder: string): Promise<System> {
    // What it acknowledges is on its disk then: the books could not be exact with `everysec`, which a kill may cost a second.
    const redis = await startRedis({ own: true, appendonly: true, appendfsync: 'always' })
    const postgres = await startPostgres(undefined, { own: true, settings: { max_connections: '150' } })
    if (redis === undefined || postgres === undefined) throw new Error('it needs a Redis and a PostgreSQL of its own')
    // To be unmounted also from under a process that should not be there any more: that is told by who looks for it.
    const disk = mountSmallDisk(diskKilobytes, true)
    const system = await System.#build(schedule, programs, folder, { redis, postgres, disk })
    for (const names of [['auth'], ['counters-1', 'counters-2', 'billing-1', 'billing-2'], undefined] as const) {
      const started = names ?? parts.filter((name) => system.part(name).starts === 0)
      await Promise.all(started.map((name) => system.part(name).start()))
    }
    return system
  }

  static async #build(
    schedule: Schedule,
    programs: Programs,
    folder: string,
    servers: { redis: OwnRedisServer; postgres: PostgresServer; disk: SmallDisk | undefined },
  ): Promise<System> {
    const { redis, postgres, disk } = servers
    const ports = new Map<PartName, number>()
    const services = new Map<PartName, number>()
    const taken = new Set<number>()
    for (const name of parts) {
      const port = await steadyPort(taken)
      ports.set(name, port)
      services.set(name, name.startsWith('gateway') ? port : await steadyPort(taken))
    }
    const random = seededRandom(`proxies ${schedule.seed}`)
    const proxies = new Map<LinkName, FaultProxy>()
    for (const link of links) {
      const to = link.slice(link.indexOf('>') + 1)
      const port =
        to === 'redis'
          ? redis.port
          : to === 'postgres'
            ? Number(new URL(postgres.url).port)
            : services.get(to as PartName)
      const proxy = new FaultProxy({ port: port as number, random })
      await proxy.start()
      proxies.set(link, proxy)
    }
    const tariffFile = join(folder, 'tariff.json')
    writeFileSync(tariffFile, JSON.stringify(tariff))
    const journals = join(disk?.path ?? folder, 'journals')
    mkdirSync(journals)
    const wiring = { schedule, proxies, ports, services, postgres, tariffFile, journals, folder, disk }
    const made = parts.map((name): [PartName, Part] => [name, new Part(partOptions(name, programs, wiring))])
    return new System(servers, { parts: new Map(made), proxies, ports, folder })
  }

  part(name: PartName): Part {
    return this.parts.get(name) as Part
  }

  /** Takes away what is wrong with the ways. */
  heal(): void {
    for (const proxy of this.proxies.values()) proxy.heal()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const part of this.parts.values()) {
      part.signal('SIGCONT')
      await part.end('SIGKILL')
    }
    for (const proxy of this.proxies.values()) await proxy.stop()
    await this.redis.stop()
    await this.postgres.stop()
    this.disk?.[Symbol.dispose]()
    process.off('exit', this.#onExit)
  }
}

interface Wiring {
  readonly schedule: Schedule
  readonly proxies: ReadonlyMap<LinkName, FaultProxy>
  readonly ports: ReadonlyMap<PartName, number>
  readonly services: ReadonlyMap<PartName, number>
  readonly postgres: PostgresServer
  readonly tariffFile: string
  readonly journals: string
  readonly folder: string
  readonly disk: SmallDisk | undefined
}

function partOptions(name: PartName, programs: Programs, wiring: Wiring) {
  const { proxies, ports, services, postgres, journals, folder, disk } = wiring
  const at = (to: string): string => (proxies.get(`${name}>${to}` as LinkName) as FaultProxy).address
  const has = (to: string): boolean => proxies.has(`${name}>${to}` as LinkName)
  const log = join(disk !== undefined && name === 'gateway-1' ? disk.path : folder, `${name}.log`)
  const marked = { [mark]: folder }
  if (name === 'publisher') {
    const options = {
      redisUrl: `redis://${at('redis')}`,
      journal: join(journals, name),
      ledger: join(folder, 'published.jsonl'),
      rate: 20,
    }
    const args = (generation: number): string[] => [JSON.stringify({ ...options, generation })]
    return { name, file: programs.publisher, args, env: marked, log }
  }
  const database = new URL(postgres.url)
  if (has('postgres')) database.port = at('postgres').split(':')[1] as string
  const env = {
    ...marked,
    REDIS_URL: has('redis') ? `redis://${at('redis')}` : '',
    DATABASE_URL: has('postgres') ? database.href : '',
    AUTH_URL: has('auth') ? `http://${at('auth')}` : '',
    AUTH_ISSUER: issuer,
    AUTH_CLIENT_SECRET: 'a secret of chaos alone',
    AUTH_CLIENT_SECRETS: JSON.stringify({ gateway: 'a secret of chaos alone' }),
    CURSOR_SECRET: 'another secret of chaos',
    CONSUL_HTTP_ADDR: '',
    LOG_FILE: '',
    LOG_LEVEL: '',
  }
  const own = [String(services.get(name))]
  const metrics = ['--metrics-port', String(ports.get(name))]
  const role = name.replace(/-\d$/, '')
  const args: Record<string, () => string[]> = {
    gateway: () => gatewayArgs(name as 'gateway-1', wiring, at),
    counters: () => ['--role', 'counters', '--grpc-port', ...own, ...metrics],
    billing: () => ['--role', 'billing', '--billing-port', ...own, '--tariff', wiring.tariffFile, ...metrics],
    worker: () => ['--role', 'usage-worker', '--tariff', wiring.tariffFile, ...metrics],
    auth: () => ['--role', 'auth', '--auth-port', ...own, '--token-life', String(tokenLifeSeconds), ...metrics],
  }
  return { name, file: programs.service, args: args[role] as () => string[], env, log }
}

function gatewayArgs(name: 'gateway-1' | 'gateway-2', wiring: Wiring, at: (to: string) => string): string[] {
  const { schedule, ports, journals, tariffFile } = wiring
  const way: UsageWay = schedule.usage[name]
  return [
    ...['--role', 'gateway', '--port', String(ports.get(name)), '--tariff', tariffFile],
    ...['--counters', `${at('counters-1')},${at('counters-2')}`, '--billing', `${at('billing-1')},${at('billing-2')}`],
    ...['--usage', way.startsWith('stream') ? 'stream' : 'billing'],
    ...(way.endsWith('journal') ? ['--journal', join(journals, name)] : []),
  ]
}
