import { hash } from 'node:crypto'
import { createRemoteJWKSet, errors, type JWTPayload, jwtVerify, type RemoteJWKSet } from 'jose'
import { MultiLevelCache } from 'spillway'
import type { Tallies } from '../telemetry/metrics.ts'
import type { Audience, Scope } from './permissions.ts'
import { algorithm } from './signing-keys.ts'
import { tokenType } from './token-issuer.ts'

/** Where tokens come from that this service takes. */
export interface TrustedIssuer {
  /** The auth service: `http://host:port`. */
  readonly url: string
  /** What its tokens say who issued them, where that is something else. */
  readonly issuer?: string | undefined
}

export interface TokenVerifierOptions extends TrustedIssuer {
  /** Who is asked here: a token for somebody else is refused. */
  readonly audience: Audience
  /** How long the issuer's keys are kept, in milliseconds. */
  readonly keysMaxAgeMs?: number | undefined
  /** How long after the keys were fetched a token under an unknown key is refused without asking for them again, in milliseconds. */
  readonly keysCooldownMs?: number | undefined
}

/** What a token that was verified says. */
export interface VerifiedToken {
  /** Who has it. */
  readonly client: string
  readonly scopes: ReadonlySet<string>
  /** In milliseconds since the epoch. */
  readonly expiresAt: number
}

/** Why a call is not let in: no valid token or key, one that doesn't allow it, or nobody could tell. */
export class AccessError extends Error {
  readonly code: 'missing_token' | 'invalid_token' | 'invalid_api_key' | 'insufficient_scope' | 'unavailable'
  /** What would have been needed. */
  readonly scope: Scope | undefined

  constructor(code: AccessError['code'], message: string, scope?: Scope, options?: ErrorOptions) {
    super(message, options)
    this.code = code
    this.scope = scope
  }
}

const maxTokens = 10_000
/** No token of this issuer is longer: what is longer isn't worth hashing. */
const maxTokenLength = 4_096
const bearer = /^bearer +([A-Za-z0-9\-._~+/]+=*)$/i

/**
 * Verifies bearer tokens: signature, type, issuer, audience, expiry, and whether they allow what is asked. A token is verified once,
 * and what it says is kept until it expires, by its digest, so that a call costs a digest and a look-up. Tokens that were refused aren't
 * kept: whoever makes them up could fill any cache.
 */
export class TokenVerifier {
  /** What verified tokens say, by their digests. */
  readonly verified = new MultiLevelCache<VerifiedToken>({
    name: 'verified-tokens',
    l1: { maxEntries: maxTokens, ttlMs: Number.POSITIVE_INFINITY },
    ttlMs: Number.POSITIVE_INFINITY,
  })
  readonly #options: TokenVerifierOptions
  readonly #keys: RemoteJWKSet
  #accepted = 0
  #refused = 0
  #verifications = 0

