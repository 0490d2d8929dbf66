import { readFileSync } from 'node:fs'
import { arch, cpus, loadavg, platform, totalmem } from 'node:os'
import { join } from 'node:path'

/** Where and with what a run was made: a ratio without it says little. */
export interface Facts {
  readonly startedAt: string
  readonly node: string
  readonly v8: string
  readonly platform: string
  readonly cpu: string
  readonly cores: number
  readonly memoryGiB: number
  /** The load of the last minute when the run began. Well above 0 says that it wasn't alone. */
  readonly load: number
  /** The versions of the packages that were measured or did the measuring. */
  readonly packages: Readonly<Record<string, string>>
}

/** Reads the facts; `packages` are names as they are imported. */
export function readFacts(root: string, packages: readonly string[]): Facts {
  const versions = packages.map((name): [string, string] => {
    const folder = name === 'spillway' ? root : join(root, 'node_modules', name)
    const { version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { version: string }
    return [name, version]
  })
  const processors = cpus()
  return {
    startedAt: new Date().toISOString(),
    node: process.versions.node,
    v8: process.versions.v8,
    platform: `${platform()} ${arch()}`,
    cpu: processors[0]?.model ?? 'unknown',
    cores: processors.length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    load: Math.round((loadavg()[0] ?? 0) * 100) / 100,
    packages: Object.fromEntries(versions),
  }
}

/** The facts in two lines. */
export function factsText(facts: Facts): string {
  const packages = Object.entries(facts.packages).map(([name, version]) => `${name} ${version}`)
  return [
    `node ${facts.node} (v8 ${facts.v8}), ${facts.platform}, ${facts.cores} x ${facts.cpu}, load ${facts.load}`,
    packages.join(', '),
  ].join('\n')
}
