import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, it } from 'vitest'
import { type Latencies, quantile, quantilesOf, since, slicesOf } from '../../bench/load/quota/latencies.ts'
import { decadesOf, lineChart } from '../../bench/load/quota/line-chart.ts'
import { runOpenLoop } from '../../bench/load/quota/open-loop.ts'
import type { Path } from '../../bench/load/quota/paths.ts'
import {
  bandsOf,
  judge,
  latencyChart,
  markdown,
  quantilesOfRow,
  type Row,
  type Run,
  rowsOf,
  timesLess,
  verdictText,
} from '../../bench/load/quota/report.ts'
import { arrivalsOf, type Scenario, scenariosOf, secondsOf, warmUp } from '../../bench/load/quota/scenarios.ts'

const [, thousand, burst, away] = scenariosOf(5, 2) as [Scenario, Scenario, Scenario, Scenario]

describe('arrivals', () => {
  it('come at the rate of each phase, ascending, of all users, the same for the same seed', () => {
    const { atMs, users } = arrivalsOf(burst, 50, 7)

    const within = (from: number, until: number): number => atMs.filter((at) => at >= from && at < until).length
    // Poisson counts lie within four of their standard deviations.
    const near = (mean: number): [number, number] => [mean - 4 * Math.sqrt(mean), mean + 4 * Math.sqrt(mean)]
    for (const [from, until, mean] of [
      [0, 2000, 200],
      [2000, 5000, 6000],
      [5000, 8000, 300],
    ] as const) {
      const [least, most] = near(mean)
      expect(within(from, until)).toBeGreaterThan(least)
      expect(within(from, until)).toBeLessThan(most)
    }
    expect(atMs.every((at, index) => index === 0 || at >= (atMs[index - 1] as number))).toBe(true)
    expect(atMs.at(-1)).toBeLessThan(1000 * secondsOf(burst))
    expect(new Set(users)).toEqual(new Set(Array.from({ length: 50 }, (_, user) => user)))
    expect(arrivalsOf(burst, 50, 7)).toEqual({ atMs, users })
    expect(arrivalsOf(burst, 50, 8).atMs).not.toEqual(atMs)
  })

  it('of the warm-up come before the others, with time to be answered between', () => {
    const { atMs } = arrivalsOf({ phases: [...warmUp, ...thousand.phases] }, 50, 7)

    const before = atMs.filter((at) => at < 1000)
    expect(before.length).toBeGreaterThan(100)
    expect(before.at(-1)).toBeLessThan(750)
    expect(atMs.at(-1)).toBeGreaterThan(5900)
  })

  it('are the same with the database near and away, which is left out when it is 0 ms', () => {
    expect([away.phases, away.awayMs, thousand.awayMs]).toEqual([thousand.phases, 2, 0])
    expect(scenariosOf(5, 0)).toHaveLength(3)
  })

  it('come in bunches: some gaps are many times the mean', () => {
    const { atMs } = arrivalsOf(thousand, 1, 1)

    const gaps = Array.from(atMs.subarray(1), (at, index) => at - (atMs[index] as number))

    expect(Math.max(...gaps)).toBeGreaterThan(5)
    expect(gaps.filter((gap) => gap < 0.1).length / gaps.length).toBeGreaterThan(0.05)
  })
})

describe('latencies', () => {
  it('a quantile is the value of the nearest rank', () => {
    const hundred = Array.from({ length: 100 }, (_, index) => index + 1)

    expect(quantile(hundred, 0.5)).toBe(50)
    expect(quantile(hundred, 0.99)).toBe(99)
    expect(quantile(hundred, 1)).toBe(100)
    expect(quantile([7], 0.5)).toBe(7)
    expect(quantile([], 0.5)).toBeNaN()
  })

  it('the quantiles of a run sort numbers, not texts, and leave the run as it was', () => {
    const tookMs = Float64Array.of(100, 9, 20)

    expect(quantilesOf({ tookMs })).toEqual({ p50Ms: 20, p95Ms: 100, p99Ms: 100, maxMs: 100 })
    expect([...tookMs]).toEqual([100, 9, 20])
  })

  it('since a time are those that were due from then on, which is their start', () => {
    const latencies = { atMs: Float64Array.of(0, 999, 1000, 1500), tookMs: Float64Array.of(50, 2000, 3, 4) }

    expect(since(latencies, 1000)).toEqual({ atMs: Float64Array.of(0, 500), tookMs: Float64Array.of(3, 4) })
    expect(since(latencies, 2000).tookMs).toHaveLength(0)
  })

  it('slices put runs on top of each other by when requests were due, and leave out what is empty', () => {
    const runs: Latencies[] = [
      { atMs: Float64Array.of(0, 499, 1600), tookMs: Float64Array.of(1, 100, 5) },
      { atMs: Float64Array.of(10, 500), tookMs: Float64Array.of(9, 7) },
    ]

    expect(slicesOf(runs, 500)).toEqual([
      { fromMs: 0, untilMs: 500, requests: 3, p50Ms: 9, p99Ms: 100 },
      { fromMs: 500, untilMs: 1000, requests: 1, p50Ms: 7, p99Ms: 7 },
      { fromMs: 1500, untilMs: 2000, requests: 1, p50Ms: 5, p99Ms: 5 },
    ])
  })
})

