import { failOption } from '../../core/options.js'

/** What guards the calls to one origin: a `CircuitBreaker`, or anything with its `execute`. */
export interface HttpBreaker {
  /** Runs a function, or rejects without running it. */
  execute<T>(
    fn: (context: { readonly signal: AbortSignal }) => T | PromiseLike<T>,
    options?: { signal?: AbortSignal | undefined },
  ): PromiseLike<T>
}

/** One breaker for each origin: a `BreakerRegistry`, or anything with its `get`. */
export interface HttpBreakers {
  /**
   * The breaker of an origin.
   *
   * @param origin - for instance `https://api.example.com`.
   */
  get(origin: string): HttpBreaker
}

/** Where tokens come from: a `TokenCache`, or anything of its shape. */
export interface HttpTokenSource {
  /** The token to use now. */
  get(key?: undefined, options?: { signal?: AbortSignal | undefined }): string | PromiseLike<string>
  /** Learns that a server refused a token. */
  invalidate(token: string): void | PromiseLike<void>
}

/** Where one instance of a service listens. */
export interface HttpInstance {
  /** Its id. */
  readonly id: string
  /** Its name or address. */
  readonly host: string
  /** Its port. */
  readonly port: number
  /** How it is spoken to. The default is the protocol of `baseUrl`, and `http` without one. */
  readonly protocol?: 'http' | 'https' | undefined
}

/** Chooses the instance of each attempt: a `LoadBalancer`, or anything with its `run`. */
export interface HttpBalancer {
  /** Runs a function with an instance, and again with another one as long as `retryable` and `attempts` allow. */
  run<T>(
    fn: (instance: HttpInstance, context: { readonly signal: AbortSignal; readonly attempt: number }) => PromiseLike<T>,
    options?: {
      key?: string | undefined
      signal?: AbortSignal | undefined
      attempts?: number | undefined
      retryable?: ((error: unknown) => boolean) | undefined
    },
  ): PromiseLike<T>
}

/** The origin of an instance, for instance `http://10.0.0.7:8080`. */
export function originOf(instance: HttpInstance, protocol: string): string {
  const { host, port } = instance
  const name = host.includes(':') && !host.startsWith('[') ? `[${host}]` : host
  try {
    return new URL(`${instance.protocol === undefined ? protocol : `${instance.protocol}:`}//${name}:${port}`).origin
  } catch {
    return failOption('instance', 'must have a host and a port', instance)
  }
}
