import { readFileSync } from 'node:fs'
import { seededRandom } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { barChart } from '../../bench/harness/bar-chart.ts'
import { headlineChart } from '../../bench/harness/bench-report.ts'
import { regressionsOf, standingsOf, unmeasuredOf, updateTable } from '../../bench/harness/performance-table.ts'
import { settledVerdicts, standing, type Verdict } from '../../bench/harness/verdict.ts'
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
    const standings = standingsOf(page)

    expect(standings).toMatchObject([
      { suite: 'batcher', contest: 'adds, a turn', peer: 'loader', ratio: 1.15 },
      { suite: 'cache', contest: 'a hit', peer: 'bento', ratio: 1 / 36.4 },
    ])
    expect(standings[0]?.most).toBeCloseTo(1.155, 6)
    expect(standings[1]?.most).toBeCloseTo(1 / 36.35, 6)
  })

  test('gets the rows of what was measured, in the order of the suites, and keeps those of others', () => {
    const { page: written, kept } = updateTable(page, update)

    expect(kept).toBe(1)
    expect(standingsOf(written)).toMatchObject([
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
    expect(regressionsOf(measured(1.45), kept, 0.25)).toEqual([
      { suite: 'batcher', contest: 'adds, a turn', peer: 'loader', ratio: 1.45, kept: 1.15 },
    ])
    expect(regressionsOf(measured(Number.NaN), kept, 0.25)).toHaveLength(1)
  })

  test('is none within what rounding leaves open, not even where the page has rounded to nothing', () => {
    const small = standingsOf(page.replace('1.15 x the time', '0.00 x the time'))

    expect(regressionsOf(measured(0.004), small, 0.25)).toEqual([])
    expect(regressionsOf(measured(0.007), small, 0.25)).toHaveLength(1)
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

test('what the page keeps of a suite and was not measured is told', () => {
  const kept = standingsOf(page)
  const renamed = [{ suite: 'batcher', contest: 'adds, a round', peer: 'loader', ratio: 1 }]

  expect(unmeasuredOf(renamed, kept, ['batcher'])).toMatchObject([{ contest: 'adds, a turn' }])
  expect(unmeasuredOf(kept, kept, ['batcher', 'cache'])).toEqual([])
})

test('what is more than twice as fast is told in times, whatever its aim is, so that rounding costs little', () => {
  const texts = [0.0013, 0.49, 0.51].map((ratio) => standing(verdict('bento', ratio, { atMost: 0.9 })))

  expect(texts).toEqual(['769.2 x faster', '2.0 x faster', '0.51 x the time'])
})

describe('what looks worse', () => {
  const run = (...ratios: number[]): Verdict[] => ratios.map((ratio, i) => verdict(`peer ${i}`, ratio, null))

  test('is measured three times, and the middle one counts for each peer by itself', async () => {
    const others = [run(1, 2), run(2, 3)]

    const settled = await settledVerdicts(
      run(3, 1),
      () => true,
      async () => others.shift() ?? [],
    )

    expect(settled.map(({ ratio }) => ratio)).toEqual([2, 2])
    expect(others).toEqual([])
  })

  test('is told by far the most times where it is 30 % slower, and hardly ever where it is not, with noise of 8 %', async () => {
    const random = seededRandom(1)
    // The sum of three is close enough to a bell.
    const noise = (): number => 1 + 0.16 * (random() + random() + random() - 1.5)
    const kept = standingsOf(page)
    const told = (verdicts: readonly Verdict[], tolerance: number): boolean => {
      const standings = verdicts.map(({ peer, ratio }) => ({ suite: 'batcher', contest: 'adds, a turn', peer, ratio }))
      return regressionsOf(standings, kept, tolerance).length > 0
    }
    const share = async (slower: number): Promise<number> => {
      const measured = (): Verdict[] => [verdict('loader', 1.15 * slower * noise(), null)]
      let times = 0
      for (let trial = 0; trial < 2_000; trial++) {
        const looksWorse = (verdicts: readonly Verdict[]): boolean => told(verdicts, 0.125)
        if (told(await settledVerdicts(measured(), looksWorse, async () => measured()), 0.25)) times++
      }
      return times / 2_000
    }

    expect(await share(1.3)).toBeGreaterThan(0.65)
    expect(await share(1.4)).toBeGreaterThan(0.95)
    expect(await share(1)).toBeLessThan(0.001)
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

test('a name that is wider than its column is squeezed into it, and one that fits is left alone', () => {
  const names = ['loader', 'a library with a very long name indeed, and what it is told to do as well']
  const chart = barChart(
    'times',
    [0, 1].map((i) => ({ name: names[i] as string, bars: [{ share: 1, label: '', color: '' }] })),
  )

  const [short, long] = names.map((name) => chart.split('\n').find((line) => line.includes(name)))

  expect(short).not.toContain('textLength')
  expect(long).toContain('textLength="440"')
})
