import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { DemoFigures } from '../../examples/counter-billing/demo/report.ts'
import { demoCommand, startCommand, startDemo } from './demo-process.ts'

const short = ['--seconds', '1', '--port', '0']
const controlStart = '\u001B'
const hasScript = spawnSync('script', ['--version']).status === 0

describe('the report of the demo', { timeout: 240_000 }, () => {
  test('has the essence in 25 lines at most, without colours where nobody sees them', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'counter-billing-figures-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const file = join(folder, 'figures.json')
    const demo = startDemo([...short, '--json', file])

    expect(await demo.ended, demo.output()).toEqual({ code: 0, signal: null })

    const report = demo.output().slice(demo.output().indexOf('\n50 connections'))
    expect(report.trim().split('\n').length, report).toBeLessThanOrEqual(25)
    for (const line of ['requests', 'latency', 'increments', 'batches', 'cache', 'tokens', 'usage', 'billing', 'log']) {
      expect(report).toMatch(new RegExp(`^  ${line} +\\S`, 'm'))
    }
    expect(report).toMatch(/✓ counters +sent ([\d,]+) = stored \1 = live \1,/)
    expect(report).toMatch(/✓ usage +made ([\d,]+) = accounted \1,/)
    expect(report).toMatch(/✓ money +recharged 500 = charged 500 \+ balance 0/)
    expect(report).toMatch(/PASS: /)
    expect(demo.output()).not.toContain(controlStart)
    expect(JSON.parse(readFileSync(file, 'utf8')) as DemoFigures).toMatchObject({ isPassed: true })
  })

  test('is there where its figures can’t be written', async () => {
    const demo = startDemo([...short, '--json', '/nowhere/at/all.json'])

    expect(await demo.ended, demo.output()).toEqual({ code: 1, signal: null })

    expect(demo.output()).toMatch(/PASS: [\s\S]*the demo failed: ENOENT/)
  })

  test('has no figures where there is no load', async () => {
    const demo = startDemo(['--serve', '--json', 'figures.json'])

    expect(await demo.ended, demo.output()).toEqual({ code: 2, signal: null })
    expect(demo.output()).toContain('--json has the figures of a load')
  })

  test('is of all until a Ctrl-C, which ends the load', async () => {
    const demo = startDemo(['--seconds', '300', '--port', '0'])
    await demo.prints(/load {2}\d+ s {2}[1-9][\d,]* requests/)

    demo.signal('SIGINT')

    expect(await demo.ended, demo.output()).toEqual({ code: null, signal: 'SIGINT' })
    expect(demo.output()).toMatch(/^50 connections, .*, interrupted$/m)
    expect(demo.output()).toMatch(/✓ counters +sent ([\d,]+) = stored \1 = live \1,/)
    expect(demo.output()).not.toMatch(/the demo failed|LOST/)
  })

  test('isn’t there where a Ctrl-C comes while everything starts: that ends it, too', async () => {
    const demo = startDemo(['--seconds', '300', '--port', '0'])
    await demo.prints(/PGlite, .* starts {2}\d+ s|^ +gateway/m)

    demo.signal('SIGINT')

    expect(await demo.ended, demo.output()).toEqual({ code: null, signal: 'SIGINT' })
    expect(demo.output()).not.toMatch(/the demo failed/)
  })

  test.skipIf(!hasScript)('has colours and a bar on a terminal, and no colours where NO_COLOR says so', async () => {
    const line = [...demoCommand, ...short].join(' ')
    const colourful = startCommand(['script', '-qec', line, '/dev/null'])
    expect((await colourful.ended).code, colourful.output()).toBe(0)
    const plain = startCommand(['script', '-qec', line, '/dev/null'], { NO_COLOR: '1' })
    expect((await plain.ended).code, plain.output()).toBe(0)

    expect(colourful.output()).toContain(`${controlStart}[32m✓${controlStart}[39m`)
    expect(colourful.output()).toMatch(/[█░]{30} load/)
    expect(plain.output()).toContain('✓ counters')
    expect(plain.output()).not.toContain(`${controlStart}[3`)
  })
})
