import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))
const startMs = 60_000

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
  const child = fork('examples/counter-billing/main.ts', [...flags], {
    cwd: root,
    execArgv: ['--import', 'tsx'],
    env: { ...process.env, NODE_OPTIONS: '', TSX_TSCONFIG_PATH: 'tsconfig.check.json', ...env },
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
