import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { audit } from './books.ts'
import type { Book, Evidence } from './evidence.ts'
import { type Fault, faults, parts } from './faults.ts'
import { inject } from './inject.ts'
import { readLedger } from './ledger.ts'
import type { LoadCounts, LoadMessage, LoadOptions, LoadOrder } from './load.ts'
import { scanLog } from './log-scan.ts'
import { type Happened, lossesOf } from './losses.ts'
import type { Programs } from './programs.ts'
import { booksTable, listed, since } from './report.ts'
import type { Schedule } from './schedule.ts'
import { readStored } from './stored.ts'
import { mark, System } from './system.ts'

const clients = 12
const rate = 120
const maxRequests = 200_000
/** Until when everything must answer again once all is healed, and until when the books must be right. */
const readyMs = 30_000
const drainMs = 60_000
const loadPatienceMs = 60_000
/** All together must not take longer. */
const hangsMs = 420_000
const maxBytes = 700_000_000
const progressEveryMs = 5_000
const gateways = ['gateway-1', 'gateway-2'] as const

export interface ScenarioResult {
  readonly passed: boolean
  readonly faults: number
  readonly skipped: number
  readonly requests: number
}

/** Runs one schedule against the whole system, and tells what came of it. */
export async function runScenario(schedule: Schedule, programs: Programs, folder: string): Promise<ScenarioResult> {
  mkdirSync(folder, { recursive: true })
  const { usage } = schedule
  console.log(
    `seed ${schedule.seed}: ${schedule.seconds} s, ${schedule.faults.length} faults, ` +
      `usage of gateway-1 by ${usage['gateway-1']}, of gateway-2 by ${usage['gateway-2']}`,
  )
  const watchdog = setTimeout(
    () => {
      console.error(`seed ${schedule.seed} hangs: ${seconds(hangsMs)} after its end it isn't over`)
      process.exit(1)
    },
    schedule.seconds * 1_000 + hangsMs,
  )
  const scenario = new Scenario(schedule, programs, folder)
  await scenario.run()
  clearTimeout(watchdog)
  return scenario.result()
}

class Scenario {
  readonly #schedule: Schedule
  readonly #programs: Programs
  readonly #folder: string
  readonly #problems: string[] = []
  readonly #happened: Happened[] = []
  readonly #absences: { gateway: string; from: number }[] = []
  #counts: LoadCounts = { answered: 0, refused: 0, unknown: 0 }
  #books: readonly Book[] = []
  #skipped = 0

  constructor(schedule: Schedule, programs: Programs, folder: string) {
    this.#schedule = schedule
    this.#programs = programs
    this.#folder = folder
  }

