import { Component, type ComponentOptions } from '../core/component.js'
import { checkFunction, checkOptions, checkSignal, failOption } from '../core/options.js'
import { orAbort } from '../internal/abort.js'
import { rejected } from '../internal/deferred.js'
import { attempt } from '../internal/tasks.js'
import type { LoadContext } from './load-context.js'
import { TaskSource } from './task-source.js'
import { WarmGate, type WarmPaceOptions } from './warm-gate.js'
import {
  maxFailures,
  type WarmFailure,
  type WarmOutcome,
  type WarmReport,
  WarmRun,
  type WarmSettings,
  type WarmTarget,
  type WarmTasks,
} from './warm-run.js'

/** Options of {@link CacheWarmer}. Its runs share the places and the rate. */
export interface CacheWarmerOptions extends ComponentOptions, WarmPaceOptions {}

/** What {@link CacheWarmer.register} takes: tasks, or a function that makes them anew for each run. */
export type WarmList<V, Context = LoadContext<V>> =
  | WarmTasks<V, Context>
  | ((context: { readonly signal: AbortSignal }) => WarmTasks<V, Context> | PromiseLike<WarmTasks<V, Context>>)

/** Options of {@link CacheWarmer.run}. */
export interface WarmRunOptions {
  /** Which lists, in this order. The default is all, in the order in which they were registered. */
  names?: readonly string[] | undefined
  /** Ends the run: nothing more is begun, and what runs is aborted unless somebody else waits for it. */
  signal?: AbortSignal | undefined
}

/** What became of one list. */
export interface WarmListReport extends WarmReport {
  /** The list's name. */
  readonly list: string
}

/** What became of a run: the sums over its lists. */
export interface WarmerReport extends WarmReport {
  /** One report a list. A list that the signal kept from beginning has one with no tasks. */
  readonly lists: readonly WarmListReport[]
}

/** Events of {@link CacheWarmer}. */
export interface CacheWarmerEvents {
  /** A key was loaded. */
  warmed: { readonly list: string; readonly key: string; readonly durationMs: number }
  /** A key had a fresh value, or got one from somebody else's load. */
  skipped: { readonly list: string; readonly key: string }
  /** A key could not be warmed, or a list failed: then there is no key. */
  failed: { readonly list: string; readonly key: string | undefined; readonly error: unknown }
  /** A run ended. */
  finished: WarmerReport
}

/** Stats of {@link CacheWarmer}, over all runs. `tasks = loaded + skipped + failed + aborted + pending`. */
export interface CacheWarmerStats {
  /** Its name. */
  readonly name: string
  /** How many lists are registered. */
  readonly lists: number
  /** How many runs there were. */
  readonly runs: number
  /** How many of them are running. */
  readonly running: number
  /** How many tasks were taken. */
  readonly tasks: number
  /** How many were loaded. */
  readonly loaded: number
  /** How many had a fresh value, or got one from somebody else's load. */
  readonly skipped: number
  /** How many failed. */
  readonly failed: number
  /** How many were given up, because a signal aborted. */
  readonly aborted: number
  /** How many were taken and are not settled. */
  readonly pending: number
}

/**
 * Fills a cache before it is asked: at the start of a service, before it takes requests, or from time to time. It knows what to load by
 * name, and loads so many at a time and so many a second, whatever the number of runs.
 *
 * It holds nothing between runs, and there is nothing to close.
 *
 * @example
 * ```ts
 * import { CacheWarmer, MultiLevelCache } from 'spillway'
 *
 * declare function topProducts(): AsyncIterable<{ id: string }>
 * declare function loadProduct(id: string): Promise<{ id: string; price: number }>
 *
 * const cache = new MultiLevelCache<{ id: string; price: number }>()
 * const warmer = new CacheWarmer(cache, { concurrency: 8, ratePerSecond: 200 })
 * warmer.register('products', async function* () {
 *   for await (const { id } of topProducts()) yield { key: id, load: () => loadProduct(id) }
 * })
 * const { loaded, skipped, failures } = await warmer.run({ signal: AbortSignal.timeout(30_000) })
 * console.log(loaded, skipped, failures)
 * ```
 */
export class CacheWarmer<V, Context = LoadContext<V>> extends Component<CacheWarmerEvents, CacheWarmerStats> {
  /** The options' defaults. */
  static readonly defaults: { readonly concurrency: number; readonly ratePerSecond: number } = {
    concurrency: 4,
    ratePerSecond: Infinity,
  }

  readonly #cache: WarmTarget<V, Context>
  readonly #gate: WarmGate
  readonly #lists = new Map<string, WarmList<V, Context>>()
  readonly #counts: Record<WarmOutcome, number> = { loaded: 0, skipped: 0, failed: 0, aborted: 0 }
  #tasks = 0
  #runs = 0
  #running = 0

  /**
   * @param cache - what it fills: a `MultiLevelCache`, or a namespace of one.
   * @throws OptionError - for a wrong option, or something that is no cache.
   */
  constructor(cache: WarmTarget<V, Context>, options?: CacheWarmerOptions) {
    super('cache-warmer', options)
    checkFunction('cache.getMany', (cache as Partial<typeof cache> | undefined)?.getMany)
    checkFunction('cache.getOrLoad', (cache as Partial<typeof cache> | undefined)?.getOrLoad)
    this.#cache = cache
    this.#gate = new WarmGate(options, CacheWarmer.defaults, this.clock)
  }

