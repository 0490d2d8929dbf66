import type { ComponentKind } from './component-kind.js'
import { counter, gauge, sum, summary } from './metric.js'
import { connectionState, poolConnections, poolMax, poolWaiting } from './shared-metrics.js'
import {
  flag,
  group,
  isObject,
  latency,
  leftOut,
  outcomes,
  type StatsRules,
  split,
  state,
  tally,
  value,
} from './stats-rule.js'

const name = leftOut('the name is an attribute')
const total = (field: string) => leftOut(`it is the sum of ${field}`)
const four = ['succeeded', 'failed', 'rejected', 'aborted'] as const

const journal = (rest: string, unit: string, description: string) =>
  value(counter(`spillway.journal.${rest}`, unit, description))
const fileJournal: StatsRules = {
  name,
  appended: journal('appended_events', '{event}', 'Events that became durable.'),
  recovered: journal('recovered_events', '{event}', 'Events that journals found when they were opened.'),
  settled: journal('settled_events', '{event}', 'Events of batches that were settled.'),
  pending: value(sum('spillway.journal.pending_events', '{event}', "Events that aren't settled.")),
  assigned: journal('assigned_batches', '{batch}', 'Batches whose assignment became durable.'),
  deadLettered: journal('dead_letters', '{event}', 'Events that were given up and kept as dead letters.'),
  syncs: journal('syncs', '{sync}', 'Groups of calls that became durable together.'),
  latencyMs: latency(
    summary('spillway.journal.sync_latency', 's', 'How long groups took to become durable, since the start.'),
  ),
  writtenBytes: journal('written', 'By', 'What was written to the journal.'),
  bytes: value(sum('spillway.journal.size', 'By', 'How long the segments are together.')),
  segments: value(sum('spillway.journal.segments', '{segment}', 'How many segments there are.')),
  tornTailCuts: journal('torn_tail_cuts', '{cut}', 'Incomplete writes that were cut off.'),
  failures: journal('failures', '{failure}', 'What failed: groups of calls, removals, dead letters.'),
}

const chunks = counter('spillway.log.sink.chunks', '{chunk}', 'Chunks of lines that came to a file, by outcome.')
const sink = (rest: string, unit: string, description: string) =>
  value(counter(`spillway.log.sink.${rest}`, unit, description))
const fileSink: StatsRules = {
  name,
  offered: total('spillway.log.sink.chunks and spillway.log.sink.pending_chunks'),
  ...outcomes(chunks, ['succeeded', 'failed', 'rejected']),
  pending: value(sum('spillway.log.sink.pending_chunks', '{chunk}', "Chunks that aren't settled.")),
  pendingBytes: value(sum('spillway.log.sink.pending', 'By', 'What is left to write of those.')),
  writtenBytes: sink('written', 'By', 'What was written.'),
  shortWrites: sink('short_writes', '{write}', 'Writes of which the system took a part.'),
  retries: sink('retries', '{wait}', 'Waits before another try.'),
  stalled: flag(gauge('spillway.log.sink.stalled', '{sink}', 'Whether nothing can be written.')),
  opens: sink('opens', '{open}', 'Times that the file was opened, or opened anew.'),
  rotations: sink('rotations', '{rotation}', 'Rotations.'),
  failures: sink('failures', '{failure}', 'What failed for good: writes, opening, rotations.'),
  fileBytes: value(sum('spillway.log.sink.size', 'By', 'How long the current file is.')),
}

const grpcCalls = counter('spillway.grpc.calls', '{call}', 'Calls over channels, by outcome.')
const channelPool: StatsRules = {
  name,
  offered: total('spillway.grpc.calls and spillway.grpc.pending_calls'),
  ...outcomes(grpcCalls, four),
  pending: value(sum('spillway.grpc.pending_calls', '{call}', "Calls over channels that aren't answered yet.")),
  channels: tally(sum('spillway.grpc.channels', '{channel}', 'Channels, by state.'), 'state', [
    'idle',
    'connecting',
    'ready',
    'transient-failure',
    'shutdown',
  ]),
  draining: value(sum('spillway.grpc.draining_channels', '{channel}', 'Replaced channels with calls in flight.')),
  replaced: value(counter('spillway.grpc.replaced_channels', '{channel}', 'Channels that were replaced.')),
  latencyMs: latency(summary('spillway.grpc.call_latency', 's', 'How long calls over channels took, since the start.')),
}

