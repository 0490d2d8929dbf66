/** A schedule that found something, and what that was. */
export interface Regression {
  readonly seed: number
  readonly seconds: number
  readonly found: string
}

/** They have passed since; `npm run chaos -- --regressions` runs them again. */
export const regressions: readonly Regression[] = [
  {
    seed: 3,
    seconds: 60,
    found: 'a counter service whose Redis was reset at its start said that it gave up, and stayed',
  },
  { seed: 4, seconds: 60, found: 'the same of a usage worker, which was away for 39 s' },
  { seed: 33, seconds: 100, found: 'a gateway that had stood still failed on requests whose connections had gone' },
]
