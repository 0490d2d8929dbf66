import type { Clock } from '../core/clock.js'
import { OptionError } from '../core/errors.js'
import { checkOptions, checkSignal, describeValue } from '../core/options.js'
import { onAbort, orAbort } from '../internal/abort.js'
import { type Deferred, deferred, handled, rejected } from '../internal/deferred.js'
import { attempt } from '../internal/tasks.js'
import type { LoadContext } from './load-context.js'
import { TaskSource } from './task-source.js'
import { WarmGate, type WarmPaceOptions } from './warm-gate.js'

/** A key that is to be in a cache before somebody asks for it. */
export interface WarmTask<V, Context = LoadContext<V>> {
  /** The key. */
  readonly key: string
  /** Loads its value, as for `getOrLoad`; only called where the cache has no fresh value. */
  readonly load: (key: string, context: Context) => V | undefined | PromiseLike<V | undefined>
  /** How long the value lives, in milliseconds. The default is the cache's. */
  readonly ttlMs?: number | undefined
  /** The value's tags. */
  readonly tags?: readonly string[] | undefined
}

/** Keys to warm. They are taken one after another as there is room for them, so there may be any number. */
export type WarmTasks<V, Context = LoadContext<V>> =
  | Iterable<WarmTask<V, Context>>
  | AsyncIterable<WarmTask<V, Context>>

/** Options of `MultiLevelCache.warm`. */
export interface WarmOptions extends WarmPaceOptions {
  /** Ends the warm-up: nothing more is begun, and what runs is aborted unless somebody else waits for it. */
  signal?: AbortSignal | undefined
}

/** The defaults of {@link WarmOptions}. */
export const warmDefaults: { readonly concurrency: number; readonly ratePerSecond: number } = {
  concurrency: 4,
  ratePerSecond: Infinity,
}

/** A key that could not be warmed. */
export interface WarmFailure {
  /** The key; undefined where the task had none. */
  readonly key: string | undefined
  /** Why. */
  readonly error: unknown
}

/** What became of a warm-up. `tasks = loaded + skipped + failed + aborted`. */
export interface WarmReport {
  /** How many tasks were taken. */
  readonly tasks: number
  /** How many were loaded. */
  readonly loaded: number
  /** How many had a fresh value in the cache, or got one from somebody else's load. */
  readonly skipped: number
  /** How many failed. */
  readonly failed: number
  /** How many were taken and then given up, because the signal aborted. */
  readonly aborted: number
  /** The first 100 failures. */
  readonly failures: readonly WarmFailure[]
  /** Whether all tasks were taken, and none was aborted: false where the signal aborted before the end, or the list failed. */
  readonly complete: boolean
  /** What the list of tasks itself failed with, if it did; what it gave before was warmed. */
  readonly error?: unknown
  /** How long it took, in milliseconds. */
  readonly durationMs: number
}

/** How a warm-up loads a key. */
export interface WarmLoadOptions {
  /** Aborts the load, unless somebody else waits for it. */
  readonly signal: AbortSignal | undefined
  /** The task's own ttl. */
  readonly ttlMs: number | undefined
  /** The task's tags. */
  readonly tags: readonly string[] | undefined
  /** 0: a value past its ttl is to be replaced, not served. */
  readonly staleMs: number
}

/** What a warm-up needs of a cache, which may be a namespace of one. */
export interface WarmTarget<V, Context = LoadContext<V>> {
  /** Fresh values; undefined for a miss. */
  getMany(keys: readonly string[]): PromiseLike<readonly (V | undefined)[]>
  /** The fresh value, or what the loader makes of it. */
  getOrLoad(
    key: string,
    loader: (key: string, context: Context) => V | undefined | PromiseLike<V | undefined>,
    options: WarmLoadOptions,
  ): PromiseLike<V | undefined>
}

/** How a task ended. */
export type WarmOutcome = 'loaded' | 'skipped' | 'failed' | 'aborted'

/** What a warm-up runs on, beside its cache and its tasks. */
export interface WarmSettings {
  readonly clock: Clock
  readonly gate: WarmGate
  readonly signal: AbortSignal | undefined
  /** Called for each task as it is taken. Must not throw. */
  readonly onTaken?: (() => void) | undefined
  /** Called for each task as it ends. Must not throw. */
  readonly onOutcome?: ((outcome: WarmOutcome, key: string | undefined, ms: number, error: unknown) => void) | undefined
}

/** How many keys are looked up at once, and held in memory. */
const chunkSize = 100
/** How many failures a report has. */
export const maxFailures = 100

