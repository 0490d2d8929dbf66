import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { freePort } from '../servers/free-port.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const startMs = 150_000

/** The demo with its fleet of counter services, in a process group of its own as a shell starts it. */
async function startDemo() {
  const flags = ['--serve', '--instances', '2', '--ack', 'accepted', '--port', '0']
  // Nobody is at the Consul that the environment names: what the demo starts has no business there.
  const env = { DATABASE_URL: '', REDIS_URL: '', CONSUL_HTTP_ADDR: `127.0.0.1:${await freePort()}` }
  const child = spawn(process.execPath, ['--import', 'tsx', 'examples/counter-billing/demo/demo.ts', ...flags], {
    cwd: root,
    env: { ...process.env, NODE_OPTIONS: '', TSX_TSCONFIG_PATH: 'tsconfig.check.json', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  const group = -(child.pid as number)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk
    })
  }
  onTestFinished(() => {
    try {
      process.kill(group, 'SIGKILL')
    } catch {
      // All of them have ended.
    }
  })
  const exited = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>
  await vi.waitFor(() => expect(output).toMatch(/Ctrl-C ends it|the demo failed/), { timeout: startMs, interval: 50 })
  const url = /gateway +(http:\S+)/.exec(output)?.[1] ?? ''
  const services = /counters +(\S+), on/.exec(output)?.[1]?.split(',') ?? []
  expect(services, output).toHaveLength(2)
  return { child, group, url, services, output: () => output, exited }
}

/** Whether anybody listens there. */
function isOpen(address: string): Promise<boolean> {
  const [host = '', port] = address.split(':')
  const socket = connect(Number(port), host)
  return new Promise<boolean>((resolve) => {
    socket.once('connect', () => resolve(true))
    socket.once('error', () => resolve(false))
  }).finally(() => socket.destroy())
}

const ended = async (services: readonly string[]): Promise<void> => {
  await expect.poll(() => Promise.all(services.map(isOpen)), { timeout: 20_000 }).toEqual([false, false])
}

async function increment(url: string, resource: string): Promise<number> {
  const response = await fetch(`${url}/api/v1/counter/increment`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ resource_id: resource, counter_type: 'like', delta: 1 }),
  })
  return response.status
}

describe('the demo with a fleet', { timeout: 2 * startMs }, () => {
  test('loses nothing that it accepted at a Ctrl-C, which reaches all of its processes', async () => {
    const demo = await startDemo()
    const statuses = await Promise.all(Array.from({ length: 200 }, (_, index) => increment(demo.url, `post-${index}`)))

    // The counter services have all the time in the world to make a mistake of it.
    demo.child.kill('SIGSTOP')
    process.kill(demo.group, 'SIGINT')
    await delay(1_000)
    expect(await Promise.all(demo.services.map(isOpen))).toEqual([true, true])
    demo.child.kill('SIGCONT')

    expect(await demo.exited).toEqual([null, 'SIGINT'])
    expect(new Set(statuses)).toEqual(new Set([202]))
    expect(demo.output()).not.toMatch(/LOST|fell behind|failed/)
    await ended(demo.services)
  })

  test('that is killed leaves no counter service behind', async () => {
    const demo = await startDemo()

    expect(await Promise.all(demo.services.map(isOpen))).toEqual([true, true])
    demo.child.kill('SIGKILL')

    await demo.exited
    await ended(demo.services)
  })
})
