import { randomUUID } from 'node:crypto'
import { SignJWT } from 'jose'
import type { AuthenticatedClient, Clients } from './clients.ts'
import { OAuthError } from './oauth-error.ts'
import { type Audience, isAudience, type Scope } from './permissions.ts'
import { algorithm, type SigningKeys } from './signing-keys.ts'
import { readTokenRequest, type TokenRequest } from './token-request.ts'

/** What tokens say that they are (RFC 9068), so that no other JWT of this issuer passes for one. */
export const tokenType = 'at+jwt'

export interface TokenIssuerParts {
  /** Who the tokens say that they are from: known once it listens. */
  readonly issuer: () => string
  readonly clients: Clients
  readonly keys: SigningKeys
  readonly tokenLifeSeconds: number
}

/** An answer of the token endpoint (RFC 6749, section 5.1). */
export interface IssuedToken {
  readonly access_token: string
  readonly token_type: 'Bearer'
  readonly expires_in: number
  readonly scope: string
}

/** Issues tokens to clients for themselves: the client credentials grant (RFC 6749, section 4.4). */
export class TokenIssuer {
  readonly #parts: TokenIssuerParts
  #issued = 0
  #refused = 0

  constructor(parts: TokenIssuerParts) {
    this.#parts = parts
  }

  /**
   * Answers a request of a client.
   *
   * @param form - the body.
   * @param authorization - the header of that name.
   * @returns rejects with `OAuthError`.
   */
  async issue(form: string, authorization: string | undefined): Promise<IssuedToken> {
    try {
      const token = await this.#issue(readTokenRequest(form, authorization))
      this.#issued++
      return token
    } catch (error) {
      this.#refused++
      throw error
    }
  }

  stats(): { issued: number; refused: number } {
    return { issued: this.#issued, refused: this.#refused }
  }

  async #issue({ clientId, clientSecret, grantType, ...asked }: TokenRequest): Promise<IssuedToken> {
    const { clients, keys, issuer, tokenLifeSeconds } = this.#parts
    const client = clients.authenticate(clientId, clientSecret)
    if (client === undefined) throw new OAuthError('invalid_client', 'no such client, or another secret')
    if (grantType !== 'client_credentials') {
      throw new OAuthError('unsupported_grant_type', 'grant_type must be client_credentials')
    }
    const audience = audienceOf(client, asked.audience)
    const scope = scopesFor(client, audience, asked.scopes).join(' ')
    const { kid, privateKey } = keys.current
    const now = Date.now() / 1_000
    const token = await new SignJWT({ scope, client_id: client.id })
      .setProtectedHeader({ alg: algorithm, kid, typ: tokenType })
      .setIssuer(issuer())
      .setSubject(client.id)
      .setAudience(audience)
      .setIssuedAt(Math.floor(now))
      // In whole seconds, and never less than the client is told.
      .setExpirationTime(Math.ceil(now) + tokenLifeSeconds)
      .setJti(randomUUID())
      .sign(privateKey)
    return { access_token: token, token_type: 'Bearer', expires_in: tokenLifeSeconds, scope }
  }
}

function audienceOf({ id, grants }: AuthenticatedClient, asked: string | undefined): Audience {
  const allowed = Object.keys(grants) as Audience[]
  if (asked === undefined) {
    const [only] = allowed
    if (only !== undefined && allowed.length === 1) return only
    throw new OAuthError('invalid_request', `audience is missing; for ${id} there are ${allowed.join(', ')}`)
  }
  if (!isAudience(asked)) throw new OAuthError('invalid_target', 'there is no such audience')
  if (!allowed.includes(asked)) throw new OAuthError('unauthorized_client', `${id} has no business with ${asked}`)
  return asked
}

/** What was asked for, or all that the client may have there. */
function scopesFor({ id, grants }: AuthenticatedClient, audience: Audience, asked: readonly string[]): Scope[] {
  const allowed: readonly Scope[] = grants[audience] ?? []
  if (asked.length === 0) return [...allowed]
  const granted = allowed.filter((scope) => asked.includes(scope))
  if (granted.length === asked.length) return granted
  throw new OAuthError('invalid_scope', `at ${audience}, ${id} may have ${allowed.join(' ')}`)
}
