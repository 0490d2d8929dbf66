import { once } from 'node:events'
import { createServer } from 'node:net'

/** Below the ports that systems give to connections by themselves. */
const first = 15_000
const last = 32_000
const attempts = 1_000

/**
 * A port that is free, and that nobody is given by chance while its server is away: what was killed must find it free again.
 *
 * @param taken - those that are promised already; the new one is added.
 */
export async function steadyPort(taken: Set<number>): Promise<number> {
  for (let attempt = 0; attempt < attempts; attempt++) {
    const port = first + Math.floor(Math.random() * (last - first))
    if (taken.has(port) || !(await isFree(port))) continue
    taken.add(port)
    return port
  }
  throw new Error(`no port from ${first} to ${last} is free`)
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, '127.0.0.1')
  try {
    await once(server, 'listening')
    return true
  } catch {
    return false
  } finally {
    server.close()
  }
}
