/** Why a token was not issued: the codes of RFC 6749, section 5.2, and `invalid_target` of RFC 8707. */
export type OAuthErrorCode =
  | 'invalid_request'
  | 'invalid_client'
  | 'unauthorized_client'
  | 'unsupported_grant_type'
  | 'invalid_scope'
  | 'invalid_target'

/** A refusal of the token endpoint. Its description names what was wrong, and repeats no secret. */
export class OAuthError extends Error {
  readonly code: OAuthErrorCode

  constructor(code: OAuthErrorCode, description: string) {
    super(description)
    this.code = code
  }

  get httpStatus(): 400 | 401 {
    return this.code === 'invalid_client' ? 401 : 400
  }

  toJSON(): { error: OAuthErrorCode; error_description: string } {
    return { error: this.code, error_description: this.message }
  }
}
