import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { headlineChart } from '../../bench/harness/bench-report.ts'
import { regressionsOf, standingsOf, updateTable } from '../../bench/harness/performance-table.ts'
import type { Verdict } from '../../bench/harness/verdict.ts'
import { root } from '../repo/checks/file-tree.ts'

const page = `# A page

<!-- bench:begin -->
| suite   | contest      | beside | spillway        |
| ------- | ------------ | ------ | --------------: |
| batcher | adds, a turn | loader | 1.15 x the time |
| cache   | a hit        | bento  |   36.4 x faster |

Node 20, 2 cores.
<!-- bench:end -->

The rest.
`

function verdict(peer: string, ratio: number, aim: Verdict['aim']): Verdict {
  return { peer, ratio, aim, ok: true }
}

const update = {
  order: ['batcher', 'cache', 'log'],
  measured: ['batcher', 'log'],
  note: 'Node 22, 4 cores.',
  rows: [
    { suite: 'log', contest: 'lines', verdict: verdict('sonic', 0.5, { timesFaster: 2 }) },
    { suite: 'batcher', contest: 'adds, a turn', verdict: verdict('loader', 1.05, { atMost: 1.15 }) },
  ],
}

describe('the table of a page', () => {
  test('is read as ratios, whichever way they are told', () => {
    expect(standingsOf(page)).toEqual([
      { suite: 'batcher', contest: 'adds, a turn', peer: 'loader', ratio: 1.15 },
      { suite: 'cache', contest: 'a hit', peer: 'bento', ratio: 1 / 36.4 },
    ])
  })

  test('gets the rows of what was measured, in the order of the suites, and keeps those of others', () => {
    const { page: written, kept } = updateTable(page, update)

    expect(kept).toBe(1)
    expect(standingsOf(written)).toEqual([
      { suite: 'batcher', contest: 'adds, a turn', peer: 'loader', ratio: 1.05 },
      { suite: 'cache', contest: 'a hit', peer: 'bento', ratio: 1 / 36.4 },
      { suite: 'log', contest: 'lines', peer: 'sonic', ratio: 0.5 },
    ])
    expect(written).toContain('Node 22, 4 cores.')
    expect(written).not.toContain('Node 20')
    expect(written).toMatch(/^# A page\n[\s\S]*\nThe rest\.\n$/)
  })

  test('of the repository is read to its last row', () => {
    const performance = readFileSync(`${root}/docs/design/performance.md`, 'utf8')
    const rows = performance.split('\n').filter((line) => / x (?:the time|faster) \|$/.test(line))

    expect(rows.length).toBeGreaterThan(50)
    expect(standingsOf(performance)).toHaveLength(rows.length)
  })
})

describe('a regression', () => {
  const kept = standingsOf(page)
  const measured = (ratio: number, peer = 'loader') => [{ suite: 'batcher', contest: 'adds, a turn', peer, ratio }]

  test('is a ratio that is worse by more than the tolerance', () => {
    expect(regressionsOf(measured(1.44), kept, 0.25)).toEqual([
      { suite: 'batcher', contest: 'adds, a turn', peer: 'loader', ratio: 1.44, kept: 1.15 },
    ])
  })

  test.each([
    ['within the tolerance', measured(1.43)],
    ['better', measured(0.5)],
    ['of a peer that the page has not', measured(9, 'another')],
  ])('is none that is %s', (_, standings) => {
    expect(regressionsOf(standings, kept, 0.25)).toEqual([])
  })

  test('of what is many times faster is told by the same share', () => {
    const hit = (times: number) => [{ suite: 'cache', contest: 'a hit', peer: 'bento', ratio: 1 / times }]

    expect(regressionsOf(hit(30), kept, 0.25)).toEqual([])
    expect(regressionsOf(hit(29), kept, 0.25)).toHaveLength(1)
  })
})

test('the chart has a bar for each standing, to the left of the line where spillway is slower', () => {
  const chart = headlineChart(standingsOf(page))
  const bars = [...chart.matchAll(/<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"/g)].map(([, x, width]) => {
    return { from: Number(x), until: Number(x) + Number(width) }
  })
  const line = Number(/<line x1="([\d.]+)"[^>]*stroke="#1b2733"/.exec(chart)?.[1])

  expect(bars).toHaveLength(2)
  expect(bars[0]?.until).toBeCloseTo(line, 0)
  expect(bars[0]?.from).toBeLessThan(line)
  expect(bars[1]?.from).toBeCloseTo(line, 0)
  expect(chart).toContain('36 x')
})
