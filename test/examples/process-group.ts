import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

export type Command = readonly [program: string, ...args: string[]]

const root = fileURLToPath(new URL('../..', import.meta.url))
/** What the machine of a test has beside it is none of its business. */
const none = {
  NODE_OPTIONS: '',
  DATABASE_URL: '',
  REDIS_URL: '',
  CONSUL_HTTP_ADDR: '',
  LOG_FILE: '',
  LOG_LEVEL: '',
  NO_COLOR: '',
}

/** What `npm run demo` runs, without an npm in between. */
export const demoCommand = scriptOf('demo')

function scriptOf(name: string): Command {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
  }
  const [program = '', ...args] = scripts[name]?.split(' ') ?? []
  return [program === 'node' ? process.execPath : join(root, 'node_modules/.bin', program), ...args]
}

export interface ProcessGroup {
  readonly pid: number
  readonly output: () => string
  /** Waits until it has printed something. */
  prints(pattern: RegExp, timeoutMs?: number): Promise<void>
  /** Sends a signal to all of its processes, as Ctrl-C does. */
  signal(name: NodeJS.Signals): void
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>
}

/** Starts a command as a shell does, in a process group of its own, without servers that the environment names. */
export function startGroup([program, ...args]: Command, env: Readonly<Record<string, string>> = {}): ProcessGroup {
  const child = spawn(program, args, {
    cwd: root,
    env: { ...process.env, ...none, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk
    })
  }
  let hasEnded = false
  const ended = once(child, 'close').then(([code, signal]) => {
    hasEnded = true
    return { code: code as number | null, signal: signal as NodeJS.Signals | null }
  })
  const prints = async (pattern: RegExp, timeoutMs = 120_000): Promise<void> => {
    for (const deadline = Date.now() + timeoutMs; !pattern.test(output); await delay(50)) {
      if (hasEnded || Date.now() > deadline) throw new Error(`it doesn't print ${pattern}:\n${output}`)
    }
  }
  const signal = (name: NodeJS.Signals): void => {
    try {
      process.kill(-(child.pid as number), name)
    } catch {
      // All of them have ended.
    }
  }
  return { pid: child.pid as number, output: () => output, prints, signal, ended }
}
