import type { ComponentKind } from './component-kind.js'
import { counter, gauge, type Metric, sum, summary } from './metric.js'
import {
  flag,
  group,
  isObject,
  latency,
  leftOut,
  milliseconds,
  outcomes,
  type StatsRules,
  split,
  state,
  value,
} from './stats-rule.js'

const name = leftOut('the name is an attribute')
const breakerStates = ['closed', 'open', 'half-open', 'isolated'] as const
const instanceStates = ['healthy', 'unhealthy', 'ejected', 'draining'] as const

const total = (field: string) => leftOut(`it is the sum of ${field}`)

const breakerCalls = counter('spillway.breaker.calls', '{call}', 'Calls of circuit breakers, by outcome.')
const breaker: StatsRules = {
  name,
  state: state(
    sum('spillway.breaker.state', '{breaker}', 'The state of a circuit breaker: 1 for the one that it is in.'),
    breakerStates,
  ),
  offered: total('spillway.breaker.calls and spillway.breaker.pending_calls'),
  ...outcomes(breakerCalls, ['succeeded', 'failed', 'ignored', 'rejected']),
  pending: value(sum('spillway.breaker.pending_calls', '{call}', "Calls that were let through and haven't ended.")),
  late: value(
    counter('spillway.breaker.late_calls', '{call}', "Calls that ended after the breaker's state had changed."),
  ),
  opened: value(counter('spillway.breaker.opened', '{opening}', 'How often breakers opened.')),
  openings: value(
    gauge('spillway.breaker.openings', '{opening}', 'How often a breaker has opened since it was last closed.'),
  ),
  probes: value(sum('spillway.breaker.probes', '{call}', 'Half-open slots that are taken.')),
  retryAfterMs: milliseconds(
    gauge('spillway.breaker.retry_after', 's', 'How long until a breaker may let a call through.'),
  ),
}

const reads = counter('spillway.cache.reads', '{key}', 'Reads of caches, by what they were answered with.')
const lookups = counter('spillway.cache.lookups', '{key}', 'Lookups in the tiers of caches.')
const loads = counter('spillway.cache.loads', '{key}', 'Loads that have ended, by outcome.')
const replays = counter(
  'spillway.cache.store.replays',
  '{key}',
  'Deletes and renewals that were made again, by outcome.',
)
const cache = (rest: string, unit: string, description: string) =>
  value(counter(`spillway.cache.${rest}`, unit, description))
const tier = (tierName: string, result: string) => value(lookups, { tier: tierName, result })

const multiLevelCache: StatsRules = {
  name,
  reads: group({
    offered: total('spillway.cache.reads and spillway.cache.pending_reads'),
    hits: group(outcomes(reads, { l1: 'l1_hit', l2: 'l2_hit' })),
    ...outcomes(reads, ['stale', 'missed', 'loaded', 'failed', 'rejected', 'aborted']),
    pending: value(sum('spillway.cache.pending_reads', '{key}', "Reads that aren't answered yet.")),
  }),
  l1: group({
    entries: value(sum('spillway.cache.entries', '{entry}', 'Entries in memory.')),
    bytes: value(sum('spillway.cache.size', 'By', 'How large the entries in memory are; 0 without `maxBytes`.')),
    hits: tier('l1', 'hit'),
    misses: tier('l1', 'miss'),
    evictions: cache('evictions', '{entry}', 'Entries in memory that made room for others.'),
    tooLarge: cache('too_large', '{value}', "Values that were too large for memory, or couldn't be measured."),
  }),
  l2: group({
    reads: total("the shared tier's spillway.cache.lookups"),
    hits: tier('l2', 'hit'),
    misses: tier('l2', 'miss'),
    writes: cache('store.writes', '{key}', 'Keys that were written to the shared tier or deleted there.'),
    superseded: cache('store.superseded', '{value}', "Loaded values that weren't written: others came before."),
    failed: cache('store.failures', '{key}', 'Keys and marks for which a call of the shared tier failed.'),
    timeouts: cache('store.timeouts', '{call}', 'Calls of the shared tier that took longer than they may.'),
    rejected: cache('store.rejected_calls', '{call}', "Calls that the shared tier's breaker turned away."),
    state: state(
      sum('spillway.cache.store.state', '{breaker}', "The state of the shared tier's breaker: 1 for the one it is in."),
      breakerStates,
    ),
    replay: group({
      pending: value(
        sum(
          'spillway.cache.store.pending_replays',
          '{key}',
          'Deletes and renewals that failed and wait to be made again.',
        ),
      ),
      ...outcomes(replays, { replayed: 'succeeded', dropped: 'dropped' }),
    }),
  }),
  loads: group({
    started: total('spillway.cache.loads and spillway.cache.running_loads'),
    ...outcomes(loads, ['succeeded', 'failed']),
    running: value(sum('spillway.cache.running_loads', '{key}', "Loads that haven't ended.")),
    timedOut: cache('load_timeouts', '{key}', 'Loads that took longer than they may.'),
    fenced: cache('fenced_loads', '{key}', "Loads that weren't stored, because of a write or invalidation meanwhile."),
    background: cache('background_loads', '{key}', 'Loads that nobody waited for when they began.'),
    unstorable: cache('unstorable_loads', '{key}', "Loads whose value the shared tier couldn't carry."),
  }),
  loadMs: latency(summary('spillway.cache.load_latency', 's', 'How long loads took, since the start.')),
}

