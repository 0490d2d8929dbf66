import { QuotaConsumer, type QuotaConsumerOptions, StoreError, type UsageBatch, type UsageSink } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { expectQuotaBalanced } from './support/books.js'
import { heapInUse } from './support/heap.js'

/** How long the longest outage is, in virtual minutes: 30 take a minute or more of real time. */
const longMinutes = Number(process.env['SPILLWAY_OUTAGE_MINUTES'] ?? 4)
const perSecond = 10_000
const stepMs = 100
const megabyte = 2 ** 20

/** A sink that is down until it is up. */
class Outage implements UsageSink {
  readonly idempotent = true
  down = true
  counted = 0
  readonly #clock: FakeClock
  readonly #how: 'refused' | 'silent'

  constructor(clock: FakeClock, how: 'refused' | 'silent') {
    this.#clock = clock
    this.#how = how
  }

  write({ totals }: UsageBatch, { signal }: { signal: AbortSignal }): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.down && this.#how === 'silent') {
        signal.addEventListener('abort', () => reject(signal.reason))
        return
      }
      const { down } = this
      this.#clock.setTimer(() => {
        if (down) return reject(new StoreError('connect ECONNREFUSED', { retryable: true }))
        for (const { count } of totals) this.counted += count
        resolve()
      }, 20)
    })
  }
}

interface Case {
  readonly name: string
  readonly how: 'refused' | 'silent'
  readonly minutes: number
  /** How many users there are; without a number, every event has one of its own. */
  readonly users?: number
  readonly options?: QuotaConsumerOptions
}

const cases: readonly Case[] = [
  { name: `refuses connections for ${longMinutes} minutes`, how: 'refused', minutes: longMinutes, users: 1000 },
  {
    name: 'answers nothing for a minute, each event of another user',
    how: 'silent',
    minutes: 1,
    options: { timeoutMs: 1000, overflow: 'drop-newest' },
  },
  {
    name: 'refuses connections for a minute, and the oldest are dropped',
    how: 'refused',
    minutes: 1,
    options: { overflow: 'drop-oldest' },
  },
]

describe('a sink that', () => {
  for (const { name, how, minutes, users, options } of cases) {
    test(`${name}, at ${perSecond} events/s: memory is bounded, the books balance, and it recovers`, {
      timeout: 120_000 + minutes * 60_000,
    }, async () => {
      const clock = new FakeClock()
      const sink = new Outage(clock, how)
      let givenUp = 0
      const consumer = new QuotaConsumer(sink, {
        ...QuotaConsumer.presets.highConcurrency,
        maxBatchSize: 100,
        clock,
        periodOf: (quotaType) => (quotaType === 'type 0' ? 'day' : 'month'),
        onFailed: ({ events }) => {
          givenUp += events.length
        },
        ...options,
      })
      let offered = 0
      let accepted = 0
      let refused = 0
      /** A tenth of a second of traffic, now and then of another day. */
      const step = async (): Promise<void> => {
        for (let n = 0; n < (perSecond * stepMs) / 1000; n++) {
          const user = offered++ % (users ?? Number.POSITIVE_INFINITY)
          const timestamp = n % 20 === 0 ? clock.wallNow() - (user % 1000) * 86_400_000 : undefined
          const ok = consumer.offer({ userId: user, quotaType: `type ${n % 7}`, value: 1, timestamp })
          if (ok) accepted++
          else refused++
        }
        await clock.advance(stepMs)
      }
      const most = 2000 + 5 * 100
      const during = async (seconds: number): Promise<void> => {
        for (let passed = 0; passed < seconds * 1000; passed += stepMs) {
          await step()
          expect(consumer.stats().pending).toBeLessThanOrEqual(most)
        }
        expectQuotaBalanced(consumer.stats())
      }
      // What it has once it is full.
      await during(10)
      const before = await heapInUse()

      await during(minutes * 60 - 10)

      const grown = (await heapInUse()) - before
      expect(grown, `${(grown / megabyte).toFixed(1)} MB more`).toBeLessThan(4 * megabyte)
      const dead = consumer.stats()
      expect(dead.pending).toBeGreaterThan(1900)
      expect(dead).toMatchObject({ healthy: false, succeeded: 0, failed: givenUp, offered })
      // Whatever became of it was told: given up, dropped or refused.
      expect(dead.failed + dead.dropped + dead.rejected + dead.pending).toBe(offered)
      expect(options === undefined ? dead.rejected : dead.dropped).toBeGreaterThan(offered / 2)

      sink.down = false
      await clock.advance(60_000)
      expect(consumer.isHealthy()).toBe(true)
      const [acceptedBefore, refusedBefore] = [accepted, refused]
      await during(10)

      expect([accepted - acceptedBefore, refused - refusedBefore]).toEqual([10 * perSecond, 0])
      expect(await Promise.all([consumer.close(), clock.advance(60_000)])).toMatchObject([{ drained: true }, undefined])
      const stats = consumer.stats()
      expectQuotaBalanced(stats)
      expect(stats).toMatchObject({ pending: 0, succeeded: sink.counted, failed: givenUp })
      const evicted = options?.overflow === 'drop-oldest' ? stats.dropped : 0
      expect(stats.succeeded + stats.failed + evicted).toBe(accepted)
      expect(clock.pending).toBe(0)
    })
  }
})
