import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'

export interface PartOptions {
  readonly name: string
  readonly file: string
  /** Made anew for each start. */
  readonly args: (generation: number) => readonly string[]
  readonly env: Readonly<Record<string, string>>
  /** Where what it says goes, that of all its lives. */
  readonly log: string
}

/** One life of a part. */
interface Life {
  readonly child: ChildProcess
  /** Whether its end was asked for. */
  expected: boolean
}

const startMs = 60_000
const oneStartMs = 30_000

/** A process of the system, and those that take its place when it was killed: as a supervisor does, until it is told to stop. */
export class Part {
  readonly name: string
  readonly log: string
  /** Ends that nobody asked for, and starts that failed for good. */
  readonly problems: string[] = []
  peakBytes = 0
  starts = 0
  /** Starts that failed while what it needs wasn't there, and were made again. */
  failedStarts = 0
  readonly #options: PartOptions
  #life: Life | undefined
  #starting: Promise<void> | undefined
  #stopped = false

  constructor(options: PartOptions) {
    this.#options = options
    this.name = options.name
    this.log = options.log
  }

  get pid(): number | undefined {
    return this.#life?.child.pid
  }

  get child(): ChildProcess | undefined {
    return this.#life?.child
  }

  /** Resolves once it says that it is ready; what it needs may be away for a while. One that is being started isn't started twice. */
  start(): Promise<void> {
    this.#starting ??= this.#start().finally(() => {
      this.#starting = undefined
    })
    return this.#starting
  }

  async #start(): Promise<void> {
    const deadline = performance.now() + startMs
    while (!this.#stopped) {
      if (await this.#startOnce()) return
      this.failedStarts++
      if (performance.now() > deadline) {
        this.problems.push(`${this.name} doesn't start: see ${this.log}`)
        return
      }
      await delay(300)
    }
  }

  /** Sends a signal and waits for the end; returns how it ended, or undefined where it was not there. */
  async end(signal: 'SIGTERM' | 'SIGKILL', patienceMs = 20_000): Promise<string | undefined> {
    const life = this.#life
    if (life === undefined || isOver(life.child)) return undefined
    life.expected = true
    const exited = once(life.child, 'exit')
    life.child.kill(signal)
    // A frozen process takes no other signal.
    const timer = setTimeout(() => {
      this.problems.push(`${this.name} didn't end within ${patienceMs / 1_000} s of ${signal}`)
      life.child.kill('SIGKILL')
    }, patienceMs)
    await exited
    clearTimeout(timer)
    return String(life.child.signalCode ?? life.child.exitCode)
  }

  /** Ends it for good. */
  async stop(): Promise<string | undefined> {
    this.#stopped = true
    return this.end('SIGTERM')
  }

  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.#life?.child.kill(signal)
  }

  /** How much memory it has now. */
  measure(): void {
    const kilobytes = /VmRSS:\s+(\d+)/.exec(statusOf(this.pid))?.[1]
    this.peakBytes = Math.max(this.peakBytes, Number(kilobytes ?? 0) * 1_024)
  }

  async #startOnce(): Promise<boolean> {
    const { name, file, args, env } = this.#options
    const log = openSync(this.log, 'a')
    writeSync(log, `--- ${new Date().toISOString()} start ${this.starts + 1}\n`)
    const child = fork(file, [...args(this.starts++)], {
      env: { ...process.env, NODE_ENV: 'production', NODE_OPTIONS: '', ...env },
      execArgv: ['--enable-source-maps'],
      stdio: ['ignore', log, log, 'ipc'],
    })
    closeSync(log)
    const life: Life = { child, expected: false }
    this.#life = life
    const ready = await new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => child.kill('SIGKILL'), oneStartMs)
      const settle = (isReady: boolean): void => {
        clearTimeout(timer)
        resolve(isReady)
      }
      child.once('message', () => settle(true))
      child.once('exit', () => settle(false))
      child.once('error', () => settle(false))
    })
    if (!ready) return false
    if (child.connected && !this.keepsChannel) child.disconnect()
    child.once('exit', (code, signal) => {
      if (life.expected) return
      this.problems.push(`${name} ended by itself with ${signal ?? code}`)
      void this.start()
    })
    return true
  }

  /** Whether the channel to it stays open. */
  protected get keepsChannel(): boolean {
    return false
  }
}

function isOver({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null
}

function statusOf(pid: number | undefined): string {
  try {
    return pid === undefined ? '' : readFileSync(`/proc/${pid}/status`, 'utf8')
  } catch {
    return ''
  }
}
