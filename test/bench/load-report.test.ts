import { beforeEach, describe, expect, test, vi } from 'vitest'
import { quotaScenariosOf, referenceCells, referencesOf } from '../../bench/load/references.ts'
import { type Comparison, html, markdown, tableText } from '../../bench/load/report.ts'
import type { Row } from '../../bench/load/row.ts'
import { runSection, type Section, sectionCells } from '../../bench/load/sections/section.ts'
import type { LoadOptions, LoadResult } from '../../bench/load/wrk.ts'

beforeEach(() => void vi.spyOn(console, 'log').mockReturnValue())

const facts: Comparison['facts'] = {
  startedAt: '2026-01-01T00:00:00Z',
  node: '20.0.0',
  v8: '11',
  platform: 'linux x64',
  cpu: 'a <cpu>',
  cores: 2,
  memoryGiB: 4,
  load: 0,
  packages: { fastify: '5.0.0' },
}

function row(name: string, perSecond: number, p99Ms: number): Row {
  const paced = { pacedPerSecond: 500, pacedP50Ms: 1, pacedP99Ms: 2 }
  return { name, perSecond, p50Ms: p99Ms / 4, p99Ms, hotPerSecond: perSecond, ...paced }
}

const writes = [
  row('naive, a gRPC client per request', 1_000, 200),
  row('naive, one shared gRPC client', 3_000, 60),
  row('monolith writing to Redis', 25_000, 12),
  row('spillway, accepted', 20_000, 10),
]

/** A load that nobody sends: as many answers as a target's name has letters. */
function fakeWrk(asked: LoadOptions[], errors = 0): (options: LoadOptions) => Promise<LoadResult> {
  return async (options) => {
    asked.push(options)
    const perSecond = options.url.length * 100
    return { answered: perSecond, perSecond, errors, p50Ms: 1, p95Ms: 2, p99Ms: asked.length, maxMs: 9 }
  }
}

const section = (settle: NonNullable<Section['targets'][number]['settle']>): Section => ({
  title: 'Reads',
  about: ['It reads.'],
  keys: 10,
  prefix: 'p-',
  targets: [
    { name: 'naive, a SELECT a request', url: 'a', get: '/KEY', settle },
    { name: 'spillway, durable, kept', url: 'abcd', get: '/KEY?kept', settle },
  ],
  note: ({ fetched = 0 }) => `${fetched} fetched`,
})

const effort = { rounds: 3, seconds: 1, connections: 7 }

describe('a section', () => {
  test('loads each target once to warm up, then in turns that begin with another one each round, and takes medians', async () => {
    const asked: LoadOptions[] = []
    let fetched = 0

    const report = await runSection(
      section(async () => ({ counts: { fetched: ++fetched } })),
      fakeWrk(asked),
      effort,
    )

    expect(asked.map(({ url }) => url)).toEqual(['a', 'abcd', 'a', 'abcd', 'abcd', 'a', 'a', 'abcd'])
    expect(asked[0]).toMatchObject({ connections: 7, prefix: 'p-', keys: 10, get: '/KEY' })
    expect(report.wrong).toEqual([])
    expect(report.rows.map(({ perSecond, p99Ms, note }) => [perSecond, p99Ms, note])).toEqual([
      [100, 6, '6 fetched'],
      [400, 5, '5 fetched'],
    ])
    expect(sectionCells(report).map((cells) => cells[2])).toEqual(['of the first', '1.00 x', '4.00 x'])
  })

  test('tells what was answered wrong, and answers that failed', async () => {
    const lost = await runSection(
      section(async () => ({ wrong: 'a line is lost' })),
      fakeWrk([]),
      effort,
    )
    const failed = await runSection(
      section(async () => ({})),
      fakeWrk([], 5),
      effort,
    )

    expect(lost.wrong).toHaveLength(8)
    expect(lost.wrong[0]).toBe('Reads, naive, a SELECT a request: a line is lost')
    expect(failed.wrong[0]).toBe('Reads, naive, a SELECT a request: 5 errors')
  })
})

describe('what the documents say', () => {
  const quota = quotaScenariosOf({
    rows: [
      { scenario: '1000', path: 'consume-sync', runs: [{ p99Ms: 50 }, { p99Ms: 70 }, { p99Ms: 60 }] },
      { scenario: '1000', path: 'consume', runs: [{ p99Ms: 4 }, { p99Ms: 3 }, { p99Ms: 5 }] },
    ],
  })

  test('stands beside what was measured of the same, and only beside that', async () => {
    const reads = await runSection(
      section(async () => ({})),
      fakeWrk([]),
      effort,
    )

    const cells = referenceCells(referencesOf({ writes, sections: [reads], quota }))

    expect(cells.slice(1).map(([what, , , , naive, ours, gain]) => [what, naive, ours, gain])).toEqual([
      ['counter writes', '1,000/s', '20,000/s', '20 x'],
      ['counter writes, p99', '200 ms', '10 ms', '20 x'],
      ['reads, with a cache', '100/s', '400/s', '4.0 x'],
      ['usage accounted at 1,000 requests/s, p99', '60 ms', '4.0 ms', '15 x'],
    ])
    expect(referencesOf({ writes: [], sections: [] })).toEqual([])
  })

  test('is in the report, as are all sections, in text, Markdown and HTML', async () => {
    const reads = await runSection(
      section(async () => ({})),
      fakeWrk([]),
      effort,
    )
    const references = referencesOf({ writes, sections: [reads], quota })
    const comparison: Comparison = {
      ...{ rows: writes, sections: [reads], references, facts, wrong: [] },
      ...{ ...effort, keys: 1000, pace: 500 },
    }

    for (const text of [tableText(comparison), markdown(comparison), html(comparison)]) {
      expect(text).toContain('738/s')
      expect(text).toContain('spillway, accepted')
      expect(text).toContain('spillway, durable, kept')
    }
    expect(markdown(comparison)).toContain('![Reads: requests a second](reads.svg)')
    expect(html(comparison)).toContain('a &lt;cpu&gt;')
    expect(html(comparison).match(/<svg/g)).toHaveLength(3)
  })
})
