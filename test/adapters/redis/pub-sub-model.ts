import type { RedisClient } from 'spillway/redis'

type Listener = (...args: unknown[]) => void

/** What goes wrong, each as a share of the times at which it can. */
export interface PubSubFaults {
  /** A message doesn't reach one of those who listen, and have listened for five seconds, in silence. */
  readonly dropped: number
  /** A publication fails: half of them after it was made. */
  readonly failed: number
  /** A publication is made, and nobody answers. */
  readonly unanswered: number
}

/** Pub/sub in memory, as ioredis shows it, for one channel: it loses what it is told to lose. */
export class PubSubModel {
  readonly #random: () => number
  readonly now: () => number
  readonly #subscribers = new Set<Subscription>()
  faults: PubSubFaults = { dropped: 0, failed: 0, unanswered: 0 }
  /** Whether nothing can be reached. */
  down = false
  /** A message that comes with the answer to a subscription. */
  early: string | undefined

  constructor(random: () => number, now: () => number) {
    this.#random = random
    this.now = now
  }

  client(): RedisClient {
    return {
      isCluster: false,
      status: 'ready',
      call: (_: string, args: string[]) => this.#publish(args.at(-1) as string),
      duplicate: () => new Subscription(this.#subscribers, this),
    } as never
  }

  /** Breaks one connection that listens. */
  cutOne(): void {
    const all = [...this.#subscribers]
    all[Math.floor(this.#random() * all.length)]?.break()
  }

  cutAll(): void {
    for (const subscription of this.#subscribers) subscription.break()
  }

  async #publish(text: string): Promise<unknown> {
    await Promise.resolve()
    const { failed, unanswered } = this.faults
    if (this.down) throw new Error('Connection is closed.')
    const fails = this.#random() < failed
    if (fails && this.#random() < 0.5) throw new Error('Connection is closed.')
    for (const subscription of this.#subscribers) {
      const lasting = this.now() - subscription.sinceMs >= 5000
      if (this.#random() >= this.faults.dropped || !lasting) subscription.emit('message', subscription.channel, text)
    }
    if (fails) throw new Error('Connection is closed.')
    if (this.#random() < unanswered) return new Promise(() => undefined)
    return this.#subscribers.size
  }
}

/** A connection of its own that listens. */
class Subscription {
  status = 'wait'
  channel: string | undefined
  sinceMs = 0
  readonly #all: Set<Subscription>
  readonly #model: Pick<PubSubModel, 'down' | 'early' | 'now'>
  readonly #listeners: [string, Listener][] = []

  constructor(all: Set<Subscription>, model: Pick<PubSubModel, 'down' | 'early' | 'now'>) {
    this.#all = all
    this.#model = model
  }

  on(event: string, listener: Listener): void {
    this.#listeners.push([event, listener])
  }

  emit(event: string, ...args: unknown[]): void {
    for (const [name, listener] of [...this.#listeners]) if (name === event) listener(...args)
  }

  async connect(): Promise<void> {
    if (this.#model.down) throw new Error('connect ECONNREFUSED')
    this.status = 'ready'
  }

  async subscribe(channel: string): Promise<void> {
    this.channel = channel
    this.sinceMs = this.#model.now()
    this.#all.add(this)
    if (this.#model.early !== undefined) this.emit('message', channel, this.#model.early)
  }

  async call(): Promise<string> {
    return 'PONG'
  }

  disconnect(): void {
    this.status = 'end'
    this.#all.delete(this)
  }

  break(): void {
    this.disconnect()
    this.emit('close')
  }
}
