import { seededRandom } from 'spillway/testing'

/** Some time of a constant mean rate. */
export interface Phase {
  readonly perSecond: number
  readonly seconds: number
}

/** How requests come in. */
export interface Scenario {
  /** What its files are called after. */
  readonly name: string
  readonly title: string
  /** How much farther away than on the same machine the database is: a round trip in milliseconds. */
  readonly awayMs: number
  readonly phases: readonly Phase[]
}

/** The requests of a scenario. */
export interface Arrivals {
  /** When each is meant to be sent, in milliseconds from the start; ascending. */
  readonly atMs: Float64Array
  /** Whose use each is of, from 0. */
  readonly users: Uint16Array
}

/** What comes before each run and isn't measured: so little that every path keeps up with it, and a moment to end it in. */
export const warmUp: readonly Phase[] = [
  { perSecond: 200, seconds: 0.75 },
  { perSecond: 0, seconds: 0.25 },
]

/**
 * The three scenarios of the documented system, a few seconds each, with the database on the same machine; and the second once more with
 * one that is some way off, unless `awayMs` is 0.
 */
export function scenariosOf(seconds: number, awayMs: number): readonly [Scenario, Scenario, Scenario, ...Scenario[]] {
  const thousand: Scenario = {
    name: '1000',
    title: '1,000 requests a second',
    awayMs: 0,
    phases: [{ perSecond: 1000, seconds }],
  }
  const away = { ...thousand, name: '1000-away', title: `${thousand.title}, database ${awayMs} ms away`, awayMs }
  return [
    { name: '100', title: '100 requests a second', awayMs: 0, phases: [{ perSecond: 100, seconds }] },
    thousand,
    {
      name: 'burst',
      title: 'a burst from 100 to 2,000 requests a second',
      awayMs: 0,
      phases: [
        { perSecond: 100, seconds: 0.4 * seconds },
        { perSecond: 2000, seconds: 0.6 * seconds },
        { perSecond: 100, seconds: 0.6 * seconds },
      ],
    },
    ...(awayMs > 0 ? [away] : []),
  ]
}

export function secondsOf({ phases }: Pick<Scenario, 'phases'>): number {
  return phases.reduce((sum, { seconds }) => sum + seconds, 0)
}

/**
 * Requests of users who know nothing of each other: the gaps are exponential, so that they come in bunches as real ones do, and each
 * is of any user. The same for the same seed.
 */
export function arrivalsOf({ phases }: Pick<Scenario, 'phases'>, users: number, seed: number): Arrivals {
  const random = seededRandom(seed)
  const times: number[] = []
  let from = 0
  for (const { perSecond, seconds } of phases) {
    const until = from + seconds * 1000
    const gap = (): number => (-Math.log(1 - random()) * 1000) / perSecond
    for (let at = from + gap(); at < until; at += gap()) times.push(at)
    from = until
  }
  return { atMs: Float64Array.from(times), users: Uint16Array.from(times, () => Math.floor(random() * users)) }
}