const warmed = counter('spillway.cache.warmer.tasks', '{task}', 'Tasks of cache warmers that have ended, by outcome.')
const cacheWarmer: StatsRules = {
  name,
  lists: value(sum('spillway.cache.warmer.lists', '{list}', 'Lists that are registered.')),
  runs: cache('warmer.runs', '{run}', 'Runs of cache warmers.'),
  running: value(sum('spillway.cache.warmer.running', '{run}', 'Runs that are running.')),
  tasks: total('spillway.cache.warmer.tasks and spillway.cache.warmer.pending_tasks'),
  ...outcomes(warmed, ['loaded', 'skipped', 'failed', 'aborted']),
  pending: value(sum('spillway.cache.warmer.pending_tasks', '{task}', "Tasks that were taken and aren't settled.")),
}

const quotaCalls = counter('spillway.quota.calls', '{call}', 'Calls of quota services, by outcome.')
const quotaUses = counter('spillway.quota.unchecked_uses', '{use}', 'Uses that nobody checks, by the way they took.')
const quotaLatency = summary('spillway.quota.call_latency', 's', 'How long calls took, since the start.')
const quota = (rest: string, unit: string, description: string) =>
  value(counter(`spillway.quota.${rest}`, unit, description))
const operation = (kind: string) => latency(quotaLatency, { operation: kind })

const quotaService: StatsRules = {
  name,
  offered: total('spillway.quota.calls and spillway.quota.pending_calls'),
  ...outcomes(quotaCalls, ['succeeded', 'failed', 'rejected', 'aborted']),
  pending: value(sum('spillway.quota.pending_calls', '{call}', "Calls that aren't answered yet.")),
  ...split(quotaUses, 'path', { buffered: 'buffered', written: 'written' }),
  fallbacks: quota('fallbacks', '{use}', 'Uses that the consumer refused, so that they were to be written at once.'),
  exceeded: quota('exceeded', '{call}', "Of the rejected calls, those that didn't fit into the quota."),
  retries: quota('retries', '{retry}', 'Retries that were decided on.'),
  timeouts: quota('timeouts', '{attempt}', 'Attempts that took longer than they may.'),
  reads: quota('store_reads', '{call}', 'Reads of the store, each for all the checks that came together.'),
  cacheHits: quota('cache_hits', '{call}', 'Checks that found what they needed in memory.'),
  cachedKeys: value(sum('spillway.quota.cached_keys', '{key}', "Users' quotas that are kept in memory.")),
  latencyMs: group({ check: operation('check'), consume: operation('consume'), sync: operation('sync') }),
}

const tokenRequests = counter('spillway.token.requests', '{call}', 'Calls of token caches, by outcome.')
const tokenFetches = counter('spillway.token.fetches', '{fetch}', 'Fetches of tokens that have ended, by outcome.')
const invalidations = counter('spillway.token.invalidations', '{call}', 'Invalidations of tokens, by what they did.')

const tokenCache: StatsRules = {
  name,
  offered: total('spillway.token.requests and spillway.token.pending_requests'),
  ...outcomes(tokenRequests, ['succeeded', 'failed', 'rejected', 'aborted']),
  pending: value(sum('spillway.token.pending_requests', '{call}', 'Calls that wait for a token.')),
  hits: value(
    counter('spillway.token.hits', '{call}', 'Of the calls that succeeded, those that were answered at once.'),
  ),
  keys: value(sum('spillway.token.keys', '{key}', 'Keys that token caches know.')),
  fetches: total('spillway.token.fetches and spillway.token.running_fetches'),
  fetching: value(sum('spillway.token.running_fetches', '{fetch}', 'Fetches that are running.')),
  ...outcomes(tokenFetches, {
    refreshed: 'refreshed',
    discarded: 'discarded',
    refreshFailures: 'failed',
    fetchesAborted: 'aborted',
  }),
  timeouts: value(
    counter(
      'spillway.token.fetch_timeouts',
      '{fetch}',
      'Of the fetches that failed, those that took longer than they may.',
    ),
  ),
  ...outcomes(invalidations, { invalidated: 'dropped', invalidationsIgnored: 'ignored', invalidationsHeld: 'held' }),
  evicted: value(counter('spillway.token.evictions', '{key}', 'Keys that had to go for want of room.')),
  latencyMs: latency(
    summary('spillway.token.wait', 's', 'How long callers waited who were not answered at once, since the start.'),
  ),
}

