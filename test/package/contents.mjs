// What `npm publish` would send: what was built, and the papers that belong to it. Needs `npm run build` first.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const papers = ['CHANGELOG.md', 'LICENSE', 'README.md', 'dist/LICENSES.txt', 'package.json']

const output = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
  cwd: root,
  encoding: 'utf8',
  stdio: ['ignore', 'pipe', 'ignore'],
  shell: process.platform === 'win32',
})
const [pack] = Object.values(JSON.parse(output))
const paths = pack.files.map((file) => file.path)

const strangers = paths.filter(
  (path) => !papers.includes(path) && !/^dist\/[\w-]+\.(?:c?js|d\.c?ts)(?:\.map)?$/.test(path),
)
assert.deepEqual(strangers, [], 'the package holds what it should not')

const { exports, main, module, types } = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
)
const named = [main, module, types, ...targets(exports)].map((path) => path.replace(/^\.\//, ''))
const missing = [...new Set([...papers, ...named])].filter((path) => !paths.includes(path))
assert.deepEqual(missing, [], 'the package lacks something')

console.log(
  `${paths.length} files, ${(pack.size / 1000).toFixed()} kB packed, ${(pack.unpackedSize / 1000).toFixed()} kB unpacked`,
)

/** Every file that `exports` leads to. */
function targets(value) {
  return typeof value === 'string' ? [value] : Object.values(value).flatMap(targets)
}
