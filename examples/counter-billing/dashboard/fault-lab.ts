import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { Closable } from 'spillway/process'
import { faulty } from 'spillway/testing'
import { type Log, text } from '../counter/counters.ts'
import type { Database } from '../counter/database.ts'
import type { Stores, StoresOptions } from '../counter/stores.ts'
import type { FleetMember } from '../fleet.ts'
import { type FaultControl, FaultRefused } from './fault-control.ts'
import { InstanceFaults } from './instance-faults.ts'
import type { Audit, FaultAction, FaultState, Sums } from './sample.ts'
import { ProxiedServer, type ServerFault, SwitchedServer } from './server-fault.ts'
import { SteadyLoad } from './steady-load.ts'
import { countersOf, type LoadCount } from './steady-load-process.ts'
import { StoredSums } from './stored-sums.ts'

const requestsPerSecond = 120
const keys = 400
/** How long sums may take to be equal, once nothing more is sent: what was tried in vain for long is tried rarely. */
const settleMs = 30_000

/** What runs once the services do. */
export interface FaultLabParts {
  /** The stores of this process, as `around` got them. */
  readonly stores: Stores
  /** The gateways that the load goes to. */
  readonly urls: readonly string[]
  /** How long the load lasts. */
  readonly seconds: number
  /** What the load finds in its environment. */
  readonly env: Readonly<Record<string, string>>
  readonly fleet: readonly FleetMember[]
  /** Starts another counter service that listens at a port. */
  readonly startMember: (port: string) => Promise<FleetMember>
}

/** The faults of a demo: it stands between the services and their stores, kills some of them, and drives a load meanwhile. */
export class FaultLab implements FaultControl, Closable {
  readonly name = 'faults'
  /** Where services find the servers that are named: at proxies. */
  readonly servers: StoresOptions
  readonly #named: StoresOptions
  readonly #redis: ServerFault
  readonly #postgres: ServerFault
  readonly #log: Log
  #load: SteadyLoad | undefined
  #stored: StoredSums | undefined
  #counters: string[] = []
  #instances = new InstanceFaults([], () => Promise.reject(new FaultRefused('nothing can be started')))
  #audit: Audit | undefined

  private constructor(
    named: StoresOptions,
    servers: StoresOptions,
    redis: ServerFault,
    postgres: ServerFault,
    log: Log,
  ) {
    this.#named = named
    this.servers = servers
    this.#redis = redis
    this.#postgres = postgres
    this.#log = log
  }

  static async open(named: StoresOptions, log: Log): Promise<FaultLab> {
    const { redisUrl, databaseUrl } = named
    const redis = redisUrl === undefined ? undefined : await ProxiedServer.open('REDIS_URL', redisUrl, 6379)
    const postgres = databaseUrl === undefined ? undefined : await ProxiedServer.open('DATABASE_URL', databaseUrl, 5432)
    const servers = { ...named, redisUrl: redis?.url, databaseUrl: postgres?.url }
    return new FaultLab(
      named,
      servers,
      redis ?? new SwitchedServer('Redis', 'in memory'),
      postgres ?? new SwitchedServer('Postgres', 'PGlite'),
      log,
    )
  }

  /** What services in processes of their own find in their environment: the proxies. */
  get env(): Readonly<Record<string, string>> {
    const { redisUrl, databaseUrl } = this.servers
    return {
      ...(redisUrl !== undefined && { REDIS_URL: redisUrl }),
      ...(databaseUrl !== undefined && { DATABASE_URL: databaseUrl }),
    }
  }

