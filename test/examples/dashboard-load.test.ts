import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { SteadyLoad } from '../../examples/counter-billing/dashboard/steady-load.ts'

const patience = { timeout: 60_000, interval: 20 }

/** A load at a gateway that takes all increments of one, and counts them. */
async function startLoad() {
  let requests = 0
  const server = createServer((request, response) => {
    requests++
    request.resume().once('end', () => response.writeHead(202).end('{}'))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const env = { NODE_OPTIONS: '--import ./examples/tsx.mjs', AUTH_URL: '' }
  const settings = {
    urls: [`http://127.0.0.1:${port}`],
    prefix: 'p-',
    keys: 5,
    requestsPerSecond: 100,
    seconds: 600,
    env,
  }
  const load = new SteadyLoad(settings)
  onTestFinished(async () => {
    await load.close()
    server.closeAllConnections()
    server.close()
  })
  load.start()
  await expect.poll(() => load.count.acknowledged, patience).toBeGreaterThan(0)
  return { load, requests: () => requests }
}

describe('a steady load', { timeout: 120_000 }, () => {
  test('sends nothing while sums are compared, even where it is stopped and started meanwhile', async () => {
    const { load, requests } = await startLoad()

    const sent = await load.still(async () => {
      const before = requests()
      load.stop()
      load.start()
      await expect(load.still(async () => undefined)).rejects.toThrow('sums are being compared already')
      expect(load.state().state).toBe('comparing')
      await delay(500)
      return requests() - before
    })

    expect(sent).toBe(0)
    expect(load.state().state).toBe('running')
    const after = requests()
    await expect.poll(requests, patience).toBeGreaterThan(after)
    await load.still(async () => load.stop())
    expect(load.state().state).toBe('stopped')
  })

  test('leaves no listener behind, however often sums are compared', async () => {
    const warnings: Error[] = []
    const onWarning = (warning: Error): number => warnings.push(warning)
    process.on('warning', onWarning)
    onTestFinished(() => void process.off('warning', onWarning))
    const { load } = await startLoad()

    for (let n = 0; n < 15; n++) await load.still(async () => undefined)
    await delay(10)

    expect(warnings).toEqual([])
  })
})
