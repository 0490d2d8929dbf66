import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

test('a process whose balancers are idle exits, though none was closed, but not before its counts are handed on', async () => {
  const script = 'test/balancer/support/idle-process.ts'
  const child = spawn(
    process.execPath,
    ['node_modules/tsx/dist/cli.mjs', '--tsconfig', 'tsconfig.check.json', script],
    { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], timeout: 15_000, killSignal: 'SIGKILL' },
  )
  let output = ''
  const collect = (chunk: unknown): void => {
    output += chunk
  }
  child.stdout.on('data', collect)
  child.stderr.on('data', collect)

  const code = await new Promise((resolve) => child.on('close', resolve))

  expect({ code, output }).toEqual({ code: 0, output: "done\ncounted [ [ 'a', 1 ] ]\n" })
})
