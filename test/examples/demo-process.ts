import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, vi } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** What starts the demo, without an npm in between. */
export const demoCommand = [process.execPath, '--import', 'tsx', 'examples/counter-billing/demo/demo.ts'] as const

export interface DemoProcess {
  readonly pid: number
  readonly output: () => string
  /** Waits until it has printed something. */
  prints(pattern: RegExp, timeoutMs?: number): Promise<void>
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
}

/** Starts a command as a shell does, in a process group of its own, without servers that the environment names. */
export function startCommand(
  [program, ...args]: readonly [string, ...string[]],
  env: Readonly<Record<string, string>> = {},
): DemoProcess {
  const none = { NODE_OPTIONS: '', DATABASE_URL: '', REDIS_URL: '', CONSUL_HTTP_ADDR: '', LOG_FILE: '', NO_COLOR: '' }
  const child = spawn(program, args, {
    cwd: root,
    env: { ...process.env, ...none, TSX_TSCONFIG_PATH: 'tsconfig.check.json', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk
    })
  }
  onTestFinished(() => {
    try {
      process.kill(-(child.pid as number), 'SIGKILL')
    } catch {
      // All of them have ended.
    }
  })
  const exited = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>
  return {
    pid: child.pid as number,
    output: () => output,
    prints: (pattern, timeout = 120_000) =>
      vi.waitFor(() => expect(output).toMatch(pattern), { timeout, interval: 50 }) as Promise<unknown> as Promise<void>,
    ended: exited.then(([code, signal]) => ({ code, signal })),
  }
}
