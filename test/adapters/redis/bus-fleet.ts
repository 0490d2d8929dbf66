import type { Invalidation, InvalidationLink } from 'spillway'
import {
  type RedisClient,
  RedisInvalidationBus,
  type RedisInvalidationBusEvents,
  type RedisInvalidationBusOptions,
} from 'spillway/redis'
import { expect, vi } from 'vitest'
import { CountingClock } from './counting-clock.ts'
import { TestFleet } from './fleets.ts'

type EventName = keyof RedisInvalidationBusEvents

const events: readonly EventName[] = ['subscribed', 'unsubscribed', 'gap', 'publishFailed', 'ignored']

/** One end of a bus, and what it heard: `k:key@version`, `t:tag`, `c:namespace`, `gap`. */
export interface End {
  readonly link: InvalidationLink
  readonly heard: string[]
  /** What it heard that is no gap. */
  news(): string[]
  gaps(): number
}

/** The bus of one process with one end, and what it said. */
export interface Rider extends End {
  readonly bus: RedisInvalidationBus
  readonly said: { [E in EventName]: { event: E; payload: RedisInvalidationBusEvents[E] } }[EventName][]
}

/** Makes buses that share one channel, and takes them apart again. */
export class BusFleet extends TestFleet {
  get channel(): string {
    return `test:${this.id}`
  }

  bus(client: RedisClient, options: RedisInvalidationBusOptions = {}): RedisInvalidationBus {
    const clock = new CountingClock()
    const bus = new RedisInvalidationBus(client, { channel: this.channel, clock, ...options })
    this.cleanUp(async () => {
      await bus.close({ timeoutMs: 1000 })
      await waitFor(() => expect(clock.pending).toBe(0))
    })
    return bus
  }

  /** A bus with one end that may not be subscribed yet. */
  rider(client: RedisClient, options?: RedisInvalidationBusOptions): Rider {
    const bus = this.bus(client, options)
    const said: Rider['said'] = []
    for (const event of events) bus.on(event, (payload) => said.push({ event, payload } as never))
    return { bus, said, ...endOf(bus) }
  }

  /** Buses with one end each that hear each other. */
  async riders(count: number, connect: () => RedisClient, options?: RedisInvalidationBusOptions): Promise<Rider[]> {
    const riders = Array.from({ length: count }, () => this.rider(connect(), options))
    await subscribed(riders)
    return riders
  }
}

export function endOf(bus: RedisInvalidationBus): End {
  const heard: string[] = []
  const link = bus.connect({
    onInvalidations: (invalidations) => heard.push(...invalidations.map(describeInvalidation)),
    onGap: () => heard.push('gap'),
  })
  return {
    link,
    heard,
    news: () => heard.filter((one) => one !== 'gap'),
    gaps: () => heard.filter((one) => one === 'gap').length,
  }
}

/** The payloads of one event. */
export function saidBy<E extends EventName>(rider: Rider, event: E): RedisInvalidationBusEvents[E][] {
  return rider.said.filter((one) => one.event === event).map((one) => one.payload as RedisInvalidationBusEvents[E])
}

export const waitFor = <T>(check: () => T | Promise<T>): Promise<T> =>
  vi.waitFor(check, { timeout: 15_000, interval: 5 })

export async function subscribed(riders: readonly Rider[]): Promise<void> {
  await waitFor(() => expect(riders.every(({ bus }) => bus.stats().subscribed)).toBe(true))
}

export const key = (name: string, version?: string): Invalidation =>
  version === undefined ? { kind: 'key', key: name } : { kind: 'key', key: name, version }

export const keys = (...names: string[]): Invalidation[] => names.map((name) => key(name))

function describeInvalidation(invalidation: Invalidation): string {
  switch (invalidation.kind) {
    case 'key':
      return `k:${invalidation.key}${invalidation.version === undefined ? '' : `@${invalidation.version}`}`
    case 'tag':
      return `t:${invalidation.tag}`
    case 'clear':
      return `c:${invalidation.namespace}`
  }
}

/** The books of a bus, which balance. */
export function expectBalance({ bus }: Rider): void {
  const { offered, published, merged, lost, pending } = bus.stats()
  expect(offered).toBe(published + merged + lost + pending)
}
