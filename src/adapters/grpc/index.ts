export {
  AckedStream,
  type AckedStreamEvents,
  type AckedStreamOptions,
  type AckedStreamStats,
  type SendOptions,
} from './acked-stream.js'
export type { CallCounts } from './call-books.js'
export type { GrpcKeepalive, GrpcRetry } from './channel-options.js'
export {
  type ChannelGrowth,
  type ChannelLease,
  type ChannelStats,
  type GrpcCallOptions,
  GrpcChannelPool,
  type GrpcChannelPoolEvents,
  type GrpcChannelPoolOptions,
  type GrpcChannelPoolStats,
  type GrpcStreamOptions,
  type WarmUpOptions,
} from './grpc-channel-pool.js'
export type {
  BidiMethod,
  GrpcCall,
  GrpcChannel,
  GrpcChannelState,
  GrpcClient,
  GrpcDuplex,
  GrpcMetadata,
  RequestOf,
  ResponseOf,
  StreamOf,
  UnaryMethod,
} from './grpc-client.js'
export { GrpcCallError, type GrpcStatusName } from './grpc-error.js'
