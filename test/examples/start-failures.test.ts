import { FaultProxy } from 'spillway/testing'
import { describe, expect, onTestFinished, test } from 'vitest'
import { startPostgres } from '../servers/postgres.ts'
import { startProcess } from './processes.ts'

const roles = [
  ['counters', '--grpc-port', '0'],
  ['usage-worker', '--metrics-port', '0'],
]

describe('a part of the service whose Redis resets connections while it starts', () => {
  test.each(roles)('ends as %s, so that its supervisor starts it again', { timeout: 120_000 }, async (...flags) => {
    const postgres = await startPostgres()
    onTestFinished(() => postgres?.stop())
    // What is behind it is never asked.
    const proxy = new FaultProxy({ port: 9 })
    await proxy.start()
    onTestFinished(() => proxy.stop())
    proxy.set({ mode: 'refuse' })
    const env = {
      REDIS_URL: `redis://${proxy.address}`,
      DATABASE_URL: postgres?.url ?? '',
      AUTH_URL: '',
      CONSUL_HTTP_ADDR: '',
    }

    const started = startProcess(['--role', ...flags], env)

    await expect(started).rejects.toThrow('main.ts ended')
  })
})
