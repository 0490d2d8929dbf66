import { StoreError } from 'spillway'
import { FaultProxy, FaultSwitch } from 'spillway/testing'
import { UsageError } from '../command-line.ts'
import type { ServerCondition } from './sample.ts'

/** How much later a slow server answers: this long, and up to as much again by chance. */
const slowMs = 250
const jitterMs = 100

/** A server that can be made worse: a real one by a proxy in front of it, one within the process by a switch around it. */
export interface ServerFault {
  readonly condition: ServerCondition
  /** What it is, for people. */
  readonly title: string
  turn(condition: ServerCondition): void
  close(): Promise<void>
}

/** A proxy in front of a server, and the server's URL with the proxy in its place. */
export class ProxiedServer implements ServerFault {
  readonly url: string
  readonly title: string
  readonly #proxy: FaultProxy
  #condition: ServerCondition = 'ok'

  private constructor(url: string, title: string, proxy: FaultProxy) {
    this.url = url
    this.title = title
    this.#proxy = proxy
  }

  static async open(name: string, url: string, usualPort: number): Promise<ProxiedServer> {
    const parsed = URL.canParse(url) ? new URL(url) : undefined
    if (!parsed?.hostname) throw new UsageError(`--faults needs a host and a port in ${name}, to put a proxy between`)
    const { hostname, port } = parsed
    const host = hostname.replace(/^\[(.*)\]$/, '$1')
    const proxy = new FaultProxy({ host, port: Number(port || usualPort) })
    await proxy.start()
    parsed.hostname = '127.0.0.1'
    parsed.port = String(proxy.port)
    return new ProxiedServer(parsed.href, `at ${hostname}:${port || usualPort}`, proxy)
  }

  get condition(): ServerCondition {
    return this.#condition
  }

  turn(condition: ServerCondition): void {
    this.#condition = condition
    if (condition === 'ok') this.#proxy.heal()
    if (condition === 'slow') this.#proxy.set({ toClient: { latencyMs: slowMs, jitterMs } })
    if (condition !== 'dead') return
    this.#proxy.set({ mode: 'refuse' })
    this.#proxy.cut()
  }

  close(): Promise<void> {
    return this.#proxy.stop()
  }
}

/** A switch around whatever stands in for the server within the process. */
export class SwitchedServer implements ServerFault {
  readonly title: string
  readonly power: FaultSwitch

  constructor(name: string, title: string) {
    this.title = title
    const error = (): StoreError => new StoreError(`${name} is dead, as the fault panel wants it`)
    this.power = new FaultSwitch({ delayMs: () => slowMs + Math.random() * jitterMs, error })
  }

  get condition(): ServerCondition {
    const { mode } = this.power
    return mode === 'slow' || mode === 'dead' ? mode : 'ok'
  }

  turn(condition: ServerCondition): void {
    this.power.turn(condition)
  }

  async close(): Promise<void> {
    this.power.turn('ok')
  }
}
