import type { Invalidation, InvalidationBus, InvalidationLink, InvalidationListener } from 'spillway'
import type { FakeClock } from 'spillway/testing'
import type { Chance } from './chance.js'

/** Tells what a listener is about to hear. */
export type Overhear = (listener: InvalidationListener, heard: readonly Invalidation[] | 'gap') => void

interface End {
  readonly listener: InvalidationListener
  /** When the last of what is on its way arrives: what is published later doesn't arrive before. */
  lastAt: number
  connected: boolean
}

/** A bus whose messages take their time, in order for each listener, and which loses connections and reports the gap afterwards. */
export class UnsteadyBus implements InvalidationBus {
  gaps = 0
  readonly #clock: FakeClock
  readonly #chance: Chance
  readonly #overhear: Overhear
  readonly #ends = new Set<End>()

  constructor(clock: FakeClock, chance: Chance, overhear: Overhear) {
    this.#clock = clock
    this.#chance = chance
    this.#overhear = overhear
  }

  connect(listener: InvalidationListener): InvalidationLink {
    const end: End = { listener, lastAt: 0, connected: false }
    this.#ends.add(end)
    this.#reconnect(end)
    return {
      publish: (invalidations) => this.#publish(end, invalidations),
      flush: async () => undefined,
      close: () => this.#ends.delete(end),
    }
  }

  /** Breaks one listener's connection, for a while. */
  interrupt(): void {
    const end = this.#chance.pick([...this.#ends])
    if (end?.connected !== true) return
    end.connected = false
    const backAfterMs = this.#chance.below(40)
    this.#clock.setTimer(() => this.#reconnect(end), backAfterMs)
  }

  #reconnect(end: End): void {
    this.#later(end, () => {
      end.connected = true
      this.gaps++
      this.#overhear(end.listener, 'gap')
      end.listener.onGap()
    })
  }

  #publish(from: End, invalidations: readonly Invalidation[]): void {
    for (const end of this.#ends) {
      if (end === from) continue
      this.#later(end, () => {
        if (!end.connected) return
        this.#overhear(end.listener, invalidations)
        end.listener.onInvalidations(invalidations)
      })
    }
  }

  #later(end: End, deliver: () => void): void {
    const at = Math.max(end.lastAt, this.#clock.now() + this.#chance.shortMs())
    end.lastAt = at
    this.#clock.setTimer(() => this.#ends.has(end) && deliver(), at - this.#clock.now())
  }
}
