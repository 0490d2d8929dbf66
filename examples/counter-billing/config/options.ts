import type { CountersOptions } from '../counter/counters.ts'
import type { CounterReadsOptions } from '../counter/reads.ts'
import type { Registration } from '../counter/service-pool.ts'
import type { StoresOptions } from '../counter/stores.ts'
import type { ApiOptions } from '../http/api-options.ts'
import type { LoggingOptions } from '../telemetry/logging.ts'
import type { ConfigValues } from './settings.ts'

/** Which servers are named, and how to connect to them. */
export function storesOptions(values: ConfigValues): StoresOptions {
  return {
    redisUrl: values['services.redisUrl'],
    databaseUrl: values['services.databaseUrl'],
    dataDir: values['services.dataDir'],
    slowQueryMs: values['query.slowQueryMs'],
    explain: values['query.explain'],
    cursorSecrets: values['query.cursorSecrets'],
    maxPageSize: values['query.maxPageSize'],
    pool: {
      maxConnections: values['pools.postgres.maxConnections'],
      minConnections: values['pools.postgres.minConnections'],
      connectTimeoutMs: values['pools.postgres.connectTimeoutMs'],
      idleTimeoutMs: values['pools.postgres.idleTimeoutMs'],
      maxLifetimeMs: values['pools.postgres.maxLifetimeMs'],
    },
    redis: {
      connectTimeoutMs: values['pools.redis.connectTimeoutMs'],
      commandTimeoutMs: values['pools.redis.commandTimeoutMs'],
      keepAliveMs: values['pools.redis.keepAliveMs'],
    },
  }
}

/** How increments are batched. */
export function countersOptions(values: ConfigValues): Omit<CountersOptions, 'reads'> {
  return {
    capacity: values['async.capacity'],
    overflow: values['async.overflow'],
    writes: {
      maxBatchSize: values['async.maxBatchSize'],
      maxWaitMs: values['async.maxWaitMs'],
      timeoutMs: values['async.timeoutMs'],
      liveTimeoutMs: values['async.liveTimeoutMs'],
      retry: {
        attempts: values['async.retry.attempts'],
        delayMs: values['async.retry.delayMs'],
        maxDelayMs: values['async.retry.maxDelayMs'],
      },
    },
    answers: {
      maxBatchSize: values['async.answers.maxBatchSize'],
      maxWaitMs: values['async.answers.maxWaitMs'],
      concurrency: values['async.answers.concurrency'],
    },
  }
}

/** How reads are batched, and what is kept of them. */
export function readsOptions(values: ConfigValues): NonNullable<CountersOptions['reads']> & CounterReadsOptions {
  return {
    maxBatchSize: values['async.reads.maxBatchSize'],
    concurrency: values['async.reads.concurrency'],
    maxEntries: values['cache.maxEntries'],
    l2MaxEntries: values['cache.l2MaxEntries'],
    ttlMs: values['cache.ttlMs'],
    l2TimeoutMs: values['cache.l2TimeoutMs'],
    rememberedCounters: values['cache.rememberedCounters'],
    defaultPageSize: values['query.defaultPageSize'],
    maxPageSize: values['query.maxPageSize'],
  }
}

/** How a gateway connects to a kind of service. */
export function serviceOptions(values: ConfigValues) {
  return {
    channels: values['pools.grpc.channels'],
    warmUpMs: values['pools.grpc.warmUpMs'],
    ejectAfterFailures: values['pools.grpc.ejectAfterFailures'],
    ejectMs: values['pools.grpc.ejectMs'],
  }
}

/** How usage is batched until it is handed on. */
export function usageOptions(values: ConfigValues) {
  return {
    journal: values['async.usage.journal'],
    batches: {
      capacity: values['async.usage.capacity'],
      maxBatchSize: values['async.usage.maxBatchSize'],
      maxWaitMs: values['async.usage.maxWaitMs'],
      concurrency: values['async.usage.concurrency'],
    },
  }
}

/** What a service that others call is told, whichever it is. */
export function listeningOptions(values: ConfigValues) {
  const check: Registration['check'] = {
    ttlMs: values['consul.checkTtlMs'],
    deregisterAfterMs: values['consul.deregisterAfterMs'],
  }
  return {
    host: values['api.host'],
    maxMessageBytes: values['pools.grpc.maxMessageBytes'],
    consul: consulOf(values),
    consulCheck: check,
  }
}

/** Where the log goes, and how much of it. */
export function loggingOptions(values: ConfigValues): Omit<LoggingOptions, 'role'> {
  return {
    file: values['log.file'],
    level: values['log.level'],
    capacity: values['log.capacity'],
    overflow: values['log.overflow'],
    maxBytes: values['log.maxBytes'],
    maxFiles: values['log.maxFiles'],
  }
}

/** What the HTTP face is to be like. */
export function apiOptions(values: ConfigValues): ApiOptions {
  return {
    maxBodyBytes: values['api.maxBodyBytes'],
    maxHeaderBytes: values['api.maxHeaderBytes'],
    maxParamLength: values['api.maxParamLength'],
    maxConnections: values['api.maxConnections'],
    headersTimeoutMs: values['api.headersTimeoutMs'],
    requestTimeoutMs: values['api.requestTimeoutMs'],
    handlerTimeoutMs: values['api.handlerTimeoutMs'],
    keepAliveTimeoutMs: values['api.keepAliveTimeoutMs'],
    drainMs: values['api.drainMs'],
    trustedProxies: values['api.trustedProxies'],
    rateLimit: values['api.rateLimit.enabled'] && {
      maxRequests: values['api.rateLimit.maxRequests'],
      windowMs: values['api.rateLimit.windowMs'],
    },
    apiKeys: { keys: values['api.apiKeys.keys'], cacheMs: values['api.apiKeys.cacheMs'] },
  }
}

/** The Consul that is named, as a URL: Consul's own tools take it without a scheme, too. */
export function consulOf(values: ConfigValues): string | undefined {
  const address = values['consul.address']
  return address === undefined || address.includes('://') ? address : `http://${address}`
}
