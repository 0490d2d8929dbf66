import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import type { Closable } from 'spillway/process'
import type { Binary } from './binaries.ts'

/** Leaves a server alone at a Ctrl-C, which reaches a whole process group, and ends it when the demo has ended, however that was. */
const script = `signal=$1; shift; "$@" & read _; kill -"$signal" $!; wait`

const startMs = 60_000
const endMs = 10_000

/** A server that the demo has started for itself. */
export interface DemoServer extends Closable {
  readonly url: string
}

export interface DemoServerOptions {
  readonly name: string
  readonly binary: Binary
  readonly args: readonly string[]
  readonly url: string
  /** Whether it answers. */
  readonly isReady: () => Promise<boolean>
  /** What ends it without waiting for its clients. */
  readonly signal: 'TERM' | 'INT' | 'KILL'
  /** Whom it runs as, where that is somebody else. */
  readonly account?: { readonly uid: number; readonly gid: number } | undefined
  /** Takes away what it leaves behind. */
  readonly cleanUp?: () => Promise<void>
}

/** Starts a server that ends with this process, and waits until it answers. */
export async function startDemoServer(options: DemoServerOptions): Promise<DemoServer> {
  const { name, binary, args, url, isReady, signal, account, cleanUp } = options
  const shell = spawn('/bin/sh', ['-c', script, 'sh', signal, binary.path, ...args], {
    ...account,
    // A folder that whoever it runs as may be in.
    cwd: '/',
    detached: true,
    env: { ...process.env, ...binary.env },
    stdio: ['pipe', 'ignore', 'pipe'],
  })
  let complaint = ''
  shell.stderr.on('data', (chunk: Buffer) => {
    complaint = `${complaint}${chunk}`.slice(-2_000)
  })
  shell.stdin.on('error', () => undefined)
  const ended = once(shell, 'exit')
  const close = async (): Promise<void> => {
    shell.stdin.end()
    await Promise.race([ended, delay(endMs, undefined, { ref: false })])
    await cleanUp?.()
  }
  // The shell waits for a line that never comes, so that it is told of a server that ended by what doesn't answer.
  for (const deadline = Date.now() + startMs; ; await delay(50)) {
    if (await isReady()) return { name, url, close }
    if (Date.now() < deadline && shell.exitCode === null && !complaint.includes('FATAL')) continue
    await close()
    throw new Error(`${name} doesn't start: ${complaint.trim().split('\n').at(-1) ?? 'it says nothing'}`)
  }
}

/** A port that nobody has at the moment. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}
