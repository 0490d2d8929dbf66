export type { ConsulConnectionOptions, ConsulTlsOptions } from './consul-client.js'
export { ConsulError } from './consul-error.js'
export type { ConsulInstance } from './consul-instance.js'
export { type ConsulBackoff, type ConsulSourceOptions, consulSource, consulSourceDefaults } from './consul-source.js'
