import { maxUsage } from '../../internal/usage.js'
import { midnightMarginMs } from './usage-batch.js'
import type { UsageTables } from './usage-statements.js'

/**
 * Every statement of a quota store.
 *
 * Those that change something lock the row of the key first. From then on nobody else changes it or its holds, and what was locked
 * is the latest, whatever came before; all else in the statement is as it was when the statement began. `stale` says whether
 * somebody changed the key in between, so that an id that wasn't known then may be known now.
 *
 * Whoever needs a hold or notes a new id takes the key's row before that, so no two of them wait for each other in a circle. That is
 * why a key has its row before anything is claimed of it.
 */
export interface QuotaStatements {
  /** Makes a key's row, where there is none: user, quota type, period. */
  readonly open: string
  /** A use that must fit: request, user, quota type, period, value, limit. */
  readonly consume: string
  /** Whether a request is known: request, user, quota type. */
  readonly recallRequest: string
  /** A hold that must fit: id, user, quota type, period, value, limit, time to live in milliseconds, the limit of its settlement. */
  readonly reserve: string
  /** What became of a reservation: id, user, quota type, period, value. */
  readonly recallHold: string
  /** A hold that becomes a use: id, value. No row where it is unknown. */
  readonly settle: string
  /** A hold that is given back: id. */
  readonly release: string
  /** What is used and held, in the order of the keys: users, quota types, periods. */
  readonly read: string
  /** Takes some of the holds that have expired out of what is held: how many. */
  readonly expire: string
  /** Removes some of the holds that are over for long enough: how long in milliseconds, how many. */
  readonly forgetHolds: string
}

/** Of the statement: not volatile, so that an index can answer what has expired. */
const now = 'statement_timestamp()'
const millisecond = `interval '1 millisecond'`
const key = 'user_id, quota_type, period'

/** Around midnight both days: whoever consumes or writes a request at the same time then meets one of them. */
const requestDays = `SELECT DISTINCT (clock_timestamp() AT TIME ZONE 'UTC' + margin * ${millisecond})::date AS day
    FROM unnest(ARRAY[-${midnightMarginMs}, ${midnightMarginMs}]) AS margin`

const expiresAtText = 'floor(extract(epoch FROM expires_at) * 1000)::bigint::text AS expires_at'

