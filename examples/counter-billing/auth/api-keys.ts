import { MultiLevelCache } from 'spillway'
import type { Closable } from 'spillway/process'
import type { ConfiguredApiKey } from '../http/api-options.ts'
import { type ApiKey, idOfKey, isKey, newKey } from './api-key.ts'
import type { ApiKeyTable } from './api-key-table.ts'
import type { Caller } from './caller.ts'
import type { Scope } from './permissions.ts'
import { AccessError } from './token-verifier.ts'

/** How many keys, and how many ids of no key, a gateway remembers. */
const maxEntries = 10_000
/** For how long what was known of a key is good while the database is away, in milliseconds. */
const outageMs = 60_000

export interface ApiKeysOptions {
  /** Where keys are issued and revoked; without it, there are those of the configuration. */
  readonly table: ApiKeyTable | undefined
  readonly configured: readonly ConfiguredApiKey[]
  /** How long a gateway goes by what it knows of a key, in milliseconds. */
  readonly cacheMs: number
}

/** What a new key is to be. */
export type NewApiKey = Pick<ApiKey, 'userId' | 'name' | 'scopes' | 'maxRequests' | 'expiresAt'>

/**
 * Knows users by their API keys. A key is looked up by its id, which the cache keeps: a call with a key that is known costs a digest
 * and a look-up, and ids that there aren't cost the database one query in a while.
 */
export class ApiKeys implements Closable {
  readonly name = 'api keys'
  readonly cache: MultiLevelCache<ApiKey | null>
  readonly #table: ApiKeyTable | undefined
  readonly #configured: ReadonlyMap<string, ApiKey>
  readonly #counts = { accepted: 0, refused: 0 }

  constructor({ table, configured, cacheMs }: ApiKeysOptions) {
    this.#table = table
    this.#configured = new Map(configured.map((key) => [key.id, { ...key, name: 'configured', createdAt: 0 }]))
    this.cache = new MultiLevelCache<ApiKey | null>({
      name: 'api-keys',
      l1: { maxEntries, ttlMs: cacheMs },
      ttlMs: cacheMs,
      negativeTtlMs: cacheMs,
      serveStaleOnErrorMs: outageMs,
    })
  }

  /** Whether keys can be issued here. */
  get canIssue(): boolean {
    return this.#table !== undefined
  }

  /**
   * Checks the key of a call.
   *
   * @returns the user at once where the key is known, else a promise of him.
   * @throws AccessError - at once, or as a rejection.
   */
  check(key: string, scope: Scope | undefined): Caller | Promise<Caller> {
    const id = idOfKey(key)
    if (id === undefined) return this.#refuse('invalid_api_key', 'the API key is malformed', scope)
    const known = this.cache.peek(id)
    return known === undefined ? this.#checkNew(id, key, scope) : this.#admit(known, key, scope)
  }

  /** Makes a key, which is in the answer and nowhere else. */
  async issue(wanted: NewApiKey): Promise<{ readonly key: string; readonly record: ApiKey }> {
    const { id, key, sha256 } = newKey()
    return { key, record: await this.#issuing.add({ ...wanted, id, sha256 }) }
  }

  list(userId: string): Promise<ApiKey[]> {
    return this.#issuing.list(userId)
  }

  /** Revokes a key: here at once, at other gateways when they look again. */
  async revoke(id: string): Promise<ApiKey | undefined> {
    const revoked = await this.#issuing.revoke(id)
    await this.cache.delete(id)
    return revoked
  }

  /** Calls that were let in with a key and that were refused. */
  stats(): { accepted: number; refused: number; keys: number } {
    return { ...this.#counts, keys: this.cache.stats().l1.entries }
  }

  async close(): Promise<void> {
    await this.cache.close()
  }

  get #issuing(): ApiKeyTable {
    if (this.#table === undefined) throw new Error('there is no database to keep API keys in')
    return this.#table
  }

  async #checkNew(id: string, key: string, scope: Scope | undefined): Promise<Caller> {
    let found: ApiKey | null
    try {
      found = await this.cache.getOrLoad(id, () => this.#find(id))
    } catch (error) {
      throw new AccessError('unavailable', 'API keys are out of reach', undefined, { cause: error })
    }
    return this.#admit(found, key, scope)
  }

  /** `null` is remembered, too. */
  async #find(id: string): Promise<ApiKey | null> {
    return this.#configured.get(id) ?? (await this.#table?.find(id)) ?? null
  }

  #admit(known: ApiKey | null, key: string, scope: Scope | undefined): Caller {
    // Who doesn't have the secret learns nothing of the key.
    if (known === null || !isKey(key, known)) return this.#refuse('invalid_api_key', 'there is no such API key', scope)
    if (known.revokedAt !== undefined) return this.#refuse('invalid_api_key', 'the API key was revoked', scope)
    if (known.expiresAt !== undefined && known.expiresAt <= Date.now())
      return this.#refuse('invalid_api_key', 'the API key has expired', scope)
    if (scope !== undefined && !known.scopes.includes(scope))
      return this.#refuse('insufficient_scope', `API key ${known.id} doesn't allow ${scope}`, scope)
    this.#counts.accepted++
    return { kind: 'user', name: known.userId, key: known.id, maxRequests: known.maxRequests }
  }

  #refuse(code: AccessError['code'], message: string, scope: Scope | undefined): never {
    this.#counts.refused++
    throw new AccessError(code, message, scope)
  }
}
