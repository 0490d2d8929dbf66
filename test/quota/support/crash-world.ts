import {
  type BatchContext,
  isSpillwayError,
  QuotaConsumer,
  type UsageBatch,
  type UsageFailure,
  type UsageSink,
} from 'spillway'
import { FakeClock, MemoryUsageJournal, seededRandom } from 'spillway/testing'
import { expect } from 'vitest'
import { idOf, MoodySink, poison, refusable, type SinkMood, sinkMoods } from './usage-sink-world.js'

const never: Promise<never> = new Promise(() => undefined)
/** What a store that is well does. */
const well: readonly SinkMood[] = ['applies', 'applies at once', 'is slow']

/** What the publisher of an event was told. */
type Told = 'nothing' | 'resolved' | 'rejected'

/**
 * Lives of a process, one after the other on the same journal and the same sink, each of which is killed at some call of either: before
 * it is done, or when it is done and not answered. What a killed process had on its way to the sink may still arrive.
 */
export class CrashWorld {
  /** How many processes were killed. */
  kills = 0
  readonly #chance: () => number
  readonly #sink: MoodySink
  readonly #told = new Map<string, Told>()
  readonly #failures: UsageFailure[] = []
  #moods: readonly SinkMood[] = sinkMoods
  #clock = new FakeClock()
  #journal: MemoryUsageJournal
  /** How many more calls this life has. */
  #calls = 0
  #life = 0

  constructor(seed: number) {
    this.#chance = seededRandom(seed)
    const setTimer: FakeClock['setTimer'] = (callback, delayMs) => this.#clock.setTimer(callback, delayMs)
    this.#sink = new MoodySink({ setTimer }, true, () => this.#pick(this.#moods), this.#chance)
    this.#journal = new MemoryUsageJournal()
  }

  /** Lives and dies several times; the last life ends well. */
  async run(lives: number): Promise<void> {
    for (let life = 0; life < lives; life++) await this.#live(1 + Math.floor(this.#chance() * 60))
    this.#moods = well
    await this.#live(Number.POSITIVE_INFINITY)
    this.#check()
  }

  async #live(calls: number): Promise<void> {
    const life = ++this.#life
    this.#calls = calls
    const clock = new FakeClock()
    this.#clock = clock
    this.#sink.forgetWriter()
    const alive = (): boolean => this.#life === life && this.#calls > 0
    const survive = (): Promise<never> | undefined => (alive() && --this.#calls > 0 ? undefined : never)
    this.#journal = this.#journal.reopen({ before: survive, after: survive })
    const consumer = this.#consumer(clock, survive)
    if (this.#chance() < 0.5) void consumer.start()
    for (let step = 0; step < 40 && alive(); step++) await this.#step(consumer, clock)
    if (alive()) {
      // What close leaves, or cuts short, is for the next life, which the last one doesn't have.
      const last = calls === Number.POSITIVE_INFINITY
      if (last) await Promise.all([consumer.flush(), clock.advance(5000)])
      const timeoutMs = last || this.#chance() < 0.5 ? undefined : Math.floor(this.#chance() * 30)
      const closing = consumer.close({ timeoutMs })
      for (let step = 0; step < 100 && alive(); step++) await clock.advance(100)
      if (alive()) expect(await closing).toMatchObject(timeoutMs === undefined ? { drained: true, abandoned: 0 } : {})
    }
    if (alive()) return
    this.kills++
    this.#life++
    // Its last requests may be under way yet.
    if (this.#chance() < 0.5) await clock.advance(5000)
  }

  #consumer(clock: FakeClock, survive: () => Promise<never> | undefined): QuotaConsumer {
    const inner = this.#sink
    const sink: UsageSink = {
      idempotent: true,
      write: async (batch: UsageBatch, context: BatchContext) => {
        await survive()
        const answer = await inner.write(batch, context)
        await survive()
        return answer
      },
    }
    const capacity = 2 + Math.floor(this.#chance() * 10)
    return new QuotaConsumer(sink, {
      clock,
      random: seededRandom(this.#life),
      journal: this.#journal,
      capacity,
      maxBatchSize: 1 + Math.floor(this.#chance() * Math.min(capacity, 6)),
      maxWaitMs: 10,
      concurrency: 1 + Math.floor(this.#chance() * 3),
      timeoutMs: 30,
      retry: { attempts: 1 + Math.floor(this.#chance() * 3), delayMs: 5 },
      // It is lost when the process is.
      onFailed: (failure) => survive() ?? void this.#failures.push(failure),
    })
  }

  async #step(consumer: QuotaConsumer, clock: FakeClock): Promise<void> {
    if (this.#chance() < 0.4) return clock.advance(Math.floor(this.#chance() * 20))
    const requestId = `e${this.#told.size}`
    const value = this.#chance() < 0.1 ? this.#pick([poison, refusable]) : 1
    this.#told.set(requestId, 'nothing')
    const told = (what: Told) => (): void => void this.#told.set(requestId, what)
    const event = { userId: Math.floor(this.#chance() * 3), quotaType: 'api', value, requestId }
    // What is only offered may be lost.
    if (this.#chance() < 0.2) consumer.offer(event)
    else consumer.publish(event).then(told('resolved'), told('rejected'))
  }

  #check(): void {
    expect(this.#sink.faults).toEqual([])
    expect(this.#journal.pending).toBe(0)
    const given = new Map<string, boolean>()
    for (const { events, error } of this.#journal.deadLetters) {
      for (const event of events) given.set(idOf(event), isSpillwayError(error) && error.outcomeUnknown === true)
    }
    for (const [id, told] of this.#told) {
      const applied = this.#sink.applied.get(id) ?? 0
      const text = JSON.stringify({ id, told, applied, dead: given.get(id) })
      expect(applied, text).toBeLessThanOrEqual(1)
      // Resolved: counted, or among the dead letters.
      if (told === 'resolved') expect(applied + Number(given.has(id)), text).toBeGreaterThanOrEqual(1)
    }
    for (const event of this.#failures.flatMap(({ kept, events }) => (kept ? events : []))) {
      const id = idOf(event)
      const applied = this.#sink.applied.get(id) ?? 0
      expect(applied + Number(given.has(id)), `${id} was kept`).toBeGreaterThanOrEqual(1)
    }
  }

  #pick<T>(from: readonly T[]): T {
    return from[Math.floor(this.#chance() * from.length)] as T
  }
}
