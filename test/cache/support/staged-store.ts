import { type CacheStore, MultiLevelCache, type MultiLevelCacheEvents, type MultiLevelCacheOptions } from 'spillway'
import { type FakeClock, MemoryCacheStore } from 'spillway/testing'

/** What a store can be called for. */
export type StoreOperation = 'getMany' | 'setMany' | 'deleteMany' | 'readMarks' | 'renewMarks'

/** One call, and the keys or marks that it was for. */
export interface StagedCall {
  readonly operation: StoreOperation
  readonly names: readonly string[]
}

/** What becomes of a call: `work` does it, and answers as it should be answered. */
export type Stage = (call: StagedCall, work: () => Promise<readonly unknown[]>) => unknown

/** A store in memory whose calls are written down, and come to whatever a test wants. */
export class StagedStore implements CacheStore {
  readonly memory: MemoryCacheStore
  readonly fenceMs: number
  calls: StagedCall[] = []
  stage: Stage = (_, work) => work()

  constructor(clock: FakeClock) {
    this.memory = new MemoryCacheStore({ clock })
    this.fenceMs = this.memory.fenceMs
  }

  getMany(keys: readonly string[]) {
    return this.#call('getMany', keys, () => this.memory.getMany(keys))
  }

  setMany(writes: Parameters<CacheStore['setMany']>[0]) {
    const keys = writes.map(({ key }) => key)
    return this.#call('setMany', keys, () => this.memory.setMany(writes))
  }

  deleteMany(keys: readonly string[]) {
    return this.#call('deleteMany', keys, () => this.memory.deleteMany(keys))
  }

  readMarks(names: readonly string[]) {
    return this.#call('readMarks', names, () => this.memory.readMarks(names))
  }

  renewMarks(names: readonly string[]) {
    return this.#call('renewMarks', names, () => this.memory.renewMarks(names))
  }

  /** The calls so far, as `'getMany a,b'`, without what the namespace adds; then it begins anew. */
  log(...operations: readonly StoreOperation[]): string[] {
    const { calls } = this
    this.calls = []
    return calls
      .filter(({ operation }) => operations.length === 0 || operations.includes(operation))
      .map(({ operation, names }) => `${operation} ${names.map((name) => name.replace(/^cache:/, '')).join()}`)
  }

  /** What is stored under a key of the root namespace. */
  async value(key: string): Promise<unknown> {
    const [found] = await this.memory.getMany([`cache:${key}`])
    return found?.value
  }

  #call<T>(operation: StoreOperation, names: readonly string[], work: () => Promise<T>): Promise<T> {
    const call = { operation, names: [...names] }
    this.calls.push(call)
    return this.stage(call, work as never) as Promise<T>
  }
}

/** Makes calls of some operations come to something else. */
export function at(operations: StoreOperation | readonly StoreOperation[], stage: Stage): Stage {
  return (call, work) => (operations.includes(call.operation) ? stage(call, work) : work())
}

/** Does what it is asked only after a while. */
export const doneAfter =
  (clock: FakeClock, ms: number): Stage =>
  async (_, work) => {
    await new Promise<void>((resolve) => clock.setTimer(resolve, ms))
    return work()
  }

/** Does what it is asked at once, and answers after a while. */
export const answeredAfter =
  (clock: FakeClock, ms: number): Stage =>
  async (_, work) => {
    const answers = await work()
    await new Promise<void>((resolve) => clock.setTimer(resolve, ms))
    return answers
  }

/** Every call that writes. */
export const writing: readonly StoreOperation[] = ['setMany', 'deleteMany', 'renewMarks']

/** Fails all that it is asked. */
export const down: Stage = async (call) => {
  throw new Error(`${call.operation} is down`)
}

/** Never answers. */
export const hung: Stage = () => new Promise(() => undefined)

/** A cache on a store that a test has the say of, and others on the same store. */
export function sharedScene(clock: FakeClock, options: MultiLevelCacheOptions<string> = {}) {
  const store = new StagedStore(clock)
  const open = (): MultiLevelCache<string> =>
    new MultiLevelCache<string>({ clock, random: () => 0.5, l2: store, l2Breaker: false, ...options })
  const cache = open()
  const failures: MultiLevelCacheEvents['storeFailed'][] = []
  cache.on('storeFailed', (failure) => failures.push(failure))
  const l2 = () => cache.stats().l2 as NonNullable<ReturnType<typeof cache.stats>['l2']>
  return { store, cache, open, failures, l2 }
}