  /** Stores that are as bad as the panel says, where they are in this process. */
  around(stores: Stores): Stores {
    const [redis, postgres] = [this.#redis, this.#postgres]
    const live = redis instanceof SwitchedServer ? faulty(stores.live, { power: redis.power }) : stores.live
    if (!(postgres instanceof SwitchedServer)) return { ...stores, live }
    const { power } = postgres
    const { durable, listing, database } = stores
    const around: Database = {
      ...database,
      client: faulty(database.client, { power }),
      query: (statement, values) => power.run(() => database.query(statement, values)),
      transaction: (work) => power.run(() => database.transaction(work)),
      script: (statements) => power.run(() => database.script(statements)),
    }
    return {
      ...stores,
      live,
      durable: faulty(durable, { power }),
      listing: faulty(listing, { power }),
      database: around,
    }
  }

  /** Begins to drive the load. */
  async start({ stores, urls, seconds, env, fleet, startMember }: FaultLabParts): Promise<void> {
    const options = { urls, prefix: `steady-${randomUUID().slice(0, 8)}-`, keys }
    this.#counters = countersOf(options)
    this.#stored = await StoredSums.open(this.#named, stores)
    this.#instances = new InstanceFaults(fleet, startMember)
    this.#load = new SteadyLoad({ ...options, requestsPerSecond, seconds, env })
    this.#load.start()
  }

  state(): FaultState {
    const load = this.#load?.state()
    return {
      redis: this.#redis.condition,
      postgres: this.#postgres.condition,
      titles: { redis: this.#redis.title, postgres: this.#postgres.title },
      instances: this.#instances.state(),
      load: load ?? { state: 'stopped', requestsPerSecond: 0, burst: undefined, endsAt: 0, skipped: 0 },
    }
  }

  /** The load is asked last, so that nothing seems to be stored that wasn't acknowledged. */
  async sums(): Promise<Sums> {
    const stored = await this.#stored?.of(this.#counters)
    const { acknowledged, unsure } = this.#load?.count ?? { acknowledged: 0, unsure: 0 }
    return { acknowledged, unsure, live: stored?.live, durable: stored?.durable, audit: this.#audit }
  }

  async apply(action: FaultAction): Promise<void> {
    const load = this.#load
    if (load === undefined) throw new FaultRefused('the services are not all there yet')
    this.#log('info', `fault panel: ${Object.values(action).join(' ')}`)
    switch (action.do) {
      case 'redis':
        return this.#redis.turn(action.condition)
      case 'postgres':
        return this.#postgres.turn(action.condition)
      case 'kill':
        return this.#instances.kill(action.instance)
      case 'start':
        // It takes seconds, and the panel shows when it is there.
        return this.#behind(this.#instances.start(action.instance))
      case 'burst':
        return load.burst(action.factor, action.seconds)
      case 'clear':
        return this.#clear(load)
      case 'compare':
        return this.#behind(this.#compare(load))
      case 'load-stop':
        return load.stop()
      case 'load-start':
        return load.start()
    }
  }

  /** Before anything else is closed: what was accepted is written then, and could not be with faults in the way. */
  async close(): Promise<void> {
    await this.#load?.close()
    this.#redis.turn('ok')
    this.#postgres.turn('ok')
    await this.#stored?.close()
  }

  /** Counter services that were started anew, to be closed after the gateway. */
  get restarted(): Closable {
    return { name: 'restarted counter services', close: () => this.#instances.close() }
  }

  /** What stands in front of servers, to be closed after all that uses them. */
  get proxies(): Closable {
    return {
      name: 'fault proxies',
      close: async () => {
        await this.#redis.close()
        await this.#postgres.close()
      },
    }
  }

  #clear(load: SteadyLoad): void {
    this.#redis.turn('ok')
    this.#postgres.turn('ok')
    load.calm()
    this.#behind(this.#instances.startAll().then(() => this.#compare(load)))
  }

  async #compare(load: SteadyLoad): Promise<void> {
    this.#audit = await load.still(async (count) => {
      const deadline = Date.now() + settleMs
      for (;;) {
        const audit = await this.#auditOf(count)
        if (audit.equal || Date.now() > deadline) return audit
        await delay(100)
      }
    })
    const { equal, acknowledged, live, durable } = this.#audit
    const stored = `durable ${durable}, live ${live}`
    this.#log(
      equal ? 'info' : 'error',
      `sums ${equal ? 'are equal' : 'differ'}: acknowledged ${acknowledged}, ${stored}`,
    )
  }

  /** What is unsure may be in a store, and may not. */
  async #auditOf({ acknowledged, unsure }: LoadCount): Promise<Audit> {
    const stored = await this.#stored?.of(this.#counters)
    const isRight = (sum: number | undefined): boolean =>
      sum !== undefined && sum >= acknowledged && sum <= acknowledged + unsure
    const equal = isRight(stored?.live) && isRight(stored?.durable)
    return { at: Date.now(), equal, acknowledged, unsure, live: stored?.live, durable: stored?.durable }
  }

  #behind(work: Promise<void>): void {
    work.catch((error: unknown) => this.#log('warn', `fault panel: ${text(error)}`))
  }
}
