import type { GrpcVerdict } from './classify-grpc-error.js'

/** What is needed of a lease of a load balancer. */
export interface GrpcBalancerLease<Instance> {
  /** The instance that was chosen. */
  readonly instance: Instance
  /** Gives it back, and says how it did and why it failed; only the first time counts. */
  release(outcome?: GrpcVerdict, error?: unknown): void
}

/** What is needed of a `LoadBalancer`, which has it all. */
export interface GrpcBalancer<Instance extends { readonly id: string }> {
  /** Resolves once the first list of instances is there. */
  start(): Promise<void>
  /** Chooses an instance. */
  pick(options?: { key?: string | undefined; exclude?: ReadonlySet<string> | undefined }): GrpcBalancerLease<Instance>
  /** Runs a function with an instance, and again with others where it fails and may be tried again. */
  run<T>(
    fn: (instance: Instance, context: { readonly signal: AbortSignal; readonly attempt: number }) => PromiseLike<T>,
    options?: {
      key?: string | undefined
      signal?: AbortSignal | undefined
      attempts?: number | undefined
      retryable?: ((error: unknown) => boolean) | undefined
    },
  ): Promise<T>
  /** The instances that it knows; those that are `'draining'` take no more calls. */
  instances(): readonly { readonly instance: Instance; readonly state: string }[]
  /** Tells that the list has changed. */
  on(event: 'updated', listener: () => void): () => void
}
