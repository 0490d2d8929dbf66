import { getEventListeners } from 'node:events'
import { AsyncBatcher, type AsyncBatcherOptions, type AsyncBatcherStats, type BatchContext, StoreError } from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'
import { expect } from 'vitest'
import { codeOf, expectBalanced, type Watched, watch } from './outcomes.js'

export interface RandomItem {
  readonly id: number
  readonly key: number
  readonly group: number
  readonly bytes: number
}

/** How the batch function takes one call. */
export type Behaviour =
  | 'succeeds'
  | 'succeeds at once'
  | 'fails some items'
  | 'fails with poison'
  | 'throws'
  | 'rejects'
  | 'rejects for good'
  | 'loses the connection'
  | 'answers too few'
  | 'answers no array'
  | 'hangs'
  | 'hangs until aborted'
  | 'is slow'
  | 'is late'
  | 'adds to its own batcher'

export interface World {
  readonly seed: number
  readonly options: Omit<AsyncBatcherOptions<RandomItem>, 'keyOf' | 'groupBy' | 'sizeOf'>
  readonly keyed: boolean
  readonly grouped: boolean
  readonly sized: boolean
  readonly listening: boolean
  readonly behaviours: readonly Behaviour[]
}

/** Which signal a call gets: none, or one of a few that other calls may share. */
export type SignalChoice = number | undefined

export type Action =
  | { readonly do: 'add'; readonly item: Omit<RandomItem, 'id'>; readonly signal: SignalChoice }
  | { readonly do: 'addMany'; readonly items: readonly Omit<RandomItem, 'id'>[]; readonly signal: SignalChoice }
  | { readonly do: 'ready'; readonly signal: SignalChoice }
  | { readonly do: 'abort'; readonly signal: number }
  | { readonly do: 'flush' }
  | { readonly do: 'close'; readonly timeoutMs: number | undefined }
  | { readonly do: 'advance'; readonly ms: number }

/** An `Error` that belongs to one item, or to all that share its key. */
class OwnError extends Error {
  readonly owner: number

  constructor(owner: number) {
    super(`the error of ${owner}`)
    this.owner = owner
  }
}

interface Added {
  readonly item: RandomItem
  readonly at: number
  readonly watched: Watched<number>
  readonly signal: AbortSignal | undefined
  readonly abortedBefore: boolean
}

const monotonic = [
  'offered',
  'succeeded',
  'failed',
  'dropped',
  'rejected',
  'aborted',
  'batches',
  'retries',
  'timeouts',
  'overruns',
] as const