  async run(): Promise<void> {
    {
      await using system = await System.start(this.#schedule, this.#programs, this.#folder)
      const meters = setInterval(() => {
        for (const part of system.parts.values()) part.measure()
      }, 1_000)
      try {
        await this.#runOn(system)
      } finally {
        clearInterval(meters)
        this.#keepLogs(system)
      }
    }
    const left = processesOf(this.#folder)
    if (left.length > 0) this.#problems.push(`processes are left: ${left.join(', ')}`)
    console.log(booksTable(this.#books))
    for (const line of listed('system', this.#problems)) console.log(line)
  }

  result(): ScenarioResult {
    const { answered, refused, unknown } = this.#counts
    return {
      passed: this.#problems.length === 0 && this.#books.every(({ problems }) => problems.length === 0),
      faults: this.#happened.length,
      skipped: this.#skipped,
      requests: answered + refused + unknown,
    }
  }

  async #runOn(system: System): Promise<void> {
    // The first call on each way fetches a token and connects: it is not to be taken for how long a flush takes.
    await this.#expectReady(system)
    await warmUp(system)
    const load = this.#startLoad(system)
    const over = once(load, 'exit')
    const startedAt = Date.now()
    const progress = setInterval(() => this.#tellProgress(startedAt), progressEveryMs)
    try {
      const running = this.#schedule.faults.map((fault) => this.#runFault(system, fault, startedAt, load))
      await delay(this.#schedule.seconds * 1_000)
      await Promise.all(running)
    } finally {
      clearInterval(progress)
    }
    system.heal()
    const order: LoadOrder = { type: 'stop' }
    if (load.connected) load.send(order)
    await this.#within(over, loadPatienceMs, 'the load to end')
    if (load.exitCode === null && load.signalCode === null) load.kill('SIGKILL')
    await system.part('publisher').stop()
    console.log(`${since(startedAt)}  the load is over: ${countsText(this.#counts)}`)
    const healedAt = Date.now()
    await this.#expectReady(system)
    console.log(`${since(startedAt)}  all parts answer, ${seconds(Date.now() - healedAt)} after that`)
    await this.#drain(system)
    const wrong = this.#books.some(({ problems }) => problems.length > 0)
    console.log(`${since(startedAt)}  ${wrong ? 'the books are not right' : 'the books are right'}`)
    await this.#stopAll(system)
    // Nothing may come in late.
    if (!wrong) this.#books = audit(await this.#evidence(system))
    for (const { name, proved } of this.#books) {
      if (proved === 0) this.#problems.push(`nothing of the ${name} was answered, so that nothing is proved`)
    }
  }

  #startLoad(system: System): ChildProcess {
    const options: LoadOptions = {
      seed: this.#schedule.seed,
      gateways: gateways.map((name) => ({ name, url: `http://${system.proxies.get(`load>${name}`)?.address}` })),
      ...{ clients, rate, maxRequests },
      ledger: join(this.#folder, 'load.jsonl'),
    }
    const load = fork(this.#programs.load, [JSON.stringify(options)], {
      env: { ...process.env, NODE_OPTIONS: '', [mark]: this.#folder },
      execArgv: ['--enable-source-maps'],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    load.on('message', (message: LoadMessage) => {
      if (message.type === 'counts') this.#counts = message.counts
    })
    load.once('exit', (code) => {
      if (code !== 0) this.#problems.push(`the load ended with ${code}`)
    })
    return load
  }

  async #runFault(system: System, fault: Fault, startedAt: number, load: ChildProcess): Promise<void> {
    await delay(Math.max(0, startedAt + fault.atMs - Date.now()))
    const { kind, target, lastsMs } = fault
    const from = Date.now()
    const isGateway = target === 'gateway-1' || target === 'gateway-2'
    if (isGateway && (kind === 'kill' || kind === 'terminate')) this.#absences.push({ gateway: target, from })
    const burst = (gateway: string): void => {
      const order: LoadOrder = { type: 'burst', gateway }
      load.send(order)
    }
    try {
      const heal = await inject(system, fault, { burst })
      if (heal === undefined) {
        this.#skipped++
        console.log(`${since(startedAt)}  ${kind} ${target} is skipped: it can't be done here`)
        return
      }
      console.log(`${since(startedAt, from)}  ${kind} ${target} for ${seconds(lastsMs)}: ${faults[kind].does}`)
      await delay(lastsMs)
      const healedFrom = Date.now()
      await heal()
      this.#happened.push({ fault, from, healedFrom, to: Date.now() })
      if (Date.now() - healedFrom > 1_000) {
        console.log(`${since(startedAt)}  ${kind} ${target} is over, ${seconds(Date.now() - healedFrom)} after its end`)
      }
    } catch (error) {
      this.#problems.push(`${kind} ${target} could not be done: ${(error as Error).message}`)
      this.#happened.push({ fault, from, healedFrom: from, to: Date.now() })
    }
  }

  #last = { ...this.#counts }

  #tellProgress(startedAt: number): void {
    const last = this.#last
    const { answered, refused, unknown } = this.#counts
    this.#last = { ...this.#counts }
    const delta = {
      answered: answered - last.answered,
      refused: refused - last.refused,
      unknown: unknown - last.unknown,
    }
    console.log(`${since(startedAt)}      ${countsText(delta)} in ${seconds(progressEveryMs)}`)
  }

  /** Every part must answer, as its readiness probe would ask. */
  async #expectReady(system: System): Promise<void> {
    const waiting = parts
      .filter((name) => name !== 'publisher')
      .map(async (name) => {
        const at = `http://127.0.0.1:${system.ports.get(name)}`
        const paths = name.startsWith('gateway')
          ? ['/readyz', '/healthz', '/api/v1/billing/balance/payer-0']
          : ['/metrics']
        const deadline = Date.now() + readyMs
        for (const path of paths) {
          let last = ''
          while (
            !(await answers(at + path, (problem) => {
              last = problem
            }))
          ) {
            if (Date.now() > deadline) {
              this.#problems.push(`${name} doesn't answer ${path} within ${seconds(readyMs)}: ${last}`)
              break
            }
            await delay(100)
          }
        }
      })
    await Promise.all(waiting)
  }

  /** What waits is written, and what expires expires: the books are to be right soon. */
  async #drain(system: System): Promise<void> {
    for (const deadline = Date.now() + drainMs; ; await delay(500)) {
      this.#books = audit(await this.#evidence(system))
      if (this.#books.every(({ problems }) => problems.length === 0) || Date.now() > deadline) return
    }
  }

  async #evidence(system: System): Promise<Evidence> {
    const entries = ['load.jsonl', 'published.jsonl'].flatMap((file) => readLedger(join(this.#folder, file)))
    const servers = { databaseUrl: system.postgres.url, redisUrl: system.redis.url }
    const losses = lossesOf(this.#happened, this.#schedule.usage, entries)
    return { entries, losses, absences: this.#absences, stored: await readStored(servers, entries) }
  }

  /** SIGTERM, from the front to the back: each ends by itself. */
  async #stopAll(system: System): Promise<void> {
    for (const names of [
      gateways,
      ['worker-1', 'worker-2'],
      ['billing-1', 'billing-2', 'counters-1', 'counters-2'],
      ['auth'],
    ] as const) {
      await Promise.all(
        names.map(async (name) => {
          const end = await system.part(name).stop()
          if (end !== 'SIGTERM') this.#problems.push(`${name} ended with ${end}, not by SIGTERM`)
        }),
      )
    }
  }

  #keepLogs(system: System): void {
    const diskWasFull = this.#happened.some(({ fault }) => fault.kind === 'disk')
    for (const part of system.parts.values()) {
      this.#problems.push(...part.problems)
      if (part.peakBytes > maxBytes) {
        this.#problems.push(`${part.name} took ${Math.round(part.peakBytes / 1e6)} MB of memory`)
      }
      if (!existsSync(part.log)) continue
      const text = readFileSync(part.log, 'utf8')
      for (const found of scanLog(text, diskWasFull)) this.#problems.push(`${part.name} says: ${found}`)
      const kept = join(this.#folder, `${part.name}.log`)
      if (kept !== part.log) copyFileSync(part.log, kept)
    }
    const memory = [...system.parts.values()].map(({ name, peakBytes }) => `${name} ${Math.round(peakBytes / 1e6)}`)
    console.log(`  peak memory in MB: ${memory.join(', ')}`)
    const happened = this.#happened.map((one) => JSON.stringify(one)).join('\n')
    writeFileSync(join(this.#folder, 'happened.jsonl'), `${happened}\n`)
  }

  async #within(promise: Promise<unknown>, patienceMs: number, what: string): Promise<void> {
    const patience = new AbortController()
    const late = delay(patienceMs, 'late', { signal: patience.signal }).catch(() => undefined)
    if ((await Promise.race([promise, late])) === 'late') {
      this.#problems.push(`${seconds(patienceMs)} weren't enough for ${what}`)
    }
    patience.abort()
  }
}

async function warmUp(system: System): Promise<void> {
  for (const name of gateways) {
    for (const source of ['live', 'durable']) {
      for (let n = 0; n < 5; n++) {
        const path = `/api/v1/counter/warm-up/like?fresh=true&source=${source}`
        await answers(`http://127.0.0.1:${system.ports.get(name)}${path}`, () => undefined)
      }
    }
  }
}

async function answers(url: string, tell: (problem: string) => void): Promise<boolean> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(5_000) })
    const text = await answer.text()
    if (!answer.ok) tell(`${answer.status} ${text.slice(0, 200)}`)
    return answer.ok
  } catch (error) {
    tell((error as Error).message)
    return false
  }
}

/** Processes that carry the mark of a run. */
function processesOf(folder: string): number[] {
  if (process.platform !== 'linux') return []
  const pids = readdirSync('/proc').filter((entry) => /^\d+$/.test(entry) && Number(entry) !== process.pid)
  return pids.map(Number).filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/environ`, 'utf8').includes(`${mark}=${folder}\0`)
    } catch {
      return false
    }
  })
}

function countsText({ answered, refused, unknown }: LoadCounts): string {
  return `${answered} answered, ${refused} refused, ${unknown} unknown`
}

function seconds(ms: number): string {
  return `${Number((ms / 1_000).toFixed(1))} s`
}
