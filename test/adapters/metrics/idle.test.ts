import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'

const root = fileURLToPath(new URL('../../..', import.meta.url))

it('lets a process end that is instrumented and has nothing left to do', { timeout: 60_000 }, async () => {
  const script = 'test/adapters/metrics/support/idle-process.ts'
  const child = spawn(
    process.execPath,
    ['node_modules/tsx/dist/cli.mjs', '--tsconfig', 'tsconfig.check.json', script],
    {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 50_000,
      killSignal: 'SIGKILL',
    },
  )
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk
    })
  }

  const code = await new Promise((resolve) => child.on('close', resolve))

  expect({ code, output }).toEqual({
    code: 0,
    output: 'spillway_batch_items_total{component="orders",outcome="succeeded"} 1\n',
  })
})
