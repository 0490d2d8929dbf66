import { chmodSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { findConsul } from '../../examples/counter-billing/demo/consul.ts'
import { findPostgres } from '../../examples/counter-billing/demo/postgres.ts'
import { findRedis } from '../../examples/counter-billing/demo/redis.ts'
import { startDemo } from './demo-process.ts'

const hasServers = findPostgres() !== undefined && findRedis() !== undefined
const hasConsul = findConsul() !== undefined

/** Whether a process is there, and no corpse. */
function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

const pidsIn = (output: string): number[] => [...output.matchAll(/ process (\d+)$/gm)].map(([, pid]) => Number(pid))

describe.skipIf(!hasServers)('the demo with --processes', { timeout: 420_000 }, () => {
  test('runs each service apart, has a dead one back, and its sums are equal', async () => {
    const demo = startDemo(['--processes', '--seconds', '4', '--verbose'])

    expect(await demo.ended, demo.output()).toEqual({ code: 0, signal: null })

    const output = demo.output()
    const names = [
      'auth',
      'counters 1',
      'counters 2',
      'billing',
      'usage worker 1',
      'usage worker 2',
      'gateway 1',
      'gateway 2',
    ]
    for (const name of names) expect(output).toMatch(new RegExp(`^ +${name} +\\S+ +process \\d+$`, 'm'))
    for (const server of ['PostgreSQL', 'Redis', ...(hasConsul ? ['Consul'] : [])]) {
      expect(output).toMatch(new RegExp(`^ +${server} +127\\.0\\.0\\.1:\\d+ +started$`, 'm'))
    }
    expect(output).toMatch(/counters 1 ended with SIGKILL; it is started again in 250 ms/)
    expect(output).toMatch(/crash +SIGKILL to the counter service/)
    expect(output.match(/✓ |PASS: /g), output).toHaveLength(4)
    expect(pidsIn(output).filter(isAlive)).toEqual([])
  })

  test('ends at SIGTERM, in mid-load, with all that it accepted written', async () => {
    const demo = startDemo(['--processes', '--seconds', '300', '--ack', 'accepted'])
    await demo.prints(/load {2}\d+ s {2}[1-9][\d,]* requests/, 300_000)

    process.kill(demo.pid, 'SIGTERM')

    expect(await demo.ended, demo.output()).toEqual({ code: null, signal: 'SIGTERM' })
    expect(demo.output()).toMatch(/, interrupted$/m)
    expect(demo.output().match(/✓ /g), demo.output()).toHaveLength(3)
    expect(demo.output()).not.toMatch(/LOST|the demo failed/)
    expect(pidsIn(demo.output()).filter(isAlive)).toEqual([])
  })

  test('starts nothing more after a Ctrl-C, and leaves nothing behind', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'counter-billing-left-'))
    chmodSync(folder, 0o777)
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const demo = startDemo(['--processes'], { TMPDIR: folder })
    await demo.prints(/ 1 of 8 processes/, 300_000)

    demo.signal('SIGINT')

    expect(await demo.ended, demo.output()).toEqual({ code: null, signal: 'SIGINT' })
    expect(demo.output()).not.toMatch(/[5-8] of 8 processes|the demo failed/)
    expect(readdirSync(folder).filter((name) => name.startsWith('counter-billing'))).toEqual([])
  })
})