describe('the open loop', () => {
  // A closed loop would send nothing while nothing is answered, and so see one slow request instead of these 200.
  it('counts the wait of all that was due while a service answered nothing', async () => {
    const held: ServerResponse[] = []
    let stalled = true
    const server = createServer((request, response) => {
      request.resume()
      request.once('end', () => {
        if (stalled) held.push(response)
        else response.end()
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const atMs = Float64Array.from({ length: 200 }, (_, index) => index)
    const users = Uint16Array.from(atMs, (_, index) => index % 2)
    const resume = setInterval(() => {
      if (held.length < 200) return
      stalled = false
      clearInterval(resume)
      setTimeout(() => {
        for (const response of held) response.end()
      }, 300)
    }, 10)

    const result = await runOpenLoop({ url, arrivals: { atMs, users }, users: 2, bodyOf: (user) => `{"user":${user}}` })

    clearInterval(resume)
    server.close()
    // None is answered until 300 ms after the last one was due, timers being early by less than a millisecond.
    for (const [request, took] of result.tookMs.entries()) expect(took).toBeGreaterThan(298 + 199 - request)
    expect([...result.answered]).toEqual([100, 100])
    expect([...result.failed]).toEqual([0, 0])
    expect(result.lateMs.every((late) => late >= 0)).toBe(true)
  })

  it('counts from when a request was due, not from when it was sent', async () => {
    const server = createServer((request, response) => void request.resume().once('end', () => response.end()))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`

    const { lateMs, tookMs } = await runOpenLoop({
      url,
      arrivals: { atMs: Float64Array.of(-2000), users: Uint16Array.of(0) },
      users: 1,
      bodyOf: () => '',
    })

    server.close()
    expect(lateMs[0]).toBeGreaterThan(1500)
    expect(tookMs[0]).toBeGreaterThan(lateMs[0] as number)
  })

  it('counts answers of 400 and above, and broken connections, as failed', async () => {
    const server = createServer((request, response) => {
      let body = ''
      request.setEncoding('utf8')
      request.on('data', (text: string) => {
        body += text
      })
      request.once('end', () => {
        if (body === 'break') request.socket.destroy()
        else response.writeHead(body === 'refuse' ? 500 : 200).end()
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const bodies = ['good', 'refuse', 'break']

    const result = await runOpenLoop({
      url,
      arrivals: { atMs: Float64Array.of(0, 1, 2, 3), users: Uint16Array.of(0, 1, 2, 0) },
      users: 3,
      bodyOf: (user) => bodies[user] as string,
    })

    server.close()
    expect([...result.answered]).toEqual([2, 0, 0])
    expect([...result.failed]).toEqual([0, 1, 1])
  })
})

describe('the report', () => {
  const run = (tookMs: readonly number[], stored = tookMs.length): Run => ({
    latencies: { atMs: Float64Array.from(tookMs, (_, index) => index), tookMs: Float64Array.from(tookMs) },
    lateP99Ms: 0.1,
    answered: tookMs.length,
    failed: 0,
    stored,
    mostPending: 12,
    batches: 3,
    givenUp: 0,
    fallbacks: 4,
  })
  const rowsWith = (runs: Partial<Record<Path, Run[]>>, scenarios: readonly Scenario[] = [thousand]): Row[] =>
    rowsOf(scenarios, (_, path) => runs[path] ?? [])

  it('takes the medians of the rounds, and holds them beside those in the request', () => {
    const rows = rowsWith({
      'consume-sync': [run([10]), run([30]), run([20])],
      upsert: [run([8])],
      'check-and-consume': [run([4]), run([1]), run([2])],
      consume: [run([1])],
    })

    expect(rows.map(({ path }) => path)).toEqual(['consume-sync', 'upsert', 'check-and-consume', 'consume'])
    expect(quantilesOfRow(rows[0] as Row).p99Ms).toBe(20)
    expect(timesLess(rows[2] as Row, 'consume-sync', rows)).toBe(10)
    expect(timesLess(rows[3] as Row, 'upsert', rows)).toBe(8)
  })

  it('judges the aim at 1,000 requests a second only, at each distance', () => {
    const slow = { 'consume-sync': [run([20])], consume: [run([2])] }
    const fast = { 'consume-sync': [run([21])], consume: [run([2])] }

    expect(judge(rowsWith(slow, [thousand, burst, away]))).toMatchObject([
      { scenario: thousand, times: 10, ok: false },
      { scenario: away, times: 10, ok: false },
    ])
    expect(judge(rowsWith(slow)).map(verdictText)).toEqual([expect.stringMatching(/^MISSED: .* 10\.0 times less$/)])
    expect(judge(rowsWith(fast)).map(verdictText)).toEqual([expect.stringMatching(/^reached: .* 10\.5 times less$/)])
    expect(judge(rowsWith({ consume: [run([2])] }))).toMatchObject([{ ok: false }])
  })

  it('misses the aim where requests fail, however fast', () => {
    const rows = rowsWith({ 'consume-sync': [run([100])], consume: [{ ...run([1]), failed: 3 }] })

    expect(judge(rows)).toMatchObject([{ failed: 3, ok: false }])
    expect(judge(rows).map(verdictText).join()).toContain('but 3 requests failed')
  })

  it('says what was lost and what was wrong', () => {
    const facts = {
      ...{ startedAt: '', node: '20', v8: '11', platform: 'linux', cpu: 'cpu', cores: 2, memoryGiB: 8, load: 0 },
      packages: {},
    }
    const rows = rowsWith({ consume: [run([1, 2, 3], 1)] })
    const comparison = {
      rows,
      facts,
      rounds: 1,
      users: 10,
      database: { text: 'PostgreSQL 18', statementMs: new Map([[0, 0.2]]) },
    }

    const wrong = markdown({ ...comparison, wrong: ['of user 3, 2 were answered, 0 are stored'] })

    expect(wrong.split('\n').find((line) => line.startsWith('| 1,000'))).toMatch(/\| 12 \| 4 \| 3 \| 0 \| 2 \|$/)
    expect(wrong).toContain('1 sums were WRONG: of user 3')
    expect(wrong).toContain('a `SELECT 1` took 0.20 ms')
    expect(wrong).not.toContain('busy')
    expect(markdown({ ...comparison, facts: { ...facts, load: 7 }, wrong: [] })).toContain('busy with something else')
    expect(markdown({ ...comparison, wrong: [] })).toContain('All sums were right')
  })

  it('shades where the rate is above the least one', () => {
    expect(bandsOf(burst)).toEqual([{ from: 2, until: 5, label: '2,000 requests/s' }])
    expect(bandsOf(thousand)).toEqual([])
  })

  it('draws p50 and p99 of each path that was run, in that scenario alone', () => {
    const rows = rowsWith({ upsert: [run([8])], consume: [run([1])] }, [thousand, burst])

    const svg = latencyChart(burst, rows)

    expect(svg.match(/<polyline /g)).toHaveLength(4)
    expect(svg).not.toContain('NaN')
  })
})

describe('a line chart', () => {
  it('has whole decades around all points, and places them by their logarithm', () => {
    const points = [
      { x: 0, y: 0.5 },
      { x: 10, y: 50 },
    ]

    const svg = lineChart({
      ...{ title: 'a < b', xLabel: 'x', yLabel: 'y', xMax: 10, bands: [] },
      lines: [{ name: 'one', color: '#000', points }],
    })

    expect(decadesOf([{ points }])).toEqual([-1, 2])
    expect(decadesOf([])).toEqual([0, 1])
    expect(svg).toContain('a &lt; b')
    const [, line = ''] = /<polyline points="([^"]*)"/.exec(svg) ?? []
    const [first, last] = line.split(' ').map((point) => point.split(',').map(Number)) as [number[], number[]]
    const ofDecade = (text: string): number => {
      const [, y] = new RegExp(`y="([\\d.]+)" text-anchor="end">${text}<`).exec(svg) ?? []
      return Number(y) - 5
    }
    // 0.5 lies 0.699 decades above 0.1, and 50 as far above 10.
    const decade = ofDecade('0.1') - ofDecade('1')
    expect(first[1]).toBeCloseTo(ofDecade('0.1') - 0.699 * decade, 0)
    expect(last[1]).toBeCloseTo(ofDecade('10') - 0.699 * decade, 0)
  })
})
