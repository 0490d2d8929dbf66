import { appendFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { LedgerFile, readLedger } from './ledger.ts'
import { planOf } from './load-plan.ts'
import { scanLog } from './log-scan.ts'

const folder = mkdtempSync(join(tmpdir(), 'spillway-chaos-ledger-'))

afterAll(() => rmSync(folder, { recursive: true }))

test('a ledger has each entry once its append returns, and goes on after a line that a kill cut short', () => {
  const path = join(folder, 'uses.jsonl')
  const first = new LedgerFile(path)
  first.append({ type: 'use', request: 'a', fate: 'sent' })
  expect(readLedger(path)).toHaveLength(1)
  appendFileSync(path, '{"type":"use","requ')

  const second = new LedgerFile(path)
  second.append({ type: 'use', request: 'b', fate: 'sent' })
  second.append({ type: 'use', request: 'b', fate: 'acked' })

  const requests = readLedger(path).map((entry) => entry.type === 'use' && `${entry.request} ${entry.fate}`)
  expect(requests).toEqual(['a sent', 'b sent', 'b acked'])
  expect(readLedger(join(folder, 'none'))).toEqual([])
})

test('a load asks for the same with the same seed, and each request that changes money has an id of its own', () => {
  const take = (seed: number, client: number) => {
    const plan = planOf(seed, client)
    return Array.from({ length: 2_000 }, () => plan.next().value)
  }

  expect(take(3, 0)).toEqual(take(3, 0))
  expect(take(3, 0)).not.toEqual(take(4, 0))
  const plans = [...take(3, 0), ...take(3, 1)]
  const ids = plans.flatMap((one) => ('request' in one ? [`${one.user} ${one.request}`] : []))
  expect(new Set(ids).size).toBe(ids.length)
  expect(new Set(plans.map(({ kind }) => kind)).size).toBe(6)
})

test('clients share counters and users for some seconds, and then others', () => {
  const plans = [planOf(3, 0), planOf(3, 1)]
  const sharedIn = (requests: number): Set<string> => {
    const [mine, others] = plans.map((plan) => {
      const made = Array.from({ length: requests }, () => plan.next().value)
      const names = made.flatMap((one) =>
        one.kind === 'add' ? [one.user, ...one.operations.map(({ resource }) => resource)] : [],
      )
      return new Set(names.filter((name) => name !== undefined))
    }) as [Set<string>, Set<string>]
    return new Set([...mine].filter((name) => others.has(name)))
  }

  const [early, late] = [sharedIn(60), sharedIn(60)]

  expect(early.size).toBeGreaterThan(5)
  expect(late.size).toBeGreaterThan(5)
  expect([...early].filter((name) => late.has(name))).toEqual([])
})

test('what a log must not have is found, and said once', () => {
  const line = (level: number, msg: string): string => `{"level":${level},"msg":"${msg}"}`
  const noise = [line(30, 'usage is accounted again'), line(40, 'attempt 3 follows in 20 ms')]

  expect(scanLog(noise.join('\n'), false)).toEqual([])
  expect(scanLog([line(50, 'LOST: 3 uses'), line(50, 'LOST: 4 uses')].join('\n'), true)).toEqual([
    'LOST: 3 uses (2 times)',
  ])
  expect(scanLog('(node:1) SpillwayWarning: a listener failed', false)).toHaveLength(1)
  expect(scanLog('[UnhandledPromiseRejection: x]', false)).toHaveLength(1)
  const full = line(50, 'the journal failed to append: ENOSPC')
  expect(scanLog(full, false)).toHaveLength(1)
  expect(scanLog(full, true)).toEqual([])
})
