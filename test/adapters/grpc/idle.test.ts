import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { startServer } from './support/counter-service.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

const root = fileURLToPath(new URL('../../..', import.meta.url))

describe('a process whose pool and stream are idle', () => {
  it('exits, though neither was closed', async () => {
    const server = await startServer({
      get: (_call, callback) => callback(null, { value: 1 }),
      increments: (call) => {
        call.on('data', ({ id }) => call.write({ id, value: 1 }))
        call.on('end', () => call.end())
      },
    })
    cleanUp(() => server.kill())
    const script = 'test/adapters/grpc/support/idle-process.ts'
    const child = spawn(
      process.execPath,
      ['node_modules/tsx/dist/cli.mjs', '--tsconfig', 'tsconfig.check.json', script, server.address],
      { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], timeout: 15_000, killSignal: 'SIGKILL' },
    )
    let output = ''
    child.stdout.on('data', (chunk) => {
      output += chunk
    })
    child.stderr.on('data', (chunk) => {
      output += chunk
    })

    const code = await new Promise((resolve) => child.on('close', resolve))

    expect({ code, output }).toEqual({ code: 0, output: 'done\n' })
  })
})