/**
 * Loads what a cache hasn't got. Fresh keys are found by one `getMany` a chunk and skipped; a reader of a key that is being loaded
 * joins the same load.
 *
 * @returns the report, also where tasks failed or the signal aborted; it rejects only with an `OptionError` for wrong arguments.
 */
export function warm<V, Context>(
  cache: WarmTarget<V, Context>,
  tasks: WarmTasks<V, Context>,
  options: WarmOptions | undefined,
  clock: Clock,
): Promise<WarmReport> {
  try {
    checkOptions('options', options)
    const settings = {
      clock,
      gate: new WarmGate(options, warmDefaults, clock),
      signal: checkSignal(options?.signal),
    }
    return new WarmRun(cache, new TaskSource(tasks, clock), settings).run()
  } catch (error) {
    return rejected(error)
  }
}

/** One warm-up of one list. */
export class WarmRun<V, Context> {
  readonly #cache: WarmTarget<V, Context>
  readonly #source: TaskSource
  readonly #settings: WarmSettings
  readonly #counts: Record<WarmOutcome, number> = { loaded: 0, skipped: 0, failed: 0, aborted: 0 }
  readonly #failures: WarmFailure[] = []
  /** Tasks that are to be loaded and are not settled. */
  readonly #open = new Set<OpenTask<V, Context>>()
  /** Those of them that wait at the gate. */
  readonly #waiting = new Set<OpenTask<V, Context>>()
  #allBegun: (() => void) | undefined
  readonly #pauses = new Set<() => void>()
  #tasks = 0
  #stopped = false

  constructor(cache: WarmTarget<V, Context>, source: TaskSource, settings: WarmSettings) {
    this.#cache = cache
    this.#source = source
    this.#settings = settings
  }

  async run(): Promise<WarmReport> {
    const { clock, signal } = this.#settings
    const startedAt = clock.now()
    if (signal?.aborted === true) this.#stop()
    const unwatch = signal === undefined || this.#stopped ? undefined : onAbort(signal, () => this.#stop())
    const listed = await this.#takeAll()
    await Promise.all(Array.from(this.#open, (open) => open.done.promise))
    unwatch?.()
    const { loaded, skipped, failed, aborted } = this.#counts
    return {
      tasks: this.#tasks,
      loaded,
      skipped,
      failed,
      aborted,
      failures: this.#failures,
      complete: listed.complete && aborted === 0,
      ...('error' in listed ? { error: listed.error } : {}),
      durationMs: clock.now() - startedAt,
    }
  }

  /** Takes the list to its end, or to where it is stopped. */
  async #takeAll(): Promise<{ readonly complete: boolean; readonly error?: unknown }> {
    try {
      for (let more = true; more && !this.#stopped; ) {
        const chunk = await this.#source.next(chunkSize)
        more = chunk.more
        if (chunk.items.length > 0) await this.#warm(chunk.items)
        // Keys that are all there and loads that don't wait would keep the turn from ever ending.
        if (more && !this.#stopped) await this.#pause(this.#toEndOfTurn)
      }
      return { complete: !this.#stopped }
    } catch (error) {
      return { complete: false, error }
    }
  }

  /** Resolves once each task of a chunk is done with or has begun. */
  async #warm(items: readonly unknown[]): Promise<void> {
    const tasks: WarmTask<V, Context>[] = []
    for (const item of items) {
      this.#settings.onTaken?.()
      const problem = problemOf(item, this.#tasks++)
      if (problem === undefined) tasks.push(item as WarmTask<V, Context>)
      else this.#settle('failed', undefined, 0, problem)
    }
    const live = await this.#lookUp(tasks)
    for (const [i, task] of tasks.entries()) {
      if (live[i] !== undefined) this.#settle('skipped', task.key, 0)
      else if (this.#stopped) this.#settle('aborted', task.key, 0)
      else this.#enqueue(task)
    }
    if (this.#waiting.size > 0) {
      await new Promise<void>((resolve) => {
        this.#allBegun = resolve
      })
    }
  }

  async #lookUp(tasks: readonly WarmTask<V, Context>[]): Promise<readonly (V | undefined)[]> {
    if (tasks.length === 0) return []
    try {
      return await orAbort(
        attempt(() => this.#cache.getMany(tasks.map((task) => task.key))),
        this.#settings.signal,
      )
    } catch {
      // Whatever it is, each load will meet it, and tell.
      return []
    }
  }

  #enqueue(task: WarmTask<V, Context>): void {
    const open: OpenTask<V, Context> = { task, done: deferred() }
    this.#open.add(open)
    this.#waiting.add(open)
    void this.#settings.gate.limit(() => this.#pass(open))
  }

  /** Holds a place among those that run at a time. Never rejects. */
  async #pass(open: OpenTask<V, Context>): Promise<void> {
    const { clock, gate } = this.#settings
    const waitMs = this.#stopped ? 0 : gate.take()
    if (waitMs > 0) await this.#pause((done) => clock.setTimer(done, waitMs))
    if (!this.#waiting.delete(open)) return
    if (this.#waiting.size === 0) this.#allBegun?.()
    await this.#load(open.task)
    this.#finish(open)
  }

  async #load(task: WarmTask<V, Context>): Promise<void> {
    const { clock, signal } = this.#settings
    const startedAt = clock.now()
    const load = new OwnLoad<V, Context>(task)
    try {
      const { key, ttlMs, tags } = task
      await this.#cache.getOrLoad(key, load.run, { signal, ttlMs, tags, staleMs: 0 })
      const loaded = await orAbort(load.ended(), signal)
      this.#settle(loaded ? 'loaded' : 'skipped', task.key, clock.now() - startedAt)
    } catch (error) {
      this.#settle(this.#stopped ? 'aborted' : 'failed', task.key, clock.now() - startedAt, error)
    }
  }

  #finish(open: OpenTask<V, Context>): void {
    this.#open.delete(open)
    open.done.resolve()
  }

  #settle(outcome: WarmOutcome, key: string | undefined, ms: number, error?: unknown): void {
    this.#counts[outcome]++
    if (outcome === 'failed' && this.#failures.length < maxFailures) this.#failures.push({ key, error })
    this.#settings.onOutcome?.(outcome, key, ms, error)
  }

  /** Waits for something that calls back, or for the end. */
  #pause(begin: (done: () => void) => (() => void) | undefined): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        this.#pauses.delete(end)
        resolve()
      }
      const cancel = begin(done)
      const end = (): void => {
        cancel?.()
        resolve()
      }
      this.#pauses.add(end)
    })
  }

  readonly #toEndOfTurn = (done: () => void): undefined => {
    this.#settings.clock.defer(done)
  }

  #stop(): void {
    this.#stopped = true
    this.#source.stop()
    // What hasn't begun ends here and now: others may hold all places of the gate for long.
    for (const open of this.#waiting) {
      this.#settle('aborted', open.task.key, 0)
      this.#finish(open)
    }
    this.#waiting.clear()
    this.#allBegun?.()
    for (const end of this.#pauses) end()
    this.#pauses.clear()
  }
}

