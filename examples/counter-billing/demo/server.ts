import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import type { Closable } from 'spillway/process'
import type { Binary } from '../binaries.ts'

/** Ends a server when the demo has ended, however that was, and takes away what it leaves behind. */
const guard = `read _
kill -"$1" "$2"
[ -n "$3" ] || exit
n=0
while [ $n -lt 100 ] && kill -0 "$2"; do n=$((n + 1)); sleep 0.1; done
rm -rf -- "$3"`

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
  /** A folder of its own, which goes with it. */
  readonly folder?: string
}

/** Starts a server that ends with this process, and waits until it answers. */
export async function startDemoServer(options: DemoServerOptions): Promise<DemoServer> {
  const { name, binary, args, url, isReady, signal, account, folder = '' } = options
  // In sessions of their own: Ctrl-C reaches a whole process group, and the services are to end first.
  const server = spawn(binary.path, args, {
    ...account,
    // A folder that whoever it runs as may be in.
    cwd: '/',
    detached: true,
    env: { ...process.env, ...binary.env },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let complaint = ''
  server.stderr.on('data', (chunk: Buffer) => {
    complaint = `${complaint}${chunk}`.slice(-2_000)
  })
  let hasEnded = false
  const ended = new Promise<void>((resolve) => {
    const end = (): void => {
      hasEnded = true
      // Another process may have its number soon.
      watch.kill('SIGKILL')
      resolve()
    }
    server.once('exit', end)
    server.once('error', (error) => {
      complaint = error.message
      end()
    })
  })
  const watch = spawn('/bin/sh', ['-c', guard, 'sh', signal, String(server.pid), folder], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  })
  watch.stdin.on('error', () => undefined)
  const close = async (): Promise<void> => {
    watch.stdin.end()
    await Promise.race([ended, delay(endMs, undefined, { ref: false })])
    if (!hasEnded) server.kill('SIGKILL')
    if (folder !== '') await rm(folder, { recursive: true, force: true })
  }
  for (const deadline = Date.now() + startMs; ; await delay(50)) {
    if (await isReady()) return { name, url, close }
    if (Date.now() < deadline && !hasEnded) continue
    await close()
    throw new Error(`${name} doesn't start: ${complaint.trim().split('\n').at(-1) || 'it says nothing'}`)
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
