import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { delimiter, dirname, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

/** What to look for, and in which packages of Debian. */
export interface DebianBinaryOptions {
  /**
   * The packages to fetch where the machine has no such binary: the one with the binary first, then those with libraries that
   * a machine may lack. A list `'a|b'` takes the first that the mirror has.
   */
  readonly packages: readonly string[]
  /** The binary's name: `redis-server`. */
  readonly binary: string
  /** What makes it print its version and end. The default is `--version`. */
  readonly versionFlag?: string
  /** The Debian release that has these packages (`bullseye`), where it isn't the machine's own. The mirror is the machine's. */
  readonly suite?: string
  /** Where fetched packages lie. The default is `.cache/servers` of the repository. */
  readonly cache?: string
}

/** A binary that runs here. */
export interface FoundBinary {
  /** Its path. */
  readonly path: string
  /** The environment that it needs: `LD_LIBRARY_PATH`, where libraries were unpacked beside it. */
  readonly env: Readonly<Record<string, string>>
}

const cacheFolder = fileURLToPath(new URL('../../.cache/servers', import.meta.url))
/** A lock that its owner hasn't touched for so long was left behind: downloads touch it before each step. */
const staleLockMs = 120_000
const commandMs = 100_000

/**
 * A binary from the PATH, from the cache, or from packages of Debian, which are unpacked and not installed.
 *
 * @returns undefined where there is no such binary and no way to get it.
 */
export async function debianBinary(options: DebianBinaryOptions): Promise<FoundBinary | undefined> {
  const { binary, packages } = options
  const flag = options.versionFlag ?? '--version'
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
    const found = { path: join(folder, binary), env: {} }
    if (folder !== '' && runs(found, flag)) return found
  }
  const home = resolve(options.cache ?? cacheFolder, binary)
  const cached = (): FoundBinary | undefined => unpackedBinary(home, binary, flag)
  const hit = cached()
  if (hit !== undefined) return hit
  if (!has('apt-get') || !has('dpkg')) return undefined
  mkdirSync(dirname(home), { recursive: true })
  const lock = await takeLock(`${home}.lock`, () => cached() !== undefined)
  if (lock === undefined) return cached()
  try {
    // Another process may have fetched it between the look and the lock.
    const late = cached()
    if (late !== undefined) return late
    fetchPackages(packages, options.suite, home, lock.touch)
    return cached()
  } finally {
    lock.release()
  }
}

/** Whether a binary runs: it exists, is for this machine, and finds its libraries. */
function runs({ path, env }: FoundBinary, flag: string): boolean {
  if (!existsSync(path)) return false
  const { status, error } = spawnSync(path, [flag], { env: { ...process.env, ...env }, timeout: 10_000 })
  // Some (wrk) print their version and end with 1; one that can't be loaded ends with 126 or 127.
  return error === undefined && status !== null && status < 126
}

function has(command: string): boolean {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).error === undefined
}

function unpackedBinary(home: string, binary: string, flag: string): FoundBinary | undefined {
  // What Chromium has in usr/bin is a script that starts it where it would be if it were installed.
  const folders = ['usr/lib/chromium', 'usr/bin', 'usr/sbin', 'bin', 'usr/local/bin']
  const folder = folders.find((name) => existsSync(join(home, name, binary)))
  if (folder === undefined) return undefined
  const libraries = ['usr/lib', 'lib'].flatMap((name) => {
    const base = join(home, name)
    if (!existsSync(base)) return []
    const triplets = readdirSync(base).filter((entry) => entry.includes('-linux-'))
    // Libraries of PulseAudio have one of their own in a folder beneath.
    const nested = triplets.map((triplet) => join(base, triplet, 'pulseaudio')).filter((name) => existsSync(name))
    return [base, ...triplets.map((triplet) => join(base, triplet)), ...nested]
  })
  const inherited = process.env['LD_LIBRARY_PATH']
  const all = inherited ? [...libraries, inherited] : libraries
  const env: Record<string, string> = all.length > 0 ? { LD_LIBRARY_PATH: all.join(delimiter) } : {}
  const found = { path: join(home, folder, binary), env }
  return runs(found, flag) ? found : undefined
}

interface Lock {
  /** Says that the work goes on. */
  touch(): void
  release(): void
}

