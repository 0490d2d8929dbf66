/**
 * The tables of the ledger. A balance can't be overdrawn, nor held twice over: the database itself refuses that, whatever the
 * code above it does.
 */
export const schema = `
SELECT pg_advisory_xact_lock(hashtext('billing schema'));

CREATE TABLE IF NOT EXISTS billing_accounts (
  user_id text PRIMARY KEY,
  balance bigint NOT NULL CHECK (balance <= ${Number.MAX_SAFE_INTEGER}),
  held bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
  CHECK (balance >= held)
);

CREATE TABLE IF NOT EXISTS billing_requests (
  user_id text NOT NULL,
  request_id text NOT NULL,
  operation text NOT NULL,
  service text NOT NULL DEFAULT '',
  -- The uses that were asked for, or the amount of a recharge.
  count bigint NOT NULL,
  ttl_ms bigint NOT NULL DEFAULT 0,
  state text NOT NULL,
  -- The hold on the free quota, and whether it is yet to be settled or released.
  hold text NOT NULL DEFAULT '',
  due boolean NOT NULL DEFAULT false,
  -- What it may take.
  free bigint NOT NULL DEFAULT 0,
  price bigint NOT NULL DEFAULT 0,
  charged bigint NOT NULL DEFAULT 0,
  -- What it took; a recharge takes less than nothing.
  used_count bigint NOT NULL DEFAULT 0,
  used_free bigint NOT NULL DEFAULT 0,
  used_charged bigint NOT NULL DEFAULT 0,
  -- The balance right after it.
  balance bigint NOT NULL DEFAULT 0,
  expires_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  changed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, request_id)
);

CREATE INDEX IF NOT EXISTS billing_requests_held ON billing_requests (expires_at) WHERE state = 'held';
CREATE INDEX IF NOT EXISTS billing_requests_planned ON billing_requests (created_at) WHERE state = 'planned';
CREATE INDEX IF NOT EXISTS billing_requests_due ON billing_requests (changed_at) WHERE due;
`
