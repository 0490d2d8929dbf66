import {
  type RedisClient,
  type RedisLease,
  RedisLock,
  type RedisLockEvents,
  type RedisLockOptions,
} from 'spillway/redis'
import { expect, vi } from 'vitest'
import { CountingClock } from './counting-clock.ts'
import { TestFleet } from './fleets.ts'

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
export class LockFleet extends TestFleet {
  readonly #lockers: Locker[] = []

  get prefix(): string {
    return `test:${this.id}`
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
  override async end(): Promise<void> {
    try {
      for (const { lock, timers } of this.#lockers.splice(0)) {
        const stats = lock.stats()
        const { offered, acquired, busy, failed, rejected, aborted, pending } = stats
        expect(offered).toBe(acquired + busy + failed + rejected + aborted + pending)
        expect(acquired).toBe(stats.held + stats.released + stats.releaseFailed + stats.lost)
        expect([pending, stats.held]).toEqual([0, 0])
        await waitFor(() => expect(timers()).toBe(0))
      }
    } finally {
      await super.end()
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
