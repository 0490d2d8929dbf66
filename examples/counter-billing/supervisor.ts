import { setTimeout as delay } from 'node:timers/promises'
import type { Closable } from 'spillway/process'
import type { Log } from './counter/counters.ts'
import { type FleetMember, startMember } from './fleet.ts'

/** A part of the service that is to run in a process of its own, and to be started again where it dies. */
export interface SupervisedPart {
  /** What it is called, for people: `gateway 1`. */
  readonly name: string
  /** The flags of `main.ts`. */
  readonly flags: readonly string[]
  /** The flag that says where it listens, where it listens: another process takes the place of a dead one, on the same port. */
  readonly portFlag?: string
  readonly env: Readonly<Record<string, string>>
}

/** A part that runs, or is about to run again. */
export interface Supervised {
  readonly name: string
  /** Where it listens: `host:port`, a gateway's URL, nothing of a usage worker. */
  readonly address: string
  /** The process that is it now. */
  readonly pid: number
  /** How often it was started again. */
  readonly restarts: number
  /** SIGKILL: it ends at once, as in a crash. */
  kill(): Promise<void>
}

export interface SupervisorOptions {
  readonly log: Log
  /** Told what parts write to stderr, line by line. */
  readonly tell: (line: string) => void
  /** How long to wait before the first restart; it doubles with each that follows soon. */
  readonly delayMs?: number
  readonly maxDelayMs?: number
  /** A part that dies more often than this within a minute is given up. */
  readonly maxRestarts?: number
  /** How a part is started; by `main.ts` in a process of its own. */
  readonly start?: typeof startMember
}

const windowMs = 60_000

/** Keeps parts of the service running: one that dies is started again, after a pause that grows, and not for ever. */
export class Supervisor {
  readonly #options: Required<SupervisorOptions>
  readonly #parts: SupervisedProcess[] = []

  constructor(options: SupervisorOptions) {
    this.#options = { delayMs: 250, maxDelayMs: 5_000, maxRestarts: 5, start: startMember, ...options }
  }

  get parts(): readonly Supervised[] {
    return this.#parts
  }

  /** Starts parts side by side, and returns them with what closes them, side by side. All of them run, or none. */
  async start(name: string, parts: readonly SupervisedPart[]): Promise<{ members: Supervised[]; closable: Closable }> {
    const members = parts.map((part) => new SupervisedProcess(part, this.#options))
    this.#parts.push(...members)
    const close = async (): Promise<void> => void (await Promise.all(members.map((member) => member.close())))
    const started = await Promise.allSettled(members.map((member) => member.start()))
    const failure = started.find((one) => one.status === 'rejected')
    if (failure === undefined) return { members, closable: { name, close } }
    await close()
    throw failure.reason
  }
}

class SupervisedProcess implements Supervised {
  readonly name: string
  restarts = 0
  readonly #part: SupervisedPart
  readonly #options: Required<SupervisorOptions>
  /** When it was started again, within the last minute. */
  #recent: number[] = []
  #address = ''
  #member: FleetMember | undefined
  /** One restart after the other: a part may die again before it is told to be back. */
  #restarting = Promise.resolve()
  readonly #closing = new AbortController()

  constructor(part: SupervisedPart, options: Required<SupervisorOptions>) {
    this.name = part.name
    this.#part = part
    this.#options = options
  }

  get address(): string {
    return this.#address
  }

  get pid(): number {
    return this.#member?.pid ?? 0
  }

  async start(): Promise<void> {
    const { flags, portFlag, env } = this.#part
    const port = portFlag === undefined ? [] : [`--${portFlag}`, this.#address.split(':').at(-1) || '0']
    const { start, tell } = this.#options
    const member = await start([...flags, ...port], env, tell, this.#closing.signal)
    this.#member = member
    this.#address = member.address
    void member.ended.then((how) => this.#onEnd(how))
    // It was told to end while it was starting.
    if (this.#closing.signal.aborted) await member.close()
  }

  async kill(): Promise<void> {
    await this.#member?.kill()
  }

  /** Lets it write what it accepted, and end; it isn't started again. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#restarting
    await this.#member?.close()
  }

  #onEnd(how: string): void {
    if (this.#closing.signal.aborted) return
    this.#restarting = this.#restarting.then(() => this.#restart(how))
  }

  async #restart(how: string): Promise<void> {
    const { log, delayMs, maxDelayMs, maxRestarts } = this.#options
    for (let reason = `ended with ${how}`; !this.#closing.signal.aborted; ) {
      const now = performance.now()
      this.#recent = this.#recent.filter((at) => now - at < windowMs)
      if (this.#recent.length >= maxRestarts) {
        return log('error', `${this.name} ${reason}, and is given up: it was started ${maxRestarts} times in a minute`)
      }
      const pauseMs = Math.min(maxDelayMs, delayMs * 2 ** this.#recent.length)
      log('warn', `${this.name} ${reason}; it is started again in ${pauseMs} ms`)
      this.#recent.push(now)
      await delay(pauseMs, undefined, { signal: this.#closing.signal }).catch(() => undefined)
      if (this.#closing.signal.aborted) return
      try {
        await this.start()
        this.restarts++
        return log('info', `${this.name} is back at ${this.#address || 'work'}, process ${this.pid}`)
      } catch (error) {
        reason = `can't be started: ${(error as Error).message}`
      }
    }
  }
}
