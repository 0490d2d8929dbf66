import type { ComponentOptions } from '../../core/component.js'
import {
  checkBoolean,
  checkCount,
  checkDuration,
  checkOptions,
  checkRatio,
  failOption,
  valueOr,
} from '../../core/options.js'
import type { LatencySnapshot } from '../../core/stats.js'
import type { QueryPlan } from './query-plan.js'

/** How a {@link SlowQueryLog} gets the plans of slow queries. */
export interface SlowQueryExplainOptions {
  /**
   * Whether the query is run again for it, read only and rolled back, so that the plan has times and rows. What was slow once is slow
   * twice.
   * @defaultValue false
   */
  analyze?: boolean | undefined
  /**
   * How many are explained in a minute at most.
   * @defaultValue 6
   */
  maxPerMinute?: number | undefined
  /**
   * How long a statement that was explained isn't explained again, in milliseconds.
   * @defaultValue 600_000
   */
  repeatMs?: number | undefined
  /**
   * How long the server may take over one, in milliseconds, at least 1.
   * @defaultValue 10_000
   */
  timeoutMs?: number | undefined
}

/** The defaults of {@link SlowQueryExplainOptions}. */
export const slowQueryExplainDefaults = {
  analyze: false,
  maxPerMinute: 6,
  repeatMs: 600_000,
  timeoutMs: 10_000,
} as const

/** Options of {@link SlowQueryLog}. */
export interface SlowQueryLogOptions extends ComponentOptions {
  /**
   * From how many milliseconds on a query is slow; the wait for a connection doesn't count.
   * @defaultValue 100
   */
  thresholdMs?: number | undefined
  /**
   * From how many milliseconds on a wait for a connection is told of.
   * @defaultValue 100
   */
  waitThresholdMs?: number | undefined
  /**
   * Which share of the slow queries and long waits is told of, 0 to 1. All are counted.
   * @defaultValue 1
   */
  sampleRate?: number | undefined
  /**
   * How many slow queries are told of in a minute at most, and as many long waits. All are counted.
   * @defaultValue 60
   */
  maxPerMinute?: number | undefined
  /**
   * Whether events have the queries' values in them, and not just their types. They may be what nobody may read.
   * @defaultValue false
   */
  values?: boolean | undefined
  /**
   * Whether slow queries that only read are explained afterwards, on a connection of their own while the pool has one to spare, and one at
   * a time.
   * @defaultValue false
   */
  explain?: boolean | SlowQueryExplainOptions | undefined
  /**
   * How many statements have numbers of their own; the one that wasn't seen for the longest time makes room.
   * @defaultValue 500
   */
  maxStatements?: number | undefined
  /**
   * How many characters of a statement tell it from others in these numbers.
   * @defaultValue 2000
   */
  maxTextLength?: number | undefined
}

/** A query that was slow. */
export interface SlowQuery {
  /** The statement, as it was sent. */
  readonly text: string
  /** From when it was handed to its connection until its answer was there, in milliseconds. */
  readonly durationMs: number
  /** How long its connection was waited for, in milliseconds; undefined for all but the first query of a connection that was checked out. */
  readonly waitedMs: number | undefined
  /** How many rows it returned or changed; undefined where it failed, or has no such number. */
  readonly rows: number | undefined
  /** Whether it failed. */
  readonly failed: boolean
  /** The server's SQLSTATE, or the code of the error, where it failed and has one. */
  readonly errorCode: string | undefined
  /** What kinds its values are of: `string`, `number`, `null`, `array`, `Date`. */
  readonly valueTypes: readonly string[]
  /** Its values, where `values` is true. */
  readonly values: readonly unknown[] | undefined
  /** When its answer was there, in milliseconds since the epoch. */
  readonly at: number
}

/** Events of {@link SlowQueryLog}. */
export interface SlowQueryLogEvents {
  /** A query was slow. */
  slow: SlowQuery
  /** A slow query was explained. */
  explained: { readonly query: SlowQuery; readonly plan: QueryPlan }
  /** A slow query could not be explained. */
  explainFailed: { readonly query: SlowQuery; readonly error: unknown }
  /** A connection was long waited for: the pool is too small for what is done with it, or connecting is slow. */
  starved: {
    /** How long, in milliseconds. */
    readonly waitedMs: number
    /** Whether there was none in the end. */
    readonly failed: boolean
    /** How many others wait. */
    readonly waiting: number
    /** How many connections the pool has. */
    readonly connections: number
  }
}

