/** How many requests a caller may make: an API key, a service by its token, else an address. */
export interface RateLimitOptions {
  /**
   * Requests in a window. An API key may have its own number.
   * @defaultValue 60_000
   */
  maxRequests?: number | undefined
  /**
   * How long a window is, in milliseconds. Windows of all gateways begin at the same time.
   * @defaultValue 60_000
   */
  windowMs?: number | undefined
}

/** An API key that the configuration brings. */
export interface ConfiguredApiKey {
  /** The part of the key between its two underscores. */
  readonly id: string
  /** The SHA-256 of the whole key, in hexadecimal. */
  readonly sha256: string
  readonly userId: string
  readonly scopes: readonly string[]
  /** Requests in a window, in place of what everybody may make. */
  readonly maxRequests?: number | undefined
}

export interface ApiKeyOptions {
  /** Keys that are there without having been issued. */
  readonly keys?: readonly ConfiguredApiKey[] | undefined
  /**
   * How long a gateway goes by what it knows of a key, in milliseconds: within it, a revocation takes effect everywhere.
   * @defaultValue 10_000
   */
  readonly cacheMs?: number | undefined
}

/** What an operator may set of the HTTP face: a plain object, as a configuration file has it. */
export interface ApiOptions {
  /**
   * The largest body, in bytes.
   * @defaultValue 1_048_576
   */
  maxBodyBytes?: number | undefined
  /**
   * The largest header, request line included, in bytes.
   * @defaultValue 16_384
   */
  maxHeaderBytes?: number | undefined
  /**
   * The longest part of a path that is a parameter, in bytes as it is sent.
   * @defaultValue 8_192
   */
  maxParamLength?: number | undefined
  /**
   * Connections at the same time. More are closed at once.
   * @defaultValue 10_000
   */
  maxConnections?: number | undefined
  /**
   * How long the header of a request may take to arrive, in milliseconds.
   * @defaultValue 10_000
   */
  headersTimeoutMs?: number | undefined
  /**
   * How long a whole request may take to arrive, in milliseconds.
   * @defaultValue 30_000
   */
  requestTimeoutMs?: number | undefined
  /**
   * How long an answer may take, in milliseconds. What is under way goes on.
   * @defaultValue 30_000
   */
  handlerTimeoutMs?: number | undefined
  /**
   * How long an idle connection stays open, in milliseconds: longer than that of the proxy in front, so that this one closes first.
   * @defaultValue 72_000
   */
  keepAliveTimeoutMs?: number | undefined
  /**
   * How long `/readyz` says no before the listener closes, in milliseconds: as long as a balancer needs to notice. It is skipped
   * where nobody has ever asked for it.
   * @defaultValue 2_000
   */
  drainMs?: number | undefined
  /**
   * Addresses of proxies whose `X-Forwarded-For` says who asks.
   * @defaultValue []
   */
  trustedProxies?: readonly string[] | undefined
  /** How many requests a caller may make; `false` for as many as he likes. */
  rateLimit?: RateLimitOptions | false | undefined
  apiKeys?: ApiKeyOptions | undefined
}

/** Each number of it, and what it may be. */
const numbers = {
  maxBodyBytes: [1_024, 1_048_576, 100_000_000],
  maxHeaderBytes: [1_024, 16_384, 1_048_576],
  maxParamLength: [256, 8_192, 65_536],
  maxConnections: [1, 10_000, 1_000_000],
  headersTimeoutMs: [100, 10_000, 3_600_000],
  requestTimeoutMs: [100, 30_000, 3_600_000],
  handlerTimeoutMs: [10, 30_000, 3_600_000],
  keepAliveTimeoutMs: [0, 72_000, 3_600_000],
  drainMs: [0, 2_000, 600_000],
} as const satisfies Readonly<Record<string, readonly [min: number, usual: number, max: number]>>

type ApiNumbers = Readonly<Record<keyof typeof numbers, number>>

/** The options of the HTTP face, complete. */
export interface ApiSettings extends ApiNumbers {
  readonly trustedProxies: readonly string[]
  readonly rateLimit: { readonly maxRequests: number; readonly windowMs: number } | undefined
  readonly apiKeys: { readonly keys: readonly ConfiguredApiKey[]; readonly cacheMs: number }
}

/** Completes the options with what is usual; throws where one of them can't be meant. */
export function apiSettings(options: ApiOptions = {}): ApiSettings {
  const names = Object.keys(numbers) as (keyof typeof numbers)[]
  const chosen = Object.fromEntries(names.map((name) => [name, within(`api.${name}`, options[name], numbers[name])]))
  const { rateLimit = {}, apiKeys = {}, trustedProxies = [] } = options
  const settings = {
    ...(chosen as ApiNumbers),
    trustedProxies,
    rateLimit: rateLimit === false ? undefined : rateOf(rateLimit),
    apiKeys: {
      keys: apiKeys.keys ?? [],
      cacheMs: within('api.apiKeys.cacheMs', apiKeys.cacheMs, [100, 10_000, 600_000]),
    },
  }
  for (const { id, sha256 } of settings.apiKeys.keys) {
    if (!/^[\da-f]{64}$/.test(sha256)) throw new TypeError(`api.apiKeys.keys: ${id} needs a SHA-256 of 64 digits`)
  }
  if (settings.headersTimeoutMs <= settings.requestTimeoutMs) return settings
  throw new RangeError('api.headersTimeoutMs must be at most api.requestTimeoutMs, of which it is a part')
}

function rateOf({ maxRequests, windowMs }: RateLimitOptions): { maxRequests: number; windowMs: number } {
  return {
    maxRequests: within('api.rateLimit.maxRequests', maxRequests, [1, 60_000, 1_000_000_000]),
    windowMs: within('api.rateLimit.windowMs', windowMs, [1_000, 60_000, 86_400_000]),
  }
}

function within(name: string, value: number | undefined, [min, usual, max]: readonly [number, number, number]): number {
  if (value === undefined) return usual
  if (Number.isSafeInteger(value) && value >= min && value <= max) return value
  throw new RangeError(`${name} must be a whole number from ${min} to ${max}, got ${value} (${typeof value})`)
}