const balancedCalls = counter('spillway.grpc.balanced.calls', '{call}', 'Calls over balanced pools, by outcome.')
const balancedPool: StatsRules = {
  name,
  offered: total('spillway.grpc.balanced.calls and spillway.grpc.balanced.pending_calls'),
  ...outcomes(balancedCalls, four),
  pending: value(sum('spillway.grpc.balanced.pending_calls', '{call}', "Balanced calls that aren't answered yet.")),
  attempts: value(
    counter('spillway.grpc.balanced.attempts', '{attempt}', 'Attempts at instances, first ones included.'),
  ),
  draining: value(
    sum('spillway.grpc.balanced.draining_pools', '{pool}', 'Pools of instances that left, with calls in flight.'),
  ),
  latencyMs: latency(
    summary('spillway.grpc.balanced.call_latency', 's', 'How long balanced calls took, since the start.'),
  ),
}

const messages = counter('spillway.stream.messages', '{message}', 'Messages of acknowledged streams, by outcome.')
const ackedStream: StatsRules = {
  name,
  offered: total('spillway.stream.messages and spillway.stream.pending_messages'),
  ...outcomes(messages, four),
  pending: value(sum('spillway.stream.pending_messages', '{message}', "Messages that aren't acknowledged yet.")),
  state: state(sum('spillway.stream.state', '{stream}', 'The state of a stream: 1 for the one that it is in.'), [
    'open',
    'idle',
    'waiting',
  ]),
  inFlight: value(
    sum('spillway.stream.in_flight_messages', '{message}', 'Messages that were sent and not acknowledged.'),
  ),
  streams: value(counter('spillway.stream.opened', '{stream}', 'Streams that were opened.')),
  lost: value(counter('spillway.stream.lost', '{stream}', 'Streams that were lost.')),
  resent: value(counter('spillway.stream.resent_messages', '{message}', 'Messages that were sent again.')),
  unmatched: value(counter('spillway.stream.unmatched_answers', '{answer}', 'Answers that acknowledged nothing.')),
  latencyMs: latency(
    summary(
      'spillway.stream.message_latency',
      's',
      'How long messages took until they were acknowledged, since the start.',
    ),
  ),
}

const requests = counter(
  'spillway.http.requests',
  '{request}',
  'Requests, by outcome; an answer of any status is a success.',
)
const responses = counter('spillway.http.responses', '{response}', 'Responses, by the class of their status.')
const connections = sum('spillway.http.connections', '{connection}', 'Open connections to an origin, idle or used.')
const running = sum('spillway.http.running_requests', '{request}', 'Requests that are on a connection.')
const queued = sum('spillway.http.queued_requests', '{request}', 'Requests that wait for a connection.')
const httpClient: StatsRules = {
  name,
  offered: total('spillway.http.requests and spillway.http.pending_requests'),
  ...outcomes(requests, four),
  pending: value(sum('spillway.http.pending_requests', '{request}', "Requests that aren't settled yet.")),
  attempts: value(counter('spillway.http.attempts', '{attempt}', 'Attempts, those with a new token included.')),
  retries: value(counter('spillway.http.retries', '{attempt}', 'Attempts that were made again because one failed.')),
  tokenRefreshes: value(
    counter('spillway.http.token_refreshes', '{attempt}', 'Attempts that were made again with a new token.'),
  ),
  statuses: group(split(responses, 'status_class', { '2xx': '2xx', '3xx': '3xx', '4xx': '4xx', '5xx': '5xx' })),
  connections: total("its origins' spillway.http.connections"),
  idleConnections: total("its origins' spillway.http.connections that are idle"),
  connectionsOpened: value(counter('spillway.http.opened_connections', '{connection}', 'Connections that were made.')),
  latencyMs: latency(summary('spillway.http.request_latency', 's', 'How long requests took, since the start.')),
}

/** `{ connections, idle, running, queued }`, of an origin. */
const origin: StatsRules = {
  origin: leftOut('it is an attribute'),
  protocol: leftOut('it is a text that says nothing of health'),
  connections: leftOut('it is the sum of idle and used'),
  ...split(connections, 'state', { idle: 'idle', used: 'used' }),
  running: value(running),
  queued: value(queued),
}

const registrations = counter('spillway.consul.registrations', '{attempt}', 'Attempts to register, by outcome.')
const heartbeats = counter('spillway.consul.heartbeats', '{report}', 'Reports to the agent, by outcome.')
const consulRegistration: StatsRules = {
  name,
  id: leftOut('it is unbounded: each start of a process may have another one'),
  state: state(
    sum('spillway.consul.state', '{registration}', 'The state of a registration: 1 for the one that it is in.'),
    ['idle', 'registering', 'registered', 'closing', 'closed'],
  ),
  status: state(sum('spillway.consul.status', '{registration}', 'The health that was reported last: 1 for that one.'), [
    'passing',
    'warning',
    'critical',
  ]),
  ...outcomes(registrations, { registrations: 'succeeded', registerFailures: 'failed' }),
  ...outcomes(heartbeats, { heartbeats: 'succeeded', heartbeatFailures: 'failed' }),
  forgotten: value(counter('spillway.consul.forgotten', '{time}', 'How often the agent had forgotten the service.')),
}

