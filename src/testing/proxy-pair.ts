import type { Clock } from '../core/clock.js'
import { type LinkFaults, type NetSocket, ProxyLane } from './proxy-lane.js'

/** What a pair of sockets has to do with. */
interface PairOwner {
  readonly clock: Clock
  readonly random: () => number
  readonly toServer: LinkFaults
  readonly toClient: LinkFaults
  passed(way: 'toServer' | 'toClient', bytes: number): void
  cut(): void
  loses(request: Uint8Array): ((answer: Uint8Array) => boolean) | undefined
  lost(): void
  ended(): void
}

/** A client's connection, and the one to the server that belongs to it. */
export class ProxyPair {
  readonly #sockets: readonly [client: NetSocket, server: NetSocket]
  readonly #lanes: readonly [toServer: ProxyLane, toClient: ProxyLane]
  #frozen: boolean
  /** One side broke while the way was frozen: the other side hears of it later. */
  #broken = false

  constructor(client: NetSocket, server: NetSocket, owner: PairOwner) {
    const { clock, random } = owner
    const cut = (): void => {
      owner.cut()
      this.reset()
    }
    this.#sockets = [client, server]
    this.#frozen = isFrozen(owner.toServer, owner.toClient)
    this.#lanes = [
      new ProxyLane(client, server, owner.toServer, {
        clock,
        random,
        passed: (bytes) => owner.passed('toServer', bytes),
        reset: cut,
      }),
      new ProxyLane(server, client, owner.toClient, {
        clock,
        random,
        passed: (bytes) => owner.passed('toClient', bytes),
        reset: cut,
      }),
    ]
    const [toServer, toClient] = this.#lanes
    let losing: { readonly isComplete: (answer: Uint8Array) => boolean; answer: Uint8Array } | undefined
    client.on('data', (bytes: Uint8Array) => {
      if (losing === undefined) {
        const isComplete = owner.loses(bytes)
        if (isComplete !== undefined) losing = { isComplete, answer: new Uint8Array() }
      }
      toServer.push(bytes)
    })
    server.on('data', (bytes: Uint8Array) => {
      if (losing === undefined) return toClient.push(bytes)
      losing.answer = joined(losing.answer, bytes)
      if (!losing.isComplete(losing.answer)) return
      owner.lost()
      cut()
    })
    let open = 2
    for (const socket of this.#sockets) {
      socket.setNoDelay(true)
      socket.on('error', () => this.#break())
      socket.once('close', () => {
        if (--open > 0) return
        for (const lane of this.#lanes) lane.close()
        owner.ended()
      })
    }
  }

  apply(toServer: LinkFaults, toClient: LinkFaults): void {
    this.#frozen = isFrozen(toServer, toClient)
    this.#lanes[0].apply(toServer)
    this.#lanes[1].apply(toClient)
    if (this.#broken) this.#break()
  }

  reset(): void {
    for (const lane of this.#lanes) lane.close()
    for (const socket of this.#sockets) resetSocket(socket)
  }

  #break(): void {
    this.#broken = true
    if (!this.#frozen) this.reset()
  }
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const whole = new Uint8Array(a.length + b.length)
  whole.set(a)
  whole.set(b, a.length)
  return whole
}

function isFrozen(...links: readonly LinkFaults[]): boolean {
  return links.some(({ frozen }) => frozen)
}

/**
 * Ends a connection with a reset, at once. `resetAndDestroy` waits until the other side has taken what was written, and ends the
 * connection in good order before: so this sets what that sets. Where there is no such thing, the connection is closed.
 */
export function resetSocket(socket: NetSocket): void {
  if (socket.destroyed) return
  // While the end is being sent, the platform can't reset.
  const isEnding = socket.writableEnded && !socket.writableFinished
  if (!socket.connecting && !isEnding) (socket as { resetAndClosing?: boolean }).resetAndClosing = true
  socket.destroy()
}
