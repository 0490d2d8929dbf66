import { OAuthError } from './oauth-error.ts'

/** What a client asks of the token endpoint, and who it says it is. */
export interface TokenRequest {
  readonly clientId: string
  readonly clientSecret: string
  readonly grantType: string
  /** Empty where it asks for whatever it may have. */
  readonly scopes: readonly string[]
  readonly audience: string | undefined
}

/**
 * Reads a request for a token (RFC 6749, sections 2.3.1 and 4.4.2).
 *
 * @param form - the body, `application/x-www-form-urlencoded`.
 * @throws OAuthError
 */
export function readTokenRequest(form: string, authorization: string | undefined): TokenRequest {
  const parameters = new URLSearchParams(form)
  const one = (name: string): string | undefined => {
    const values = parameters.getAll(name)
    if (values.length > 1) throw new OAuthError('invalid_request', `${name} is there ${values.length} times`)
    // A parameter without a value counts as left out (section 3.2).
    return values[0] || undefined
  }
  const grantType = one('grant_type')
  if (grantType === undefined) throw new OAuthError('invalid_request', 'grant_type is missing')
  const client = readClient(one('client_id'), one('client_secret'), authorization)
  return { ...client, grantType, scopes: scopesIn(one('scope')), audience: one('audience') }
}

type ClientCredentials = Pick<TokenRequest, 'clientId' | 'clientSecret'>

function readClient(
  id: string | undefined,
  secret: string | undefined,
  authorization: string | undefined,
): ClientCredentials {
  if (authorization === undefined) {
    if (id === undefined || secret === undefined) throw new OAuthError('invalid_client', 'the client must authenticate')
    return { clientId: id, clientSecret: secret }
  }
  // One method a request (section 2.3); a client_id beside the header does no harm where it is the same.
  if (secret !== undefined)
    throw new OAuthError('invalid_request', 'a client authenticates by header or form, not both')
  const client = readBasic(authorization)
  if (id !== undefined && id !== client.clientId) {
    throw new OAuthError('invalid_request', 'client_id is another one than in the header')
  }
  return client
}

/** Id and secret are form-encoded before they are put together, so that a colon in either does no harm. */
function readBasic(authorization: string): ClientCredentials {
  const [, encoded] = /^basic +([A-Za-z0-9+/]+=*) *$/i.exec(authorization) ?? []
  const pair = encoded === undefined ? '' : Buffer.from(encoded, 'base64').toString()
  const colon = pair.indexOf(':')
  const [clientId, clientSecret] = [decoded(pair.slice(0, Math.max(0, colon))), decoded(pair.slice(colon + 1))]
  if (colon < 1 || clientId === undefined || clientSecret === undefined) {
    throw new OAuthError('invalid_client', 'the header must be Basic credentials')
  }
  return { clientId, clientSecret }
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    return undefined
  }
}

/** Words between single spaces, of the characters that section 3.3 allows. */
function scopesIn(scope: string | undefined): readonly string[] {
  if (scope === undefined) return []
  if (!/^[\x21\x23-\x5B\x5D-\x7E]+(?: [\x21\x23-\x5B\x5D-\x7E]+)*$/.test(scope)) {
    throw new OAuthError('invalid_scope', 'scope must be words between single spaces')
  }
  return [...new Set(scope.split(' '))]
}

/** Credentials as HTTP Basic carries them. */
export function basicCredentials(clientId: string, clientSecret: string): string {
  const encode = (text: string): string => encodeURIComponent(text).replaceAll('%20', '+')
  return `Basic ${Buffer.from(`${encode(clientId)}:${encode(clientSecret)}`).toString('base64')}`
}
