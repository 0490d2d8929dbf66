export {
  AckedStream,
  type AckedStreamEvents,
  type AckedStreamOptions,
  type AckedStreamStats,
  type SendOptions,
} from './acked-stream.js'
export type { GrpcCallOptions, GrpcStreamOptions } from './call-options.js'
export type { GrpcKeepalive, GrpcRetry } from './channel-options.js'
export { classifyGrpcError, type GrpcVerdict } from './classify-grpc-error.js'
export {
  type GrpcBalancedCallOptions,
  type GrpcBalancedLease,
  type GrpcBalancedLeaseOptions,
  type GrpcBalancedPick,
  GrpcBalancedPool,
  type GrpcBalancedPoolEvents,
  type GrpcBalancedPoolOptions,
  type GrpcBalancedPoolStats,
  type GrpcBalancedStreamOptions,
  type InstancePoolStats,
} from './grpc-balanced-pool.js'
export type { GrpcBalancer, GrpcBalancerLease } from './grpc-balancer.js'
export {
  type ChannelGrowth,
  type ChannelLease,
  type ChannelStats,
  GrpcChannelPool,
  type GrpcChannelPoolEvents,
  type GrpcChannelPoolOptions,
  type GrpcChannelPoolStats,
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
  GrpcStatusCancel,
  RequestOf,
  ResponseOf,
  StreamOf,
  UnaryMethod,
} from './grpc-client.js'
export { GrpcCallError, type GrpcStatusName } from './grpc-error.js'
export type { RetireReason } from './instance-pools.js'
export type { InstancesWarmUpOptions } from './instances-warm-up.js'
export type {
  GrpcCallMetadata,
  GrpcInterceptedOptions,
  GrpcParentCall,
} from './token-call.js'
export {
  type GrpcCredentialsModule,
  type GrpcInterceptingModule,
  type GrpcTokenOptions,
  type GrpcTokenSetting,
  type GrpcTokenSource,
  grpcTokenDefaults,
  tokenCredentials,
  tokenInterceptor,
} from './token-interceptor.js'
