import { QuotaConsumer, type QuotaConsumerOptions, QuotaService, type QuotaServiceOptions } from 'spillway'
import { type FakeClock, seededRandom } from 'spillway/testing'
import { expect } from 'vitest'
import { StagedStore } from './staged-store.js'

/** What a scene is made of. */
export interface SceneOptions extends Partial<QuotaServiceOptions> {
  /** Options of the consumer; without them there is none. */
  readonly buffer?: QuotaConsumerOptions
  readonly limit?: number
  readonly idempotent?: boolean
}

/** A service on a staged store, in virtual time. */
export interface Scene {
  readonly store: StagedStore
  readonly quotas: QuotaService
  /** Throws where the scene has none. */
  readonly consumer: QuotaConsumer
}

export function sceneOf(clock: FakeClock, { buffer, limit = 10, idempotent, ...options }: SceneOptions = {}): Scene {
  const store = new StagedStore(clock, idempotent === undefined ? {} : { idempotent })
  // Ids come from it too: each its own.
  const random = seededRandom('scene')
  const consumer = buffer === undefined ? undefined : new QuotaConsumer(store, { clock, random, ...buffer })
  const quotas = new QuotaService({ store, consumer, limitFor: () => limit, clock, random, ...options })
  return {
    store,
    quotas,
    get consumer() {
      if (consumer === undefined) throw new Error('this scene has no consumer')
      return consumer
    },
  }
}

/** Lets time pass while something is awaited. */
export async function during<T>(clock: FakeClock, promise: Promise<T>, ms = 0): Promise<T> {
  promise.catch(() => undefined)
  await clock.advance(ms)
  return promise
}

/** `offered = succeeded + failed + rejected + aborted + pending`. */
export function expectServiceBooks(quotas: QuotaService, expected: Partial<ReturnType<QuotaService['stats']>>): void {
  const stats = quotas.stats()
  const { offered, succeeded, failed, rejected, aborted, pending } = stats
  expect(succeeded + failed + rejected + aborted + pending, JSON.stringify(stats)).toBe(offered)
  expect(stats).toMatchObject(expected)
}
