export type { ConsulConnectionOptions, ConsulTlsOptions } from './consul-client.js'
export { ConsulError } from './consul-error.js'
export type { ConsulInstance } from './consul-instance.js'
export {
  ConsulRegistration,
  type ConsulRegistrationEvents,
  type ConsulRegistrationOptions,
  type ConsulRegistrationStats,
} from './consul-registration.js'
export { type ConsulBackoff, type ConsulSourceOptions, consulSource, consulSourceDefaults } from './consul-source.js'
export type {
  ConsulCheck,
  ConsulCheckTimes,
  ConsulGrpcCheck,
  ConsulHttpCheck,
  ConsulServiceOptions,
  ConsulTcpCheck,
  ConsulTtlCheck,
  HealthReport,
  HealthStatus,
} from './service-definition.js'
