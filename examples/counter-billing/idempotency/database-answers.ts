import { type Log, text } from '../counter/counters.ts'
import type { Database } from '../counter/database.ts'
import { type AnswerStore, type Begun, type Claim, keyMemoryMs, type StoredAnswer } from './answer-stores.ts'

const schema = `
SELECT pg_advisory_xact_lock(hashtext('api answers schema'));

CREATE TABLE IF NOT EXISTS api_answers (
  id text PRIMARY KEY,
  -- What was asked under the key.
  fingerprint text NOT NULL,
  -- Who is at it, and until when nobody else is.
  owner text NOT NULL,
  lease_until timestamptz NOT NULL,
  since timestamptz NOT NULL DEFAULT now(),
  -- What was answered.
  status int,
  body text
);

CREATE INDEX IF NOT EXISTS api_answers_since ON api_answers (since);
`

const interval = (parameter: string): string => `${parameter} * interval '1 millisecond'`

/** A key that is new or has expired is noted; one whose lease is over is taken over. */
const begin = `
INSERT INTO api_answers AS a (id, fingerprint, owner, lease_until) VALUES ($1, $2, $3, now() + ${interval('$4')})
ON CONFLICT (id) DO UPDATE SET
  fingerprint = EXCLUDED.fingerprint,
  owner = EXCLUDED.owner,
  lease_until = EXCLUDED.lease_until,
  since = CASE WHEN a.since <= now() - ${interval('$5')} THEN now() ELSE a.since END,
  status = NULL,
  body = NULL
WHERE a.since <= now() - ${interval('$5')}
  OR (a.status IS NULL AND a.lease_until <= now() AND a.fingerprint = EXCLUDED.fingerprint)
RETURNING (extract(epoch FROM now() - since) * 1000)::float8 AS age`

const look = `
SELECT fingerprint, status, body, (extract(epoch FROM lease_until - now()) * 1000)::float8 AS left_ms
FROM api_answers WHERE id = $1`

/** How many keys are removed at a time, so that nobody waits long for it. */
const forgottenAtOnce = 5_000

const forget = `
WITH removed AS (
  DELETE FROM api_answers WHERE id IN (
    SELECT id FROM api_answers WHERE since <= now() - ${interval('$1')} ORDER BY since LIMIT ${forgottenAtOnce}
  ) RETURNING id
)
SELECT count(*)::int AS removed FROM removed`

interface Row {
  readonly fingerprint: string
  readonly status: number | null
  readonly body: string | null
  readonly left_ms: number
}

const cleanUpEveryMs = 60_000
/** What is deleted meanwhile is new the next time. */
const attempts = 3

/** Keys in PostgreSQL or PGlite, by the clock of the database. */
export class DatabaseAnswers implements AnswerStore {
  readonly name = 'answers'
  readonly title: string
  readonly #database: Database
  readonly #cleanUp: NodeJS.Timeout
  #cleaning = Promise.resolve()
  #closed = false

  private constructor(database: Database, log: Log) {
    this.title = database.title
    this.#database = database
    const clean = (): void => {
      const cleaned = this.#cleaning.then(() => this.forget())
      this.#cleaning = cleaned.catch((error: unknown) => log('warn', `old keys are still there: ${text(error)}`))
    }
    this.#cleanUp = setInterval(clean, cleanUpEveryMs)
    this.#cleanUp.unref()
  }

  /** Makes the table where it is missing. */
  static async open(database: Database, log: Log): Promise<DatabaseAnswers> {
    await database.script(schema)
    return new DatabaseAnswers(database, log)
  }

  async begin(id: string, { fingerprint, owner, leaseMs }: Claim): Promise<Begun> {
    for (let attempt = 0; attempt < attempts; attempt++) {
      const values = [id, fingerprint, owner, leaseMs, keyMemoryMs]
      const [mine] = await this.#database.query<{ age: unknown }>(begin, values)
      if (mine !== undefined) return { state: 'yours', ageMs: Number(mine.age) }
      const [row] = await this.#database.query<Row>(look, [id])
      if (row === undefined) continue
      if (row.fingerprint !== fingerprint) return { state: 'other' }
      if (row.status === null) return { state: 'underWay', leftMs: Math.max(0, Number(row.left_ms)) }
      return { state: 'answered', answer: { status: row.status, body: JSON.parse(row.body ?? '{}') } }
    }
    throw new Error('the key comes and goes')
  }

  async finish(id: string, owner: string, { status, body }: StoredAnswer): Promise<void> {
    const statement = 'UPDATE api_answers SET status = $3, body = $4 WHERE id = $1 AND owner = $2'
    await this.#database.query(statement, [id, owner, status, JSON.stringify(body)])
  }

  async release(id: string, owner: string): Promise<void> {
    await this.#database.query('UPDATE api_answers SET lease_until = now() WHERE id = $1 AND owner = $2', [id, owner])
  }

  /** Removes keys whose time is over; it does so by itself, once a minute. */
  async forget(): Promise<void> {
    for (let removed = forgottenAtOnce; removed === forgottenAtOnce && !this.#closed; ) {
      const [row] = await this.#database.query<{ removed: number }>(forget, [keyMemoryMs])
      removed = row?.removed ?? 0
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    clearInterval(this.#cleanUp)
    await this.#cleaning
  }
}
