/** What the page is told once a second: rates are a second's, all else is as of now. */
export interface Sample {
  /** When it was taken, in milliseconds since the epoch. */
  readonly at: number
  readonly requests: RequestSample
  /** By the buffer's name. */
  readonly buffers: Readonly<Record<string, BufferSample>>
  readonly cache: CacheSample
  /** Of what is guarded: the stores, and the shared tier of the cache. */
  readonly breakers: Readonly<Record<string, BreakerSample>>
  readonly instances: readonly InstanceSample[]
  readonly log: LogSample | undefined
  readonly quota: QuotaSample | undefined
  readonly loop: LoopSample
  /** Counters that were lost, and those that lack something in the live store. */
  readonly losses: { readonly lost: number; readonly notLive: number }
  readonly sums: Sums | undefined
  readonly faults: FaultState | undefined
}

export const answerClasses = ['2xx', '4xx', '5xx'] as const

export type AnswerClass = (typeof answerClasses)[number]

export interface RequestSample {
  /** Answers a second, by class. What is redirected counts as answered. */
  readonly rates: Readonly<Record<AnswerClass, number>>
  /** Of the answers since the last sample; nothing where there were none. */
  readonly latencyMs: { readonly p50: number; readonly p95: number; readonly p99: number } | undefined
}

export interface BufferSample {
  /** The mean size of the batches that left since the last sample; nothing where none did. */
  readonly batchSize: number | undefined
  readonly batchesPerSecond: number
  readonly waiting: number
  readonly capacity: number
}

/** Reads a second, by where they were answered from. */
export interface CacheSample {
  readonly l1: number
  readonly l2: number
  readonly loaded: number
}

export const breakerStates = ['closed', 'half-open', 'open', 'isolated'] as const

export interface BreakerSample {
  readonly state: (typeof breakerStates)[number]
}

export interface InstanceSample {
  readonly service: string
  readonly id: string
  readonly state: 'healthy' | 'unhealthy' | 'ejected' | 'draining'
  readonly picksPerSecond: number
  readonly outstanding: number
  /** The mean of the calls that ended since the last sample; nothing where none did. */
  readonly latencyMs: number | undefined
}

export interface LogSample {
  readonly linesPerSecond: number
  readonly dropsPerSecond: number
}

export interface QuotaSample {
  readonly offered: number
  readonly applied: number
  /** How long what isn't applied has waited, at most, in milliseconds. */
  readonly ageMs: number
}

export interface LoopSample {
  readonly meanMs: number
  readonly maxMs: number
  /** The share of time that the event loop was busy. */
  readonly busy: number
}

/** What was acknowledged to the load of the demo, beside what the stores have of it. */
export interface Sums {
  readonly acknowledged: number
  /** Of requests that had no answer, or one that doesn't say whether they count: the stores may have as much more. */
  readonly unsure: number
  /** Nothing where the store could not be asked. */
  readonly live: number | undefined
  readonly durable: number | undefined
  /** The latest comparison for which the load stood still. */
  readonly audit: Audit | undefined
}

export interface Audit {
  readonly at: number
  readonly equal: boolean
  readonly acknowledged: number
  readonly unsure: number
  readonly live: number | undefined
  readonly durable: number | undefined
}

export const serverConditions = ['ok', 'slow', 'dead'] as const

export type ServerCondition = (typeof serverConditions)[number]

export interface FaultState {
  readonly redis: ServerCondition
  readonly postgres: ServerCondition
  /** What stands in for them: the servers themselves, behind a proxy, or stores within the process. */
  readonly titles: { readonly redis: string; readonly postgres: string }
  readonly instances: readonly { readonly id: string; readonly alive: boolean; readonly changing: boolean }[]
  readonly load: LoadState
}

export interface LoadState {
  readonly state: 'running' | 'comparing' | 'stopped'
  readonly requestsPerSecond: number
  /** By how much it is more than usual, and until when. */
  readonly burst: { readonly factor: number; readonly until: number } | undefined
  /** When it stops by itself. */
  readonly endsAt: number
  /** Requests that were not sent, because too many had no answer yet. */
  readonly skipped: number
}

/** What the fault panel can ask for. */
export type FaultAction =
  | { readonly do: 'redis' | 'postgres'; readonly condition: ServerCondition }
  | { readonly do: 'kill' | 'start'; readonly instance: string }
  | { readonly do: 'burst'; readonly factor: number; readonly seconds: number }
  | { readonly do: 'clear' | 'compare' | 'load-stop' | 'load-start' }

/** What a viewer is told first. */
export interface Hello {
  readonly history: readonly Sample[]
  /** For how long history is kept, in seconds. */
  readonly historySeconds: number
}