const picks = counter('spillway.balancer.picks', '{pick}', 'Picks of load balancers, by outcome.')
const refreshes = counter('spillway.balancer.refreshes', '{list}', 'Lists of instances that came, by outcome.')
const delivered = counter('spillway.balancer.counted_picks', '{pick}', 'Picks counted for `onCounts`, by outcome.')
const instances = sum('spillway.balancer.instances', '{instance}', 'Instances of load balancers, by state.')

const loadBalancer: StatsRules = {
  name,
  offered: total('spillway.balancer.picks and spillway.balancer.leases'),
  ...outcomes(picks, ['succeeded', 'failed', 'ignored', 'rejected']),
  pending: value(sum('spillway.balancer.leases', '{lease}', 'Leases that are out.')),
  retries: value(counter('spillway.balancer.retries', '{retry}', 'Retries that were made.')),
  retriesRefused: value(
    counter('spillway.balancer.refused_retries', '{retry}', "Retries that weren't made because there were too many."),
  ),
  retriesInFlight: value(sum('spillway.balancer.retries_in_flight', '{retry}', 'Retries in flight.')),
  ...outcomes(refreshes, { refreshes: 'succeeded', refreshFailures: 'failed' }),
  instances: group({
    total: total('spillway.balancer.instances'),
    ...split(instances, 'state', Object.fromEntries(instanceStates.map((one) => [one, one]))),
  }),
  panicking: flag(
    gauge('spillway.balancer.panicking', '{balancer}', 'Whether all instances are picked because too few are well.'),
  ),
  counts: group({
    ...outcomes(delivered, ['delivered', 'lost']),
    pending: value(
      sum('spillway.balancer.pending_counts', '{pick}', 'Picks counted for `onCounts` that it has yet to take.'),
    ),
  }),
}

const ofInstance = (
  make: (name: string, unit: string, description: string) => Metric,
  rest: string,
  description: string,
) => make(`spillway.balancer.instance.${rest}`, rest === 'in_flight' ? '{lease}' : '{instance}', description)

const instanceRules: StatsRules = {
  instance: leftOut('its id is an attribute'),
  state: state(ofInstance(sum, 'state', 'The state of an instance: 1 for the one that it is in.'), instanceStates),
  inFlight: value(ofInstance(sum, 'in_flight', 'Leases of an instance that are out.')),
  weight: value(ofInstance(sum, 'weight', 'The weight with which an instance is picked now.')),
}

/** The primitives that hold no batches. */
export const primitiveKinds: readonly ComponentKind[] = [
  { classes: ['CircuitBreaker'], knownBy: ['state', 'openings', 'probes', 'late'], rules: breaker },
  {
    classes: ['BreakerRegistry'],
    knownBy: (component) => {
      const { get, entries, size } = component as { get?: unknown; entries?: unknown; size?: unknown }
      const mapLike = typeof get === 'function' && typeof entries === 'function' && typeof size === 'number'
      return mapLike && !(component instanceof Map) && !('stats' in component)
    },
    look: (registry) => ({ size: (registry as { size: number }).size }),
    rules: { size: value(sum('spillway.breaker.registered', '{breaker}', 'Breakers that a registry has.')) },
    members: {
      of: function* (registry) {
        const { entries } = registry as { entries(): Iterable<readonly [string, { stats(): Record<string, unknown> }]> }
        for (const [key, one] of entries.call(registry)) yield [key, one.stats()]
      },
      rules: breaker,
    },
  },
  { classes: ['MultiLevelCache'], knownBy: ['reads', 'l1', 'loads', 'loadMs'], rules: multiLevelCache },
  { classes: ['CacheWarmer'], knownBy: ['lists', 'runs', 'tasks', 'skipped'], rules: cacheWarmer },
  { classes: ['QuotaService'], knownBy: ['buffered', 'fallbacks', 'cachedKeys'], rules: quotaService },
  { classes: ['TokenCache'], knownBy: ['fetches', 'refreshed', 'invalidationsHeld'], rules: tokenCache },
  {
    classes: ['LoadBalancer'],
    knownBy: ['retriesRefused', 'panicking', 'instances'],
    rules: loadBalancer,
    members: {
      of: function* (balancer) {
        const { instances: list } = balancer as { instances?: () => Iterable<Record<string, unknown>> }
        for (const one of list?.call(balancer) ?? []) {
          if (isObject(one['instance'])) yield [String(one['instance']['id']), one]
        }
      },
      rules: instanceRules,
    },
  },
]
