import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { freePort } from '../servers/free-port.ts'
import { startDemo } from './demo-process.ts'

const startMs = 150_000

/** The demo with its fleet of counter services. */
async function startFleet() {
  // Nobody is at the Consul that the environment names: what the demo starts has no business there.
  const env = { CONSUL_HTTP_ADDR: `127.0.0.1:${await freePort()}` }
  const demo = startDemo(['--serve', '--instances', '2', '--ack', 'accepted', '--port', '0'], env)
  await demo.prints(/Ctrl-C ends it/, startMs)
  const url = /gateway +(http:\S+)/.exec(demo.output())?.[1] ?? ''
  const services = /counters +(\S+), on/.exec(demo.output())?.[1]?.split(',') ?? []
  expect(services, demo.output()).toHaveLength(2)
  return { ...demo, url, services }
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
    const demo = await startFleet()
    const statuses = await Promise.all(Array.from({ length: 200 }, (_, index) => increment(demo.url, `post-${index}`)))

    // The counter services have all the time in the world to make a mistake of it.
    process.kill(demo.pid, 'SIGSTOP')
    demo.signal('SIGINT')
    await delay(1_000)
    expect(await Promise.all(demo.services.map(isOpen))).toEqual([true, true])
    process.kill(demo.pid, 'SIGCONT')

    expect(await demo.ended).toEqual({ code: null, signal: 'SIGINT' })
    expect(new Set(statuses)).toEqual(new Set([202]))
    expect(demo.output()).not.toMatch(/LOST|fell behind|failed/)
    await ended(demo.services)
  })

  test('that is killed leaves no counter service behind', async () => {
    const demo = await startFleet()

    expect(await Promise.all(demo.services.map(isOpen))).toEqual([true, true])
    process.kill(demo.pid, 'SIGKILL')

    await demo.ended
    await ended(demo.services)
  })
})
