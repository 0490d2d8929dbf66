// The JavaScript runtimes that the package is for, each from its npm package. They are kept in .cache/runtimes, so that only the first
// use of each downloads it.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const cache = fileURLToPath(new URL('../../.cache/runtimes', import.meta.url))
const windows = process.platform === 'win32'

/** Where the npm package of a runtime has its binary, and the script that fetches it where npm runs none. */
const packages = {
  node: { bin: windows ? 'bin/node.exe' : 'bin/node', script: 'installArchSpecificPackage.js' },
  bun: { bin: 'bin/bun.exe', script: 'install.js' },
}

/** The versions of Node that the package supports, the oldest first. */
export const nodeVersions = ['20', '22', '24', '26']

/**
 * The binary of a runtime, downloaded unless it is there and runs.
 *
 * @param {'node' | 'bun'} name - the runtime.
 * @param {string} range - its major version.
 * @returns {string} the binary's path.
 */
export function installedRuntime(name, range) {
  const { bin, script } = packages[name]
  const folder = join(cache, `${name}-${range}`)
  const home = join(folder, 'node_modules', name)
  const binary = join(home, bin)
  if (versionOf(binary, range) !== undefined) return binary
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), '{ "private": true }\n')
  const npm = ['install', '--no-save', '--no-package-lock', '--no-audit', '--no-fund', `${name}@${range}`]
  execFileSync('npm', npm, { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'], timeout: 300_000, shell: windows })
  // Where npm runs no scripts of packages, the one that fetches the binary is run by its name.
  if (versionOf(binary, range) === undefined && existsSync(join(home, script))) {
    execFileSync(process.execPath, [script], { cwd: home, stdio: ['ignore', 'ignore', 'pipe'], timeout: 300_000 })
  }
  assert.ok(versionOf(binary, range) !== undefined, `${binary} does not run`)
  return binary
}

/**
 * What a binary says its version is.
 *
 * @param {string} binary - the path of a runtime.
 * @param {string} range - the major version that it must be of.
 * @returns {string | undefined} undefined for one that isn't there, doesn't run or is of another version.
 */
export function versionOf(binary, range) {
  if (!existsSync(binary)) return undefined
  const { status, stdout } = spawnSync(binary, ['--version'], { encoding: 'utf8', timeout: 30_000 })
  const version = stdout?.trim().replace(/^v/, '')
  return status === 0 && version?.startsWith(`${range}.`) ? version : undefined
}
