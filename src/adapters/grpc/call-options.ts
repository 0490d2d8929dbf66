import { checkDuration, checkOptions, checkSignal, failOption } from '../../core/options.js'
import type { GrpcMetadata } from './grpc-client.js'

/** Options of {@link GrpcChannelPool.call}. */
export interface GrpcCallOptions {
  /** Cancels the call, at the server too. */
  signal?: AbortSignal | undefined
  /** The deadline, which the server is told, in milliseconds from now, at least 1. The default is the pool's `timeoutMs`. */
  timeoutMs?: number | undefined
  /** The request's metadata. */
  metadata?: GrpcMetadata | undefined
}

/** Options of {@link GrpcChannelPool.openStream}: as of a call, but without a deadline unless one is given. */
export interface GrpcStreamOptions extends GrpcCallOptions {}

/** Checks what every call and stream takes; returns its signal. @throws OptionError */
export function checkCallOptions(options: GrpcCallOptions | undefined): AbortSignal | undefined {
  checkOptions('options', options)
  const signal = checkSignal(options?.signal)
  if (options?.timeoutMs !== undefined) checkDuration('timeoutMs', options.timeoutMs, 1)
  if (options?.metadata !== undefined && typeof options.metadata?.get !== 'function') {
    failOption('metadata', 'must be a Metadata of @grpc/grpc-js', options.metadata)
  }
  return signal
}
