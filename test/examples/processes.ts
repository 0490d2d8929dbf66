import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import { bundleForNode } from '../../bench/harness/bundle-for-node.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const startMs = 60_000
let bundled: Promise<string> | undefined

/** `main.ts` as it would be deployed, made once. */
function mainProgram(): Promise<string> {
  bundled ??= bundleMain()
  return bundled
}

async function bundleMain(): Promise<string> {
  const parent = join(root, '.cache/test-programs')
  mkdirSync(parent, { recursive: true })
  const folder = mkdtempSync(join(parent, 'main-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  return (await bundleForNode({ main: 'examples/counter-billing/main.ts' }, folder, 'sources')).main
}

/** The example in a process of its own. */
export interface ServiceProcess {
  /** Where it listens, as it says itself. */
  readonly url: string
  readonly child: ChildProcess
  /** What it wrote to stderr: its log. */
  readonly log: () => string
  /** Sends a signal and waits for the end; returns the exit code or the signal. */
  end(signal: NodeJS.Signals): Promise<number | string | null>
}

/** Starts `main.ts` with flags, and ends it with the test. */
export async function startProcess(
  flags: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<ServiceProcess> {
  const child = fork(await mainProgram(), [...flags], {
    cwd: root,
    execArgv: ['--enable-source-maps'],
    env: { ...process.env, NODE_OPTIONS: '', ...env },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  })
  let log = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    log += chunk
  })
  const end = async (signal: NodeJS.Signals): Promise<number | string | null> => {
    if (child.exitCode === null && child.signalCode === null) {
      const exited = once(child, 'exit')
      child.kill(signal)
      await exited
    }
    return child.signalCode ?? child.exitCode
  }
  onTestFinished(async () => void (await end('SIGKILL')))
  const url = await new Promise<string>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`main.ts took too long to start:\n${log}`)), startMs)
    child.once('message', (message) => {
      clearTimeout(timer)
      // The channel would keep the process alive after everything else has closed.
      child.disconnect()
      resolve((message as { url: string }).url)
    })
    child.once('exit', () => {
      clearTimeout(timer)
      reject(new Error(`main.ts ended:\n${log}`))
    })
  })
  return { url, child, log: () => log, end }
}
