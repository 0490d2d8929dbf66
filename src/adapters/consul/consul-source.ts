import { type Clock, systemClock } from '../../core/clock.js'
import type { ComponentOptions } from '../../core/component.js'
import {
  checkBoolean,
  checkCount,
  checkDuration,
  checkFunction,
  checkOneOf,
  checkOptions,
  checkSignal,
  failOption,
  valueOr,
} from '../../core/options.js'
import type { InstanceSource } from '../../core/ports.js'
import { ConsulClient, type ConsulConnectionOptions } from './consul-client.js'
import type { ConsulInstance } from './consul-instance.js'
import { ConsulWatch, type WatchPolicy } from './consul-watch.js'

/** The delays after failed queries in a row: random from 0 to `delayMs`, doubling, at most `maxDelayMs`. */
export interface ConsulBackoff {
  /** The base, in milliseconds, at least 1. */
  delayMs?: number | undefined
  /** The most that a delay can be, in milliseconds, at least 1. */
  maxDelayMs?: number | undefined
}

/** Options of {@link consulSource}. */
export interface ConsulSourceOptions extends ComponentOptions, ConsulConnectionOptions {
  /** The service whose instances are wanted. */
  service: string
  /** Only instances that have this tag, or all of these. */
  tags?: string | readonly string[] | undefined
  /** The datacenter to ask. The default is the agent's own. */
  datacenter?: string | undefined
  /** A filter expression of Consul's on what the health endpoint answers: `Service.Meta.version == "2"`. */
  filter?: string | undefined
  /**
   * Whether only instances count that have every check passing. Otherwise those with a warning do too, with their
   * weight for warnings. Critical ones never do; those in maintenance are critical.
   *
   * @defaultValue true
   */
  passingOnly?: boolean | undefined
  /**
   * Who may answer: the leader, who may be a deposed one for a moment (`'default'`), any server (`'stale'`: more of
   * them share the load, and they answer without a leader), or a leader that asked the others first (`'consistent'`).
   *
   * @defaultValue 'default'
   */
  consistency?: 'default' | 'stale' | 'consistent' | undefined
  /**
   * How long a blocking query waits for a change, in milliseconds, 1 to 600,000. The default stays under the 60 seconds
   * after which many proxies give a request up.
   *
   * @defaultValue 55_000
   */
  waitMs?: number | undefined
  /**
   * How long from one query to the next, in milliseconds, give or take a tenth, while blocking queries don't work. At
   * least 1.
   *
   * @defaultValue 5000
   */
  fallbackPollMs?: number | undefined
  /**
   * How many queries may follow one another at once before `minIntervalMs` holds them back.
   *
   * @defaultValue 2
   */
  burst?: number | undefined
  /**
   * How long from one query to the next on the average, in milliseconds, however fast Consul answers. At least 1.
   *
   * @defaultValue 1000
   */
  minIntervalMs?: number | undefined
  /**
   * How long to wait after a query that failed.
   *
   * @defaultValue { delayMs: 500, maxDelayMs: 30_000 }
   */
  retry?: ConsulBackoff | undefined
}

/** The defaults of {@link ConsulSourceOptions}. */
export const consulSourceDefaults = {
  address: 'http://127.0.0.1:8500',
  timeoutMs: 5000,
  passingOnly: true,
  consistency: 'default',
  waitMs: 55_000,
  fallbackPollMs: 5000,
  burst: 2,
  minIntervalMs: 1000,
  retry: { delayMs: 500, maxDelayMs: 30_000 },
} as const

/** The longest that Consul lets a query wait. */
const longestWaitMs = 600_000

/**
 * The healthy instances of a service in Consul, for a `LoadBalancer`. Each watch asks the agent's health endpoint with
 * blocking queries, by Consul's own rules for clients, and gives a list when what it says has changed.
 *
 * An error goes to `onError` and gives no list, so that the one there is stays in use. A watch doesn't keep the process
 * alive by itself; `start` of a LoadBalancer does.
 *
 * @throws OptionError when an option is wrong.
 * @see https://developer.hashicorp.com/consul/api-docs/features/blocking
 *
 * @example
 * ```ts
 * import { consulSource } from 'spillway/consul'
 *
 * const source = consulSource({ service: 'counter', tags: 'grpc' })
 * const stop = new AbortController()
 * source.watch((instances) => console.log(instances.map(({ host, port }) => `${host}:${port}`)), {
 *   signal: stop.signal,
 *   onError: console.error,
 * })
 * ```
 */