/** Writes the statements for some tables. */
export function quotaStatements(tables: UsageTables): QuotaStatements {
  const { usage, requests, holds } = tables
  const isRequest = 'id = $1 AND user_id = $2 AND quota_type = $3'
  const isSame = `(${key}, value) = ($2, $3, $4, $5::float8) AND state = 'held' AND expires_at > ${now} AS same`
  const fits = atMost('used + held + $5::float8', '$6::float8')
  const when = (status: string, value: string): string => `CASE status WHEN '${status}' THEN ${value} ELSE 0 END`
  const answer = `SELECT status, coalesce(written.value, used)::text AS used, coalesce(written.held, current.held)::text AS held,
    stale`
  return {
    open: `INSERT INTO ${usage} (${key}) VALUES ($1, $2, $3) ON CONFLICT (${key}) DO NOTHING`,

    consume: `WITH ${current(tables)}, known AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM ${requests} WHERE ${isRequest}) AS known
  ), day AS MATERIALIZED (${requestDays}
  ), noted AS (
    INSERT INTO ${requests} (id, user_id, quota_type, day)
    SELECT $1, $2, $3, day FROM current, known, day WHERE found AND NOT known AND ${fits} ORDER BY day
    ON CONFLICT DO NOTHING RETURNING day
  ), verdict AS MATERIALIZED (
    SELECT CASE WHEN known THEN 'repeated' WHEN NOT (${fits}) THEN 'exceeded' WHEN NOT found THEN 'absent'
      WHEN (SELECT count(*) FROM noted) = (SELECT count(*) FROM day) THEN 'applied' ELSE 'repeated' END AS status
    FROM current, known
  ), ${written(usage, { value: when('applied', '$5::float8'), count: when('applied', '1') })}
  ${answer} FROM verdict, current LEFT JOIN written ON true`,

    recallRequest: `SELECT EXISTS (SELECT FROM ${requests} WHERE ${isRequest}) AS known`,

    reserve: `WITH ${current(tables)}, earlier AS MATERIALIZED (
    SELECT ${isSame}, expires_at FROM ${holds} WHERE id = $1
  ), made AS (
    INSERT INTO ${holds} (id, ${key}, value, claim_limit, expires_at)
    SELECT $1, $2, $3, $4, $5::float8, $8::float8, clock_timestamp() + $7::float8 * ${millisecond}
    FROM current WHERE found AND NOT EXISTS (SELECT FROM earlier) AND ${fits}
    ON CONFLICT (id) DO NOTHING RETURNING expires_at
  ), verdict AS MATERIALIZED (
    SELECT CASE WHEN same THEN 'repeated' WHEN same IS NOT NULL THEN 'conflict' WHEN made.expires_at IS NOT NULL THEN 'held'
      WHEN NOT (${fits}) THEN 'exceeded' WHEN NOT found THEN 'absent' ELSE 'taken' END AS status,
      CASE WHEN same THEN earlier.expires_at ELSE made.expires_at END AS expires_at
    FROM current LEFT JOIN earlier ON true LEFT JOIN made ON true
  ), ${written(usage, { held: when('held', '$5::float8'), holds: when('held', '1') })}
  ${answer}, ${expiresAtText} FROM verdict, current LEFT JOIN written ON true`,

    recallHold: `SELECT ${isSame}, ${expiresAtText} FROM ${holds} WHERE id = $1`,
    settle: settle(tables),

    release: `WITH ${lockedHold(tables)}, released AS (
    UPDATE ${holds} SET state = 'released', over_at = ${now}
    WHERE id = $1 AND (SELECT state FROM hold) IN ('held', 'expired') RETURNING id
  ), written AS (
    UPDATE ${usage} AS total SET held = ${heldLess('1', 'hold.value')}, holds = holds - 1
    FROM hold JOIN released USING (id)
    WHERE (total.user_id, total.quota_type, total.period) = (SELECT ${key} FROM locked) AND hold.state = 'held'
  )
  SELECT count(*)::int AS released FROM released`,

    read: `SELECT coalesce(total.value, 0)::text AS used,
    coalesce(CASE WHEN holds = lapsed.count THEN 0 ELSE greatest(0, held - lapsed.value) END, 0)::text AS held
    FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS key (${key}, place)
    LEFT JOIN ${usage} AS total USING (${key})
    LEFT JOIN LATERAL (
      SELECT coalesce(sum(hold.value), 0) AS value, count(*) AS count FROM ${holds} AS hold
      WHERE hold.user_id = total.user_id AND hold.quota_type = total.quota_type AND hold.period = total.period
      AND total.holds > 0 AND state = 'held' AND expires_at <= ${now}
    ) AS lapsed ON true
    ORDER BY place`,

    expire: `WITH due AS MATERIALIZED (
    SELECT ${key} FROM ${holds} WHERE state = 'held' AND expires_at <= ${now} ORDER BY expires_at LIMIT $1
  ), locked AS MATERIALIZED (
    SELECT ${key} FROM ${usage} WHERE (${key}) IN (SELECT ${key} FROM due) ORDER BY ${key} FOR NO KEY UPDATE SKIP LOCKED
  ), expired AS (
    UPDATE ${holds} AS hold SET state = 'expired', over_at = expires_at FROM locked
    WHERE hold.user_id = locked.user_id AND hold.quota_type = locked.quota_type AND hold.period = locked.period
    AND state = 'held' AND expires_at <= ${now}
    RETURNING hold.user_id, hold.quota_type, hold.period, hold.value
  ), lapsed AS MATERIALIZED (
    SELECT ${key}, sum(value) AS value, count(*)::integer AS count FROM expired GROUP BY ${key}
  ), written AS (
    UPDATE ${usage} AS total SET held = ${heldLess('lapsed.count', 'lapsed.value')}, holds = holds - lapsed.count FROM lapsed
    WHERE total.user_id = lapsed.user_id AND total.quota_type = lapsed.quota_type AND total.period = lapsed.period
  )
  SELECT count(*)::int AS removed FROM expired`,

    forgetHolds: `WITH old AS (
    SELECT id FROM ${holds} WHERE state <> 'held' AND over_at < ${now} - $1::float8 * ${millisecond}
    ORDER BY over_at LIMIT $2 FOR UPDATE SKIP LOCKED
  ), forgotten AS (
    DELETE FROM ${holds} WHERE id IN (SELECT id FROM old) RETURNING id
  )
  SELECT count(*)::int AS removed FROM forgotten`,
  }
}

function atMost(sum: string, limit: string): string {
  return `${sum} <= least(${limit}, ${maxUsage})`
}

/** What a row holds without some of it. Sums of fractions leave traces: where there is no hold any more, it is nothing. */
function heldLess(count: string, sum: string): string {
  return `CASE WHEN holds = ${count} THEN 0 ELSE greatest(0, held - (${sum})) END`
}

/** Locks a key's row, takes the holds out of it that have expired, and says what is left: `used`, `held`, `holds`. */
function current({ usage, holds }: UsageTables): string {
  const ofKey = 'user_id = $2 AND quota_type = $3 AND period = $4'
  return `before AS MATERIALIZED (
    SELECT xmin::text AS version FROM ${usage} WHERE ${ofKey}
  ), locked AS MATERIALIZED (
    SELECT value, held, holds, xmin::text AS version FROM ${usage} WHERE ${ofKey} FOR NO KEY UPDATE
  ), expired AS (
    UPDATE ${holds} SET state = 'expired', over_at = expires_at
    WHERE (SELECT holds FROM locked) > 0 AND ${ofKey} AND state = 'held' AND expires_at <= ${now}
    RETURNING value
  ), lapsed AS MATERIALIZED (
    SELECT coalesce(sum(value), 0) AS value, count(*)::integer AS count FROM expired
  ), current AS MATERIALIZED (
    SELECT coalesce(locked.value, 0) AS used, coalesce(${heldLess('lapsed.count', 'lapsed.value')}, 0) AS held,
      coalesce(holds, 0) - lapsed.count AS holds, lapsed.count AS lapsed, version IS NOT NULL AS found,
      version IS NULL OR version IS DISTINCT FROM (SELECT version FROM before) AS stale
    FROM lapsed LEFT JOIN locked ON true
  )`
}

