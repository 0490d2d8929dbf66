import {
  type BatchLoadContext,
  type LoadContext,
  type LoadOptions,
  MultiLevelCache,
  type MultiLevelCacheOptions,
} from 'spillway'
import type { FakeClock } from 'spillway/testing'
import type { Chance } from './chance.js'
import type { Database, Row } from './database.js'
import { idsIn, idsWith, keys, type SimulatedKey, tags, wrappedKey } from './keys.js'
import { type Fenced, Loads } from './loads.js'

/** What all processes of one simulation share. */
export interface Surroundings {
  readonly clock: FakeClock
  readonly chance: Chance
  readonly database: Database
  /** Whether a key may be written by this process; others invalidate tags and namespaces. */
  mayWrite(process: number, key: SimulatedKey, how: 'set' | 'delete'): boolean
  /** Whether a process may invalidate keys together now. */
  mayInvalidate(process: number, ids: readonly string[]): boolean
  /** How long a loader takes at most, in milliseconds. */
  readonly maxLoadMs: number
  /** Whether nobody may read anything older than his own process has written. */
  readonly readsItsWrites: boolean
  /** Something isn't as it must be. */
  violate(what: string): void
}

/** A write that the shared tier has acknowledged. */
interface Acknowledged {
  readonly write: number
  readonly at: number
}

type View = Pick<MultiLevelCache<Row>, 'peek' | 'get' | 'getMany' | 'getOrLoad' | 'getOrLoadMany' | 'warm'> &
  Pick<MultiLevelCache<Row>, 'set' | 'setMany' | 'delete' | 'deleteMany' | 'clear'>

/** A service that reads through its cache, and that changes the database and then tells its cache. */
export class SimulatedProcess {
  readonly cache: MultiLevelCache<Row>
  readonly loads = new Loads()
  /** How many reads were checked. */
  checked = 0
  /** What each key must at least be as of, for whoever begins to read it now: what this process has written. */
  readonly #floors = new Map<string, number>()
  /** How many sets of a key aren't acknowledged yet, and when the latest one was. */
  readonly #sets = new Map<string, { open: number; endedAt: number }>()
  readonly #acknowledged = new Map<string, Acknowledged[]>()
  readonly #index: number
  readonly #world: Surroundings
  readonly #wrapped: ((name: string) => Promise<Row>) & { invalidate(name: string): Promise<void> }

