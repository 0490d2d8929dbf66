import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { type ClientId, clientGrants, type Grants } from './permissions.ts'

/** The secrets of clients, by id. */
export type ClientSecrets = Readonly<Partial<Record<ClientId, string>>>

/** A client that has shown who it is. */
export interface AuthenticatedClient {
  readonly id: string
  readonly grants: Grants
}

/** Knows clients by their secrets, of which it keeps digests alone, under a key of its own. */
export class Clients {
  readonly #key = randomBytes(32)
  readonly #digests: ReadonlyMap<string, Buffer>
  /** What a client that nobody knows is compared with: it takes as long to refuse as a wrong secret. */
  readonly #nobody = randomBytes(32)

  /** @param secrets - a client without one can't get a token. */
  constructor(secrets: ClientSecrets) {
    this.#digests = new Map(Object.entries(secrets).map(([id, secret]) => [id, this.#digest(secret)]))
  }

  authenticate(id: string, secret: string): AuthenticatedClient | undefined {
    const known = this.#digests.get(id)
    const same = timingSafeEqual(this.#digest(secret), known ?? this.#nobody)
    if (known === undefined || !same || !isClientId(id)) return undefined
    return { id, grants: clientGrants[id] }
  }

  #digest(secret: string): Buffer {
    return createHmac('sha256', this.#key).update(secret).digest()
  }
}

export function isClientId(id: string): id is ClientId {
  return Object.hasOwn(clientGrants, id)
}

/** Secrets that nobody else knows, for a service and its clients in one process. */
export function randomSecrets(): Readonly<Record<ClientId, string>> {
  const ids = Object.keys(clientGrants) as ClientId[]
  return Object.fromEntries(ids.map((id) => [id, randomBytes(32).toString('base64url')])) as Record<ClientId, string>
}
