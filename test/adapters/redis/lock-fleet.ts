import { randomUUID } from 'node:crypto'
import { Redis } from 'ioredis'
import {
  type RedisClient,
  type RedisLease,
  RedisLock,
  type RedisLockEvents,
  type RedisLockOptions,
} from 'spillway/redis'
import { expect, vi } from 'vitest'
import { CountingClock } from './counting-clock.ts'

type EventName = keyof RedisLockEvents

const events: readonly EventName[] = ['acquired', 'released', 'releaseFailed', 'extendFailed', 'lost']

/** The lock of one process, and what it said. */
export interface Locker {
  readonly lock: RedisLock
  readonly said: { [E in EventName]: { event: E; payload: RedisLockEvents[E] } }[EventName][]
  /** Its timers that haven't fired. */
  timers(): number
}

/** Makes locks that share one prefix, and takes them apart again. */
export class LockFleet {
  readonly prefix: string = `test:${randomUUID()}`
  readonly #cleanUps: (() => unknown)[] = []
  readonly #lockers: Locker[] = []

  /** A client that the fleet ends. */
  redis(url: string, options: object = {}): Redis {
    const client = new Redis(url, { maxRetriesPerRequest: 0, retryStrategy: () => 50, ...options })
    client.on('error', () => undefined)
    this.cleanUp(() => client.disconnect())
    return client
  }

  cleanUp(act: () => unknown): void {
    this.#cleanUps.push(act)
  }

  locker(client: RedisClient, options: RedisLockOptions = {}): Locker {
    const counting = new CountingClock()
    const lock = new RedisLock(client, { prefix: this.prefix, clock: counting, pollMs: 10, ...options })
    const said: Locker['said'] = []
    for (const event of events) lock.on(event, (payload) => said.push({ event, payload } as never))
    const locker = { lock, said, timers: () => counting.pending }
    this.#lockers.push(locker)
    return locker
  }

  keyOf(name: string, what: 'owner' | 'token' = 'owner'): string {
    return `{${this.prefix}:${name}}:${what}`
  }

  /** Ends all; every lock's books must balance, and none may have left a timer. */
  async end(): Promise<void> {
    try {
      for (const { lock, timers } of this.#lockers) {
        const stats = lock.stats()
        const { offered, acquired, busy, failed, rejected, aborted, pending } = stats
        expect(offered).toBe(acquired + busy + failed + rejected + aborted + pending)
        expect(acquired).toBe(stats.held + stats.released + stats.releaseFailed + stats.lost)
        expect([pending, stats.held]).toEqual([0, 0])
        await waitFor(() => expect(timers()).toBe(0))
      }
    } finally {
      for (const cleanUp of this.#cleanUps.splice(0).reverse()) await cleanUp()
    }
  }
}

/** The payloads of one event. */
export function saidBy<E extends EventName>(locker: Locker, event: E): RedisLockEvents[E][] {
  return locker.said.filter((one) => one.event === event).map((one) => one.payload as RedisLockEvents[E])
}

export const waitFor = <T>(check: () => T | Promise<T>): Promise<T> =>
  vi.waitFor(check, { timeout: 15_000, interval: 5 })

/** A lease that must have been granted. */
export function granted(lease: RedisLease | undefined): RedisLease {
  if (lease === undefined) throw new Error('no lease')
  return lease
}

/** Resolves when a signal aborts, with when that was. */
export function aborted(signal: AbortSignal): Promise<number> {
  return new Promise((resolve) => {
    const now = (): void => resolve(performance.now())
    if (signal.aborted) now()
    else signal.addEventListener('abort', now, { once: true })
  })
}
