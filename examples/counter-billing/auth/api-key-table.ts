import type { Database } from '../counter/database.ts'
import type { ApiKey } from './api-key.ts'

const schema = `
SELECT pg_advisory_xact_lock(hashtext('api keys schema'));

CREATE TABLE IF NOT EXISTS api_keys (
  id text PRIMARY KEY,
  sha256 text NOT NULL,
  user_id text NOT NULL,
  name text NOT NULL,
  scopes text NOT NULL,
  max_requests int,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz
);

CREATE INDEX IF NOT EXISTS api_keys_user ON api_keys (user_id, created_at);
`

/** The most keys that a listing has. */
const maxListed = 1_000

const ms = (column: string): string => `(extract(epoch FROM ${column}) * 1000)::float8`
const columns = `id, sha256, user_id, name, scopes, max_requests,
  ${ms('created_at')} AS created_ms, ${ms('expires_at')} AS expires_ms, ${ms('revoked_at')} AS revoked_ms`

interface Row {
  readonly id: string
  readonly sha256: string
  readonly user_id: string
  readonly name: string
  readonly scopes: string
  readonly max_requests: number | null
  readonly created_ms: unknown
  readonly expires_ms: unknown
  readonly revoked_ms: unknown
}

/** API keys in PostgreSQL or PGlite. */
export class ApiKeyTable {
  readonly #database: Database

  private constructor(database: Database) {
    this.#database = database
  }

  /** Makes the table where it is missing. */
  static async open(database: Database): Promise<ApiKeyTable> {
    await database.script(schema)
    return new ApiKeyTable(database)
  }

  async find(id: string): Promise<ApiKey | undefined> {
    const [row] = await this.#database.query<Row>(`SELECT ${columns} FROM api_keys WHERE id = $1`, [id])
    return row && keyOf(row)
  }

  async add(key: Omit<ApiKey, 'createdAt' | 'revokedAt'>): Promise<ApiKey> {
    const { id, sha256, userId, name, scopes, maxRequests = null, expiresAt = null } = key
    const [row] = await this.#database.query<Row>(
      `INSERT INTO api_keys (id, sha256, user_id, name, scopes, max_requests, expires_at)
      VALUES ($1, $2, $3, $4, $5, $6, to_timestamp($7::float8 / 1000)) RETURNING ${columns}`,
      [id, sha256, userId, name, scopes.join(' '), maxRequests, expiresAt],
    )
    return keyOf(row as Row)
  }

  /** The latest keys of a user, revoked ones included. */
  async list(userId: string): Promise<ApiKey[]> {
    const statement = `SELECT ${columns} FROM api_keys WHERE user_id = $1 ORDER BY created_at DESC LIMIT ${maxListed}`
    return (await this.#database.query<Row>(statement, [userId])).map(keyOf)
  }

  /** Revokes a key; one that was revoked stays so since then. */
  async revoke(id: string): Promise<ApiKey | undefined> {
    const [row] = await this.#database.query<Row>(
      `UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1 RETURNING ${columns}`,
      [id],
    )
    return row && keyOf(row)
  }
}

function keyOf(row: Row): ApiKey {
  return {
    id: row.id,
    sha256: row.sha256,
    userId: row.user_id,
    name: row.name,
    scopes: row.scopes.split(' '),
    maxRequests: row.max_requests ?? undefined,
    createdAt: Number(row.created_ms),
    expiresAt: timeOf(row.expires_ms),
    revokedAt: timeOf(row.revoked_ms),
  }
}

function timeOf(value: unknown): number | undefined {
  return value === null ? undefined : Number(value)
}
