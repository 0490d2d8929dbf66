import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import type { Closable } from 'spillway/process'

/** Leaves Redis alone at a Ctrl-C, which reaches a whole process group, and ends it when the demo has ended, however that was. */
const script = `command -v redis-server >/dev/null || exit 127
redis-server --save '' --bind 127.0.0.1 --port "$1" & read _; kill $!; wait`

const needsRedis = '--usage stream needs Redis: name one by REDIS_URL, or install redis-server'
const notFound = 127
const startMs = 10_000

export interface DemoRedis extends Closable {
  readonly url: string
}

/** Starts a Redis that keeps nothing on disk. */
export async function startRedis(): Promise<DemoRedis> {
  const port = await freePort()
  const shell = spawn('/bin/sh', ['-c', script, 'sh', String(port)], {
    detached: true,
    stdio: ['pipe', 'pipe', 'ignore'],
  })
  const ended = once(shell, 'exit')
  const close = async (): Promise<void> => {
    shell.stdin.end()
    await ended
  }
  const timer = setTimeout(close, startMs)
  await new Promise<void>((resolve, reject) => {
    shell.stdout.on('data', (chunk: Buffer) => chunk.includes('eady to accept') && resolve())
    shell.once('error', reject)
    shell.once('exit', (code) => reject(new Error(code === notFound ? needsRedis : 'redis-server ended early')))
  })
  clearTimeout(timer)
  return { name: 'Redis', url: `redis://127.0.0.1:${port}`, close }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}