  constructor(index: number, world: Surroundings, options: MultiLevelCacheOptions<Row>) {
    this.#index = index
    this.#world = world
    this.cache = new MultiLevelCache<Row>(options)
    this.#wrapped = this.cache.wrap((_name: string) => this.#work(wrappedKey, undefined), {
      name: 'wrapped',
      tags: wrappedKey.tags,
    })
  }

  view(key: SimulatedKey): View {
    return key.namespace === '' ? this.cache : this.cache.namespace<Row>(key.namespace)
  }

  /** Does one thing at random. */
  act(): void {
    const { chance } = this.#world
    const key = chance.pick(keys)
    const act = chance.weighted<() => void>([
      [2, () => this.#check(key, 'peek', this.view(key).peek(key.key))],
      [
        2,
        () =>
          this.#expect(
            [key],
            'get',
            this.view(key)
              .get(key.key)
              .then((row) => [row]),
          ),
      ],
      [2, () => this.#getMany(key)],
      [8, () => this.#getOrLoad(key)],
      [4, () => this.#getOrLoadMany(key)],
      [
        2,
        () =>
          this.#expect(
            [wrappedKey],
            'wrap',
            this.#wrapped('x').then((row) => [row]),
          ),
      ],
      [1, () => this.#warm(key)],
      [2, () => this.#set([key])],
      [1, () => this.#set(chance.some(this.#siblings(key)))],
      [4, () => this.#delete([key])],
      [1, () => this.#delete(chance.some(this.#siblings(key)))],
      [1, () => this.#delete([wrappedKey], () => this.#wrapped.invalidate('x'))],
      [2, () => this.#invalidate(chance.some(tags))],
      [1, () => this.#clear(key)],
    ])
    act()
  }

  /** What another process has replaced and its store acknowledged by then, nobody may be served any more. */
  foreignFloor(key: SimulatedKey, at: number): number {
    return Math.max(
      0,
      ...(this.#acknowledged.get(key.id) ?? []).filter((one) => one.at <= at).map(({ write }) => write),
    )
  }

  /** Whether a set of one of some keys is under way, or was at a time or later. */
  hasSetSince(ids: readonly string[], at: number): boolean {
    return ids.some((id) => {
      const sets = this.#sets.get(id)
      return sets !== undefined && (sets.open > 0 || sets.endedAt >= at)
    })
  }

  /** Set by the simulation, where processes have nothing but the shared tier to learn from. */
  foreign: ((key: SimulatedKey) => number) | undefined

  #siblings(key: SimulatedKey): SimulatedKey[] {
    return keys.filter((other) => other.namespace === key.namespace)
  }

  // Reads

  #getMany(key: SimulatedKey): void {
    const some = this.#world.chance.some(this.#siblings(key))
    this.#expect(some, 'getMany', this.view(key).getMany(some.map((one) => one.key)))
  }

  #getOrLoad(key: SimulatedKey): void {
    const fenced = this.loads.fenced()
    const loader = (_key: string, context: LoadContext<Row>): Promise<Row> => this.#load(key, context, fenced)
    const answer = this.view(key).getOrLoad(key.key, loader, this.#options(key))
    this.#expect(
      [key],
      'getOrLoad',
      answer.then((row) => [row]),
    )
  }

  #getOrLoadMany(key: SimulatedKey): void {
    const { chance } = this.#world
    const some = chance.some(this.#siblings(key))
    const specOf = new Map(some.map((one) => [one.key, one]))
    const fenced = this.loads.fenced()
    const load = (misses: string[], context: BatchLoadContext<Row>): Promise<(Row | Error)[]> =>
      this.#loadMany(
        misses.map((miss) => specOf.get(miss) as SimulatedKey),
        context,
        fenced,
      )
    const { signal } = this.#options(key)
    const answer = this.view(key).getOrLoadMany(
      some.map((one) => one.key),
      load,
      signal === undefined ? {} : { signal },
    )
    this.#expect(some, 'getOrLoadMany', answer)
  }

  #warm(key: SimulatedKey): void {
    const { signal } = this.#options(key)
    // When it asks for which key isn't known here, nor what has been fenced by then, so its loads aren't counted.
    const tasks = this.#siblings(key).map((one) => ({
      key: one.key,
      load: (_key: string, context: LoadContext<Row>) => this.#work(one, context),
      tags: one.tags,
    }))
    const report = this.view(key).warm(tasks, { concurrency: 2, signal })
    report.catch((error: unknown) => this.#world.violate(`warm rejected with ${String(error)}`))
  }

  /** Tags by the options or by the loader; sometimes a signal that aborts soon. */
  #options(key: SimulatedKey): LoadOptions {
    const { chance, clock } = this.#world
    const options: LoadOptions = chance.happens(0.7) ? { tags: key.tags } : { tags: ['unset'] }
    if (!chance.happens(0.15)) return options
    const controller = new AbortController()
    clock.setTimer(() => controller.abort(new Error('given up')), chance.shortMs())
    return { ...options, signal: controller.signal }
  }

  /** Holds answers against what had been written when they were asked for. */
  #expect(asked: readonly SimulatedKey[], what: string, answer: Promise<readonly (Row | undefined)[]>): void {
    const floors = asked.map((key) => this.#floorOf(key))
    answer.then(
      (rows) => {
        if (rows.length !== asked.length) this.#world.violate(`${what} of ${asked.length} answers ${rows.length}`)
        asked.forEach((key, i) => void this.#check(key, what, rows[i], floors[i]))
      },
      (error: unknown) => {
        const isExpected = /^(load failed|given up)$/.test((error as Error).message) || isTimeout(error)
        if (!isExpected) this.#world.violate(`${what} rejects with ${String(error)}`)
      },
    )
  }

  #check(key: SimulatedKey, what: string, row: Row | undefined, floor: number = this.#floorOf(key)): void {
    this.checked++
    if (row === undefined) return
    if (row.id !== key.id) this.#world.violate(`${what} of ${key.id} yields ${row.id}`)
    if (row.write >= floor || !this.#world.readsItsWrites) return
    this.#world.violate(`${what} of ${key.id} in process ${this.#index} yields write ${row.write} after ${floor}`)
  }

  #floorOf(key: SimulatedKey): number {
    return Math.max(this.#floors.get(key.id) ?? 0, this.foreign?.(key) ?? 0)
  }

  // Loads

  #load(key: SimulatedKey, context: LoadContext<Row>, fenced: Fenced): Promise<Row> {
    return this.#running([key], context.signal, fenced, () => this.#work(key, context))
  }

  /** What is wrapped learns nothing, and has no signal to tell it that it was given up: it is only this. */
  async #work(key: SimulatedKey, context: LoadContext<Row> | undefined): Promise<Row> {
    const { chance, database } = this.#world
    const early = chance.happens(0.5) ? database.read(key.id) : undefined
    await this.#wait()
    if (chance.happens(0.1)) throw new Error('load failed')
    const row = { id: key.id, write: early ?? database.read(key.id) }
    if (context === undefined) return row
    context.setTags(key.tags)
    if (chance.happens(0.05)) context.setTtl(0)
    return context.stale?.value.write === row.write && chance.happens(0.5) ? context.notModified() : row
  }

  #loadMany(some: readonly SimulatedKey[], context: BatchLoadContext<Row>, fenced: Fenced): Promise<(Row | Error)[]> {
    const { chance, database } = this.#world
    const ids = some.map(({ id }) => id)
    return this.#running(some, context.signal, fenced, async () => {
      const early = chance.happens(0.5) ? ids.map((id) => database.read(id)) : undefined
      await this.#wait()
      if (chance.happens(0.05)) throw new Error('load failed')
      return some.map(({ id, key, tags }, i) => {
        if (chance.happens(0.05)) return new Error('load failed')
        context.setTags(key, tags)
        return { id, write: early?.[i] ?? database.read(id) }
      })
    })
  }

  async #running<T>(
    some: readonly SimulatedKey[],
    signal: AbortSignal,
    fenced: Fenced,
    work: () => Promise<T>,
  ): Promise<T> {
    const ids = some.map(({ id }) => id)
    const { load, twice } = this.loads.begin(ids, signal, fenced)
    if (twice !== undefined) this.#world.violate(`two loaders of ${twice} run in process ${this.#index}`)
    try {
      return await work()
    } finally {
      this.loads.end(load)
    }
  }

  async #wait(): Promise<void> {
    const { chance, clock, maxLoadMs } = this.#world
    const ms = chance.happens(0.3) ? 0 : chance.below(maxLoadMs)
    if (ms > 0) await new Promise<void>((resolve) => clock.setTimer(resolve, ms))
  }

  // Writes: first the database, then the cache

  #set(wanted: readonly SimulatedKey[]): void {
    const { chance, database } = this.#world
    const some = wanted.filter((key) => this.#world.mayWrite(this.#index, key, 'set'))
    const [first] = some
    if (first === undefined) return
    const ids = some.map(({ id }) => id)
    this.#write(ids, () =>
      this.#following(ids, () => {
        const entries = some.map(({ id, key, tags }) => {
          const ttlMs = chance.happens(0.1) ? 0 : undefined
          return [key, { id, write: database.read(id) }, { tags, ttlMs }] as const
        })
        const [only] = entries
        const view = this.view(first)
        return entries.length === 1 && only !== undefined ? view.set(...only) : view.setMany(entries)
      }),
    )
  }

  /** Follows a set until it is acknowledged. */
  #following(ids: readonly string[], set: () => Promise<void>): Promise<void> {
    const sets = ids.map((id) => {
      const one = this.#sets.get(id) ?? { open: 0, endedAt: Number.NEGATIVE_INFINITY }
      this.#sets.set(id, one)
      one.open++
      return one
    })
    return set().finally(() => {
      for (const one of sets) {
        one.open--
        one.endedAt = this.#world.clock.now()
      }
    })
  }

  #delete(wanted: readonly SimulatedKey[], call?: () => Promise<void>): void {
    const some = wanted.filter((key) => this.#world.mayWrite(this.#index, key, 'delete'))
    const [first] = some
    if (first === undefined) return
    const { key } = first
    const many = some.map((one) => one.key)
    const view = this.view(first)
    this.#write(
      some.map(({ id }) => id),
      call ?? (() => (many.length === 1 ? view.delete(key) : view.deleteMany(many))),
    )
  }

  #invalidate(some: readonly string[]): void {
    const ids = some.flatMap(idsWith)
    if (!this.#world.mayInvalidate(this.#index, ids)) return
    this.#write(ids, () => {
      this.loads.fence()
      return this.cache.invalidateTags(some)
    })
  }

  #clear(key: SimulatedKey): void {
    const ids = idsIn(key.namespace)
    if (!this.#world.mayInvalidate(this.#index, ids)) return
    this.#write(ids, () => this.view(key).clear())
  }

  #write(ids: readonly string[], call: () => Promise<void>): void {
    const { database, clock, violate } = this.#world
    database.write(ids)
    for (const id of ids) this.#floors.set(id, database.read(id))
    this.loads.fence(ids)
    const writes = ids.map((id) => [id, database.read(id)] as const)
    call().then(
      () => {
        for (const [id, write] of writes) {
          this.#acknowledged.set(id, [...(this.#acknowledged.get(id) ?? []), { write, at: clock.now() }])
        }
      },
      (error: unknown) => violate(`a write rejects with ${String(error)}`),
    )
  }
}

function isTimeout(error: unknown): boolean {
  return (error as { code?: unknown }).code === 'ERR_TIMEOUT'
}
