import type { ComponentOptions } from '../core/component.js'
import type { RetryOptions } from '../core/retry.js'

/** What `fetchToken` answers: a token, and until when it may be used. */
export interface TokenGrant {
  /** The token: printable ASCII without a blank at either end, so that a header can carry it. */
  readonly token: string
  /** When it expires, as a date or in milliseconds since the epoch. A number that looks like seconds is an error. */
  readonly expiresAt?: number | Date | undefined
  /**
   * How long it lives, in milliseconds from the start of the request that fetched it. Together with `expiresAt`, the earlier counts;
   * without either, `defaultTtlMs`.
   */
  readonly expiresInMs?: number | undefined
}

/** What `fetchToken` is given beside its key. */
export interface TokenContext {
  /** Aborts after `timeoutMs`, when nobody wants the token any more, and at the deadline of `close`. */
  readonly signal: AbortSignal
  /** The token that this one is to replace, be it valid, expired or invalidated; undefined for the first of its key. */
  readonly previous: string | undefined
}

/** Fetches the token of a key. */
export type FetchToken<K> = (key: K, context: TokenContext) => TokenGrant | PromiseLike<TokenGrant>

/** What `get` takes beside its key. */
export interface TokenGetOptions {
  /** Ends the wait of this caller, and of nobody else. */
  signal?: AbortSignal | undefined
}

/** Options of `TokenCache`. */
export interface TokenCacheOptions<K> extends ComponentOptions {
  /**
   * The text under which a key's token is kept: keys with the same text share a token. It is needed where keys aren't strings; without
   * it, `get()` means the key `''`, and with it whatever it makes of undefined.
   */
  keyOf?: ((key: K) => string) | undefined
  /**
   * How long a token lives of which `fetchToken` says nothing, in milliseconds from the start of its request; Infinity for one that is
   * good until a server refuses it.
   * @defaultValue 3_600_000
   */
  defaultTtlMs?: number | undefined
  /**
   * How long before its expiry a token is refreshed behind its callers, in milliseconds; never more than half of its life. It happens
   * when somebody asks for the token within that time: nothing is fetched for a key that nobody uses.
   * @defaultValue 600_000
   */
  refreshAheadMs?: number | undefined
  /**
   * How long before its expiry callers wait for the refresh instead, in milliseconds; never more than a tenth of its life. Where the
   * refresh fails, they get the token that is still valid.
   * @defaultValue 60_000
   */
  mandatoryMs?: number | undefined
  /**
   * The share of `refreshAheadMs` by which the refresh of each token comes later, at random, so that processes which started together
   * don't fetch together.
   * @defaultValue 0.1
   */
  jitter?: number | undefined
  /**
   * How long a fetch may take, in milliseconds. Its signal aborts then and its callers get a `TimeoutError`; what it brings later isn't
   * used.
   * @defaultValue 10_000
   */
  timeoutMs?: number | undefined
  /**
   * How many keys it keeps tokens of. The one that was asked for least recently goes first.
   * @defaultValue 1000
   */
  capacity?: number | undefined
  /**
   * How long a token that replaced an invalidated one can't be invalidated itself, in milliseconds: a server that refuses every token
   * then costs one fetch in this time, not one a request. 0 takes every invalidation at its word.
   * @defaultValue 5000
   */
  invalidateCooldownMs?: number | undefined
  /**
   * Whether an error of `fetchToken` will come again however often it is tried: wrong credentials rather than a server that is down. By
   * default it is one that says `retryable: false`, OAuth's `invalid_client`, `invalid_grant`, `unauthorized_client` or `invalid_scope`, or a
   * status of 400, 401 or 403; `retryable: true` says otherwise.
   */
  isTerminal?: ((error: unknown) => boolean) | undefined
  /**
   * How long callers without a valid token get the same terminal error instead of another fetch, in milliseconds. 0 lets each call
   * try at once.
   * @defaultValue 1000
   */
  terminalCooldownMs?: number | undefined
  /**
   * How long a refresh that failed is put off while the token is valid: at random from 0 to `delayMs`, doubling with each failure up
   * to `maxDelayMs`, and never less than the error's `retryAfterMs`.
   * @defaultValue { delayMs: 1000, maxDelayMs: 60_000 }
   */
  retry?: TokenRetryOptions | undefined
}

/** How long a failed refresh is put off. */
export type TokenRetryOptions = Pick<RetryOptions, 'delayMs' | 'maxDelayMs'>

/** What `get` takes: the key may be left out where keys are strings, or may be undefined. */
export type TokenGetArguments<K> = string extends K
  ? [key?: K, options?: TokenGetOptions]
  : undefined extends K
    ? [key?: K, options?: TokenGetOptions]
    : [key: K, options?: TokenGetOptions]

/** Options of a `TokenCache` whose keys aren't strings. */
export interface KeyedTokenCacheOptions<K> extends TokenCacheOptions<K> {
  /** The text under which a key's token is kept: keys with the same text share a token. */
  keyOf: (key: K) => string
}

/** What the constructor takes beside `fetchToken`: keys that aren't strings need `keyOf`. */
export type TokenCacheSetting<K> = [K] extends [string]
  ? [options?: TokenCacheOptions<K>]
  : [options: KeyedTokenCacheOptions<K>]

/** The tokens of one key, as what makes requests asks for them: it fits `spillway/http` and `spillway/grpc`. */
export interface TokenSource {
  /** The token to use now. */
  get(key?: undefined, options?: TokenGetOptions): Promise<string>
  /** Learns that a server refused a token. */
  invalidate(token: string): void
}
