import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Metadata, type ServiceError } from '@grpc/grpc-js'
import type { Pool } from 'pg'
import { MemoryCounterStore } from 'spillway/testing'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { randomSecrets } from '../../examples/counter-billing/auth/clients.ts'
import { basicCredentials } from '../../examples/counter-billing/auth/token-request.ts'
import { readConfig } from '../../examples/counter-billing/config/config.ts'
import { environmentOf } from '../../examples/counter-billing/config/environment.ts'
import { readsOptions } from '../../examples/counter-billing/config/options.ts'
import {
  type SettingPath,
  type SomeValues,
  settingOf,
  settingPaths,
} from '../../examples/counter-billing/config/settings.ts'
import { counterClient } from '../../examples/counter-billing/counter/protocol.ts'
import type { Stores } from '../../examples/counter-billing/counter/stores.ts'
import type { ApiSettings } from '../../examples/counter-billing/http/api-options.ts'
import { Program, type Role } from '../../examples/counter-billing/program.ts'
import { startGateway } from '../../examples/counter-billing/service.ts'
import { startConsul } from '../servers/consul.ts'
import { freePort } from '../servers/free-port.ts'
import { startPostgres } from '../servers/postgres.ts'
import { startRedis } from '../servers/redis.ts'

// biome-ignore lint/suspicious/noExplicitAny: what a class is made with is of many types
type Made = { readonly kind: string; readonly args: readonly any[] }

/** What was made of each class, in this order, with what it was told: the classes themselves are the real ones. */
const { made, recording } = vi.hoisted(() => {
  const made: { kind: string; args: unknown[] }[] = []
  // biome-ignore lint/suspicious/noExplicitAny: any class
  const one = (kind: string, Original: any): unknown =>
    class extends Original {
      constructor(...args: unknown[]) {
        super(...args)
        made.push({ kind, args })
      }
    }
  const recording =
    (...kinds: string[]) =>
    async (original: () => Promise<object>): Promise<object> => {
      const actual = (await original()) as Record<string, unknown>
      return { ...actual, ...Object.fromEntries(kinds.map((kind) => [kind, one(kind, actual[kind])])) }
    }
  return { made: made as Made[], recording }
})

vi.mock(
  'spillway',
  recording('AsyncBatcher', 'AsyncWriteBuffer', 'QuotaConsumer', 'MultiLevelCache', 'LoadBalancer', 'AsyncLogBuffer'),
)
vi.mock('spillway/file', recording('FileJournal', 'FileSink'))
vi.mock('spillway/consul', recording('ConsulRegistration'))
vi.mock('spillway/postgres', recording('Paginator', 'SlowQueryLog'))
vi.mock('spillway/testing', recording('MemoryCacheStore'))
vi.mock('spillway/grpc', async (original) => {
  const actual = await original<typeof import('spillway/grpc')>()
  class GrpcBalancedPool extends actual.GrpcBalancedPool<{ id: string }, never> {
    constructor(...args: ConstructorParameters<typeof actual.GrpcBalancedPool<{ id: string }, never>>) {
      super(...args)
      made.push({ kind: 'GrpcBalancedPool', args })
    }

    override warmUp(
      ...args: Parameters<InstanceType<typeof actual.GrpcBalancedPool<{ id: string }, never>>['warmUp']>
    ) {
      made.push({ kind: 'warmUp', args })
      return super.warmUp(...args)
    }
  }
  return { ...actual, GrpcBalancedPool }
})
vi.mock('spillway/redis', recording('RedisUsageStream'))
vi.mock('ioredis', recording('Redis'))
vi.mock('../../examples/counter-billing/counter/answered.ts', recording('Answered'))
vi.mock('../../examples/counter-billing/http/gateway.ts', async (original) => {
  const actual = await original<typeof import('../../examples/counter-billing/http/gateway.ts')>()
  const createGateway: typeof actual.createGateway = (...args) => {
    made.push({ kind: 'gateway', args })
    return actual.createGateway(...args)
  }
  return { ...actual, createGateway }
})

const folder = mkdtempSync(join(tmpdir(), 'counter-billing-effects-'))
const secrets = randomSecrets()
const secretsFile = join(folder, 'secrets.json')
const tariffFile = join(folder, 'tariff.json')
writeFileSync(secretsFile, JSON.stringify(secrets), { mode: 0o600 })
writeFileSync(tariffFile, JSON.stringify({ 'counter-writes': { free: 3, period: 'day' } }))

