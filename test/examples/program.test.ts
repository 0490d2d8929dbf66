import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { readConfig } from '../../examples/counter-billing/config/config.ts'
import { Program } from '../../examples/counter-billing/program.ts'
import { closeAll } from '../../examples/counter-billing/running.ts'

test('a program takes nothing before all else of it is there, which a signal could lose', async () => {
  const taken = createServer().listen(0, '127.0.0.1')
  onTestFinished(() => void taken.close())
  await once(taken, 'listening')
  const { port } = taken.address() as AddressInfo
  const variables = {
    COUNTER_BILLING_API_PORT: '0',
    COUNTER_BILLING_METRICS_PORT: String(port),
    COUNTER_BILLING_POOLS_GRPC_WARM_UP_MS: '0',
    COUNTER_BILLING_SERVICES_COUNTERS: '127.0.0.1:9',
    COUNTER_BILLING_LOG_LEVEL: 'silent',
  }
  const said: string[] = []
  const { values } = readConfig({ env: variables })
  const program = new Program({ role: 'gateway', values, say: (message) => said.push(message) })
  onTestFinished(() => closeAll(program.open))

  await expect(program.start()).rejects.toThrow('EADDRINUSE')

  expect(said).toEqual([])
  expect(program.started.gateway).toBeUndefined()
})