/** Waits for a lock: a folder, since making one is atomic everywhere. Undefined once nobody needs it any more. */
async function takeLock(path: string, done: () => boolean): Promise<Lock | undefined> {
  for (;;) {
    try {
      mkdirSync(path)
      const touch = (): void => utimesSync(path, new Date(), new Date())
      return { touch, release: () => rmSync(path, { recursive: true, force: true }) }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    if (isStale(path)) {
      // Of several that find it stale, one moves it away; the others find it gone or new.
      const grave = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`
      try {
        renameSync(path, grave)
      } catch {
        continue
      }
      rmSync(grave, { recursive: true, force: true })
      continue
    }
    await delay(100)
    if (done()) return undefined
  }
}

function isStale(path: string): boolean {
  try {
    return Date.now() - statSync(path).mtimeMs > staleLockMs
  } catch {
    return false
  }
}

function fetchPackages(packages: readonly string[], suite: string | undefined, home: string, touch: () => void): void {
  const work = `${home}.${process.pid}.partial`
  rmSync(work, { recursive: true, force: true })
  mkdirSync(join(work, 'archives'), { recursive: true })
  try {
    const sources = suite === undefined ? [] : sourcesOf(suite, work)
    if (sources === undefined) return
    // The machine's lists are of its own release.
    let fresh = suite !== undefined && updateLists(work, sources)
    if (suite !== undefined && !fresh) return
    const download = (name: string): boolean => {
      touch()
      const settings = [...sandbox(), ...lists(work, fresh), ...sources]
      return run(join(work, 'archives'), 'apt-get', [...settings, 'download', name])
    }
    for (const choice of packages) {
      const names = choice.split('|')
      if (names.some(download)) continue
      if (fresh) continue
      // Lists are missing or older than the mirror. Those of the machine stay as they are where one may not write them.
      touch()
      fresh = updateLists(work, sources)
      if (fresh) names.some(download)
    }
    for (const archive of readdirSync(join(work, 'archives')).filter((name) => name.endsWith('.deb'))) {
      touch()
      run(work, 'dpkg', ['-x', join(work, 'archives', archive), join(work, 'root')])
    }
    if (!existsSync(join(work, 'root'))) return
    writeFileSync(join(work, 'root', 'packages.txt'), `${packages.join('\n')}\n`)
    rmSync(home, { recursive: true, force: true })
    renameSync(join(work, 'root'), home)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

/** apt drops root's rights for downloads, and then can't write into a folder of root's. */
function sandbox(): string[] {
  return process.getuid?.() === 0 ? ['-o', 'APT::Sandbox::User=root'] : []
}

/** Lists of our own: whoever isn't root may not write the machine's. */
function lists(work: string, fresh: boolean): string[] {
  return fresh ? ['-o', `Dir::State::lists=${join(work, 'lists')}`, '-o', `Dir::Cache=${join(work, 'apt')}`] : []
}

/**
 * The settings by which apt looks at another release on the mirrors that this machine has its own from. Signatures are checked as
 * ever, with the keys that Debian's machines have for all of its releases.
 *
 * @returns undefined where this is no Debian.
 */
function sourcesOf(suite: string, work: string): string[] | undefined {
  const { ID: id, VERSION_CODENAME: own } = release()
  if (id !== 'debian' || own === undefined) return undefined
  const { stdout } = spawnSync('apt-get', ['update', '--print-uris'], { encoding: 'utf8', timeout: commandMs })
  const mirrors = [...stdout.matchAll(/^'(\S+)\/dists\/([^/\s]+)\/InRelease'/gm)]
    .filter(([, , named]) => named === own)
    .map(([, mirror]) => mirror)
  if (mirrors.length === 0) return undefined
  const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg'
  const signed = existsSync(keyring) ? `[signed-by=${keyring}] ` : ''
  const file = join(work, 'sources.list')
  writeFileSync(file, mirrors.map((mirror) => `deb ${signed}${mirror} ${suite} main\n`).join(''))
  return ['-o', `Dir::Etc::sourcelist=${file}`, '-o', `Dir::Etc::sourceparts=${join(work, 'none')}`]
}

/** What the machine says that it runs. */
function release(): Record<string, string> {
  try {
    const lines = readFileSync('/etc/os-release', 'utf8').matchAll(/^(\w+)="?([^"\n]*)"?$/gm)
    return Object.fromEntries([...lines].map(([, key, value]) => [key, value]))
  } catch {
    return {}
  }
}

function updateLists(work: string, sources: readonly string[]): boolean {
  mkdirSync(join(work, 'lists', 'partial'), { recursive: true })
  mkdirSync(join(work, 'apt', 'archives', 'partial'), { recursive: true })
  return run(work, 'apt-get', [...sandbox(), ...lists(work, true), ...sources, 'update'])
}

function run(cwd: string, command: string, args: readonly string[]): boolean {
  const { status } = spawnSync(command, args, {
    cwd,
    stdio: 'ignore',
    timeout: commandMs,
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
  })
  return status === 0
}
