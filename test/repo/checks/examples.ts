import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { basename, join } from 'node:path'
import ts from 'typescript'
import { bundleForNode } from '../../../bench/harness/bundle-for-node.js'
import { type FileTree, root } from './file-tree.js'

/** What became of a snippet that was run. */
export interface Run {
  /** Its exit code; null if it was ended by a signal, as it is when it takes too long. */
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

const mostLines = 59
/** Five run at a time, some with a database of their own: a busy machine takes its time. */
const longestMs = 180_000

/** The snippets of a tree: one file each, straight in the folder. */
export function snippetsOf(tree: FileTree, folder = 'examples/snippets'): string[] {
  return [...tree.keys()].filter(
    (path) => path.startsWith(`${folder}/`) && /^[^/]+\.ts$/.test(path.slice(folder.length + 1)),
  )
}

/**
 * A snippet is short, prints what happens, and holds what it expects in assertions of its own.
 *
 * @returns what is wrong with its text, each with its file and rule.
 */
export function checkSnippetText(path: string, text: string): string[] {
  const problems: string[] = []
  const lines = text.trimEnd().split('\n').length
  if (lines > mostLines) problems.push(`${path} has ${lines} lines: a snippet has at most ${mostLines}`)
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true)
  let assertions = 0
  let prints = 0
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node)) {
      const called = node.expression.getText(file)
      if (/^assert(?:\.\w+)?$/.test(called)) assertions++
      if (called.startsWith('console.')) prints++
    }
    ts.forEachChild(node, visit)
  }
  visit(file)
  if (!/from 'node:assert(?:\/strict)?'/.test(text) || assertions === 0) {
    problems.push(`${path} asserts nothing: a snippet holds what it expects`)
  }
  if (prints === 0) problems.push(`${path} prints nothing: a snippet shows what happens`)
  return problems
}

/** Runs a snippet in a process of its own, as plain JavaScript. */
export async function runSnippet(path: string): Promise<Run> {
  const parent = join(root, '.cache/test-programs')
  mkdirSync(parent, { recursive: true })
  const folder = mkdtempSync(join(parent, 'snippet-'))
  try {
    const name = basename(path, '.ts')
    const bundles = await bundleForNode({ [name]: path }, folder, 'sources')
    return await runProgram(bundles[name] as string)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function runProgram(file: string): Promise<Run> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--enable-source-maps', file], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: longestMs,
      killSignal: 'SIGKILL',
      env: ownEnvironment(),
    })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      stdout += chunk
    })
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      stderr += chunk
    })
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, stdout, stderr }))
  })
}

/** The environment without what the test runner put into it. */
function ownEnvironment(): NodeJS.ProcessEnv {
  const { NODE_OPTIONS: _options, NODE_ENV: _env, VITEST: _vitest, ...own } = process.env
  return own
}

/**
 * A run ended well: exit code 0, so that every assertion held, some output, and no warning of the package.
 *
 * @returns what is wrong with it, each with its file and rule.
 */
export function checkSnippetRun(path: string, run: Run): string[] {
  const problems: string[] = []
  if (run.code !== 0) {
    const ended = run.code === null ? `did not end within ${longestMs} ms` : `ended with exit code ${run.code}`
    problems.push(`${path} ${ended}: ${run.stderr.trim()}`)
  }
  if (run.stdout.trim() === '') problems.push(`${path} printed nothing: a snippet shows what happens`)
  if (run.stderr.includes('SpillwayWarning')) problems.push(`${path} got a warning: ${run.stderr.trim()}`)
  return problems
}
