/** Who a token may be for, and what it may allow there. */
export const scopesOf = {
  gateway: ['counters:read', 'counters:write', 'counters:invalidate', 'billing:read', 'billing:write', 'keys:manage'],
  'counter-service': ['counters:read', 'counters:write'],
  'billing-service': ['billing:read', 'billing:write', 'usage:write'],
} as const

/** A service that takes tokens. */
export type Audience = keyof typeof scopesOf

/** What a token allows. */
export type Scope = (typeof scopesOf)[Audience][number]

/** What a client may ask for: scopes by audience. */
export type Grants = Readonly<Partial<Record<Audience, readonly Scope[]>>>

/** The clients that there are, each with what it needs and no more. */
export const clientGrants = {
  gateway: {
    'counter-service': ['counters:read', 'counters:write'],
    'billing-service': ['billing:read', 'billing:write', 'usage:write'],
  },
  // One without stores of its own asks another one.
  'counter-service': { 'counter-service': ['counters:read', 'counters:write'] },
  'load-generator': { gateway: ['counters:read', 'counters:write'] },
  'back-office': { gateway: ['counters:read', 'counters:invalidate', 'billing:read', 'billing:write', 'keys:manage'] },
} as const satisfies Readonly<Record<string, Grants>>

export type ClientId = keyof typeof clientGrants

export function isAudience(name: string): name is Audience {
  return Object.hasOwn(scopesOf, name)
}
