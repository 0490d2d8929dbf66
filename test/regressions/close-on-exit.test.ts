import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

test('a process whose stderr nobody reads any more is closed and ends, instead of failing to say so for ever', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'close-on-exit-'))
  const file = join(folder, 'closed.txt')
  const child = spawn(process.execPath, ['--import', 'tsx', 'test/adapters/process/scripts/broken-stderr.ts', file], {
    cwd: root,
    env: { ...process.env, TSX_TSCONFIG_PATH: 'tsconfig.check.json' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  onTestFinished(() => {
    child.kill('SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  })
  const exited = once(child, 'exit')
  await once(child.stdout, 'data')

  child.stderr.destroy()
  child.kill('SIGUSR2')

  expect(await exited).toEqual([1, null])
  expect(readFileSync(file, 'utf8')).toBe('closed')
})