/** A task that is to be loaded. */
interface OpenTask<V, Context> {
  readonly task: WarmTask<V, Context>
  readonly done: Deferred<void>
}

/** A task's own load: whether it ran, and how it ended, whatever the cache answered meanwhile. */
class OwnLoad<V, Context> {
  readonly #task: WarmTask<V, Context>
  #running: Promise<V | undefined> | undefined
  #context: Context | undefined

  constructor(task: WarmTask<V, Context>) {
    this.#task = task
  }

  readonly run = (key: string, context: Context): Promise<V | undefined> => {
    this.#context = context
    this.#running = handled(attempt(() => this.#task.load(key, context)))
    return this.#running
  }

  /** Whether it ran; waits for its end, or for the cache to give it up. Rejects as it does. */
  async ended(): Promise<boolean> {
    if (this.#running === undefined) return false
    // A stale value may have been served instead, before the load's end or after its failure.
    await orAbort(this.#running, (this.#context as { signal?: AbortSignal } | undefined)?.signal)
    return true
  }
}

function problemOf(task: unknown, index: number): unknown {
  try {
    return wrongIn(task, index)
  } catch (error) {
    return error ?? new Error(`tasks[${index}] could not be read`)
  }
}

function wrongIn(task: unknown, index: number): OptionError | undefined {
  if (typeof task !== 'object' || task === null) return wrong(`tasks[${index}]`, 'must be an object', task)
  const { key, load } = task as Partial<WarmTask<unknown>>
  if (typeof key !== 'string' || key === '') {
    return wrong(`tasks[${index}].key`, 'must be a non-empty string', key)
  }
  return typeof load === 'function' ? undefined : wrong(`tasks[${index}].load`, 'must be a function', load)
}

function wrong(field: string, rule: string, value: unknown): OptionError {
  return new OptionError(field, `${field} ${rule}, got ${describeValue(value)}`)
}