/** Adds to the row of a key, and takes out what has expired. */
function written(usage: string, added: { value?: string; count?: string; held?: string; holds?: string }): string {
  const { value = '0', count = '0', held = '0', holds = '0' } = added
  return `written AS (
    UPDATE ${usage} AS total SET value = total.value + added.value, count = total.count + added.count,
      held = current.held + added.held, holds = current.holds + added.holds
    FROM current, (
      SELECT ${value} AS value, ${count} AS count, ${held} AS held, ${holds} AS holds FROM verdict
    ) AS added
    WHERE total.user_id = $2 AND total.quota_type = $3 AND total.period = $4
    AND (current.lapsed > 0 OR added.count + added.holds > 0)
    RETURNING total.value, total.held
  )`
}

/** Locks the row of a hold's key, and then the hold. */
function lockedHold({ usage, holds }: UsageTables): string {
  return `locked AS MATERIALIZED (
    SELECT total.* FROM ${holds} AS hold JOIN ${usage} AS total USING (${key})
    WHERE hold.id = $1 FOR NO KEY UPDATE OF total
  ), hold AS MATERIALIZED (
    SELECT hold.* FROM ${holds} AS hold, locked WHERE hold.id = $1 FOR NO KEY UPDATE OF hold
  )`
}

/** `others` is what the key has without this hold and without what has expired; `own` is what this one still holds. */
function settle(tables: UsageTables): string {
  const { usage, holds } = tables
  const ofKey = `(${key}) = (SELECT ${key} FROM locked)`
  const settled = (yes: string, no: string): string => `CASE status WHEN 'settled' THEN ${yes} ELSE ${no} END`
  return `WITH ${lockedHold(tables)}, own AS MATERIALIZED (
    SELECT CASE state WHEN 'held' THEN value ELSE 0 END AS own, CASE state WHEN 'held' THEN 1 ELSE 0 END AS owns FROM hold
  ), expired AS (
    UPDATE ${holds} SET state = 'expired', over_at = expires_at
    WHERE ${ofKey} AND id <> $1 AND state = 'held' AND expires_at <= ${now}
    RETURNING value
  ), lapsed AS MATERIALIZED (
    SELECT coalesce(sum(value), 0) AS value, count(*)::integer AS count FROM expired
  ), others AS MATERIALIZED (
    SELECT locked.value AS used, ${heldLess('lapsed.count + owns', 'lapsed.value + own')} AS held,
      holds - lapsed.count - owns AS holds, lapsed.count AS lapsed, own, owns
    FROM locked, lapsed, own
  ), verdict AS MATERIALIZED (
    SELECT CASE WHEN state = 'settled' THEN 'repeated' WHEN state = 'released' THEN 'released'
      WHEN used + $2::float8 > ${maxUsage} THEN 'exceeded'
      WHEN state = 'held' AND expires_at > ${now} AND $2::float8 <= value THEN 'settled'
      WHEN ${atMost('used + held + $2::float8', 'claim_limit')} THEN 'settled' ELSE 'exceeded' END AS status,
      state = 'held' AND expires_at <= ${now} AS late
    FROM hold, others
  ), ended AS (
    UPDATE ${holds} SET state = ${settled(`'settled'`, `'expired'`)}, over_at = ${settled(now, 'expires_at')},
      actual = ${settled('$2::float8', 'NULL')}
    FROM verdict WHERE id = $1 AND (status = 'settled' OR late)
    RETURNING id
  ), final AS MATERIALIZED (
    SELECT ${settled('$2::float8', '0')} AS value, ${settled('1', '0')} AS count, held + own * keeps AS held,
      holds + owns * keeps AS holds, lapsed > 0 OR keeps = 0 AS changes
    FROM others, verdict, (SELECT CASE WHEN EXISTS (SELECT FROM ended) THEN 0 ELSE 1 END AS keeps) AS kept
  ), written AS (
    UPDATE ${usage} AS total SET value = total.value + final.value, count = total.count + final.count, held = final.held,
      holds = final.holds
    FROM final WHERE ${ofKey} AND changes
    RETURNING total.value, total.held
  )
  SELECT status, user_id, quota_type, period, hold.value::text AS value, claim_limit::text AS "limit",
    coalesce(written.value, used)::text AS used, coalesce(written.held, final.held)::text AS held
  FROM hold, others, verdict, final LEFT JOIN written ON true`
}
