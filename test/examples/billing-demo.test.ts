import { afterAll, describe, expect, test } from 'vitest'
import { startRedis } from '../servers/redis.ts'
import { startDemo } from './demo-process.ts'

const redis = await startRedis()

afterAll(() => redis?.stop())

async function runDemo(flags: readonly string[], env: Readonly<Record<string, string>>) {
  const demo = startDemo(flags, env)
  const { code } = await demo.ended
  return { code, output: demo.output() }
}

const passes = (output: string): number => output.match(/✓ |PASS: /g)?.length ?? 0

/** The lines on those tokens that served more calls than there were of them. */
function tokens(output: string, whose: string): string[] {
  return [...output.matchAll(new RegExp(`^ +${whose} +([\\d,]+) +([\\d,]+) +[\\d,]+$`, 'gm'))]
    .filter(([, calls = '', fetched = '']) => Number(calls.replaceAll(',', '')) > Number(fetched.replaceAll(',', '')))
    .map(([line]) => line)
}

describe('the demo of billing', { timeout: 180_000 }, () => {
  test('meters and bills on what it has in itself, and its sums are equal', async () => {
    const env = { REDIS_URL: '', COUNTER_BILLING_CACHE_TTL_MS: '3000' }
    const { code, output } = await runDemo(['--seconds', '1', '--port', '0', '--verbose'], env)

    expect({ code, passes: passes(output) }, output).toEqual({ code: 0, passes: 4 })
    expect(output).toContain('What a gateway has read is kept for 3 s')
    expect(output).toMatch(/deduct 50 +free 20, charged 60, balance 440/)
    expect(output).toMatch(/settle 10 of them +free 0, charged 20, balance 420/)
    expect(output).toMatch(/check 1000 +allowed false/)
    expect(output).toMatch(/240 deductions from 20 clients +210 accepted, 30 refused/)
    expect(tokens(output, 'load'), output).toHaveLength(1)
    expect(tokens(output, 'gateway'), output).toHaveLength(1)
    expect(output).toMatch(/reads +all +L1 +L2 +loaded +too old\n +counters +[\d,]+ +[\d.]+ % +[\d.]+ % +[\d.]+ %/)
  })

  test.skipIf(redis === undefined)('two gateways publish, two workers account, and the sums are equal', async () => {
    const flags = ['--usage', 'stream', '--seconds', '2', '--auth', 'required', '--verbose']
    const { code, output } = await runDemo(flags, { REDIS_URL: redis?.url ?? '' })

    expect({ code, passes: passes(output) }, output).toEqual({ code: 0, passes: 4 })
    const [, made = ''] = /made ([\d,]+) = accounted/.exec(output) ?? []
    const accounted = [...output.matchAll(/a usage worker accounted (\d+) events/g)].map(([, events]) => Number(events))
    expect(output.match(/gateway +http:\S+, http:/), output).not.toBeNull()
    expect(accounted).toHaveLength(2)
    expect(tokens(output, 'gateway'), output).toHaveLength(2)
    expect(output).not.toMatch(/answers were 401/)
    const events = accounted.reduce((sum, count) => sum + count, 0)
    expect(events).toBeGreaterThan(0)
    // A batch of increments is one event.
    expect(events).toBeLessThanOrEqual(Number(made.replaceAll(',', '')))
  })
})
