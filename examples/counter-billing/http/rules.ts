/** A schema whose description is the rule in words: what follows "must be" when it is broken. */
export type Rule = Readonly<Record<string, unknown>> & { readonly description: string }

/** What may be called something. */
export const namePattern = '^[A-Za-z0-9_.-]{1,64}$'

/** A name: it has no colon, so that keys can be put together of names. */
export const name: Rule = {
  type: 'string',
  pattern: namePattern,
  description: 'a string of 1 to 64 letters, digits and _ . -',
}

/** Any text that PostgreSQL can store and UTF-8 carry: no NUL, no half of a surrogate pair, and no other control character either. */
export function text(maxLength: number): Rule {
  return {
    type: 'string',
    minLength: 1,
    maxLength,
    pattern: '^[^\\p{Cc}\\p{Cs}]*$',
    description: `a string of 1 to ${maxLength} characters, none of them a control character`,
  }
}

export function whole(minimum: number, maximum: number, fallback?: number): Rule {
  return {
    type: 'integer',
    minimum,
    maximum,
    ...(fallback !== undefined && { default: fallback }),
    description: `a whole number from ${minimum} to ${maximum}`,
  }
}
