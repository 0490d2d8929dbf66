import { type TokenAudience, TokenCache, type TokenGrant, tokenAudienceKey } from 'spillway'
import type { Log } from '../counter/counters.ts'
import { text } from '../counter/counters.ts'
import { logToStderr } from '../running.ts'
import type { Audience, ClientId, Scope } from './permissions.ts'
import type { IssuedToken } from './token-issuer.ts'
import { basicCredentials } from './token-request.ts'

/** Who a service is at the auth service. */
export interface AuthClient {
  /** The auth service: `http://host:port`. */
  readonly url: string
  readonly clientId: ClientId
  readonly clientSecret: string
}

/** Whom a token is for, and what it is to allow there. */
export interface WantedToken extends TokenAudience {
  readonly audience: Audience
  readonly scopes: readonly Scope[]
}

/** The tokens of a service, one for each audience and set of scopes: fetched when first needed, and again before they expire. */
export type ServiceTokens = TokenCache<WantedToken>

export function serviceTokens(client: AuthClient, log: Log = logToStderr): ServiceTokens {
  const tokens = new TokenCache<WantedToken>((wanted, { signal }) => fetchToken(client, wanted, signal), {
    name: `tokens-of-${client.clientId}`,
    keyOf: tokenAudienceKey,
  })
  tokens.on('refreshFailed', ({ error }) => log('warn', `${client.clientId} got no token: ${text(error)}`))
  return tokens
}

/** The token endpoint's no. */
class TokenRefused extends Error {
  readonly status: number
  /** RFC 6749, section 5.2. */
  readonly error: string | undefined
  readonly retryAfterMs: number | undefined

  constructor(status: number, answer: { error?: string; error_description?: string }, retryAfter: string | null) {
    super(`the auth service answered ${status}${answer.error ? ` ${answer.error}: ${answer.error_description}` : ''}`)
    this.status = status
    this.error = answer.error
    this.retryAfterMs = retryAfter === null ? undefined : Number(retryAfter) * 1_000 || undefined
  }
}

async function fetchToken(
  { url, clientId, clientSecret }: AuthClient,
  { audience, scopes }: WantedToken,
  signal: AbortSignal,
): Promise<TokenGrant> {
  const response = await fetch(new URL('/oauth/token', url), {
    method: 'POST',
    headers: { authorization: basicCredentials(clientId, clientSecret) },
    body: new URLSearchParams({ grant_type: 'client_credentials', audience, scope: scopes.join(' ') }),
    // Credentials go where they were meant to go, or nowhere.
    redirect: 'error',
    signal,
  })
  const answer = (await response.json().catch(() => ({}))) as Partial<IssuedToken> & { error?: string }
  const { access_token: token, expires_in: expiresIn } = answer
  if (!response.ok || token === undefined)
    throw new TokenRefused(response.status, answer, response.headers.get('retry-after'))
  return { token, ...(expiresIn !== undefined && { expiresInMs: expiresIn * 1_000 }) }
}
