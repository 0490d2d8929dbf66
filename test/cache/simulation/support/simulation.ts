import { type InvalidationListener, MultiLevelCache, type MultiLevelCacheOptions } from 'spillway'
import { type FakeClock, MemoryCacheStore } from 'spillway/testing'
import { expectCacheBooks } from '../../support/caches.js'
import { Chance } from './chance.js'
import { Database, type Row } from './database.js'
import { keys, type SimulatedKey } from './keys.js'
import { SimulatedProcess, type Surroundings } from './simulated-process.js'
import { UnsteadyBus } from './unsteady-bus.js'
import { UnsteadyStore } from './unsteady-store.js'

/** What kind of world is simulated; the rest is left to chance. */
export interface SimulationPlan {
  /** How many processes there are; 0 has one without a shared tier. */
  readonly processes: number
  /** The share of the store's calls that go wrong. */
  readonly faultRate: number
  /** Whether a call that goes wrong may be applied after it was given up. */
  readonly late: boolean
  readonly bus: boolean
  /** Whether old values may be served, and refreshed ahead. */
  readonly stale: boolean
  /** Whether processes set values, each its own keys, or only invalidate them, each any key. */
  readonly sets: boolean
}

/** What happened in a simulation. */
export interface SimulationReport {
  readonly violations: readonly string[]
  readonly reads: number
  readonly loads: number
  readonly joined: number
  readonly fenced: number
  readonly superseded: number
  readonly faults: number
  readonly gaps: number
  /** Fresh values that were found in the tiers once everything was quiet. */
  readonly survivors: { readonly l1: number; readonly l2: number }
}

const l2TimeoutMs = 100
const maxLoadMs = 40
const lengthMs = 300
const tickMs = 3
/** Longer than any load with its calls of a sound store. */
const slackMs = maxLoadMs + 6 * 50

/** Runs one simulation to its end, in a time of its own. The same seed and plan do the same. */
export async function simulate(seed: number, plan: SimulationPlan, clock: FakeClock): Promise<SimulationReport> {
  const simulation = new Simulation(seed, plan, clock)
  await simulation.act()
  await simulation.quiet()
  await simulation.close()
  return simulation.report()
}

class Simulation implements Surroundings {
  readonly clock: FakeClock
  readonly chance: Chance
  readonly database = new Database()
  readonly maxLoadMs = maxLoadMs
  readonly readsItsWrites: boolean
  readonly #plan: SimulationPlan
  readonly #violations: string[] = []
  readonly #inner: MemoryCacheStore
  readonly #store: UnsteadyStore
  readonly #bus: UnsteadyBus | undefined
  readonly #listeners: InvalidationListener[] = []
  readonly #processes: SimulatedProcess[]
  readonly #options: MultiLevelCacheOptions<Row>
  readonly #survivors = { l1: 0, l2: 0 }

  constructor(seed: number, plan: SimulationPlan, clock: FakeClock) {
    this.clock = clock
    this.#inner = new MemoryCacheStore({ clock })
    this.#plan = plan
    // A set that lands after it was given up, and after a later write, is there until it has been made up for.
    this.readsItsWrites = !(plan.sets && plan.late)
    this.chance = new Chance(`${seed} ${JSON.stringify(plan)}`)
    this.#store = new UnsteadyStore(this.#inner, this.clock, this.chance, { ...plan, timeoutMs: l2TimeoutMs })
    this.#bus = plan.bus ? new UnsteadyBus(this.clock, this.chance, (...heard) => this.#onHeard(...heard)) : undefined
    this.#options = this.#makeOptions()
    this.#processes = Array.from(
      { length: Math.max(1, plan.processes) },
      (_, index) => new SimulatedProcess(index, this, this.#options),
    )
    if (!plan.bus && plan.faultRate === 0) this.#tellOfEachOther()
  }

