import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { debianBinary, type FoundBinary } from './debian.ts'
import { freePort } from './free-port.ts'

/** What an agent of a test needs beyond the ordinary. */
export interface StartConsulOptions {
  /** Asks for an agent that can be killed: that of CONSUL_HTTP_ADDR is then left alone. */
  readonly own?: boolean
  /**
   * Whether the catalog lasts through a kill, rather than only the agent's own services. Such an agent takes some
   * seconds to start, for an election as in production; one that has its catalog in memory leads at once.
   */
  readonly durable?: boolean
  /** A token that may read the nodes, where its settings deny that to others. */
  readonly token?: string
  /** Further settings of its configuration file; the folder is its own, for files that they name. */
  readonly settings?: (folder: string) => Record<string, unknown>
}

/** A real agent of Consul for a test, a server that is its own leader. */
export interface ConsulServer {
  /** `http://127.0.0.1:8500` */
  readonly address: string
  readonly host: string
  readonly port: number
  /** Where the agent keeps its data; of the test's own only. */
  readonly dataFolder?: string
  /** Ends the agent, if it is the test's own, and leaves nothing behind. */
  stop(): Promise<void>
  /** SIGKILL, as a crash would be. Not offered for that of CONSUL_HTTP_ADDR. */
  kill?(): Promise<void>
  /** Starts it again after `kill`, on the same port; on the same data, unless it is to have lost it. */
  restart?(options?: { readonly forget?: boolean }): Promise<void>
}

/** An agent that belongs to the test, so that the test may kill it. */
export type OwnConsulServer = Required<ConsulServer>

const startupMs = 60_000
const attempts = 3

/**
 * The `consul` of this machine, or that of Debian: the last release of Debian that has it in its main part is bullseye.
 */
export function consulBinary(): Promise<FoundBinary | undefined> {
  return debianBinary({ packages: ['consul'], binary: 'consul', versionFlag: 'version', suite: 'bullseye' })
}

/**
 * The agent of CONSUL_HTTP_ADDR, which others may use too (so a test takes services of its own), or else an agent of
 * its own.
 *
 * @returns undefined, after a line that says why, where there is none to be had; in CI that is an error.
 */
export function startConsul(options: StartConsulOptions & { readonly own: true }): Promise<OwnConsulServer | undefined>
export function startConsul(options?: StartConsulOptions): Promise<ConsulServer | undefined>
export async function startConsul(options: StartConsulOptions = {}): Promise<ConsulServer | undefined> {
  const { CONSUL_HTTP_ADDR: given } = process.env
  if (given && !options.own) {
    const address = given.includes('://') ? given : `http://${given}`
    const { hostname, port } = new URL(address)
    return { address, host: hostname, port: Number(port || 80), stop: async () => undefined }
  }
  const binary = await consulBinary()
  return binary === undefined ? noConsul() : startOwn(binary, options)
}

/** Says that there is none. */
export function noConsul(): undefined {
  const missing =
    'no Consul for these tests: set CONSUL_HTTP_ADDR, put consul on the PATH, or run on a Debian with apt-get'
  if (process.env['CI']) throw new Error(missing)
  console.warn(missing)
  return undefined
}

async function startOwn(binary: FoundBinary, options: StartConsulOptions): Promise<OwnConsulServer> {
  const home = mkdtempSync(join(tmpdir(), 'spillway-consul-'))
  const cleanUp = (): void => rmSync(home, { recursive: true, force: true })
  const settings = options.settings?.(home) ?? {}
  // Ports that were free may be taken by the time the agent binds them.
  for (let attempt = 1; ; attempt++) {
    const [port, serf, server] = [await freePort(), await freePort(), await freePort()]
    const { token, durable = false } = options
    const consul = new ConsulProcess(binary, home, port, { serf, server, settings, token, durable })
    try {
      await consul.start()
      return {
        address: `http://127.0.0.1:${port}`,
        host: '127.0.0.1',
        port,
        dataFolder: join(home, 'data'),
        stop: async () => {
          // Nothing of it is to last, so there is nothing to end gently.
          await consul.end()
          cleanUp()
        },
        kill: () => consul.end(),
        restart: async ({ forget = false } = {}) => {
          if (forget) consul.forget()
          await consul.start()
        },
      }
    } catch (error) {
      await consul.end()
      if (attempt === attempts) {
        cleanUp()
        throw error
      }
      consul.forget()
    }
  }
}