/** Stats of {@link SlowQueryLog}. `offered = succeeded + failed + pending`, and `slow = reported + suppressed`. */
export interface SlowQueryLogStats {
  /** The component's name. */
  readonly name: string
  /** Queries that were seen. */
  readonly offered: number
  /** Queries that were answered. */
  readonly succeeded: number
  /** Queries that failed. */
  readonly failed: number
  /** Queries that wait for their answer. */
  readonly pending: number
  /** Cursors and streams, which go at the pace of their reader and aren't measured. */
  readonly unmeasured: number
  /** Queries that were slow. */
  readonly slow: number
  /** Slow queries that were told of. */
  readonly reported: number
  /** Slow queries that weren't, for `sampleRate` or `maxPerMinute`. */
  readonly suppressed: number
  /** Waits for a connection that are over. */
  readonly waits: number
  /** Of those, the ones that ended without a connection. */
  readonly waitsFailed: number
  /** Of those, the ones that were long. */
  readonly starved: number
  /** Slow queries that were explained. */
  readonly explained: number
  /** Slow queries that could not be explained. */
  readonly explainsFailed: number
  /** Slow queries that were left unexplained: another one was at it, there were many, or there was no connection to spare. */
  readonly explainsSkipped: number
  /** Statements that have numbers of their own. */
  readonly statements: number
  /** Statements whose numbers made room for others. */
  readonly statementsEvicted: number
  /** How long queries took, in milliseconds. */
  readonly latencyMs: LatencySnapshot
  /** How long connections were waited for, in milliseconds. */
  readonly waitMs: LatencySnapshot
}

/** What {@link SlowQueryLog.top} puts first. */
export type StatementOrder = 'total' | 'count' | 'mean' | 'p95' | 'p99' | 'max' | 'failed' | 'slow'

/** All values of {@link StatementOrder}. */
export const statementOrders: readonly StatementOrder[] = [
  'total',
  'count',
  'mean',
  'p95',
  'p99',
  'max',
  'failed',
  'slow',
]

/** The numbers of one statement. */
export interface StatementStats {
  /** The statement, or as much of it as `maxTextLength` keeps. */
  readonly text: string
  /** How often it ended. */
  readonly count: number
  /** How often it failed. */
  readonly failed: number
  /** How often it was slow. */
  readonly slow: number
  /** How many rows it returned or changed in all. */
  readonly rows: number
  /** How long it took in all, in milliseconds. */
  readonly totalMs: number
  /** How long it took on average, in milliseconds. */
  readonly meanMs: number
  /** How long it took, in milliseconds. */
  readonly latencyMs: LatencySnapshot
}

/** {@link SlowQueryLogOptions} with every default filled in. */
export interface SlowQuerySettings {
  readonly thresholdMs: number
  readonly waitThresholdMs: number
  readonly sampleRate: number
  readonly maxPerMinute: number
  readonly values: boolean
  readonly explain: ExplainSettings | undefined
  readonly maxStatements: number
  readonly maxTextLength: number
}

/** {@link SlowQueryExplainOptions} with every default filled in. */
export interface ExplainSettings {
  readonly analyze: boolean
  readonly maxPerMinute: number
  readonly repeatMs: number
  readonly timeoutMs: number
}

/** Checks the options. */
export function resolveSlowQueryOptions(
  options: SlowQueryLogOptions,
  defaults: Omit<SlowQuerySettings, 'explain'> & { readonly explain: boolean },
): SlowQuerySettings {
  return {
    thresholdMs: checkDuration('thresholdMs', valueOr(options.thresholdMs, defaults.thresholdMs)),
    waitThresholdMs: checkDuration('waitThresholdMs', valueOr(options.waitThresholdMs, defaults.waitThresholdMs)),
    sampleRate: checkRatio('sampleRate', valueOr(options.sampleRate, defaults.sampleRate)),
    maxPerMinute: checkCount('maxPerMinute', valueOr(options.maxPerMinute, defaults.maxPerMinute), 0),
    values: checkBoolean('values', valueOr(options.values, defaults.values)),
    explain: resolveExplain(valueOr(options.explain, defaults.explain)),
    maxStatements: checkCount('maxStatements', valueOr(options.maxStatements, defaults.maxStatements)),
    maxTextLength: checkCount('maxTextLength', valueOr(options.maxTextLength, defaults.maxTextLength)),
  }
}

function resolveExplain(given: boolean | SlowQueryExplainOptions): ExplainSettings | undefined {
  if (given === false) return undefined
  if (given !== true && (typeof given !== 'object' || given === null)) {
    failOption('explain', 'must be true, false or an object', given)
  }
  const options = given === true ? {} : given
  checkOptions('explain', options)
  const defaults = slowQueryExplainDefaults
  return {
    analyze: checkBoolean('explain.analyze', valueOr(options.analyze, defaults.analyze)),
    maxPerMinute: checkCount('explain.maxPerMinute', valueOr(options.maxPerMinute, defaults.maxPerMinute), 0),
    repeatMs: checkDuration('explain.repeatMs', valueOr(options.repeatMs, defaults.repeatMs)),
    timeoutMs: checkDuration('explain.timeoutMs', valueOr(options.timeoutMs, defaults.timeoutMs), 1),
  }
}
