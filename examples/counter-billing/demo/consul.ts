import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Binary, findBinary } from '../binaries.ts'
import { type DemoServer, freePort, startDemoServer } from './server.ts'

/** How to get one, in a line. */
export const missingConsul = 'name one by CONSUL_HTTP_ADDR, or put consul on the PATH'

export function findConsul(): Binary | undefined {
  return findBinary('consul', 'version')
}

/** Starts an agent that keeps its catalog in memory. */
export async function startConsul(binary: Binary): Promise<DemoServer> {
  const data = mkdtempSync(join(tmpdir(), 'counter-billing-consul-'))
  const [http, server, serf] = [await freePort(), await freePort(), await freePort()]
  const url = `http://127.0.0.1:${http}`
  const ports = [`-http-port=${http}`, `-server-port=${server}`, `-serf-lan-port=${serf}`, '-serf-wan-port=-1']
  const off = ['-dns-port=-1', '-grpc-port=-1', '-disable-host-node-id', '-log-level=err']
  return startDemoServer({
    name: 'Consul',
    binary,
    args: ['agent', '-dev', '-bind=127.0.0.1', '-client=127.0.0.1', `-data-dir=${data}`, ...ports, ...off],
    url,
    isReady: () => leads(url),
    signal: 'KILL',
    folder: data,
  })
}

/** Whether it leads, and knows the node that it is itself. */
async function leads(url: string): Promise<boolean> {
  try {
    const answer = await fetch(`${url}/v1/health/service/consul?passing=true`, { signal: AbortSignal.timeout(2_000) })
    return answer.ok && ((await answer.json()) as unknown[]).length > 0
  } catch {
    return false
  }
}
