import { connect } from 'node:net'
import { type Binary, findBinary } from '../binaries.ts'
import { type DemoServer, freePort, startDemoServer } from './server.ts'

/** How to get one, in a line. */
export const missingRedis = 'name one by REDIS_URL, or install redis-server'

export function findRedis(): Binary | undefined {
  return findBinary('redis-server', '--version')
}

/** Starts a Redis that keeps nothing on disk. */
export async function startRedis(binary: Binary): Promise<DemoServer> {
  const port = await freePort()
  return startDemoServer({
    name: 'Redis',
    binary,
    args: ['--save', '', '--bind', '127.0.0.1', '--port', String(port)],
    url: `redis://127.0.0.1:${port}`,
    isReady: () => answersPing(port),
    signal: 'TERM',
  })
}

function answersPing(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write('PING\r\n'))
    const end = (answer: boolean): void => {
      socket.destroy()
      resolve(answer)
    }
    socket.setTimeout(1_000, () => end(false))
    socket.once('error', () => end(false))
    socket.once('data', (chunk) => end(chunk.toString().startsWith('+PONG')))
  })
}
