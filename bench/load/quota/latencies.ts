/** What became of the requests of one run, in the order in which they were meant to be sent. */
export interface Latencies {
  /** When each was meant to be sent, in milliseconds from the start. */
  readonly atMs: Float64Array
  /** From then until its answer was there, or it had failed. */
  readonly tookMs: Float64Array
}

/** Some time of a run, and how long the requests took that were meant to be sent in it. */
export interface Slice {
  readonly fromMs: number
  readonly untilMs: number
  readonly requests: number
  readonly p50Ms: number
  readonly p99Ms: number
}

/** The quantiles of all requests of a run. */
export interface Quantiles {
  readonly p50Ms: number
  readonly p95Ms: number
  readonly p99Ms: number
  readonly maxMs: number
}

/** The requests that were meant to be sent from a time on, which becomes their start. */
export function since({ atMs, tookMs }: Latencies, fromMs: number): Latencies {
  const first = atMs.filter((at) => at < fromMs).length
  return { atMs: atMs.subarray(first).map((at) => at - fromMs), tookMs: tookMs.subarray(first) }
}

/** The value below which a share of the others are, by nearest rank; NaN for none. */
export function quantile(sorted: ArrayLike<number>, share: number): number {
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN
}

export function quantilesOf({ tookMs }: Pick<Latencies, 'tookMs'>): Quantiles {
  const sorted = tookMs.slice().sort()
  const [p50Ms, p95Ms, p99Ms, maxMs] = [0.5, 0.95, 0.99, 1].map((share) => quantile(sorted, share)) as [
    number,
    number,
    number,
    number,
  ]
  return { p50Ms, p95Ms, p99Ms, maxMs }
}

/** The runs of one scenario on top of each other, cut into slices; one without requests is left out. */
export function slicesOf(runs: readonly Latencies[], sliceMs: number): Slice[] {
  const slices: number[][] = []
  for (const { atMs, tookMs } of runs) {
    atMs.forEach((at, request) => {
      const index = Math.floor(at / sliceMs)
      slices[index] ??= []
      slices[index].push(tookMs[request] as number)
    })
  }
  return slices.flatMap((took, index) => {
    const sorted = took.sort((a, b) => a - b)
    const [p50Ms, p99Ms] = [quantile(sorted, 0.5), quantile(sorted, 0.99)]
    return [{ fromMs: index * sliceMs, untilMs: (index + 1) * sliceMs, requests: took.length, p50Ms, p99Ms }]
  })
}
