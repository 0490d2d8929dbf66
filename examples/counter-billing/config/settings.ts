import { SlowQueryLog } from 'spillway/postgres'
import { authModes } from '../auth/http-guard.ts'
import { acknowledgements } from '../counter/counters.ts'
import { apiSettings } from '../http/api-options.ts'
import { logLevels } from '../telemetry/logging.ts'
import { apiKeys } from './api-keys.ts'
import {
  httpOrigin,
  list,
  optionalWhole,
  optionalWord,
  type Setting,
  secret,
  secrets,
  serverUrl,
  text,
  textOr,
  toggle,
  whole,
  word,
} from './setting.ts'

/** What the HTTP face is like where nobody says. */
const api = apiSettings()

const minute = 60_000
const path = ['a path', /^[^\0]+$/] as const
const addresses = [
  'host:port, or several separated by commas',
  /^(?:[^:\s,]+|\[[\da-fA-F:]+\]):\d{1,5}(?:,(?:[^:\s,]+|\[[\da-fA-F:]+\]):\d{1,5})*$/,
] as const

/** All that can be configured, by its path in the file. The sections are what comes before the first point. */
export const settings = {
  'async.capacity': whole(
    1,
    1_000_000,
    10_000,
    'counters that may wait to be written before increments are refused; ten times as many may wait for the live store',
  ),
  'async.overflow': word(
    ['reject', 'drop-oldest'],
    'reject',
    'what happens to accepted increments when so many wait: reject refuses new ones with a 503, drop-oldest gives up those that wait longest, which the log names',
  ),
  'async.maxBatchSize': whole(1, 5_000, 1_000, 'counters in a batch of accepted increments'),
  'async.maxWaitMs': whole(
    0,
    minute,
    100,
    'how long an accepted increment waits to be written, which is what a crash may lose',
  ),
  'async.timeoutMs': whole(1, minute, 10_000, 'how long a call of the durable store may take before it is tried again'),
  'async.liveTimeoutMs': whole(1, minute, 2_000, 'the same of the live store'),
  'async.answers.maxBatchSize': whole(1, 5_000, 500, 'increments in a batch that is answered with values'),
  'async.answers.maxWaitMs': whole(
    0,
    1_000,
    2,
    'how long a commit waits while another batch is out, before it leaves beside that one',
  ),
  'async.answers.concurrency': whole(
    1,
    16,
    2,
    'batches of commits that are out at a time; more of them wait for each other’s locks',
  ),
  'async.reads.maxBatchSize': whole(1, 5_000, 500, 'counters in a batch of reads'),
  'async.reads.concurrency': whole(1, 16, 2, 'batches of reads that are out at a time'),
  'async.retry.attempts': whole(1, 1_000, 20, 'how often a batch of accepted increments is tried'),
  'async.retry.delayMs': whole(
    0,
    minute,
    100,
    'the longest pause before it is tried the second time; it doubles with each',
  ),
  'async.retry.maxDelayMs': whole(0, minute, 5_000, 'the longest pause there is'),
  'async.usage.capacity': whole(1, 1_000_000, 20_000, 'uses that may wait to be accounted before writers have to wait'),
  'async.usage.maxBatchSize': whole(1, 10_000, 1_000, 'uses in a batch'),
  'async.usage.maxWaitMs': whole(
    0,
    minute,
    250,
    'how long a use waits to be handed on, which is what a crash may lose',
  ),
  'async.usage.concurrency': whole(1, 16, 3, 'batches of uses that are out at a time'),
  'async.usage.journal': text(...path, 'a directory that keeps uses until they are handed on', {
    flag: 'journal',
    otherwise: 'in memory',
  }),

  'pools.postgres.maxConnections': whole(
    1,
    1_000,
    8,
    'connections of a process to PostgreSQL; batches make do with few',
  ),
  'pools.postgres.minConnections': whole(0, 1_000, 0, 'how many of them stay when nobody needs them'),
  'pools.postgres.connectTimeoutMs': whole(1, minute, 5_000, 'how long to wait for a connection'),
  'pools.postgres.idleTimeoutMs': whole(
    0,
    60 * minute,
    10_000,
    'how long one may be idle before it is closed; 0 is for ever',
  ),
  'pools.postgres.maxLifetimeMs': whole(0, 24 * 60 * minute, 0, 'how long one may live; 0 is for ever'),
  'pools.redis.connectTimeoutMs': whole(1, minute, 10_000, 'how long connecting to Redis may take'),
  'pools.redis.commandTimeoutMs': whole(1, minute, 5_000, 'how long a command may take'),
  'pools.redis.keepAliveMs': whole(0, 60 * minute, 0, 'how long a connection is idle before the system probes it'),
  'pools.grpc.channels': whole(1, 20, 2, 'connections of a gateway to each service', { flag: 'channels' }),
  'pools.grpc.warmUpMs': whole(0, 10 * minute, 10_000, 'how long a gateway waits at its start for the first service'),
  'pools.grpc.maxMessageBytes': whole(
    64 * 1024,
    64 * 1024 * 1024,
    4 * 1024 * 1024,
    'the largest message that a service takes',
  ),
  'pools.grpc.ejectAfterFailures': whole(1, 100, 3, 'failures in a row after which an instance is left alone'),
  'pools.grpc.ejectMs': whole(1, 10 * minute, 1_000, 'for how long at first'),

  'cache.maxEntries': whole(1, 10_000_000, 10_000, 'counters and pages that a gateway keeps in its memory (L1)'),
  'cache.l2MaxEntries': whole(
    1,
    10_000_000,
    10_000,
    'how many it keeps in place of the shared ones (L2) where there is no Redis',
  ),
  'cache.ttlMs': whole(1_000, 30_000, 5_000, 'how old a read may be'),
  'cache.l2TimeoutMs': whole(1, minute, 1_000, 'how long L2 may take before a read goes on without it'),
  'cache.rememberedCounters': whole(
    100,
    10_000_000,
    50_000,
    'counters whose latest answer a gateway remembers, so that no read is older',
  ),

  'query.defaultPageSize': whole(1, 1_000, 100, 'counters of a page where the request doesn’t say'),
  'query.maxPageSize': whole(1, 1_000, 1_000, 'the most that it may ask for'),
  'query.slowQueryMs': whole(
    0,
    60 * minute,
    SlowQueryLog.defaults.thresholdMs,
    'from how many milliseconds on a query is slow, and logged; 0 logs all',
    { variable: 'SLOW_QUERY_MS' },
  ),
  'query.explain': toggle(true, 'whether a server is asked for the plans of slow queries'),
  'query.cursorSecrets': secrets(
    16,
    'sign the cursors of pages, the first one all new ones; the same at all counter services',
    { variable: 'CURSOR_SECRET', otherwise: 'cursors are good as long as the service lives' },
  ),

  'api.host': textOr('127.0.0.1', 'a host name or an address', /^[^\s/]+$/, 'on which address to listen', {
    flag: 'host',
  }),
  'api.port': whole(0, 65_535, 8_080, 'where a gateway listens; 0 is any free port', { flag: 'port' }),
  'api.grpcPort': whole(0, 65_535, 50_051, 'where a counter service listens', { flag: 'grpc-port' }),
  'api.billingPort': whole(0, 65_535, 50_052, 'where a billing service listens', { flag: 'billing-port' }),
  'api.authPort': optionalWhole(0, 65_535, 'where the auth service listens', {
    flag: 'auth-port',
    otherwise: '50053; any free one with `--role all`',
  }),
  'api.ack': word(acknowledgements, 'accepted', 'when an increment is answered whose request doesn’t say', {
    flag: 'ack',
  }),
  'api.auth': word(
    authModes,
    'optional',
    'whether callers of a gateway must have a token, where there is an auth service',
    { flag: 'auth' },
  ),
  'api.tokenLifeSeconds': whole(1, 86_400, 300, 'how long a token is valid', { flag: 'token-life' }),
  'api.maxBodyBytes': whole(1_024, 100_000_000, api.maxBodyBytes, 'the largest body of a request'),
  'api.maxHeaderBytes': whole(1_024, 1_048_576, api.maxHeaderBytes, 'the largest header, request line included'),
  'api.maxParamLength': whole(
    256,
    65_536,
    api.maxParamLength,
    'the longest part of a path that is a parameter, in bytes',
  ),
  'api.maxConnections': whole(1, 1_000_000, api.maxConnections, 'connections to a gateway; more are closed at once'),
  'api.headersTimeoutMs': whole(
    100,
    3_600_000,
    api.headersTimeoutMs,
    'how long the header of a request may take to arrive',
  ),
  'api.requestTimeoutMs': whole(100, 3_600_000, api.requestTimeoutMs, 'how long a whole request may take to arrive'),
  'api.handlerTimeoutMs': whole(10, 3_600_000, api.handlerTimeoutMs, 'how long an answer may take'),
  'api.keepAliveTimeoutMs': whole(0, 3_600_000, api.keepAliveTimeoutMs, 'how long an idle connection stays open'),
  'api.drainMs': whole(0, 600_000, api.drainMs, 'how long `/readyz` says no before a gateway stops listening'),
  'api.trustedProxies': list(
    'addresses of proxies',
    /^[\da-fA-F:.]+(?:\/\d{1,3})?$/,
    'proxies whose `X-Forwarded-For` says who asks',
  ),
  'api.rateLimit.enabled': toggle(api.rateLimit !== undefined, 'whether the requests of a caller are limited'),
  'api.rateLimit.maxRequests': whole(
    1,
    1_000_000_000,
    api.rateLimit?.maxRequests ?? 60_000,
    'how many he may make in a window',
  ),
  'api.rateLimit.windowMs': whole(1_000, 86_400_000, api.rateLimit?.windowMs ?? 60_000, 'how long a window is'),
  'api.apiKeys.cacheMs': whole(
    100,
    600_000,
    api.apiKeys.cacheMs,
    'how long a gateway goes by what it knows of an API key',
  ),
  'api.apiKeys.keys': apiKeys(
    'API keys that are there without having been issued: `{id, sha256, userId, scopes, maxRequests}`',
  ),
  'api.dashboard': toggle(
    false,
    'whether a gateway shows itself at work at `/dashboard`, to this machine; the demo does',
  ),
  'api.closeTimeoutMs': whole(100, 10 * minute, 10_000, 'how long SIGTERM may take to write what was accepted'),

  'log.file': text(...path, 'a file for the log, which has each request then', {
    variable: 'LOG_FILE',
    otherwise: 'stderr',
  }),
  'log.level': optionalWord(logLevels, 'the least important level', {
    variable: 'LOG_LEVEL',
    otherwise: '`debug` in a file, `info` on stderr',
  }),
  'log.capacity': whole(1, 10_000_000, 20_000, 'lines that may wait for the disk'),
  'log.overflow': word(
    ['drop-newest', 'drop-oldest'],
    'drop-newest',
    'which of equally important lines go when so many wait',
  ),
  'log.maxBytes': whole(1_000, 10_000_000_000, 50_000_000, 'how large the file may get before the next one begins'),
  'log.maxFiles': whole(1, 1_000, 5, 'how many older ones stay'),

  'metrics.port': optionalWhole(
    0,
    65_535,
    'where `/metrics` is answered to this machine, besides at a gateway’s port; 0 is any free port',
    { flag: 'metrics-port', otherwise: 'nowhere' },
  ),
  'metrics.eventLoop': toggle(true, 'whether the delay of the event loop is measured'),

  'consul.address': text(
    'host:port or http://host:port',
    // No credentials: `fetch` would refuse them.
    /^(?:https?:\/\/)?[^\s/?#@]+\/?$/,
    'a Consul, where services register and gateways find them',
    { variable: 'CONSUL_HTTP_ADDR', otherwise: 'none', isSecret: true },
  ),
  'consul.checkTtlMs': whole(
    1_000,
    10 * minute,
    5_000,
    'after how long without a sign of life Consul takes a service for gone',
  ),
  'consul.deregisterAfterMs': whole(minute, 24 * 60 * minute, minute, 'after how long it forgets one'),

  'services.redisUrl': serverUrl(
    ['redis', 'rediss'],
    'a Redis for the live values, the shared reads and the stream of usage',
    { variable: 'REDIS_URL', otherwise: 'in memory' },
  ),
  'services.databaseUrl': serverUrl(['postgres', 'postgresql'], 'a PostgreSQL for the durable values and billing', {
    variable: 'DATABASE_URL',
    otherwise: 'PGlite, in the process',
  }),
  'services.dataDir': text(...path, 'where PGlite keeps its data', { flag: 'data-dir', otherwise: 'in memory' }),
  'services.counters': text(...addresses, 'the counter services of a gateway', {
    flag: 'counters',
    otherwise: 'those that Consul knows, else 127.0.0.1:50051',
  }),
  'services.billing': text(
    'consul, or host:port, or several separated by commas',
    new RegExp(`^consul$|${addresses[1].source}`),
    'the billing services of a gateway',
    { flag: 'billing', otherwise: 'none' },
  ),
  'services.stores': text(...addresses, 'counter services whose stores to use, for one without its own', {
    flag: 'stores',
    otherwise: 'its own',
  }),
  'services.usage': word(
    ['billing', 'stream'],
    'billing',
    'where a gateway hands usage on: to the billing services, or through Redis to usage workers',
    { flag: 'usage' },
  ),
  'services.tariff': text(...path, 'a JSON file with what services cost', {
    flag: 'tariff',
    otherwise: 'the one in `billing/tariff.ts`',
  }),
  'services.authUrl': httpOrigin('the auth service whose tokens are taken', {
    variable: 'AUTH_URL',
    otherwise: 'nobody has tokens',
  }),
  'services.authIssuer': text(
    'a text',
    /\S/,
    'who its tokens say that they are from, where that isn’t where it is called',
    { variable: 'AUTH_ISSUER', otherwise: 'its URL' },
  ),
  'services.authClientSecret': secret('what a service gets its own tokens with', {
    variable: 'AUTH_CLIENT_SECRET',
    otherwise: 'none',
  }),
  'services.authSecrets': text(
    ...path,
    'a JSON file with the secrets of the clients of the auth service; AUTH_CLIENT_SECRETS is the same as text',
    { flag: 'secrets', otherwise: 'random ones with `--role all`' },
  ),
} satisfies Readonly<Record<string, Setting<unknown>>>

export type Settings = typeof settings
export type SettingPath = keyof Settings

/** A value for each setting. */
export type ConfigValues = { readonly [Path in SettingPath]: Settings[Path]['value'] }

/** Values for some of them. */
export type SomeValues = { readonly [Path in SettingPath]?: Settings[Path]['value'] }

export const settingPaths = Object.keys(settings) as readonly SettingPath[]

/** One of them, whatever its values are. */
export function settingOf(path: SettingPath): Setting<unknown> {
  return settings[path]
}

/** Its own environment variable: `COUNTER_BILLING_ASYNC_MAX_BATCH_SIZE`. */
export function variableOf(path: string): string {
  return `${variablePrefix}${path
    .replaceAll('.', '_')
    .replaceAll(/([a-z\d])([A-Z])/g, '$1_$2')
    .toUpperCase()}`
}

export const variablePrefix = 'COUNTER_BILLING_'
