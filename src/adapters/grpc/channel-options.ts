import type { ChannelOptions } from '@grpc/grpc-js'
import {
  checkBoolean,
  checkCount,
  checkDuration,
  checkOneOf,
  checkOptions,
  failOption,
  valueOr,
} from '../../core/options.js'
import { errorStatusNames, type GrpcStatusName } from './grpc-error.js'

/** When a channel pings its server to see whether the connection still stands. */
export interface GrpcKeepalive {
  /** How long nothing must arrive before a ping is sent, in milliseconds, at least 1. */
  timeMs: number
  /** How long to wait for the answer before the connection counts as lost, in milliseconds, at least 1. */
  timeoutMs: number
  /** Whether it pings even while no call is in flight. */
  withoutCalls: boolean
}

/**
 * The keepalives that have names.
 *
 * `gentle` is what a gRPC server of any language puts up with as it comes: no ping more than every 5 minutes, none without
 * calls. `aggressive` sees a dead connection within 13 s, but **a server that wasn't told to allow it answers with GOAWAY
 * (ENHANCE_YOUR_CALM, `too_many_pings`)**; grpc-js then doubles its own interval.
 *
 * @see https://github.com/grpc/grpc/blob/master/doc/keepalive.md
 */
export const keepalivePresets: Readonly<Record<'gentle' | 'aggressive', Readonly<GrpcKeepalive>>> = {
  gentle: { timeMs: 300_000, timeoutMs: 20_000, withoutCalls: false },
  aggressive: { timeMs: 10_000, timeoutMs: 3000, withoutCalls: true },
}

/** How grpc-js itself tries a failed call again, within its deadline and on the same channel (gRFC A6). */
export interface GrpcRetry {
  /** How many attempts there are in all, the first included: 2 to 5, since gRPC caps them there. */
  maxAttempts: number
  /** The delay before the first retry, in milliseconds, at least 1, give or take 20 %. The default is 100. */
  initialBackoffMs?: number | undefined
  /** The most that the delay grows to, in milliseconds, at least 1. The default is 2000. */
  maxBackoffMs?: number | undefined
  /** By how much the delay grows from one retry to the next, at least 1. The default is 2. */
  backoffMultiplier?: number | undefined
  /** The statuses that are tried again. The default is `['UNAVAILABLE']`. */
  retryableStatusCodes?: readonly GrpcStatusName[] | undefined
  /**
   * What is tried again: `counter.v1.Counter/Get` for a method, `counter.v1.Counter` for all of a service. The default is
   * every method: name the idempotent ones where there are others, since UNAVAILABLE leaves open whether the work was done.
   */
  methods?: readonly string[] | undefined
  /**
   * When to stop: each failed attempt takes a token of `maxTokens` (up to 1000), each success gives `tokenRatio` back, and
   * with half of them or fewer nothing is tried again. All channels of a process to one target share the tokens. False
   * never stops. The default is `{ maxTokens: 10, tokenRatio: 0.1 }`.
   */
  throttling?: { maxTokens: number; tokenRatio: number } | false | undefined
}

/** What of the pool's options becomes options of a channel. */
export interface ChannelSetting {
  readonly keepalive: 'gentle' | 'aggressive' | GrpcKeepalive | false
  readonly maxMessageBytes: number
  readonly retry: GrpcRetry | undefined
  readonly channelOptions: ChannelOptions | undefined
}

/** What every channel is made with. @throws OptionError */
export function resolveChannelOptions(setting: ChannelSetting): ChannelOptions {
  const maxMessageBytes = checkCount('maxMessageBytes', setting.maxMessageBytes)
  return {
    ...keepaliveOptions(setting.keepalive),
    'grpc.max_send_message_length': maxMessageBytes,
    'grpc.max_receive_message_length': maxMessageBytes,
    ...retryOptions(setting.retry),
    ...ownOptions(setting.channelOptions, setting.retry !== undefined),
    // Channels of equal arguments would share one connection.
    'grpc.use_local_subchannel_pool': 1,
  }
}

function keepaliveOptions(keepalive: ChannelSetting['keepalive']): ChannelOptions {
  if (keepalive === false) return {}
  if (typeof keepalive === 'string') checkOneOf('keepalive', keepalive, ['gentle', 'aggressive'])
  else if (typeof keepalive !== 'object' || keepalive === null) {
    failOption('keepalive', "must be 'gentle', 'aggressive', an object or false", keepalive)
  }
  const { timeMs, timeoutMs, withoutCalls } = typeof keepalive === 'string' ? keepalivePresets[keepalive] : keepalive
  return {
    'grpc.keepalive_time_ms': checkDuration('keepalive.timeMs', timeMs, 1),
    'grpc.keepalive_timeout_ms': checkDuration('keepalive.timeoutMs', timeoutMs, 1),
    // grpc-js compares with 1: `true` would mean no.
    'grpc.keepalive_permit_without_calls': checkBoolean('keepalive.withoutCalls', withoutCalls) ? 1 : 0,
  }
}