/** `{ idle, used, waiting, max }`, of a pool that isn't of this package. */
const foreignPool: StatsRules = {
  ...split(poolConnections, connectionState, { idle: 'idle', used: 'used' }),
  waiting: value(poolWaiting),
  max: value(poolMax),
}

/** Whether something has these fields, and all are numbers. */
function hasNumbers(component: object, ...fields: readonly string[]): boolean {
  return fields.every((field) => typeof (component as Readonly<Record<string, unknown>>)[field] === 'number')
}

/** An agent's stats by origin, of its clients or pools. */
function originsOf(agent: object): Readonly<Record<string, Readonly<Record<string, number | boolean>>>> | undefined {
  const { stats } = agent as { stats?: unknown }
  // A Pool or Client of undici has the numbers of one origin, and doesn't say of which.
  return isObject(stats) && !('connected' in stats) ? (stats as never) : undefined
}

/** The adapters that carry calls, and the pools of other packages. */
export const adapterKinds: readonly ComponentKind[] = [
  { classes: ['FileJournal'], knownBy: ['tornTailCuts', 'segments', 'syncs'], rules: fileJournal },
  { classes: ['FileSink'], knownBy: ['shortWrites', 'rotations', 'fileBytes'], rules: fileSink },
  {
    classes: ['GrpcBalancedPool'],
    knownBy: ['attempts', 'instances', 'draining'],
    rules: balancedPool,
    members: {
      field: 'instances',
      *of(_pool, { instances }) {
        if (!Array.isArray(instances)) return
        for (const pool of instances) yield [String(pool.instance), pool]
      },
      rules: {
        ...channelPool,
        instance: leftOut('it is an attribute'),
        address: leftOut('the instance is an attribute'),
        state: leftOut('spillway.grpc.balanced.draining_pools counts those that are draining'),
      },
    },
  },
  { classes: ['GrpcChannelPool'], knownBy: ['channels', 'replaced', 'draining'], rules: channelPool },
  { classes: ['AckedStream'], knownBy: ['streams', 'resent', 'unmatched'], rules: ackedStream },
  {
    classes: ['HttpClient'],
    knownBy: ['statuses', 'tokenRefreshes', 'origins'],
    rules: httpClient,
    members: {
      field: 'origins',
      *of(_client, { origins }) {
        if (!Array.isArray(origins)) return
        for (const one of origins) yield [String(one.origin), { ...one, used: one.connections - one.idle }]
      },
      rules: origin,
    },
  },
  {
    classes: ['ConsulRegistration'],
    knownBy: ['registerFailures', 'heartbeats', 'forgotten'],
    rules: consulRegistration,
  },
  {
    classes: ['Pool of pg'],
    knownBy: (component) => hasNumbers(component, 'totalCount', 'idleCount', 'waitingCount'),
    look: (component) => {
      const { totalCount, idleCount, waitingCount, options } = component as PgPool
      return { idle: idleCount, used: totalCount - idleCount, waiting: waitingCount, max: options?.max }
    },
    rules: foreignPool,
  },
  {
    classes: ['Pool of generic-pool'],
    knownBy: (component) => hasNumbers(component, 'size', 'available', 'borrowed', 'pending'),
    look: (component) => {
      const { available, borrowed, pending, max } = component as GenericPool
      return { idle: available, used: borrowed, waiting: pending, max }
    },
    rules: foreignPool,
  },
  {
    classes: ['Agent of undici'],
    knownBy: (component) =>
      typeof (component as { dispatch?: unknown }).dispatch === 'function' && originsOf(component) !== undefined,
    look: () => ({}),
    rules: {},
    members: {
      *of(agent) {
        for (const [url, { connected, free, running: busy, pending }] of Object.entries(originsOf(agent) ?? {})) {
          const open = Number(connected)
          const idle = free === undefined ? (busy === 0 ? open : 0) : Number(free)
          yield [url, { connections: open, idle, used: open - idle, running: busy, queued: pending }]
        }
      },
      rules: origin,
    },
  },
]

interface PgPool {
  readonly totalCount: number
  readonly idleCount: number
  readonly waitingCount: number
  readonly options?: { readonly max?: number }
}

interface GenericPool {
  readonly available: number
  readonly borrowed: number
  readonly pending: number
  readonly max?: number
}
