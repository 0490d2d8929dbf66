import { maxUsage } from '../../internal/usage.js'
import { schemaLock } from './make-tables.js'
import { quoteName } from './table-name.js'
import { partitionsAhead } from './usage-partitions.js'

/** What is appended to the batches' table for its index. */
export const batchIndexSuffix = '_applied_at'
/** What is appended to the holds' table for its indexes, and how long the longest of it is. */
export const holdIndexSuffixes = { key: '_key', expiry: '_expires_at', over: '_over_at' } as const

/** The names of a sink's tables, as the user gave them. */
export interface UsageTableNames {
  readonly schema: string | undefined
  readonly usage: string
  readonly batches: string
  /** The ids of requests and events; undefined where only batches are told apart. */
  readonly requests: string | undefined
  /** The reservations; undefined for a sink that knows none. */
  readonly holds: string | undefined
}

/** The same, quoted and with the schema. */
export interface UsageTables {
  readonly usage: string
  readonly batches: string
  readonly requests: string
  readonly holds: string
}

export function qualify({ schema, usage, batches, requests, holds }: UsageTableNames): UsageTables {
  const prefix = schema === undefined ? '' : `${quoteName(schema)}.`
  const name = (table: string | undefined): string => (table === undefined ? '' : prefix + quoteName(table))
  return { usage: name(usage), batches: name(batches), requests: name(requests), holds: name(holds) }
}

/** The statements that make the tables, to be run in one transaction. */
export function usageSchema(names: UsageTableNames): string {
  const { usage, batches, requests, holds } = qualify(names)
  const text = 'text COLLATE "C" NOT NULL'
  const amount = (column: string): string =>
    `${column} double precision NOT NULL DEFAULT 0 CHECK (${column} BETWEEN 0 AND ${maxUsage})`
  let schema = `SELECT pg_advisory_xact_lock(${schemaLock});
CREATE TABLE IF NOT EXISTS ${usage} (
  user_id ${text},
  quota_type ${text},
  period ${text},
  ${amount('value')},
  count bigint NOT NULL DEFAULT 0,
  ${amount('held')},
  holds integer NOT NULL DEFAULT 0 CHECK (holds >= 0),
  PRIMARY KEY (user_id, quota_type, period)
);
CREATE TABLE IF NOT EXISTS ${batches} (
  id text COLLATE "C" PRIMARY KEY,
  refused jsonb,
  applied_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS ${quoteName(names.batches + batchIndexSuffix)} ON ${batches} (applied_at);
`
  if (names.requests !== undefined) {
    schema += `CREATE TABLE IF NOT EXISTS ${requests} (
  id ${text},
  user_id ${text},
  quota_type ${text},
  day date NOT NULL,
  PRIMARY KEY (id, user_id, quota_type, day)
) PARTITION BY RANGE (day);
${partitionsAhead({ name: names.requests, qualified: requests })}
`
  }
  if (names.holds !== undefined) {
    const index = (suffix: string, columns: string, condition: string): string =>
      `CREATE INDEX IF NOT EXISTS ${quoteName(names.holds + suffix)} ON ${holds} (${columns}) WHERE ${condition};`
    schema += `CREATE TABLE IF NOT EXISTS ${holds} (
  id text COLLATE "C" PRIMARY KEY,
  user_id ${text},
  quota_type ${text},
  period ${text},
  value double precision NOT NULL CHECK (value BETWEEN 0 AND ${maxUsage}),
  claim_limit double precision NOT NULL,
  state text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'expired', 'settled', 'released')),
  expires_at timestamptz NOT NULL,
  over_at timestamptz,
  actual double precision
);
${index(holdIndexSuffixes.key, 'user_id, quota_type, period, expires_at', `state = 'held'`)}
${index(holdIndexSuffixes.expiry, 'expires_at', `state = 'held'`)}
${index(holdIndexSuffixes.over, 'over_at', `state <> 'held'`)}
`
  }
  return schema
}

/** Every statement that counts usage. */
export interface UsageStatements {
  /** A batch by its totals: id, users, quota types, periods, values, counts. */
  readonly totals: string
  /**
   * A batch by its events: id; of each event the user, quota type and period, what tells it apart (null for none), its day since the
   * epoch, another day on which it is noted too (null for none) and its value; for how many days, and over how many days events are
   * told apart. It divides by zero, and so is rolled back, when a sum is refused.
   */
  readonly events: string
  /** The same, with what is refused left out. Their ids are noted all the same, and must be removed in the same transaction. */
  readonly eventsThatFit: string
  /** Removes ids of events: ids, users, quota types, days since the epoch. */
  readonly forgetEvents: string
  /** What a batch id was answered. */
  readonly recall: string
  /** The sums of keys, in their order: users, quota types, periods. */
  readonly read: string
  /** Removes some batch ids that are old enough: their age, how many. */
  readonly forgetBatches: string
}

