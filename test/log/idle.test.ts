import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

test('a process with a thousand idle buffers ends, but not before the one that has a line has written it', async () => {
  const child = spawn(
    process.execPath,
    ['node_modules/tsx/dist/cli.mjs', '--tsconfig', 'tsconfig.check.json', 'test/log/scripts/idle-process.ts'],
    { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], timeout: 60_000, killSignal: 'SIGKILL' },
  )
  let output = ''
  const collect = (chunk: unknown): void => {
    output += chunk
  }
  child.stdout.on('data', collect)
  child.stderr.on('data', collect)

  const code = await new Promise((resolve) => child.on('close', resolve))

  expect({ code, output }).toEqual({ code: 0, output: 'done\nwritten behind the end of the script\n' })
}, 90_000)
