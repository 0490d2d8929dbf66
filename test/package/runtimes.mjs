// The built package on every runtime that it is for. Needs `npm run build` first.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { installedRuntime, nodeVersions } from './installed-runtime.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** The whole smoke where Node is; the root entry, in both formats, elsewhere. */
const onNode = ['root-entry.mjs', 'root-entry.cjs', 'smoke.mjs', 'smoke.cjs']
const onOthers = ['root-entry.mjs', 'root-entry.cjs']

const runtimes = [
  ...nodeVersions.map((range) => ({ name: 'node', range, runs: onNode })),
  { name: 'bun', range: '1', runs: onOthers },
]

let failed = 0
for (const runtime of runtimes) {
  try {
    const binary = installedRuntime(runtime.name, runtime.range)
    for (const file of runtime.runs) run(runtime, binary, file)
  } catch (error) {
    failed++
    console.error(`${runtime.name}@${runtime.range} failed: ${error.message}`)
  }
}
process.exitCode = failed === 0 ? 0 : 1

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