  /** Things happen in all processes, some of them in one turn. */
  async act(): Promise<void> {
    const { clock, chance } = this
    for (let i = 0; i < 50; i++) {
      clock.setTimer(() => void this.#burst(), chance.below(lengthMs))
    }
    if (this.#bus !== undefined) clock.setTimer(() => this.#bus?.interrupt(), chance.below(lengthMs))
    await clock.advance(lengthMs)
  }

  /** Everything comes to rest: the store and the bus work, loads end, and what failed is made up for. */
  async quiet(): Promise<void> {
    this.#store.calm()
    await this.clock.advance(500)
    if (this.#plan.faultRate === 0) await this.#checkSurvivors()
    await this.clock.advance(200_000)
    await this.#checkSurvivors()
    for (const [index, { cache }] of this.#processes.entries()) {
      const { reads, loads, l2 } = cache.stats()
      if (reads.pending > 0) this.violate(`process ${index} has ${reads.pending} reads pending`)
      if (loads.running > 0) this.violate(`process ${index} has ${loads.running} loads running`)
      if (l2 !== undefined && l2.replay.pending > 0) this.violate(`process ${index} still has something to replay`)
      try {
        expectCacheBooks(cache)
      } catch (error) {
        this.violate(String(error))
      }
    }
  }

  async close(): Promise<void> {
    const closing = Promise.all(this.#processes.map(({ cache }) => cache.close()))
    await this.clock.advance(1000)
    for (const { drained, abandoned } of await closing) {
      if (!drained) this.violate(`a close abandons ${abandoned}`)
    }
    if (this.clock.pending > 0) this.violate(`${this.clock.pending} timers are left`)
  }

  report(): SimulationReport {
    const sum = (pick: (process: SimulatedProcess) => number): number =>
      this.#processes.reduce((all, process) => all + pick(process), 0)
    return {
      violations: this.#violations,
      reads: sum((process) => process.checked),
      loads: sum((process) => process.loads.started),
      joined: sum(({ cache, loads }) => Math.max(0, cache.stats().reads.loaded - loads.started)),
      fenced: sum(({ cache }) => cache.stats().loads.fenced),
      superseded: sum(({ cache }) => cache.stats().l2?.superseded ?? 0),
      faults: this.#store.faults,
      gaps: this.#bus?.gaps ?? 0,
      survivors: this.#survivors,
    }
  }

  violate(what: string): void {
    this.#violations.push(`at ${this.clock.now()} ms: ${what}`)
  }

  /** Whose set comes last decides, and the shared tier can't know which one should: a key is set by one process only. */
  mayWrite(process: number, key: SimulatedKey, how: 'set' | 'delete'): boolean {
    return this.#plan.sets ? keys.indexOf(key) % this.#processes.length === process : how === 'delete'
  }

  /**
   * A set that isn't acknowledged yet and another process's invalidation have no order, as two sets have none, nor have they within one tick
   * of the store's clock: so the database may not have one.
   */
  mayInvalidate(process: number, ids: readonly string[]): boolean {
    return !this.#processes.some(
      (other, index) => index !== process && other.hasSetSince(ids, this.clock.now() - tickMs),
    )
  }

  #makeOptions(): MultiLevelCacheOptions<Row> {
    const { chance, clock } = this
    const { stale, processes, faultRate } = this.#plan
    const isLong = chance.happens(0.6)
    const ttlMs = isLong ? Number.POSITIVE_INFINITY : 20 + chance.below(100)
    // Without a bus, nothing else ends what memory has of another process's key.
    const l1TtlMs = this.#plan.bus || processes < 2 ? ttlMs : 10 + chance.below(40)
    const old: MultiLevelCacheOptions<Row> = {
      staleMs: chance.pick([0, 30]),
      serveStaleOnErrorMs: chance.pick([0, 50]),
      errorThrottleMs: 20,
      refreshAheadRatio: chance.pick([1, 0.5, 0]),
      loaderSoftTimeoutMs: chance.pick([undefined, 10]),
    }
    return {
      clock,
      random: chance.random,
      l1: { ttlMs: l1TtlMs, maxEntries: chance.pick([1000, 3]) },
      ttlMs,
      jitter: chance.pick([0, 0.3]),
      l2TimeoutMs,
      loaderTimeoutMs: chance.pick([undefined, undefined, 30]),
      loadConcurrency: chance.pick([undefined, 2]),
      ...(processes > 0 ? { l2: this.#store } : {}),
      ...(this.#bus === undefined ? {} : { bus: this.#bus }),
      ...(faultRate > 0 && chance.happens(0.5) ? { l2Breaker: false as const } : {}),
      ...(stale ? old : {}),
    }
  }

  /** Some things by one process, in one turn: at once, or a few promises apart. */
  async #burst(): Promise<void> {
    const process = this.chance.pick(this.#processes)
    for (let left = this.chance.pick([1, 1, 2, 3]); left > 0; left--) {
      process.act()
      for (let hops = this.chance.below(4); hops > 0; hops--) await undefined
    }
  }

  #onHeard(...[listener, heard]: Parameters<ConstructorParameters<typeof UnsteadyBus>[2]>): void {
    if (!this.#listeners.includes(listener)) this.#listeners.push(listener)
    // Which process it is can't be told by its listener, and needn't: at most one check more is left out.
    for (const { loads } of this.#processes) {
      if (heard === 'gap') loads.fence()
      else for (const one of heard) loads.fence(one.kind === 'key' ? [idOf(one.key)] : undefined)
    }
  }

  /** What others have replaced is served no longer than memory and the marks are believed, and a load takes. */
  #tellOfEachOther(): void {
    const l1TtlMs = this.#options.l1?.ttlMs ?? 0
    for (const process of this.#processes) {
      process.foreign = (key) =>
        Math.max(...this.#processes.map((one) => one.foreignFloor(key, this.clock.now() - l1TtlMs - slackMs)))
    }
  }

  /** No fresh value in any tier is older than the database's. */
  async #checkSurvivors(): Promise<void> {
    const heir = new MultiLevelCache<Row>({ clock: this.clock, l2: this.#inner })
    for (const key of keys) {
      const write = this.database.read(key.id)
      for (const [index, process] of this.#processes.entries()) {
        const row = process.view(key).peek(key.key)
        if (row === undefined) continue
        this.#survivors.l1++
        if (row.write !== write) {
          this.violate(`memory of process ${index} keeps write ${row.write} of ${key.id} instead of ${write}`)
        }
      }
      const reading = (key.namespace === '' ? heir : heir.namespace<Row>(key.namespace)).get(key.key)
      await this.clock.advance(0)
      const row = await reading
      if (row === undefined) continue
      this.#survivors.l2++
      if (row.write !== write) this.violate(`the store keeps write ${row.write} of ${key.id} instead of ${write}`)
    }
    const closing = heir.close()
    await this.clock.advance(0)
    await closing
  }
}

/** A key's name in the database, by its name in the shared tier. */
function idOf(full: string): string {
  const end = full.indexOf(':')
  return `${full.slice('cache/'.length, Math.max(end, 'cache/'.length))}/${full.slice(end + 1)}`
}
