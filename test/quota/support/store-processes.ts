import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { ConsumeOutcome, ReserveOutcome, SettleOutcome } from 'spillway'

const worker = fileURLToPath(new URL('./store-worker.ts', import.meta.url))
const root = fileURLToPath(new URL('../../..', import.meta.url))
const answerMs = 60_000

/** Which store a process opens, and where: at nodes of Redis, or at the address of a database. */
export interface StorePlace {
  readonly kind: 'redis' | 'redis cluster' | 'postgres'
  readonly target: string | readonly { readonly host: string; readonly port: number }[]
  /** Of a data set of its own. */
  readonly prefix: string
}

/** What a process does with the service that it has on its store, whose consumer waits until it is flushed. */
export interface ServiceCall {
  /** `hold` reserves, and settles or releases; `naively` checks, and then counts. */
  readonly do: 'buffer' | 'consume' | 'hold' | 'naively' | 'flush'
  readonly userId: string
  readonly limit: number
  readonly value: number
  /** What a hold is settled with; without it, it is released. */
  readonly actual?: number | undefined
}

/**
 * A method of the store, and its arguments; a `consume` that looks first, and then counts; or what is done with the service, a
 * {@link ServiceCall}.
 */
export type StoreCall = readonly [
  'consume' | 'reserve' | 'settle' | 'release' | 'readUsage' | 'consume naively' | 'service',
  ...unknown[],
]

/** What a call resolved to, or rejected with. */
export interface StoreAnswer {
  readonly value?: unknown
  readonly error?: string
}

/** What became of a claim, of whatever kind. */
export type Outcome = ConsumeOutcome | ReserveOutcome | SettleOutcome

/** A process that has a store open. */
export class StoreProcess {
  readonly #child: ChildProcess
  #log = ''

  private constructor(place: StorePlace) {
    this.#child = fork(worker, [JSON.stringify(place)], {
      cwd: root,
      execArgv: ['--import', 'tsx'],
      env: { ...process.env, NODE_OPTIONS: '', TSX_TSCONFIG_PATH: 'tsconfig.check.json' },
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    })
    this.#child.stderr?.on('data', (chunk: Buffer) => {
      this.#log += chunk
    })
  }

  /** Starts some at once, and waits until each of them has reached its store. */
  static async start(place: StorePlace, count: number): Promise<StoreProcess[]> {
    const processes = Array.from({ length: count }, () => new StoreProcess(place))
    await Promise.all(processes.map((one) => one.#message()))
    return processes
  }

  /** Makes calls, all at once; resolves to what they resolved to. Rejects if one of them did. */
  async call<T = Outcome>(calls: readonly StoreCall[]): Promise<T[]> {
    const answered = this.#message()
    this.#child.send({ calls })
    const { answers } = (await answered) as { answers: readonly StoreAnswer[] }
    return answers.map(({ value, error }) => {
      if (error !== undefined) throw new Error(error)
      return value as T
    })
  }

  /** SIGKILL. */
  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exited = new Promise((resolve) => this.#child.once('exit', resolve))
    this.#child.kill('SIGKILL')
    await exited
  }

  #message(): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const fail = (why: string): void => reject(new Error(`the process ${why}:\n${this.#log}`))
      const timer = setTimeout(() => fail('takes too long'), answerMs)
      const onExit = (): void => fail('ended')
      this.#child.once('exit', onExit)
      this.#child.once('message', (message) => {
        clearTimeout(timer)
        this.#child.off('exit', onExit)
        resolve(message)
      })
    })
  }
}