/** One agent and those that take its place. */
class ConsulProcess {
  readonly #binary: FoundBinary
  readonly #home: string
  readonly #port: number
  readonly #headers: Record<string, string>
  readonly #mode: readonly string[]
  #agent: ChildProcess | undefined
  // A test run that is cut short must not leave an agent or its files behind.
  readonly #onExit = (): void => {
    this.#agent?.kill('SIGKILL')
    rmSync(this.#home, { recursive: true, force: true })
  }

  constructor(
    binary: FoundBinary,
    home: string,
    port: number,
    {
      serf,
      server,
      settings,
      token,
      durable,
    }: {
      serf: number
      server: number
      settings: Record<string, unknown>
      token: string | undefined
      durable: boolean
    },
  ) {
    this.#binary = binary
    this.#home = home
    this.#port = port
    this.#headers = token === undefined ? {} : { 'x-consul-token': token }
    this.#mode = durable ? [] : ['-dev']
    const ports = { http: port, dns: -1, grpc: -1, https: -1, serf_lan: serf, serf_wan: -1, server }
    const config = {
      ...(durable && {
        server: true,
        bootstrap_expect: 1,
        // An election takes as little time as it can.
        performance: { raft_multiplier: 1 },
      }),
      node_name: 'node-1',
      datacenter: 'dc1',
      data_dir: join(home, 'data'),
      bind_addr: '127.0.0.1',
      advertise_addr: '127.0.0.1',
      client_addr: '127.0.0.1',
      disable_update_check: true,
      ...settings,
      ports: { ...ports, ...(settings['ports'] as object | undefined) },
    }
    writeFileSync(join(home, 'config.json'), JSON.stringify(config))
    mkdirSync(join(home, 'data'), { recursive: true })
  }

  async start(): Promise<void> {
    const { path, env } = this.#binary
    const log = join(this.#home, 'log')
    writeFileSync(log, '')
    const agent = spawn(path, ['agent', ...this.#mode, '-config-file', join(this.#home, 'config.json')], {
      cwd: this.#home,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#agent = agent
    process.once('exit', this.#onExit)
    const keep = (chunk: Buffer): void => writeFileSync(log, chunk, { flag: 'a' })
    agent.stdout?.on('data', keep)
    agent.stderr?.on('data', keep)
    const deadline = performance.now() + startupMs
    while (agent.exitCode === null && agent.signalCode === null && performance.now() < deadline) {
      if (await isReady(this.#port, this.#headers)) return
      await delay(50)
    }
    throw new Error(`Consul doesn't start: ${readFileSync(log, 'utf8')}`)
  }

  forget(): void {
    rmSync(join(this.#home, 'data'), { recursive: true, force: true })
    mkdirSync(join(this.#home, 'data'))
  }

  /** SIGKILL, as a crash would be. */
  async end(): Promise<void> {
    process.off('exit', this.#onExit)
    const agent = this.#agent
    if (agent === undefined || agent.exitCode !== null || agent.signalCode !== null) return
    const closed = once(agent, 'close')
    agent.kill('SIGKILL')
    await closed
  }
}

/** Whether it leads, and knows the node that it is itself. */
async function isReady(port: number, headers: Record<string, string>): Promise<boolean> {
  try {
    const answer = await fetch(`http://127.0.0.1:${port}/v1/health/service/consul?passing=true`, { headers })
    return answer.ok && ((await answer.json()) as unknown[]).length > 0
  } catch {
    return false
  }
}