export function consulSource(options: ConsulSourceOptions): InstanceSource<ConsulInstance> {
  if (options === undefined) failOption('options', 'must be an object', options)
  checkOptions('options', options)
  const name = valueOr(options.name, 'consul-source')
  if (typeof name !== 'string') failOption('name', 'must be a string', name)
  const clock = checkClock(valueOr(options.clock, systemClock))
  const random = checkFunction('random', valueOr(options.random, Math.random))
  const client = new ConsulClient(name, clock, options, consulSourceDefaults)
  const policy = resolvePolicy(options)
  return {
    watch(onList, context) {
      checkFunction('onList', onList)
      if (context === undefined) failOption('context', 'must be an object', context)
      checkOptions('context', context)
      const signal = checkSignal(context.signal)
      if (signal === undefined) failOption('signal', 'must be an AbortSignal', signal)
      const onError = checkFunction('onError', context.onError)
      void new ConsulWatch({ name, clock, random, client, policy, onList, onError, signal }).run()
    },
  }
}

function resolvePolicy(options: ConsulSourceOptions): WatchPolicy {
  const { waitMs, fallbackPollMs, burst, minIntervalMs, retry, ...defaults } = consulSourceDefaults
  const service = checkText('service', options.service)
  const query = new URLSearchParams()
  for (const tag of tagsOf(options.tags)) query.append('tag', tag)
  if (options.datacenter !== undefined) query.set('dc', checkText('datacenter', options.datacenter))
  if (options.filter !== undefined) query.set('filter', checkText('filter', options.filter))
  const passingOnly = checkBoolean('passingOnly', valueOr<boolean>(options.passingOnly, defaults.passingOnly))
  if (passingOnly) query.set('passing', 'true')
  const consistency = checkOneOf(
    'consistency',
    valueOr<'default' | 'stale' | 'consistent'>(options.consistency, defaults.consistency),
    ['default', 'stale', 'consistent'],
  )
  if (consistency !== 'default') query.set(consistency, '')
  checkOptions('retry', options.retry)
  return {
    path: `/v1/health/service/${encodeURIComponent(service)}`,
    query,
    // Consul reads a duration of Go's, and takes whole milliseconds well.
    waitMs: Math.ceil(checkDuration('waitMs', valueOr<number>(options.waitMs, waitMs), 1, longestWaitMs)),
    fallbackPollMs: checkDuration('fallbackPollMs', valueOr<number>(options.fallbackPollMs, fallbackPollMs), 1),
    burst: checkCount('burst', valueOr<number>(options.burst, burst)),
    minIntervalMs: checkDuration('minIntervalMs', valueOr<number>(options.minIntervalMs, minIntervalMs), 1),
    delayMs: checkDuration('retry.delayMs', valueOr<number>(options.retry?.delayMs, retry.delayMs), 1),
    maxDelayMs: checkDuration('retry.maxDelayMs', valueOr<number>(options.retry?.maxDelayMs, retry.maxDelayMs), 1),
  }
}

function tagsOf(tags: string | readonly string[] | undefined): readonly string[] {
  if (tags === undefined) return []
  if (typeof tags === 'string') return [checkText('tags', tags)]
  if (!Array.isArray(tags)) failOption('tags', 'must be a string or an array of strings', tags)
  return tags.map((tag: string) => checkText('tags', tag))
}

function checkText(field: string, value: string): string {
  if (typeof value !== 'string' || value === '') failOption(field, 'must be a string that is not empty', value)
  return value
}

function checkClock(clock: Clock): Clock {
  for (const method of ['now', 'setTimer'] as const) {
    if (typeof clock?.[method] !== 'function') failOption('clock', `must have a method ${method}`, clock)
  }
  return clock
}