/** A part of the service that runs, and what was made while it was started. */
interface Run {
  readonly program: Program
  readonly ready: string
  readonly made: readonly Made[]
}

const runs: Run[] = []

async function start(role: Role, values: SomeValues): Promise<Run> {
  const from = made.length
  const config = readConfig({ env: environmentOf(values) })
  for (const [path, value] of Object.entries(values)) expect(config.values[path as SettingPath]).toEqual(value)
  const program = new Program({ role, values: config.values, say: () => undefined })
  const run = { program, ready: await program.start(), made: [] as Made[] }
  run.made.push(...made.slice(from))
  runs.push(run)
  return run
}

afterAll(async () => {
  for (const { program } of runs.toReversed()) for (const part of program.open) await part.close({ timeoutMs: 5_000 })
  await consul?.stop()
  await redis?.stop()
  await postgres?.stop()
  rmSync(folder, { recursive: true })
}, 60_000)

const [postgres, redis, consul] = [await startPostgres(), await startRedis(), await startConsul()]

/** What all parts of that name, or kind, were told: one value, or several that must not be. */
function told(run: Run, kind: string, name: string | undefined, of: (...args: Made['args']) => unknown): unknown {
  const all = run.made.filter((one) => one.kind === kind)
  const values = all
    .filter(({ args }) => name === undefined || args.at(-1)?.name === name)
    .map(({ args }) => of(...args))
  const [first, ...others] = [...new Set(values.map((value) => JSON.stringify(value)))]
  return others.length > 0 ? [first, ...others] : values[0]
}

const option =
  (kind: string, name: string | undefined, of: (options: Made['args'][number]) => unknown) =>
  (run: Run): unknown =>
    told(run, kind, name, (...args) => of(args.at(-1)))
const writes = (of: (options: Made['args'][number]) => unknown) => option('AsyncWriteBuffer', 'durable-writes', of)
const answers = (of: (options: Made['args'][number]) => unknown) => option('AsyncBatcher', 'durable-answers', of)
const usage = (of: (options: Made['args'][number]) => unknown) => option('QuotaConsumer', 'usage', of)
const pool = (of: (options: Record<string, number>) => unknown) => (run: Run) =>
  of(((run.program.started.stores as Stores).database.client as Pool).options as unknown as Record<string, number>)
const ofRedis = (of: (options: Made['args'][number]) => unknown) => option('Redis', undefined, of)
const cache = (of: (options: Made['args'][number]) => unknown) => option('MultiLevelCache', 'counter-reads', of)
const http = (of: (settings: ApiSettings) => unknown) => (run: Run) =>
  told(run, 'gateway', undefined, (_counters, _reads, _log, { settings }) => of(settings))
const gatewayOf = (run: Run): string => run.program.started.gateway?.url ?? ''
const portOf = (url: string | undefined): number => Number(url?.split(':').at(-1))

const post = (run: Run, body: object): Promise<Response> =>
  fetch(`${gatewayOf(run)}/api/v1/counter/increment`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ resource_id: 'effects', ...body }),
  })

const tokenRequest = (url: string | undefined): Promise<Response> =>
  fetch(`${url}/oauth/token`, {
    method: 'POST',
    headers: { authorization: basicCredentials('gateway', secrets.gateway) },
    body: new URLSearchParams({ grant_type: 'client_credentials', audience: 'counter-service' }),
  })

/** Where a gateway has its services. */
const instancesOf =
  (kind: 'services' | 'billing') =>
  async (run: Run): Promise<string> => {
    const stats = (await (await fetch(`${gatewayOf(run)}/stats`)).json()) as Record<
      string,
      { instances: { id: string }[] }
    >
    return stats[kind]?.instances.map(({ id }) => id).join() ?? ''
  }

/** How a call ends that sends 100 KiB: the server refuses its size, or what it lacks. */
async function largeCall(run: Run): Promise<number | undefined> {
  const client = counterClient(run.program.started.counters?.address ?? '', {})
  const request = { batchId: 'a', store: 'LIVE', keys: ['k'.repeat(100_000)], deltas: [1], answers: false }
  try {
    return await new Promise((resolve) =>
      client.batchIncrement(request as never, new Metadata(), {}, (error: ServiceError | null) => resolve(error?.code)),
    )
  } finally {
    client.close()
  }
}

