import { expect, test } from 'vitest'
import { summaryOf, table } from './summary.mjs'

const passed = { status: 'passed', fullName: 'it works' }

test('a summary counts tests, and takes a file that could not be loaded for a failure', () => {
  const summary = summaryOf({
    testResults: [
      { name: 'a.test.ts', status: 'passed', assertionResults: [passed, { status: 'pending', fullName: 'it waits' }] },
      { name: 'b.test.ts', status: 'failed', assertionResults: [passed, { status: 'failed', fullName: 'it fails' }] },
      { name: 'c.test.ts', status: 'failed', message: 'SyntaxError: no\n at c', assertionResults: [] },
    ],
  })

  expect(summary).toEqual({
    ...{ files: 3, passed: 2, skipped: 1, failed: 2 },
    failures: [
      { file: 'b.test.ts', name: 'it fails' },
      { file: 'c.test.ts', name: 'the file itself: SyntaxError: no' },
    ],
  })
})

test('a table has a line a version, and says what kept one from being run', () => {
  const rows = [
    { version: '22.1.0', seconds: 61.4, ...summaryOf({ testResults: [] }) },
    { version: '26', problem: 'the registry is away' },
  ]

  expect(table(rows).split('\n')).toEqual([
    'node    files  passed  skipped  failed  took  outcome',
    '22.1.0  0      0       0        0       61 s  passed',
    '26      -      -       -        -       -     the registry is away',
  ])
})
