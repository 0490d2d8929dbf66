/** What one target did, the medians of its rounds. */
export interface Row {
  readonly name: string
  readonly perSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly hotPerSecond: number
  readonly pacedPerSecond: number
  readonly pacedP50Ms: number
  readonly pacedP99Ms: number
}