/** A batcher, its hostile surroundings, and what is known about every call that was made. */
export class RandomWorld {
  readonly clock: FakeClock = new FakeClock()
  readonly batcher: AsyncBatcher<RandomItem, number>
  readonly #world: World
  readonly #chance: () => number
  readonly #added: Added[] = []
  readonly #many: { watched: Watched<PromiseSettledResult<number>[]>; items: readonly RandomItem[]; given: Given }[] =
    []
  readonly #waits: Watched<unknown>[] = []
  readonly #flushes: {
    watched: Watched<{ succeeded: number; failed: number; dropped: number }>
    at: AsyncBatcherStats
  }[] = []
  readonly #closes: Watched<{ drained: boolean; abandoned: number }>[] = []
  readonly #controllers: AbortController[] = Array.from({ length: 4 }, () => new AbortController())
  readonly #signals: AbortSignal[] = this.#controllers.map((controller) => controller.signal)
  readonly #dispatched = new Set<number>()
  readonly #heard = { dispatched: 0, succeeded: 0, failed: 0, retried: 0, dropped: 0 }
  /** What went wrong inside the batch function, where a failed assertion would look like a failed batch. */
  readonly #faults: string[] = []
  #ids = 0
  #calls = 0
  #open = 0
  #before: AsyncBatcherStats

  constructor(world: World) {
    this.#world = world
    this.#chance = seededRandom(world.seed)
    const options: AsyncBatcherOptions<RandomItem> = {
      ...world.options,
      clock: this.clock,
      random: seededRandom(world.seed + 1),
    }
    if (world.keyed) options.keyOf = (item) => item.key
    if (world.grouped) options.groupBy = (item) => item.group
    if (world.sized) {
      options.sizeOf = (item) => item.bytes
      options.maxBatchBytes = 10
    }
    this.batcher = new AsyncBatcher((items, context) => this.#process(items, context), options)
    if (world.listening) this.#listen()
    this.#before = this.batcher.stats()
  }

  /** Takes one step, and checks everything that must hold after it. */
  async step(action: Action): Promise<void> {
    switch (action.do) {
      case 'add':
        this.#add(this.#make(action.item), this.#signal(action.signal))
        break
      case 'addMany': {
        const signal = this.#signal(action.signal)
        const items = action.items.map((item) => this.#make(item))
        const given = { signal, abortedBefore: signal?.aborted === true }
        this.#many.push({ watched: watch(this.batcher.addMany(items, { signal })), items, given })
        break
      }
      case 'ready':
        this.#waits.push(watch(this.batcher.ready({ signal: this.#signal(action.signal) })))
        break
      case 'abort':
        this.#abort(action.signal)
        break
      case 'flush':
        this.#flushes.push({ at: this.batcher.stats(), watched: watch(this.batcher.flush()) })
        break
      case 'close':
        this.#closes.push(watch(this.batcher.close({ timeoutMs: action.timeoutMs })))
        break
      case 'advance':
        this.#check()
        await this.clock.advance(action.ms)
        this.#checkNobodyWaitsTooLong()
        break
    }
    this.#check()
  }

  /** Closes, lets all late answers come in, and checks that nothing is left and that the sums are right. */
  async end(): Promise<void> {
    await this.step({ do: 'close', timeoutMs: 100 })
    await this.step({ do: 'advance', ms: 100 })
    await this.clock.advance(5000)
    this.#check()

    const stats = this.batcher.stats()
    expect(stats).toMatchObject({ pending: 0, inFlight: 0, inFlightBatches: 0 })
    expect(this.clock.pending).toBe(0)
    for (const { watched } of this.#added) expect(watched.times).toBe(1)
    for (const { watched } of this.#many) expect(watched).toMatchObject({ status: 'fulfilled', times: 1 })
    for (const watched of this.#waits) expect(watched.times).toBe(1)
    for (const signal of this.#signals) expect(getEventListeners(signal, 'abort')).toEqual([])
    this.#checkReports(stats)
    this.#checkSums(stats)
  }

  #make(item: Omit<RandomItem, 'id'>): RandomItem {
    return { ...item, id: this.#ids++ }
  }

  #add(item: RandomItem, signal: AbortSignal | undefined): void {
    const abortedBefore = signal?.aborted === true
    // Both ways in: with an options argument and without.
    const promise = signal === undefined ? this.batcher.add(item) : this.batcher.add(item, { signal })
    this.#added.push({ item, at: this.clock.now(), watched: watch(promise), signal, abortedBefore })
  }

  #signal(choice: SignalChoice): AbortSignal | undefined {
    return choice === undefined ? undefined : this.#controllers[choice]?.signal
  }

  #abort(index: number): void {
    const controller = this.#controllers[index]
    controller?.abort(new Error('the caller gave up'))
    // Some later calls find the aborted signal in its place, others a fresh one.
    if (this.#chance() < 0.7) {
      this.#controllers[index] = new AbortController()
      this.#signals.push((this.#controllers[index] as AbortController).signal)
    }
  }

  // ── the batch function ──────────────────────────────────────────────────────────────────────────────────────────

  #process(items: RandomItem[], context: BatchContext): never {
    const { behaviours } = this.#world
    const behaviour = behaviours[this.#calls++ % behaviours.length] as Behaviour
    this.#checkBatch(items)
    const answer = this.#behave(behaviour, [...items], context)
    if (answer instanceof Promise) {
      this.#open++
      const done = (): void => void this.#open--
      answer.then(done, done)
    }
    // What it was given is its own.
    items.reverse().length = Math.floor(items.length / 2)
    return answer as never
  }

  #behave(behaviour: Behaviour, items: readonly RandomItem[], { signal }: BatchContext): unknown {
    const owners = items.map((item) => this.#ownerOf(item))
    const ms = 1 + Math.floor(this.#chance() * 60)
    switch (behaviour) {
      case 'succeeds':
        return Promise.resolve(owners)
      case 'succeeds at once':
        return owners
      case 'fails some items':
        return Promise.resolve(owners.map((owner) => (owner % 2 === 0 ? new OwnError(owner) : owner)))
      case 'fails with poison':
        return owners.some((owner) => owner % 3 === 0) ? Promise.reject(new Error('poison')) : Promise.resolve(owners)
      case 'throws':
        throw new Error('thrown')
      case 'rejects':
        return Promise.reject(new Error('rejected'))
      case 'rejects for good':
        return Promise.reject(Object.assign(new Error('rejected for good'), { retryable: false }))
      case 'loses the connection':
        return Promise.reject(new StoreError('lost', { outcomeUnknown: true }))
      case 'answers too few':
        return Promise.resolve(owners.slice(1))
      case 'answers no array':
        return Promise.resolve({ length: owners.length })
      case 'hangs':
        return new Promise(() => undefined)
      case 'hangs until aborted':
        return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
      case 'is slow':
      case 'is late':
        return new Promise((resolve) => {
          const cancel = this.clock.setTimer(() => resolve(owners), behaviour === 'is late' ? ms * 20 : ms)
          if (behaviour === 'is late') return
          signal.addEventListener('abort', () => {
            cancel()
            resolve([])
          })
        })
      case 'adds to its own batcher':
        if (this.#ids < 200) this.#add(this.#make(items[0] as RandomItem), undefined)
        return Promise.resolve(owners)
    }
  }

  /** Whose answer an item gets: its own, or its key's. */
  #ownerOf(item: RandomItem): number {
    return this.#world.keyed ? item.key : item.id
  }

  #checkBatch(items: readonly RandomItem[]): void {
    const { maxBatchSize = 100 } = this.#world.options
    const { keyed, grouped, sized } = this.#world
    const distinct = (of: (item: RandomItem) => number): number => new Set(items.map(of)).size
    const fault = (condition: boolean, text: string): void => {
      if (condition) this.#faults.push(`${text}: ${JSON.stringify(items)}`)
    }
    fault(items.length === 0, 'an empty batch')
    fault(items.length > maxBatchSize, `a batch of more than ${maxBatchSize}`)
    fault(grouped && distinct((item) => item.group) > 1, 'a batch of several groups')
    fault(keyed && distinct((item) => item.key) < items.length, 'a batch with a key twice')
    // A key's items may differ in size here, so only without keys is the sum that of what was counted.
    const bytes = items.reduce((sum, item) => sum + item.bytes, 0)
    fault(sized && !keyed && bytes > 10, `a batch of ${bytes} bytes`)
    for (const item of items) this.#dispatched.add(item.id)
  }

  #listen(): void {
    this.batcher.on('dispatched', () => void this.#heard.dispatched++)
    this.batcher.on('settled', ({ succeeded, failed }) => {
      this.#heard.succeeded += succeeded
      this.#heard.failed += failed
    })
    this.batcher.on('retried', () => void this.#heard.retried++)
    this.batcher.on('dropped', () => void this.#heard.dropped++)
    for (const event of ['dispatched', 'settled', 'retried', 'failed', 'dropped'] as const) {
      this.batcher.on(event, () => expectBalanced(this.batcher.stats()))
    }
  }

  // ── what must hold ──────────────────────────────────────────────────────────────────────────────────────────────

  #check(): void {
    const { concurrency = 4, capacity = 10_000 } = this.#world.options
    const stats = this.batcher.stats()
    expectBalanced(stats)
    expect(stats.inFlight).toBeGreaterThanOrEqual(0)
    expect(stats.pending - stats.inFlight).toBeGreaterThanOrEqual(0)
    expect(stats.pending - stats.inFlight).toBeLessThanOrEqual(capacity)
    expect(stats.inFlightBatches).toBeLessThanOrEqual(concurrency)
    // What has outrun its grace no longer holds a slot; what was abandoned is over.
    if (this.#closes.length === 0) expect(this.#open - stats.overruns).toBeLessThanOrEqual(concurrency)
    for (const counter of monotonic) expect(stats[counter], counter).toBeGreaterThanOrEqual(this.#before[counter])
    this.#before = stats
    expect(this.#faults).toEqual([])
  }

  /** After a turn has ended: who has aborted was told, and what is due only waits for a slot. */
  #checkNobodyWaitsTooLong(): void {
    const { concurrency = 4, maxWaitMs = 100, eager = true } = this.#world.options
    const { inFlightBatches } = this.batcher.stats()
    for (const { item, at, watched, signal } of this.#added) {
      expect(watched.times).toBeLessThanOrEqual(1)
      if (signal?.aborted) expect(watched.status).not.toBe('pending')
      if (watched.status !== 'pending') continue
      // With keys, an item may be on its way under another one's name.
      if (this.#world.keyed || this.#dispatched.has(item.id)) continue
      if (this.clock.now() - at >= maxWaitMs)
        expect(inFlightBatches, 'slots taken while one is overdue').toBe(concurrency)
      if (eager) expect(inFlightBatches, 'slots taken while one waits eagerly').toBeGreaterThan(0)
    }
  }

  #checkReports(stats: AsyncBatcherStats): void {
    for (const { watched, at } of this.#flushes) {
      expect(watched).toMatchObject({ status: 'fulfilled', times: 1 })
      const { succeeded, failed, dropped } = watched.value as { succeeded: number; failed: number; dropped: number }
      const sum = succeeded + failed + dropped
      expect(sum).toBeLessThanOrEqual(at.pending)
      expect(sum).toBeGreaterThanOrEqual(at.pending - (stats.aborted - at.aborted))
    }
    for (const watched of this.#closes) {
      expect(watched).toMatchObject({ status: 'fulfilled', times: 1 })
      expect(watched.value).toEqual(this.#closes[0]?.value)
      expect(watched.value?.drained).toBe(watched.value?.abandoned === 0)
    }
  }

  /** Counts what the callers were told, and compares with the books and the events. */
  #checkSums(stats: AsyncBatcherStats): void {
    const { overflow = 'reject' } = this.#world.options
    const abandoned = this.#closes[0]?.value?.abandoned ?? 0
    const told = { succeeded: 0, failed: 0, dropped: 0, rejected: 0, aborted: 0, closed: 0 }
    const count = (item: RandomItem, outcome: PromiseSettledResult<number>, given: Given): void => {
      if (outcome.status === 'fulfilled') {
        expect(outcome.value).toBe(this.#ownerOf(item))
        told.succeeded++
        return
      }
      const { reason } = outcome
      if (reason instanceof OwnError) expect(reason.owner).toBe(this.#ownerOf(item))
      if (given.signal !== undefined && reason === given.signal.reason)
        told[given.abortedBefore ? 'rejected' : 'aborted']++
      else if (codeOf(reason) === 'ERR_FULL') told[overflow === 'reject' ? 'rejected' : 'dropped']++
      else if (codeOf(reason) === 'ERR_TOO_LARGE') told.rejected++
      else if (codeOf(reason) === 'ERR_CLOSED') told.closed++
      else told.failed++
    }
    for (const { item, watched, signal, abortedBefore } of this.#added) {
      const { status, value, reason } = watched
      const outcome =
        status === 'fulfilled' ? { status, value: value as number } : { status: 'rejected' as const, reason }
      count(item, outcome, { signal, abortedBefore })
    }
    for (const { watched, items, given } of this.#many) {
      expect(watched.value).toHaveLength(items.length)
      watched.value?.forEach((outcome, index) => void count(items[index] as RandomItem, outcome, given))
    }

    // A ClosedError is that of an item that was abandoned, or of one that came too late.
    const { closed, ...rest } = told
    const expected = { ...rest, failed: told.failed + abandoned, rejected: told.rejected + closed - abandoned }
    expect(stats).toMatchObject({ ...expected, offered: this.#ids })
    if (!this.#world.listening) return
    expect(this.#heard).toEqual({
      dispatched: stats.batches,
      succeeded: stats.succeeded,
      failed: stats.failed - abandoned,
      retried: stats.retries,
      dropped: stats.dropped,
    })
  }
}

interface Given {
  readonly signal: AbortSignal | undefined
  readonly abortedBefore: boolean
}
