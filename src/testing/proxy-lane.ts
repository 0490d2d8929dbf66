import type { Clock } from '../core/clock.js'

// By its types only: where there are no sockets, nothing of this is used.
declare const netModule: () => NonNullable<ReturnType<typeof process.getBuiltinModule<'node:net'>>>

/** Node's own `node:net`. */
export type NetModule = ReturnType<typeof netModule>
/** A socket of it. */
export type NetSocket = InstanceType<NetModule['Socket']>

/** What is wrong with the way of bytes in one direction. Each is nothing by default. */
export interface LinkFaults {
  /** How much later bytes arrive, in milliseconds. */
  readonly latencyMs?: number | undefined
  /** By how much more, at the most, in milliseconds: a random share of it for each lot. Their order stays. */
  readonly jitterMs?: number | undefined
  /** How many bytes go through in a second, at least 1. */
  readonly bytesPerSecond?: number | undefined
  /** Whether nothing goes through for now, as when a cable is pulled: neither bytes nor the end of a connection. */
  readonly frozen?: boolean | undefined
  /** After how many more bytes of a connection it is reset, counted from when this was set, or from when it was made. */
  readonly resetAfterBytes?: number | undefined
}

/** What a lane has to do with. */
interface LaneOwner {
  readonly clock: Clock
  readonly random: () => number
  /** Bytes were handed on. */
  passed(bytes: number): void
  /** The connection is to be reset. */
  reset(): void
}

/** Something on its way: bytes, or the end. */
interface Lot {
  bytes: Uint8Array | undefined
  readonly dueAt: number
}

/** How much may be on its way in one direction before the sender is held back, in bytes. */
const mostQueued = 1_048_576
/** How often in a second a narrow way lets something through. */
const slicesPerSecond = 20

/** The way of bytes in one direction of a connection. */
export class ProxyLane {
  readonly #from: NetSocket
  readonly #to: NetSocket
  readonly #owner: LaneOwner
  #faults: LinkFaults
  #queue: Lot[] = []
  #queued = 0
  #latestDueAt = 0
  /** When a narrow way is free again. */
  #freeAt = 0
  #bytesToReset: number
  #cancelTimer: (() => void) | undefined
  #draining = false
  #over = false

  constructor(from: NetSocket, to: NetSocket, faults: LinkFaults, owner: LaneOwner) {
    this.#from = from
    this.#to = to
    this.#owner = owner
    this.#faults = faults
    this.#bytesToReset = faults.resetAfterBytes ?? Number.POSITIVE_INFINITY
    from.on('end', () => this.#add(undefined))
  }

  /** Takes other faults. What is on its way already arrives at once, unless the way is narrow or frozen. */
  apply(faults: LinkFaults): void {
    this.#faults = faults
    this.#bytesToReset = faults.resetAfterBytes ?? Number.POSITIVE_INFINITY
    this.#queue = this.#queue.map(({ bytes }) => ({ bytes, dueAt: 0 }))
    this.#latestDueAt = 0
    this.#freeAt = 0
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
    this.#pump()
  }

  push(bytes: Uint8Array): void {
    if (this.#over) return
    this.#queued += bytes.length
    this.#add(bytes)
    if (this.#queued > mostQueued) this.#from.pause()
  }

  close(): void {
    this.#over = true
    this.#cancelTimer?.()
    this.#queue = []
  }

  #add(bytes: Uint8Array | undefined): void {
    const { latencyMs = 0, jitterMs = 0 } = this.#faults
    const delayMs = latencyMs + (jitterMs > 0 ? jitterMs * this.#owner.random() : 0)
    this.#latestDueAt = Math.max(this.#latestDueAt, delayMs > 0 ? this.#owner.clock.now() + delayMs : 0)
    this.#queue.push({ bytes, dueAt: this.#latestDueAt })
    this.#pump()
  }

  #pump(): void {
    while (!this.#over && !this.#faults.frozen && !this.#draining && this.#cancelTimer === undefined) {
      const [lot] = this.#queue
      if (lot === undefined) return
      const waitMs = Math.max(lot.dueAt, this.#freeAt) - this.#owner.clock.now()
      if (waitMs > 0) {
        this.#cancelTimer = this.#owner.clock.setTimer(() => {
          this.#cancelTimer = undefined
          this.#pump()
        }, waitMs)
        return
      }
      if (lot.bytes === undefined) {
        this.#queue.shift()
        this.#to.end()
      } else this.#pass(lot, lot.bytes)
    }
  }

  /** Hands on as much as may go now. */
  #pass(lot: Lot, bytes: Uint8Array): void {
    const { bytesPerSecond = Number.POSITIVE_INFINITY } = this.#faults
    const most = Math.min(bytes.length, Math.ceil(bytesPerSecond / slicesPerSecond), this.#bytesToReset)
    const part = bytes.subarray(0, most)
    if (most === bytes.length) this.#queue.shift()
    else lot.bytes = bytes.subarray(most)
    this.#queued -= most
    this.#bytesToReset -= most
    if (bytesPerSecond !== Number.POSITIVE_INFINITY) {
      this.#freeAt = Math.max(this.#freeAt, this.#owner.clock.now()) + (most / bytesPerSecond) * 1000
    }
    this.#owner.passed(most)
    if (this.#queued <= mostQueued && this.#from.isPaused()) this.#from.resume()
    if (this.#bytesToReset <= 0) {
      this.#over = true
      // Once the last of them are out: a reset takes back what is still in the socket.
      this.#to.write(part, () => this.#owner.reset())
      return
    }
    if (this.#to.write(part)) return
    this.#draining = true
    this.#to.once('drain', () => {
      this.#draining = false
      this.#pump()
    })
  }
}