/** Writes the statements for some tables. */
export function usageStatements({ usage, batches, requests }: UsageTables): UsageStatements {
  const isNew = `NOT EXISTS (SELECT FROM ${batches} WHERE id = $1)`
  const key = 'user_id, quota_type, period'
  // Every batch takes its rows in the same order, so that no two of them can wait for each other.
  const upsert = (source: string, condition: (sum: string) => string): string => `applied AS (
    INSERT INTO ${usage} AS total (${key}, value, count)
    SELECT ${key}, value, count FROM ${source} AND ${condition('value')} ORDER BY ${key}
    ON CONFLICT (${key}) DO UPDATE SET value = total.value + excluded.value, count = total.count + excluded.count
    WHERE ${condition('total.value + excluded.value')}
    RETURNING ${key}
  )`
  const fits = (sum: string): string => `${sum} <= ${maxUsage}`
  const answers = (
    counted: string,
  ): string => `SELECT refused::text, ${counted} AS counted, false AS repeated FROM remembered
  UNION ALL SELECT refused::text, NULL, true FROM ${batches} WHERE id = $1`
  const today = `(clock_timestamp() AT TIME ZONE 'UTC')::date`
  const texts = (columns: string): string => columns.replaceAll(/\w+/g, '$& COLLATE "C" AS $&')
  const mark = 'id, user_id, quota_type'
  const isWithin = (day: string): string => `abs(${day} - today.day) <= $9::integer`
  // Nobody knows beforehand how many rows an array has, so there are no joins here that a plan for few could make slow for many.
  const events = (condition: (sum: string) => string): string => `WITH today AS MATERIALIZED (SELECT ${today} AS day
  ), event AS MATERIALIZED (
    SELECT ${texts(`${mark}, period`)}, date 'epoch' + days AS day, date 'epoch' + other_days AS other_day, value, position
    FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::integer[], $8::float8[])
      WITH ORDINALITY AS event (${key}, id, days, other_days, value, position) WHERE ${isNew}
  ), unknown AS MATERIALIZED (
    SELECT event.*, ${isWithin('event.day')} AS within, other_day IS NOT NULL AND ${isWithin('other_day')} AS twice
    FROM event CROSS JOIN today
    LEFT JOIN LATERAL (
      SELECT true AS known FROM ${requests} AS request
      WHERE request.id = event.id AND request.user_id = event.user_id AND request.quota_type = event.quota_type
      AND request.day BETWEEN event.day - $10::integer AND event.day + $10::integer
      LIMIT 1
    ) AS earlier ON true
    WHERE id IS NOT NULL AND known IS NULL
  ), first AS MATERIALIZED (
    SELECT DISTINCT ON (${mark}) * FROM unknown WHERE within ORDER BY ${mark}, position
  ), noted AS (
    INSERT INTO ${requests} (${mark}, day)
    SELECT ${mark}, day FROM first UNION ALL SELECT ${mark}, other_day FROM first WHERE twice ORDER BY ${mark}, day
    ON CONFLICT DO NOTHING RETURNING ${mark}
  ), counted AS MATERIALIZED (
    SELECT user_id, quota_type, max(period) AS period, max(position) AS position, max(value) AS value FROM (
      SELECT ${mark}, period, position, value, 1 + twice::integer AS missing FROM first
      UNION ALL SELECT ${mark}, NULL, NULL, NULL, -1 FROM noted
    ) AS either GROUP BY ${mark} HAVING sum(missing) = 0
    UNION ALL SELECT ${key}, position, value FROM event WHERE id IS NULL
  ), total AS MATERIALIZED (
    SELECT ${key}, sum(value) AS value, count(*) AS count FROM counted GROUP BY ${key}
  ), ${upsert('total WHERE true', condition)}, verdict AS MATERIALIZED (
    SELECT CASE WHEN (SELECT count(*) FROM applied) < (SELECT count(*) FROM total) THEN (
      SELECT jsonb_agg(position) FROM counted WHERE (${key}) NOT IN (SELECT ${key} FROM applied)
    ) END AS beyond, (SELECT jsonb_agg(position) FROM unknown WHERE NOT within) AS outside
  ), remembered AS (
    INSERT INTO ${batches} (id, refused)
    SELECT $1, CASE WHEN beyond IS NOT NULL OR outside IS NOT NULL THEN
      jsonb_strip_nulls(jsonb_build_object('beyond', beyond, 'outside', outside))
    END FROM verdict WHERE ${isNew}
    RETURNING refused
  )
  ${answers('(SELECT count(*) FROM counted)::text')}`
  return {
    totals: `WITH total AS MATERIALIZED (
    SELECT ${texts(key)}, value, count, place
    FROM unnest($2::text[], $3::text[], $4::text[], $5::float8[], $6::bigint[]) WITH ORDINALITY AS total (${key}, value, count, place)
  ), ${upsert(`total WHERE ${isNew}`, fits)}, remembered AS (
    INSERT INTO ${batches} (id, refused)
    SELECT $1, CASE WHEN (SELECT count(*) FROM applied) < (SELECT count(*) FROM total) THEN (
      SELECT jsonb_build_object('totals', jsonb_agg(place)) FROM total WHERE (${key}) NOT IN (SELECT ${key} FROM applied)
    ) END WHERE ${isNew}
    RETURNING refused
  )
  ${answers('NULL')}`,
    events: events((sum) => `CASE WHEN ${fits(sum)} THEN true ELSE 1 / (total.count - total.count) = 0 END`),
    eventsThatFit: events(fits),
    forgetEvents: `DELETE FROM ${requests} AS request USING unnest($1::text[], $2::text[], $3::text[], $4::integer[]) AS old (id, user_id, quota_type, day)
    WHERE request.id = old.id AND request.user_id = old.user_id AND request.quota_type = old.quota_type
    AND request.day = date 'epoch' + old.day`,
    recall: `SELECT refused::text, NULL AS counted, true AS repeated FROM ${batches} WHERE id = $1`,
    read: `SELECT coalesce(usage.value, 0)::text AS value, coalesce(usage.count, 0)::text AS count
    FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS key (${key}, place)
    LEFT JOIN ${usage} AS usage USING (${key}) ORDER BY place`,
    forgetBatches: `WITH old AS (
    SELECT id FROM ${batches} WHERE applied_at < now() - $1::float8 * interval '1 millisecond'
    ORDER BY applied_at LIMIT $2 FOR UPDATE SKIP LOCKED
  ), forgotten AS (
    DELETE FROM ${batches} WHERE id IN (SELECT id FROM old) RETURNING id
  )
  SELECT count(*)::int AS removed FROM forgotten`,
  }
}