function retryOptions(retry: GrpcRetry | undefined): ChannelOptions {
  checkOptions('retry', retry)
  if (retry === undefined) return {}
  const initialBackoffMs = checkDuration('retry.initialBackoffMs', valueOr(retry.initialBackoffMs, 100), 1)
  const maxBackoffMs = checkDuration('retry.maxBackoffMs', valueOr(retry.maxBackoffMs, 2000), 1)
  const retryPolicy = {
    maxAttempts: checkCount('retry.maxAttempts', retry.maxAttempts, 2, 5),
    initialBackoff: seconds(Math.min(initialBackoffMs, maxBackoffMs)),
    maxBackoff: seconds(maxBackoffMs),
    backoffMultiplier: checkDuration('retry.backoffMultiplier', valueOr(retry.backoffMultiplier, 2), 1, 1000),
    retryableStatusCodes: checkStatuses(valueOr(retry.retryableStatusCodes, ['UNAVAILABLE'])),
  }
  const retryThrottling = checkThrottling(valueOr(retry.throttling, { maxTokens: 10, tokenRatio: 0.1 }))
  const config = { methodConfig: [{ name: methodNames(retry.methods), retryPolicy }], retryThrottling }
  return {
    'grpc.service_config': JSON.stringify(config),
    // A config from DNS would take this one's place.
    'grpc.service_config_disable_resolution': 1,
  }
}

/** A duration in the JSON form of protobuf, at most 9 decimals. */
function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(6)}s`
}

function checkStatuses(statuses: readonly GrpcStatusName[]): readonly GrpcStatusName[] {
  const field = 'retry.retryableStatusCodes'
  if (!Array.isArray(statuses) || statuses.length === 0) failOption(field, 'must be an array of statuses', statuses)
  for (const status of statuses) checkOneOf(field, status, errorStatusNames)
  return statuses
}

function checkThrottling(
  throttling: { maxTokens: number; tokenRatio: number } | false,
): { maxTokens: number; tokenRatio: number } | undefined {
  if (throttling === false) return undefined
  if (typeof throttling !== 'object' || throttling === null) {
    failOption('retry.throttling', 'must be an object or false', throttling)
  }
  return {
    maxTokens: checkCount('retry.throttling.maxTokens', throttling.maxTokens, 1, 1000),
    // grpc-js keeps three decimals.
    tokenRatio: checkDuration('retry.throttling.tokenRatio', throttling.tokenRatio, 0.001, 1000),
  }
}

function methodNames(methods: readonly string[] | undefined): { service?: string; method?: string }[] {
  if (methods === undefined) return [{}]
  const rule = 'must be an array of `package.Service` or `package.Service/Method`'
  if (!Array.isArray(methods) || methods.length === 0) failOption('retry.methods', rule, methods)
  if (new Set(methods).size < methods.length) failOption('retry.methods', 'must not name one twice', methods)
  return methods.map((name) => {
    const [, service, method] = (typeof name === 'string' && /^\/?([\w.]+)(?:\/(\w+))?$/.exec(name)) || []
    if (service === undefined) failOption('retry.methods', rule, name)
    return method === undefined ? { service } : { service, method }
  })
}

function ownOptions(own: ChannelOptions | undefined, retries: boolean): ChannelOptions {
  checkOptions('channelOptions', own)
  if (own === undefined) return {}
  const permit = 'grpc.keepalive_permit_without_calls'
  if (own[permit] !== undefined && own[permit] !== 0 && own[permit] !== 1) {
    failOption(`channelOptions['${permit}']`, 'must be 0 or 1', own[permit])
  }
  const local = 'grpc.use_local_subchannel_pool'
  if (own[local] !== undefined && own[local] !== 1) {
    failOption(`channelOptions['${local}']`, 'must be 1, so that each channel has a connection', own[local])
  }
  if (retries && own['grpc.service_config'] !== undefined) {
    failOption("channelOptions['grpc.service_config']", "can't be given beside retry", own['grpc.service_config'])
  }
  // An explicit undefined means the pool's own value, here as everywhere.
  return Object.fromEntries(Object.entries(own).filter(([, value]) => value !== undefined))
}