  constructor(options: TokenVerifierOptions) {
    this.#options = options
    this.#keys = createRemoteJWKSet(new URL('/.well-known/jwks.json', options.url), {
      timeoutDuration: 5_000,
      cacheMaxAge: options.keysMaxAgeMs ?? 60_000,
      cooldownDuration: options.keysCooldownMs ?? 5_000,
    })
  }

  /**
   * Checks the token of a call.
   *
   * @param authorization - the header, or the metadata, of that name.
   * @returns the token at once where it has been verified before, else a promise of it.
   * @throws AccessError - at once, or as a rejection.
   */
  check(authorization: string | undefined, scope: Scope | undefined): VerifiedToken | Promise<VerifiedToken> {
    if (authorization === undefined) return this.#refuse('missing_token', 'a bearer token is needed', scope)
    if (authorization.length > maxTokenLength) return this.#refuse('invalid_token', 'no token is so long', scope)
    const key = hash('sha256', authorization, 'base64')
    const known = this.verified.peek(key)
    // Its life in the cache is by a clock that may stand still while a machine sleeps.
    if (known !== undefined && known.expiresAt > Date.now()) return this.#admit(known, scope)
    const token = bearer.exec(authorization)?.[1]
    if (token === undefined) return this.#refuse('invalid_token', 'authorization must be a bearer token', scope)
    return this.#checkNew(key, token, scope)
  }

  /** Calls that were let in and that were refused, and how many tokens that took to verify. */
  stats(): { accepted: number; refused: number; verifications: number; tokens: number } {
    return {
      accepted: this.#accepted,
      refused: this.#refused,
      verifications: this.#verifications,
      tokens: this.verified.stats().l1.entries,
    }
  }

  async close(): Promise<void> {
    await this.verified.close()
  }

  async #checkNew(key: string, token: string, scope: Scope | undefined): Promise<VerifiedToken> {
    let verified: VerifiedToken
    try {
      verified = await this.verified.getOrLoad(key, async (_key, context) => {
        const fresh = await this.#verify(token)
        context.setTtl(fresh.expiresAt - Date.now())
        return fresh
      })
    } catch (error) {
      if (error instanceof AccessError) return this.#refuse(error.code, error.message, scope)
      throw error
    }
    if (verified.expiresAt <= Date.now()) return this.#refuse('invalid_token', 'the token has expired', scope)
    return this.#admit(verified, scope)
  }

  async #verify(token: string): Promise<VerifiedToken> {
    this.#verifications++
    const { url, issuer = url, audience } = this.#options
    try {
      const { payload } = await jwtVerify(token, this.#keys, {
        algorithms: [algorithm],
        typ: tokenType,
        issuer,
        audience,
        requiredClaims: ['exp', 'sub', 'scope'],
      })
      return tokenOf(payload)
    } catch (error) {
      throw refusalOf(error)
    }
  }

  #admit(token: VerifiedToken, scope: Scope | undefined): VerifiedToken {
    if (scope !== undefined && !token.scopes.has(scope)) {
      return this.#refuse('insufficient_scope', `the token of ${token.client} doesn't allow ${scope}`, scope)
    }
    this.#accepted++
    return token
  }

  #refuse(code: AccessError['code'], message: string, scope: Scope | undefined): never {
    this.#refused++
    throw new AccessError(code, message, scope)
  }
}

/** What a verifier counts, for whoever measures. */
export function callersOf(verifier: TokenVerifier | undefined): Pick<Tallies, 'accepted_calls' | 'refused_calls'> {
  if (verifier === undefined) return {}
  return { accepted_calls: () => verifier.stats().accepted, refused_calls: () => verifier.stats().refused }
}

function tokenOf({ sub = '', scope, exp = 0 }: JWTPayload): VerifiedToken {
  return { client: sub, scopes: new Set(String(scope).split(' ')), expiresAt: exp * 1_000 }
}

/** What is wrong with a token, in words of ours: the library's may quote it. */
const reasons: Readonly<Record<string, string>> = {
  ERR_JWT_EXPIRED: 'the token has expired',
  ERR_JWT_CLAIM_VALIDATION_FAILED: 'the token is for somebody else, or from somebody else',
  ERR_JWT_INVALID: 'the token is malformed',
  ERR_JWS_INVALID: 'the token is malformed',
  ERR_JWS_SIGNATURE_VERIFICATION_FAILED: "the token's signature is wrong",
  ERR_JOSE_ALG_NOT_ALLOWED: "the token's signature is of another algorithm",
  ERR_JOSE_NOT_SUPPORTED: 'the token asks for what is not supported',
  ERR_JWKS_NO_MATCHING_KEY: 'the token is signed with an unknown key',
  ERR_JWKS_MULTIPLE_MATCHING_KEYS: "the token doesn't say which key it is signed with",
}

/** Keys that can't be had say nothing about the token. */
function refusalOf(error: unknown): AccessError {
  const reason = error instanceof errors.JOSEError ? reasons[error.code] : undefined
  if (reason !== undefined) return new AccessError('invalid_token', reason)
  return new AccessError('unavailable', 'the keys of the auth service are out of reach')
}
