import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import { type ConsulServer, startConsul } from '../../servers/consul.js'
import { AgentApi } from './support/agent-api.js'
import { uniqueService } from './support/watching.js'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const consul: ConsulServer | undefined = await startConsul()

describe.skipIf(consul === undefined)('a process with a watch and a registration', () => {
  afterAll(() => consul?.stop())

  it.each<[string, (server: ConsulServer) => string[]]>([
    ['that has an address', ({ address }) => [address]],
    // Each attempt to connect has a handle of its own.
    [
      'whose name has two, the first of which nobody listens on',
      ({ host, port }) => [`http://two.test:${port}`, '::1', host],
    ],
  ])('lives while somebody waits for them, and exits then: with a Consul %s', async (_what, where) => {
    const server = consul as ConsulServer
    const [address = '', ...addresses] = where(server)
    const service = uniqueService()
    const script = 'test/adapters/consul/support/idle-process.ts'
    const child = spawn(
      process.execPath,
      ['node_modules/tsx/dist/cli.mjs', '--tsconfig', 'tsconfig.check.json', script, address, service, ...addresses],
      { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], timeout: 15_000, killSignal: 'SIGKILL' },
    )
    let output = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk) => {
        output += chunk
      })
    }

    const code = await new Promise((resolve) => child.on('close', resolve))
    await new AgentApi(server.address).deregister(`${service}-127.0.0.1-1`)

    expect({ code, output }).toEqual({ code: 0, output: 'done 1\n' })
  })
})
