import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { debianBinary, type FoundBinary } from './debian.ts'
import { freePort } from './free-port.ts'

/** What a server of a test needs beyond the ordinary. */
export interface StartRedisOptions {
  /** Whether it writes an append-only file. The default is false: it keeps nothing on disk. */
  readonly appendonly?: boolean
  /** When it syncs that file. The default is `everysec`. */
  readonly appendfsync?: 'always' | 'everysec' | 'no'
  /** Further settings, as on the command line: `['--cluster-enabled', 'yes']`. */
  readonly settings?: readonly string[]
  /** Asks for a server that can be killed: that of REDIS_URL is then left alone. */
  readonly own?: boolean
}

/** A real Redis for a test. */
export interface RedisServer {
  readonly url: string
  readonly host: string
  readonly port: number
  /** Ends the server, if it is the test's own, and leaves nothing behind. */
  stop(): Promise<void>
  /** SIGKILL, as a crash would be. Not offered for the server of REDIS_URL. */
  kill?(): Promise<void>
  /** Starts it again after `kill`, on the same port and the same data. */
  restart?(): Promise<void>
}

/** A Redis that belongs to the test, so that the test may kill it. */
export type OwnRedisServer = Required<RedisServer>

const packages = ['redis-server', 'redis-tools', 'libjemalloc2', 'liblzf1', 'libatomic1', 'libssl3', 'libsystemd0']
const startupMs = 30_000
const shutdownMs = 10_000
const attempts = 3

/** The `redis-server` of this machine, or one from Debian's packages. */
export function redisBinary(): Promise<FoundBinary | undefined> {
  return debianBinary({ packages, binary: 'redis-server' })
}

/**
 * The server of REDIS_URL, which others may use too (so a test takes keys of its own), or else a server of its own.
 *
 * @returns undefined, after a line that says why, where there is no server to be had; in CI that is an error.
 */
export function startRedis(options: StartRedisOptions & { readonly own: true }): Promise<OwnRedisServer | undefined>
export function startRedis(options?: StartRedisOptions): Promise<RedisServer | undefined>
export async function startRedis(options: StartRedisOptions = {}): Promise<RedisServer | undefined> {
  const { REDIS_URL: url } = process.env
  if (url && !options.own) {
    const { hostname, port } = new URL(url)
    return { url, host: hostname, port: Number(port || 6379), stop: async () => undefined }
  }
  const binary = await redisBinary()
  return binary === undefined ? noRedis() : startOwn(binary, options)
}

/** Says that there is none. */
export function noRedis(): undefined {
  const missing = 'no Redis for these tests: set REDIS_URL, install redis-server, or run where apt-get can fetch it'
  if (process.env['CI']) throw new Error(missing)
  console.warn(missing)
  return undefined
}

async function startOwn(binary: FoundBinary, options: StartRedisOptions): Promise<OwnRedisServer> {
  const home = mkdtempSync(join(tmpdir(), 'spillway-redis-'))
  const cleanUp = (): void => rmSync(home, { recursive: true, force: true })
  // A port that was free may be taken by the time the server binds it.
  for (let attempt = 1; ; attempt++) {
    const port = await freePort()
    const redis = new RedisProcess(binary, home, port, options)
    try {
      await redis.start()
      return {
        url: `redis://127.0.0.1:${port}`,
        host: '127.0.0.1',
        port,
        stop: async () => {
          await redis.end('SIGTERM')
          cleanUp()
        },
        kill: () => redis.end('SIGKILL'),
        restart: () => redis.start(),
      }
    } catch (error) {
      await redis.end('SIGKILL')
      if (attempt < attempts) continue
      cleanUp()
      throw error
    }
  }
}

/** One server and those that take its place. */
class RedisProcess {
  readonly #binary: FoundBinary
  readonly #home: string
  readonly #port: number
  readonly #settings: readonly string[]
  #server: ChildProcess | undefined
  // A test run that is cut short must not leave a server or its files behind.
  readonly #onExit = (): void => {
    this.#server?.kill('SIGKILL')
    rmSync(this.#home, { recursive: true, force: true })
  }

  constructor(binary: FoundBinary, home: string, port: number, options: StartRedisOptions) {
    this.#binary = binary
    this.#home = home
    this.#port = port
    this.#settings = [
      ...['--bind', '127.0.0.1', '--port', String(port), '--dir', home, '--save', '', '--daemonize', 'no'],
      ...['--appendonly', options.appendonly ? 'yes' : 'no', '--appendfsync', options.appendfsync ?? 'everysec'],
      ...(options.settings ?? []),
    ]
  }

  async start(): Promise<void> {
    const { path, env } = this.#binary
    const log = join(this.#home, 'log')
    const server = spawn(path, this.#settings, {
      cwd: this.#home,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#server = server
    process.once('exit', this.#onExit)
    const keep = (chunk: Buffer): void => writeFileSync(log, chunk, { flag: 'a' })
    server.stdout?.on('data', keep)
    server.stderr?.on('data', keep)
    const deadline = performance.now() + startupMs
    while (server.exitCode === null && server.signalCode === null && performance.now() < deadline) {
      if (await answersPing(this.#port)) return
      await delay(20)
    }
    throw new Error(`Redis doesn't start: ${readFileSync(log, 'utf8')}`)
  }

  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    process.off('exit', this.#onExit)
    const server = this.#server
    if (server === undefined || server.exitCode !== null || server.signalCode !== null) return
    const closed = once(server, 'close')
    server.kill(signal)
    const timer = setTimeout(() => server.kill('SIGKILL'), shutdownMs)
    await closed
    clearTimeout(timer)
  }
}

/** Whether a server has loaded its data and answers. */
function answersPing(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    const end = (answer: boolean): void => {
      socket.destroy()
      resolve(answer)
    }
    socket.setTimeout(1000, () => end(false))
    socket.once('error', () => end(false))
    socket.once('connect', () => socket.write('PING\r\n'))
    socket.once('data', (chunk) => end(chunk.toString().startsWith('+PONG')))
    socket.once('close', () => resolve(false))
  })
}
