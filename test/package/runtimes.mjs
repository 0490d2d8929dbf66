// The built package on every runtime that it is for, each from its npm package. Needs `npm run build` first. The runtimes
// are kept in .cache/runtimes, so that only the first run downloads them.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const cache = join(root, '.cache', 'runtimes')
const windows = process.platform === 'win32'

/** The whole smoke where Node is; the root entry, in both formats, elsewhere. */
const onNode = ['root-entry.mjs', 'smoke.mjs', 'smoke.cjs']
const onOthers = ['root-entry.mjs', 'root-entry.cjs']

const runtimes = [
  {
    name: 'node',
    range: '22',
    bin: windows ? 'bin/node.exe' : 'bin/node',
    script: 'installArchSpecificPackage.js',
    runs: onNode,
  },
  {
    name: 'node',
    range: '24',
    bin: windows ? 'bin/node.exe' : 'bin/node',
    script: 'installArchSpecificPackage.js',
    runs: onNode,
  },
  {
    name: 'node',
    range: '26',
    bin: windows ? 'bin/node.exe' : 'bin/node',
    script: 'installArchSpecificPackage.js',
    runs: onNode,
  },
  { name: 'bun', range: '1', bin: 'bin/bun.exe', script: 'install.js', runs: onOthers },
]

let failed = 0
for (const runtime of runtimes) {
  try {
    const binary = installed(runtime)
    for (const file of runtime.runs) run(runtime, binary, file)
  } catch (error) {
    failed++
    console.error(`${runtime.name}@${runtime.range} failed: ${error.message}`)
  }
}
process.exitCode = failed === 0 ? 0 : 1

/** The runtime's binary, downloaded unless it is there and runs. */
function installed({ name, range, bin, script }) {
  const folder = join(cache, `${name}-${range}`)
  const home = join(folder, 'node_modules', name)
  const binary = join(home, bin)
  if (answers(binary, range)) return binary
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), '{ "private": true }\n')
  const npm = ['install', '--no-save', '--no-package-lock', '--no-audit', '--no-fund', `${name}@${range}`]
  execFileSync('npm', npm, { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'], timeout: 300_000, shell: windows })
  // Where npm runs no scripts of packages, the one that fetches the binary is run by its name.
  if (!answers(binary, range) && existsSync(join(home, script))) {
    execFileSync(process.execPath, [script], { cwd: home, stdio: ['ignore', 'ignore', 'pipe'], timeout: 300_000 })
  }
  assert.ok(answers(binary, range), `${binary} does not run`)
  return binary
}

/** Whether a binary runs and is of the right version. */
function answers(binary, range) {
  if (!existsSync(binary)) return false
  const { status, stdout } = spawnSync(binary, ['--version'], { encoding: 'utf8', timeout: 30_000 })
  return status === 0 && stdout.replace(/^v/, '').startsWith(`${range}.`)
}

function run({ name, range }, binary, file) {
  const { status, stdout, stderr, error } = spawnSync(binary, [join(root, 'test', 'package', file)], {
    cwd: root,
    encoding: 'utf8',
    timeout: 60_000,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const lines = stdout.trim().split('\n').filter(Boolean)
  for (const line of lines) console.log(`${name}@${range} ${file}: ${line}`)
  assert.ok(status === 0 && lines.length > 0, `${file} ended with ${status ?? error}: ${stderr.trim()}`)
}