/** Which of the runs shows it: all in one process, or one of the others. */
type Place = 'all' | 'gateway' | 'counters' | 'auth' | 'embedded'

/** How a setting shows in what runs. */
interface Effect {
  /** Another value than the default. */
  readonly value: unknown
  readonly see: (run: Run) => unknown
  /** What is seen of it, where that isn't the value itself. */
  readonly seen?: unknown
  /** What is seen of the default, where that isn't the default itself; `null` where it isn't looked for. */
  readonly usual?: unknown
  readonly by?: Place
}

const [port, grpcPort, billingPort, authPort, metricsPort] = await Promise.all([
  freePort(),
  freePort(),
  freePort(),
  freePort(),
  freePort(),
])
const apiKey = { id: 'k1', sha256: 'a'.repeat(64), userId: 'ann', scopes: ['counters:read'] }
const needsConsul = ['consul.address', 'consul.checkTtlMs', 'consul.deregisterAfterMs']
const log = (of: (options: Made['args'][number]) => unknown) => option('AsyncLogBuffer', 'log', of)
const sink = (of: (options: Made['args'][number]) => unknown) => option('FileSink', undefined, of)

const effects: Readonly<Record<SettingPath, Effect>> = {
  'async.capacity': { value: 7_001, see: writes(({ capacity }) => capacity) },
  'async.overflow': { value: 'drop-oldest', see: writes(({ overflow }) => overflow) },
  'async.maxBatchSize': { value: 701, see: writes(({ maxBatchSize }) => maxBatchSize) },
  'async.maxWaitMs': { value: 71, see: writes(({ maxWaitMs }) => maxWaitMs) },
  'async.timeoutMs': { value: 7_002, see: writes(({ timeoutMs }) => timeoutMs) },
  'async.liveTimeoutMs': { value: 1_999, see: option('AsyncBatcher', 'live-answers', ({ timeoutMs }) => timeoutMs) },
  'async.answers.maxBatchSize': { value: 301, see: answers(({ maxBatchSize }) => maxBatchSize) },
  'async.answers.maxWaitMs': { value: 3, see: answers(({ maxWaitMs }) => maxWaitMs) },
  'async.answers.concurrency': { value: 4, see: answers(({ concurrency }) => concurrency) },
  'async.reads.maxBatchSize': {
    value: 302,
    see: option('AsyncBatcher', 'live-reads', ({ maxBatchSize }) => maxBatchSize),
  },
  'async.reads.concurrency': {
    value: 5,
    see: option('AsyncBatcher', 'durable-reads', ({ concurrency }) => concurrency),
  },
  'async.retry.attempts': { value: 9, see: writes(({ retry }) => retry.attempts) },
  'async.retry.delayMs': { value: 101, see: writes(({ retry }) => retry.delayMs) },
  'async.retry.maxDelayMs': { value: 4_001, see: writes(({ retry }) => retry.maxDelayMs) },
  'async.usage.capacity': { value: 20_001, see: usage(({ capacity }) => capacity) },
  'async.usage.maxBatchSize': { value: 702, see: usage(({ maxBatchSize }) => maxBatchSize) },
  'async.usage.maxWaitMs': { value: 251, see: usage(({ maxWaitMs }) => maxWaitMs) },
  'async.usage.concurrency': { value: 6, see: usage(({ concurrency }) => concurrency ?? 3) },
  'async.usage.journal': {
    value: join(folder, 'journal'),
    see: (run) => told(run, 'FileJournal', undefined, (path) => path),
  },
  'pools.postgres.maxConnections': { value: 9, see: pool(({ max }) => max) },
  'pools.postgres.minConnections': { value: 2, see: pool(({ min }) => min) },
  'pools.postgres.connectTimeoutMs': {
    value: 5_001,
    see: pool(({ connectionTimeoutMillis }) => connectionTimeoutMillis),
  },
  'pools.postgres.idleTimeoutMs': { value: 10_001, see: pool(({ idleTimeoutMillis }) => idleTimeoutMillis) },
  'pools.postgres.maxLifetimeMs': {
    value: 60_000,
    see: pool(({ maxLifetimeSeconds = 0 }) => maxLifetimeSeconds * 1_000),
  },
  'pools.redis.connectTimeoutMs': { value: 10_001, see: ofRedis(({ connectTimeout }) => connectTimeout) },
  'pools.redis.commandTimeoutMs': { value: 5_002, see: ofRedis(({ commandTimeout }) => commandTimeout) },
  'pools.redis.keepAliveMs': { value: 1_001, see: ofRedis(({ keepAlive }) => keepAlive) },
  'pools.grpc.channels': { value: 3, see: option('GrpcBalancedPool', undefined, ({ channels }) => channels) },
  'pools.grpc.warmUpMs': { value: 10_002, see: option('warmUp', undefined, ({ deadlineMs }) => deadlineMs) },
  'pools.grpc.maxMessageBytes': { value: 65_536, see: largeCall, seen: 8, usual: 16 },
  'pools.grpc.ejectAfterFailures': {
    value: 4,
    see: option('LoadBalancer', undefined, ({ ejection }) => ejection.failureThreshold),
  },
  'pools.grpc.ejectMs': {
    value: 1_002,
    see: option('LoadBalancer', undefined, ({ ejection }) => ejection.recoveryTimeoutMs),
  },
  'cache.maxEntries': { value: 10_001, see: cache(({ l1 }) => l1.maxEntries) },
  'cache.l2MaxEntries': {
    value: 10_003,
    see: async ({ program }) => {
      const from = made.length
      const stores = { live: new MemoryCounterStore(), durable: new MemoryCounterStore() }
      const gateway = await startGateway({
        counters: stores,
        ports: [0],
        reads: readsOptions(program.values),
        log: () => undefined,
      })
      await gateway.close()
      return made.slice(from).find(({ kind }) => kind === 'MemoryCacheStore')?.args[0].capacity
    },
  },
  'cache.ttlMs': { value: 4_000, see: cache(({ ttlMs, l1 }) => (l1.ttlMs === ttlMs ? ttlMs : [ttlMs, l1.ttlMs])) },
  'cache.l2TimeoutMs': { value: 1_003, see: cache(({ l2TimeoutMs }) => l2TimeoutMs) },
  'cache.rememberedCounters': {
    value: 50_001,
    see: (run) => told(run, 'Answered', undefined, (_self, counters) => counters),
  },
  'query.defaultPageSize': {
    value: 2,
    see: async (run) => {
      for (const counter_type of ['a', 'b', 'c']) await post(run, { counter_type, ack: 'committed' })
      const answer = await fetch(`${gatewayOf(run)}/api/v1/counter?resource_id=effects&fresh=true`)
      return ((await answer.json()) as { counters: unknown[] }).counters.length
    },
    usual: 3,
  },
  'query.maxPageSize': {
    value: 990,
    see: async (run) => {
      const answer = await fetch(`${gatewayOf(run)}/api/v1/counter?resource_id=a&limit=1001`)
      return Number(/from 1 to (\d+)/.exec(await answer.text())?.[1])
    },
  },
  'query.slowQueryMs': { value: 5_003, see: option('SlowQueryLog', undefined, ({ thresholdMs }) => thresholdMs) },
  'query.explain': { value: false, see: option('SlowQueryLog', undefined, ({ explain }) => explain) },
  'query.cursorSecrets': {
    value: ['a secret of many', 'another of many!'],
    see: option('Paginator', undefined, ({ secret }) => secret),
    usual: null,
  },
  'api.host': { value: 'localhost', see: ({ program }) => program.started.counters?.address.split(':')[0] },
  'api.port': { value: port, see: ({ program }) => portOf(program.started.gateway?.url), usual: null },
  'api.grpcPort': { value: grpcPort, see: ({ program }) => portOf(program.started.counters?.address), usual: null },
  'api.billingPort': {
    value: billingPort,
    see: ({ program }) => portOf(program.started.billing?.address),
    usual: null,
  },
  'api.authPort': { value: authPort, see: ({ program }) => portOf(program.started.auth?.url), usual: null },
  'api.ack': {
    value: 'committed',
    see: async (run) => {
      const answer = await post(run, { counter_type: 'd' })
      return answer.status === 202 ? 'accepted' : ((await answer.json()) as { ack: string }).ack
    },
  },
  'api.auth': {
    value: 'required',
    by: 'gateway',
    see: async (run) => (await post(run, { counter_type: 'e' })).status,
    seen: 401,
    usual: 202,
  },
  'api.tokenLifeSeconds': {
    value: 301,
    see: async ({ program }) => {
      const answer = await tokenRequest(program.started.auth?.url)
      return ((await answer.json()) as { expires_in: number }).expires_in
    },
    usual: undefined,
  },
  'api.maxBodyBytes': { value: 1_048_577, see: http(({ maxBodyBytes }) => maxBodyBytes) },
  'api.maxHeaderBytes': { value: 16_385, see: http(({ maxHeaderBytes }) => maxHeaderBytes) },
  'api.maxParamLength': { value: 8_193, see: http(({ maxParamLength }) => maxParamLength) },
  'api.maxConnections': { value: 10_004, see: http(({ maxConnections }) => maxConnections) },
  'api.headersTimeoutMs': { value: 10_005, see: http(({ headersTimeoutMs }) => headersTimeoutMs) },
  'api.requestTimeoutMs': { value: 30_001, see: http(({ requestTimeoutMs }) => requestTimeoutMs) },
  'api.handlerTimeoutMs': { value: 30_002, see: http(({ handlerTimeoutMs }) => handlerTimeoutMs) },
  'api.keepAliveTimeoutMs': { value: 72_001, see: http(({ keepAliveTimeoutMs }) => keepAliveTimeoutMs) },
  'api.drainMs': { value: 0, see: http(({ drainMs }) => drainMs) },
  'api.trustedProxies': { value: ['127.0.0.9'], see: http(({ trustedProxies }) => trustedProxies) },
  'api.rateLimit.enabled': { value: false, by: 'gateway', see: http(({ rateLimit }) => rateLimit !== undefined) },
  'api.rateLimit.maxRequests': { value: 60_001, see: http(({ rateLimit }) => rateLimit?.maxRequests) },
  'api.rateLimit.windowMs': { value: 60_002, see: http(({ rateLimit }) => rateLimit?.windowMs) },
  'api.apiKeys.cacheMs': { value: 10_006, see: http(({ apiKeys }) => apiKeys.cacheMs) },
  'api.apiKeys.keys': { value: [apiKey], see: http(({ apiKeys }) => apiKeys.keys) },
  'api.dashboard': {
    value: true,
    see: async (run) => (await fetch(`${gatewayOf(run)}/dashboard`)).status,
    seen: 200,
    usual: 404,
  },
  'api.closeTimeoutMs': { value: 9_999, see: ({ program }) => program.closeOptions.timeoutMs },
  'log.file': { value: join(folder, 'service.log'), see: sink(({ path }) => path) },
  'log.level': { value: 'error', see: ({ program }) => program.logging.logger.level, usual: null },
  'log.capacity': { value: 20_002, see: log(({ capacity }) => capacity) },
  'log.overflow': { value: 'drop-oldest', see: log(({ overflow }) => overflow) },
  'log.maxBytes': { value: 49_000_000, see: sink(({ rotate }) => rotate.maxBytes), usual: null },
  'log.maxFiles': { value: 4, see: sink(({ rotate }) => rotate.maxFiles), usual: null },
  'metrics.port': {
    value: metricsPort,
    see: ({ program }) => program.started.metricsUrl && portOf(program.started.metricsUrl.replace('/metrics', '')),
  },
  'metrics.eventLoop': {
    value: false,
    see: async (run) => (await (await fetch(`${gatewayOf(run)}/metrics`)).text()).includes('nodejs_eventloop_delay'),
  },
  'consul.address': {
    value: consul?.address ?? '127.0.0.1:8500',
    see: option('ConsulRegistration', undefined, ({ address }) => address),
  },
  'consul.checkTtlMs': {
    value: 6_000,
    see: option('ConsulRegistration', undefined, ({ check }) => check.ttlMs),
    usual: null,
  },
  'consul.deregisterAfterMs': {
    value: 61_000,
    see: option('ConsulRegistration', undefined, ({ deregisterCriticalAfterMs }) => deregisterCriticalAfterMs),
    usual: null,
  },
  'services.redisUrl': {
    value: redis?.url ?? 'redis://127.0.0.1',
    see: (run) => told(run, 'Redis', undefined, (url) => url),
    usual: null,
  },
  'services.databaseUrl': {
    value: postgres?.url ?? 'postgres://127.0.0.1',
    see: pool(({ connectionString }) => connectionString),
    usual: null,
  },
  'services.dataDir': {
    value: join(folder, 'pglite'),
    by: 'embedded',
    see: ({ program }) => program.started.stores?.database.title,
    seen: `PGlite in ${join(folder, 'pglite')}`,
    usual: null,
  },
  'services.counters': { value: `127.0.0.1:${grpcPort}`, by: 'gateway', see: instancesOf('services'), usual: null },
  'services.billing': { value: `127.0.0.1:${billingPort}`, by: 'gateway', see: instancesOf('billing'), usual: null },
  'services.stores': {
    value: `127.0.0.1:${grpcPort}`,
    by: 'counters',
    see: option('LoadBalancer', undefined, ({ name }) => name),
    seen: 'counter-service',
    usual: null,
  },
  'services.usage': {
    value: 'stream',
    see: ({ made }) => (made.some(({ kind }) => kind === 'RedisUsageStream') ? 'stream' : 'billing'),
  },
  'services.tariff': {
    value: tariffFile,
    see: async (run) => {
      const answer = await fetch(`${gatewayOf(run)}/api/v1/billing/free-quota/ann/counter-writes`)
      return ((await answer.json()) as { limit: number }).limit
    },
    seen: 3,
    usual: 1_000_000,
  },
  'services.authUrl': {
    value: `http://127.0.0.1:${authPort}`,
    by: 'gateway',
    see: ({ program }) => program.started.gateway?.tokens !== undefined,
    seen: true,
    usual: null,
  },
  'services.authIssuer': {
    value: 'https://issuer.example.com',
    by: 'auth',
    see: ({ program }) => program.started.auth?.issuer,
    usual: null,
  },
  'services.authClientSecret': {
    value: secrets.gateway,
    by: 'gateway',
    see: async (run) => {
      await post(run, { counter_type: 'f' })
      await run.program.started.gateway?.counters.read('effects:a')
      return run.program.started.gateway?.tokens?.stats().refreshed
    },
    seen: 1,
    usual: null,
  },
  'services.authSecrets': {
    value: secretsFile,
    see: async ({ program }) => (await tokenRequest(program.started.auth?.url)).status,
    seen: 200,
    usual: 401,
  },
}

