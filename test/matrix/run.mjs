// The tests on each version of Node that the package supports, one after the other.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { installedRuntime, nodeVersions, versionOf } from '../package/installed-runtime.mjs'
import { summaryOf, table } from './summary.mjs'

const help = `Usage: npm run matrix -- [options] [patterns]

Runs the tests on Node ${nodeVersions.join(', ')}, one version after the other, each from the npm package "node", which the first run
downloads into .cache/runtimes. Patterns are those of vitest: a part of a test file's path. Without any, all tests run.

  --node LIST      only these versions, separated by commas
  --minutes N      how long one version may take, 1 to 120 (60)
  --help           this text

  npm run matrix -- test/batcher test/cache          two folders on all versions
  npm run matrix -- --node 26 test/adapters/redis    one folder on one

What vitest says is printed as it runs, and a table of all versions at the end. Exit code: 0, or 1 when a test failed or a version
could not be run, or 2 when an argument is wrong.`

const root = fileURLToPath(new URL('../..', import.meta.url))

const { versions, minutes, patterns } = readArguments()
process.exitCode = await main()

function readArguments() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { node: { type: 'string' }, minutes: { type: 'string' }, help: { type: 'boolean' } },
    })
    if (values.help) {
      console.log(help)
      process.exit(0)
    }
    const chosen = values.node?.split(',') ?? nodeVersions
    const unknown = chosen.find((version) => !nodeVersions.includes(version))
    if (unknown !== undefined) throw new Error(`--node must name some of ${nodeVersions.join(', ')}, got "${unknown}"`)
    const limit = /^\d+$/.test(values.minutes ?? '60') ? Number(values.minutes ?? 60) : 0
    if (limit < 1 || limit > 120)
      throw new Error(`--minutes must be a whole number from 1 to 120, got "${values.minutes}"`)
    return { versions: chosen, minutes: limit, patterns: positionals }
  } catch (error) {
    console.error(error.message)
    process.exit(2)
  }
}

async function main() {
  const rows = []
  for (const range of versions) {
    const row = await runOn(range).catch((error) => ({ version: range, problem: error.message }))
    rows.push(row)
    if (row.problem !== undefined) console.error(`node ${row.version}: ${row.problem}`)
  }
  console.log(`\n${table(rows)}`)
  for (const { version, failures = [] } of rows) {
    for (const { file, name } of failures) console.log(`node ${version} failed ${relative(root, file)}: ${name}`)
  }
  return rows.every(({ problem, failed }) => problem === undefined && failed === 0) ? 0 : 1
}

/** Runs the tests on one version, with that version as the `node` of all that they start. */
async function runOn(range) {
  const binary = installedRuntime('node', range)
  const version = versionOf(binary, range)
  console.log(`\nnode ${version}`)
  const folder = mkdtempSync(join(tmpdir(), 'spillway-matrix-'))
  const outputFile = join(folder, 'report.json')
  try {
    const startedAt = performance.now()
    const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs')
    const reporters = ['--reporter=dot', '--reporter=json', `--outputFile.json=${outputFile}`]
    const child = spawn(binary, [vitest, 'run', ...reporters, ...patterns], {
      cwd: root,
      env: { ...process.env, PATH: `${dirname(binary)}${delimiter}${process.env.PATH}` },
      stdio: ['ignore', 'inherit', 'inherit'],
    })
    const exited = once(child, 'exit')
    const timer = setTimeout(() => child.kill('SIGTERM'), minutes * 60_000)
    const [code, signal] = await exited
    clearTimeout(timer)
    const seconds = (performance.now() - startedAt) / 1_000
    if (!existsSync(outputFile)) throw new Error(`vitest ended with ${signal ?? code} and without a report`)
    const summary = summaryOf(JSON.parse(readFileSync(outputFile, 'utf8')))
    // Errors outside of tests, such as an unhandled rejection, are in the exit code alone.
    const problem = code === 0 || summary.failed > 0 ? undefined : `vitest ended with ${signal ?? code}`
    return { version, seconds, ...summary, ...(problem !== undefined && { problem }) }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
