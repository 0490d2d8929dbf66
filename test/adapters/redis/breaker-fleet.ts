import type { Redis } from 'ioredis'
import { CircuitBreaker, type CircuitBreakerOptions } from 'spillway'
import {
  type ProbeGateOptions,
  RedisBreakerShare,
  type RedisBreakerShareEvents,
  type RedisBreakerShareOptions,
  type RedisClient,
} from 'spillway/redis'
import { TestFleet } from './fleets.ts'

type EventName = keyof RedisBreakerShareEvents

/** One process of a fleet: a share, a breaker, and what they said. */
export interface Member {
  readonly share: RedisBreakerShare
  readonly breaker: CircuitBreaker
  readonly leave: () => void
  /** The events of the share, as they came. */
  readonly said: { [E in EventName]: { event: E; payload: RedisBreakerShareEvents[E] } }[EventName][]
  /** Why the breaker opened and closed, as it came. */
  readonly changes: string[]
  /** Fails once; with `failureThreshold: 1` that trips it. */
  trip(): Promise<void>
  /** Calls once: whether the call was let through. */
  call(fn?: () => unknown): Promise<boolean>
}

export interface MemberOptions {
  readonly share?: RedisBreakerShareOptions
  readonly breaker?: CircuitBreakerOptions
  readonly gate?: ProbeGateOptions
}

const events: readonly EventName[] = [
  ...(['connected', 'disconnected', 'subscribed', 'unsubscribed', 'published', 'publishFailed'] as const),
  ...(['applied', 'leased', 'denied', 'leaseFailed', 'ignored'] as const),
]

/** Makes members that share one prefix, and takes them apart again. */
export class Fleet extends TestFleet {
  get prefix(): string {
    return this.id
  }

  /** One that has joined, and not started. */
  member(client: RedisClient, options: MemberOptions = {}): Member {
    const share = new RedisBreakerShare(client, { prefix: this.prefix, syncMs: 60_000, ...options.share })
    const name = options.breaker?.name ?? 'payments'
    const breaker = new CircuitBreaker({
      failureThreshold: 1,
      recoveryTimeoutMs: 60_000,
      probeGate: share.probeGate(name, options.gate),
      ...options.breaker,
      name,
    })
    const said: Member['said'] = []
    for (const event of events) share.on(event, (payload) => said.push({ event, payload } as never))
    const changes: string[] = []
    breaker.on('opened', ({ reason }) => changes.push(reason))
    breaker.on('closed', ({ reason }) => changes.push(reason))
    const call = async (fn: () => unknown = () => undefined): Promise<boolean> => {
      const permit = breaker.tryAcquire()
      if (permit === undefined) return false
      try {
        await fn()
        permit.success()
      } catch (error) {
        permit.failure(error)
      }
      return true
    }
    this.cleanUp(() => share.close({ timeoutMs: 1000 }))
    return {
      share,
      breaker,
      leave: share.join(breaker),
      said,
      changes,
      trip: async () => {
        await call(() => {
          throw new Error('the password is hunter2')
        })
      },
      call,
    }
  }

  /** Several that have started. */
  async started(count: number, connect: () => RedisClient, options?: MemberOptions): Promise<Member[]> {
    const members = Array.from({ length: count }, () => this.member(connect(), options))
    const started = await Promise.all(members.map(({ share }) => share.start()))
    if (started.includes(false)) throw new Error('a share has not started')
    return members
  }
}

/** The payloads of one event. */
export function saidBy<E extends EventName>(member: Member, event: E): RedisBreakerShareEvents[E][] {
  return member.said.filter((one) => one.event === event).map((one) => one.payload as RedisBreakerShareEvents[E])
}

/** A client whose answers wait while they are held: a slow way back. Subscriptions aren't slowed. */
export class SlowWay {
  readonly client: RedisClient
  /** Answers that wait. */
  held = 0
  #free: Promise<void> = Promise.resolve()
  #release: () => void = () => undefined

  constructor(client: Redis) {
    this.client = {
      isCluster: false,
      get status() {
        return client.status
      },
      call: async (command: string, args: string[]) => {
        const answer = await client.call(command, args)
        this.held++
        await this.#free
        this.held--
        return answer
      },
      duplicate: (overrides: object) => client.duplicate(overrides),
    } as never
  }

  hold(): void {
    this.#free = new Promise((resolve) => {
      this.#release = resolve
    })
  }

  release(): void {
    this.#release()
  }
}