const isThere = postgres !== undefined && redis !== undefined

describe.skipIf(!isThere)('each setting reaches what it names', { timeout: 120_000 }, () => {
  const valuesOf = (place: Place): SomeValues =>
    Object.fromEntries(
      settingPaths
        .filter(
          (path) => (effects[path].by ?? 'all') === place && (consul !== undefined || !needsConsul.includes(path)),
        )
        .map((path) => [path, effects[path].value]),
    )
  const places: Partial<Record<Place | 'default', Run>> = {}

  beforeAll(async () => {
    const servers: SomeValues = { 'services.redisUrl': redis?.url, 'services.databaseUrl': postgres?.url }
    const anyPorts: SomeValues = { 'api.port': 0, 'api.grpcPort': 0, 'api.billingPort': 0 }
    places.all = await start('all', valuesOf('all'))
    places.default = await start('all', { ...servers, ...anyPorts })
    const quiet: SomeValues = { 'log.level': 'silent', ...anyPorts }
    places.gateway = await start('gateway', { ...quiet, ...valuesOf('gateway') })
    const trust: SomeValues = {
      'services.authUrl': `http://127.0.0.1:${authPort}`,
      'services.authClientSecret': secrets['counter-service'],
    }
    places.counters = await start('counters', { ...quiet, ...trust, ...valuesOf('counters') })
    places.auth = await start('auth', {
      ...quiet,
      'api.authPort': 0,
      'services.authSecrets': secretsFile,
      ...valuesOf('auth'),
    })
    places.embedded = await start('counters', { ...quiet, ...valuesOf('embedded') })
  }, 240_000)

  test.each(settingPaths)('%s', async (path) => {
    const { value, see, by = 'all', ...expected } = effects[path]
    if (consul === undefined && needsConsul.includes(path)) return
    const usual = 'usual' in expected ? expected.usual : settingOf(path).value

    expect(value).not.toEqual(settingOf(path).value)
    expect(await see(places[by] as Run)).toEqual('seen' in expected ? expected.seen : value)
    if (usual !== null) expect(await see(places.default as Run)).toEqual(usual)
  })
})
