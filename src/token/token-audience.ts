import { checkOptions, failOption } from '../core/options.js'

/** Whom a token is for and what it allows: a key that needs `keyOf`. */
export interface TokenAudience {
  /** The service that is to accept it. */
  readonly audience?: string | undefined
  /** What it allows. Neither order nor repetition matters. */
  readonly scopes?: readonly string[] | undefined
}

/**
 * The `keyOf` for keys of audience and scopes: the same text for the same audience and the same set of scopes, in whatever order.
 *
 * @throws OptionError when the audience is no string, or the scopes aren't strings.
 */
export function tokenAudienceKey(key: TokenAudience): string {
  if (key === undefined) failOption('key', 'must be an object', key)
  checkOptions('key', key)
  const { audience, scopes = [] } = key
  if (audience !== undefined && typeof audience !== 'string') failOption('audience', 'must be a string', audience)
  if (!Array.isArray(scopes)) failOption('scopes', 'must be an array', scopes)
  for (const scope of scopes) if (typeof scope !== 'string') failOption('scopes', 'must be strings', scope)
  return JSON.stringify([audience ?? null, ...[...new Set(scopes)].sort()])
}
