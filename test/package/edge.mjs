// The root entry, bundled as an edge runtime's tools do, from ESM and from CommonJS, in a context that has what the web has and nothing of Node. Needs
// `npm run build` first.
import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import vm from 'node:vm'
import { build } from 'esbuild'

const here = fileURLToPath(new URL('.', import.meta.url))
const targets = [
  { platform: 'neutral', conditions: ['worker', 'edge-light', 'import'], from: 'esm' },
  { platform: 'browser', conditions: ['worker', 'edge-light'], from: 'esm' },
  { platform: 'neutral', conditions: ['worker', 'edge-light', 'require'], from: 'cjs' },
  { platform: 'browser', conditions: ['worker', 'edge-light'], from: 'cjs' },
]

/** How a program takes the package, and which file of it that must be. */
const ways = {
  esm: { statement: `import * as spillway from 'spillway'`, file: /(?:^|\/)dist\/index\.js$/ },
  cjs: { statement: `const spillway = require('spillway')`, file: /(?:^|\/)dist\/index\.cjs$/ },
}

/** Bundles for a target and uses the bundle. */
async function check(target) {
  const code = await bundle(target)
  const timers = new Timers()
  const context = vm.createContext(webGlobals(timers))
  for (const name of ['process', 'Buffer', 'setImmediate', 'require', 'global']) {
    assert.equal(vm.runInContext(`typeof ${name}`, context), 'undefined')
  }

  const done = await vm.runInContext(`${code};\nanswer.done`, context, { timeout: 10_000 })

  // Where there is no setImmediate, a timer of 0 ms ends the turn; none but such a one may be left.
  await new Promise((resolve) => setTimeout(resolve, 20))
  assert.equal(timers.pending, 0, 'a timer was left')
  console.log(`${target.platform} (${target.conditions.join(', ')}) from ${target.from}, ${code.length} bytes: ${done}`)
}

async function bundle({ platform, conditions, from }) {
  const { statement, file } = ways[from]
  const { outputFiles, metafile } = await build({
    stdin: {
      contents: `
        ${statement}
        import { exercise } from './exercise.mjs'
        export const done = exercise(spillway)`,
      resolveDir: here,
    },
    bundle: true,
    write: false,
    metafile: true,
    minify: true,
    platform,
    conditions,
    format: 'iife',
    globalName: 'answer',
    target: 'es2022',
    logLevel: 'silent',
  })
  const inputs = Object.keys(metafile.inputs)
  assert.ok(
    inputs.some((input) => file.test(input)),
    `the built package is not in the bundle: ${inputs}`,
  )
  const imports = Object.entries(metafile.inputs).flatMap(([input, { imports }]) =>
    imports.filter((one) => one.external === true && !isOptional(input, one)).map((one) => `${input}: ${one.path}`),
  )
  assert.deepEqual(imports, [], 'the bundle imports something')
  const [{ text }] = outputFiles
  const rest = text.replaceAll(/\bimport\(["']node:diagnostics_channel["']\)/g, '')
  assert.doesNotMatch(rest, /\brequire\s*\(|\bimport\s*[("']|\bfrom\s*["']/, 'the bundle has an import left')
  return text
}

/** What lru-cache tries to import where it isn't told that it is in a browser, and does without where that fails, as it does here. */
function isOptional(input, { path, kind }) {
  return (
    /(?:^|\/)node_modules\/lru-cache\//.test(input) && kind === 'dynamic-import' && path === 'node:diagnostics_channel'
  )
}

/** What the web has: https://common-min-api.proposal.wintertc.org, as far as it is of use here. */
function webGlobals(timers) {
  return {
    AbortController,
    AbortSignal,
    DOMException,
    Event,
    EventTarget,
    TextDecoder,
    TextEncoder,
    URL,
    console,
    crypto,
    performance,
    queueMicrotask,
    structuredClone,
    setTimeout: (callback, delayMs) => timers.set(callback, delayMs),
    clearTimeout: (id) => timers.clear(id),
  }
}

/** Timers as the web has them: a timer is a number, without `unref`. */
class Timers {
  #last = 0
  #handles = new Map()

  get pending() {
    return this.#handles.size
  }

  set(callback, delayMs) {
    const id = ++this.#last
    const fire = () => {
      this.#handles.delete(id)
      callback()
    }
    this.#handles.set(id, setTimeout(fire, delayMs))
    return id
  }

  clear(id) {
    clearTimeout(this.#handles.get(id))
    this.#handles.delete(id)
  }
}

for (const target of targets) await check(target)