  /**
   * Adds a list of what to warm. A function is called once a run; an iterator that can be gone through only once is empty in the runs
   * after the first.
   *
   * @returns the function that takes it off again; runs that began before still have it.
   * @throws OptionError - for an empty name, one that is taken, or something that is no list.
   */
  register(name: string, list: WarmList<V, Context>): () => void {
    if (typeof name !== 'string' || name === '') failOption('name', 'must be a non-empty string', name)
    if (this.#lists.has(name)) failOption('name', 'must not be registered already', name)
    if (!isList(list)) failOption('list', 'must be a function, an Iterable or an AsyncIterable', list)
    this.#lists.set(name, list)
    return () => {
      // Another list may have the name by now.
      if (this.#lists.get(name) === list) this.#lists.delete(name)
    }
  }

  /**
   * Warms what is registered, one list after another. A list that fails doesn't keep the others from it.
   *
   * @returns the report, also where keys failed or the signal aborted; it rejects only with an `OptionError` for wrong options.
   */
  run(options?: WarmRunOptions): Promise<WarmerReport> {
    try {
      checkOptions('options', options)
      const signal = checkSignal(options?.signal)
      return this.#run(this.#chosen(options?.names), signal)
    } catch (error) {
      return rejected(error)
    }
  }

  override stats(): CacheWarmerStats {
    const { loaded, skipped, failed, aborted } = this.#counts
    return {
      name: this.name,
      lists: this.#lists.size,
      runs: this.#runs,
      running: this.#running,
      tasks: this.#tasks,
      loaded,
      skipped,
      failed,
      aborted,
      pending: this.#tasks - loaded - skipped - failed - aborted,
    }
  }

  #chosen(names: readonly string[] | undefined): ReadonlyMap<string, WarmList<V, Context>> {
    if (names === undefined) return new Map(this.#lists)
    if (!Array.isArray(names)) failOption('names', 'must be an array of names', names)
    const chosen = new Map<string, WarmList<V, Context>>()
    for (const [i, name] of names.entries()) {
      const list = this.#lists.get(name)
      if (list === undefined) failOption(`names[${i}]`, 'must be the name of a registered list', name)
      chosen.set(name, list as WarmList<V, Context>)
    }
    return chosen
  }

  async #run(lists: ReadonlyMap<string, WarmList<V, Context>>, signal: AbortSignal | undefined): Promise<WarmerReport> {
    const startedAt = this.clock.now()
    this.#runs++
    this.#running++
    const reports: WarmListReport[] = []
    for (const [name, list] of lists) reports.push({ list: name, ...(await this.#warm(name, list, signal)) })
    this.#running--
    const report = sumOf(reports, this.clock.now() - startedAt)
    this.events.emit('finished', report)
    return report
  }

  async #warm(name: string, list: WarmList<V, Context>, signal: AbortSignal | undefined): Promise<WarmReport> {
    const startedAt = this.clock.now()
    const nothing = { tasks: 0, loaded: 0, skipped: 0, failed: 0, aborted: 0, failures: [], complete: false }
    if (isAborted(signal)) return { ...nothing, durationMs: 0 }
    const settings: WarmSettings = {
      clock: this.clock,
      gate: this.#gate,
      signal,
      onTaken: () => {
        this.#tasks++
      },
      onOutcome: (outcome, key, ms, error) => this.#record(name, outcome, key, ms, error),
    }
    try {
      const tasks = typeof list === 'function' ? await orAbort(this.#make(list, signal), signal) : list
      const report = await new WarmRun(this.#cache, new TaskSource(tasks, this.clock), settings).run()
      if ('error' in report) this.events.emit('failed', { list: name, key: undefined, error: report.error })
      return report
    } catch (error) {
      const durationMs = this.clock.now() - startedAt
      if (isAborted(signal)) return { ...nothing, durationMs }
      this.events.emit('failed', { list: name, key: undefined, error })
      return { ...nothing, error, durationMs }
    }
  }

  #make(
    list: Extract<WarmList<V, Context>, (...args: never) => unknown>,
    signal: AbortSignal | undefined,
  ): Promise<WarmTasks<V, Context>> {
    return attempt(() => list({ signal: signal ?? new AbortController().signal }))
  }

  #record(list: string, outcome: WarmOutcome, key: string | undefined, durationMs: number, error: unknown): void {
    this.#counts[outcome]++
    if (outcome === 'failed') {
      if (this.events.has('failed')) this.events.emit('failed', { list, key, error })
    } else if (outcome === 'loaded') {
      if (this.events.has('warmed')) this.events.emit('warmed', { list, key: key as string, durationMs })
    } else if (outcome === 'skipped' && this.events.has('skipped')) {
      this.events.emit('skipped', { list, key: key as string })
    }
  }
}

function isAborted(signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true
}

function isList(list: unknown): boolean {
  if (typeof list === 'function') return true
  if (typeof list !== 'object' || list === null) return false
  return Symbol.iterator in list || Symbol.asyncIterator in list
}

function sumOf(lists: readonly WarmListReport[], durationMs: number): WarmerReport {
  const sum = { tasks: 0, loaded: 0, skipped: 0, failed: 0, aborted: 0, complete: true }
  const failures: WarmFailure[] = []
  let failure: { readonly error: unknown } | undefined
  for (const report of lists) {
    for (const count of ['tasks', 'loaded', 'skipped', 'failed', 'aborted'] as const) sum[count] += report[count]
    sum.complete &&= report.complete
    failures.push(...report.failures.slice(0, maxFailures - failures.length))
    if ('error' in report) failure ??= { error: report.error }
  }
  return { ...sum, failures, ...failure, durationMs, lists }
}
