import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { bundleForNode } from '../harness/bundle-for-node.ts'

/** A program of the comparison, in a process of its own. */
export interface Running {
  /** Where it listens. */
  readonly url: string
  stop(): Promise<void>
}

const startMs = 30_000
const stopMs = 15_000

/** What can be started, by name. */
const entries = {
  nothing: 'bench/load/targets/nothing.ts',
  monolith: 'bench/load/targets/monolith.ts',
  'naive-gateway': 'bench/load/targets/naive-gateway.ts',
  'naive-counters': 'bench/load/targets/naive-counters.ts',
  'naive-reads': 'bench/load/targets/naive-reads.ts',
  'token-issuer': 'bench/load/targets/token-issuer.ts',
  'token-proxy': 'bench/load/targets/token-proxy.ts',
  logging: 'bench/load/targets/logging.ts',
  quota: 'bench/load/quota/service.ts',
  'quota-distance': 'bench/load/quota/distance.ts',
  service: 'examples/counter-billing/main.ts',
} as const

export type Program = keyof typeof entries

/** Bundles the programs: as they would be deployed, on the built package. */
export async function bundlePrograms(
  root: string,
): Promise<(program: Program, settings: Settings) => Promise<Running>> {
  const files = await bundleForNode(entries, join(root, '.cache/load'), 'built')
  return (program, settings) => start(files[program], settings)
}

export interface Settings {
  readonly args?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
}

async function start(file: string, { args = [], env = {} }: Settings): Promise<Running> {
  const child = fork(file, args, {
    // A load is one caller, and is to be told how much there is, not how much he may have.
    env: {
      ...process.env,
      NODE_ENV: 'production',
      NODE_OPTIONS: '',
      COUNTER_BILLING_API_RATE_LIMIT_ENABLED: 'false',
      ...env,
    },
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  const url = await new Promise<string>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${file} took too long to start`)), startMs)
    child.once('message', (message) => {
      clearTimeout(timer)
      resolve((message as { url: string }).url)
    })
    child.once('exit', (code, signal) => {
      clearTimeout(timer)
      reject(new Error(`${file} ended with ${signal ?? code}`))
    })
  }).catch((error: unknown) => {
    child.kill('SIGKILL')
    throw error
  })
  return { url, stop: () => stop(child) }
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), stopMs)
  await exited
  clearTimeout(timer)
}
