import { describe, expect, test } from 'vitest'
import { type Contender, type Contest, medianOf, runContest, smokeEffort } from '../../bench/harness/contest.ts'
import { judge } from '../../bench/harness/verdict.ts'

/** A contender whose turns say themselves how long they took, in milliseconds. */
function timed(
  name: string,
  tookMs: (turn: number) => number,
  check: () => void | Promise<void> = () => {},
): Contender {
  return {
    name,
    prepare: () => {
      let turns = 0
      const turn = async () => {
        const took = tookMs(turns++)
        return { overriddenDuration: took, overriddenIterationCost: took }
      }
      return { async: true, turn, check, note: () => `${turns} turns` }
    },
  }
}

function contest(...contenders: [Contender, ...Contender[]]): Contest {
  return { name: 'a contest', operation: 'call', operations: 1000, contenders }
}

describe('a contest', () => {
  test('is measured in nanoseconds an operation, by medians that a few slow turns do not move', async () => {
    const often = { rounds: 3, roundMs: 0, warmUpMs: 0, minTurns: 20 }
    const ours = timed('ours', (turn) => (turn % 5 === 0 ? 900 : 1.3))
    const peer = timed('peer', () => 1)

    const measured = await runContest(contest(ours, peer), often)

    expect(measured.map(({ medianNs }) => Math.round(medianNs))).toEqual([1300, 1000])
    expect(measured[0]?.meanNs).toBeGreaterThan(100_000)
    expect(measured[0]?.roundsNs).toHaveLength(3)
    expect(measured[0]?.turns).toBe(60)
    // What warms up is run, and not measured.
    expect(measured[0]?.note).toBe('120 turns')
    const verdict = { peer: 'peer', ratio: expect.closeTo(1.3), aim: { atMost: 1.25 }, ok: false }
    expect(judge(measured, [undefined, { atMost: 1.25 }])).toEqual([verdict])
  })

  test.each([
    ['throws', (): void => void bad()],
    ['rejects', async (): Promise<void> => bad()],
  ])('fails, and names the contender, where a check %s', async (_, check) => {
    let checks = 0
    const late = (): void | Promise<void> => (++checks === 5 ? check() : undefined)
    const running = runContest(
      contest(
        timed('ours', () => 1),
        timed('peer', () => 1, late),
      ),
      smokeEffort,
    )

    await expect(running).rejects.toThrow('peer: wrong answer')
  })

  test('fails where a turn fails', async () => {
    const broken: Contender = {
      name: 'ours',
      prepare: () => ({ async: true, turn: async () => bad(), check: () => {} }),
    }

    await expect(runContest(contest(broken), smokeEffort)).rejects.toThrow('ours: wrong answer')
  })
})

test('a median is the middle one, or the mean of the two in the middle', () => {
  expect([medianOf([3, 1, 2]), medianOf([4, 1, 3, 2]), medianOf([])]).toEqual([2, 2.5, Number.NaN])
})

function bad(): never {
  throw new Error('wrong answer')
}
