import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { LogTail } from '../../bench/soak/log-tail.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

test('a soak of seconds: every line once through rotations, and memory flat', async () => {
  const child = spawn(
    process.execPath,
    [
      '--expose-gc',
      'node_modules/tsx/dist/cli.mjs',
      '--tsconfig',
      'tsconfig.check.json',
      'bench/soak/run.ts',
      '--seconds',
      '5',
    ],
    { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], timeout: 90_000, killSignal: 'SIGKILL' },
  )
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk
    })
  }

  const code = await new Promise((resolve) => child.on('close', resolve))

  expect({ code, output }).toEqual({ code: 0, output: expect.stringContaining('every line once, memory flat') })
  const [, lines, rotations] = /^(\d+) lines.* (\d+) rotations/m.exec(output) as unknown as [string, string, string]
  expect(Number(lines)).toBeGreaterThan(100_000)
  expect(Number(rotations)).toBeGreaterThan(0)
}, 120_000)

test('the reader of the soak finds what is torn, missing an end, twice or out of order', () => {
  const line = (n: number): string => `{"level":30,"n":${n},"msg":"a"}\n`
  for (const [text, problem] of [
    [line(0) + line(0), 'line 0 comes behind line 0'],
    [line(1) + line(0), 'line 0 comes behind line 1'],
    [`${line(0)}{"level":30,"n":1{"level":30,"n":2,"msg":"a"}\n`, 'a line is torn'],
    [`${line(0)}{"level":30`, 'a file ends within a line'],
  ] as const) {
    const tail = new LogTail()
    tail.read(text)
    expect(tail.problems[0]).toContain(problem)
  }
  const good = new LogTail()
  good.read(`${line(0)}{"level":40,"time":1,"name":"l","dropped":3,"msg":"3 log lines were dropped"}\n${line(4)}`)
  expect(good).toMatchObject({ lines: 2, told: 3, problems: [] })
})
