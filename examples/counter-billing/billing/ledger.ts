import type { Database, Query } from '../counter/database.ts'
import { schema } from './ledger-schema.ts'
import { BillingProblem } from './problem.ts'
import type { Balance, DeductQuotaRequest, RechargeReply, RechargeRequest, ReleaseRequest } from './protocol.ts'

/** What one user's request took, or is about to take. */
export interface Charge extends DeductQuotaRequest {
  readonly operation: 'deduct' | 'reserve'
  /** How long a reservation holds; 0 for a deduction. */
  readonly ttlMs: number
  /**
   * `planned`: what it takes is decided, and nothing taken; `held`: the balance holds it; `settled`: taken, for good; `released`,
   * `expired`: given back, for good; `cancelled`: it will be forgotten, so that the request may be made again.
   */
  readonly state: 'planned' | 'held' | 'settled' | 'released' | 'expired' | 'cancelled'
  /** The id of its hold on the free quota, and whether that is yet to be settled or released. */
  readonly hold: string
  readonly due: boolean
  /** How many of its uses are free, what each of the others costs, and what they cost together. */
  readonly free: number
  readonly price: number
  readonly charged: number
  /** How many uses were taken in the end, how many of them free, and what the others cost. */
  readonly usedCount: number
  readonly usedFree: number
  readonly usedCharged: number
  /** The balance right after it was settled. */
  readonly balance: number
  /** When a reservation ends by itself, in milliseconds since the epoch. */
  readonly expiresAt: number
}

/** What a charge is planned with. */
export type Plan = Pick<
  Charge,
  'operation' | 'userId' | 'requestId' | 'service' | 'count' | 'ttlMs' | 'hold' | 'free' | 'price' | 'charged'
>

/** What became of a commit: the charge as it is now, nothing of that plan any more, or too small a balance. */
export type CommitOutcome = { readonly charge: Charge } | 'gone' | { readonly short: Balance }

type Key = Pick<Charge, 'userId' | 'requestId'>

/**
 * The money: a balance a user, and a row a request, which makes each request count once. The rows stay: they are the ledger, and a
 * balance is the sum of what its requests recharged less what they took.
 *
 * Each change is one transaction, which locks the request's row, then the account's.
 */
export class Ledger {
  readonly #database: Database

  constructor(database: Database) {
    this.#database = database
  }

  /** Makes the tables where they are missing. Any number of processes may do so at the same time. */
  createSchema(): Promise<void> {
    return this.#database.script(schema)
  }

  balance(userId: string): Promise<Balance> {
    return readBalance(this.#database.query, userId)
  }

  /** Adds to a balance, once for each request. */
  recharge({ userId, requestId, amount }: RechargeRequest): Promise<RechargeReply> {
    return this.#database.transaction(async (query) => {
      const inserted = await query(
        `INSERT INTO billing_requests (user_id, request_id, operation, count, state, used_charged)
        VALUES ($1, $2, 'recharge', $3::bigint, 'settled', -$3::bigint) ON CONFLICT DO NOTHING RETURNING true`,
        [userId, requestId, amount],
      )
      if (inserted.length === 0) return repeatedRecharge(query, { userId, requestId, amount })
      const [account] = await query<{ balance: unknown }>(
        `INSERT INTO billing_accounts AS account (user_id, balance) VALUES ($1, $2)
        ON CONFLICT (user_id) DO UPDATE SET balance = account.balance + excluded.balance
        WHERE account.balance + excluded.balance <= ${Number.MAX_SAFE_INTEGER} RETURNING balance`,
        [userId, amount],
      )
      if (account === undefined) {
        const { balance } = await readBalance(query, userId)
        const message = `the balance of ${userId} is ${balance}: with ${amount} more it would pass ${Number.MAX_SAFE_INTEGER}`
        throw new BillingProblem('balance_limit', message, { user_id: userId, request_id: requestId, balance })
      }
      const balance = Number(account.balance)
      await query('UPDATE billing_requests SET balance = $3 WHERE user_id = $1 AND request_id = $2', [
        userId,
        requestId,
        balance,
      ])
      return { userId, requestId, amount, balance }
    })
  }

  /** What a request is known for; undefined for one that was never made, and for a recharge. */
  async find(key: Key): Promise<Charge | undefined> {
    const row = await findRow(this.#database.query, key)
    return row === undefined ? undefined : chargeOf(row)
  }

  /** Writes a plan down, unless the request has been made already. */
  async plan(plan: Plan): Promise<void> {
    const { operation, userId, requestId, service, count, ttlMs, hold, free, price, charged } = plan
    await this.#database.query(
      `INSERT INTO billing_requests
        (user_id, request_id, operation, service, count, ttl_ms, state, hold, free, price, charged)
      VALUES ($1, $2, $3, $4, $5, $6, 'planned', $7, $8, $9, $10) ON CONFLICT DO NOTHING`,
      [userId, requestId, operation, service, count, ttlMs, hold, free, price, charged],
    )
  }

  /** Carries a plan out: takes the money of a deduction, holds that of a reservation. */
  commit({ userId, requestId, hold }: Charge): Promise<CommitOutcome> {
    return this.#database.transaction(async (query) => {
      const row = await findRow(query, { userId, requestId }, 'FOR UPDATE')
      if (row === undefined || row.hold !== hold || row.state === 'cancelled') return 'gone'
      const charge = chargeOf(row)
      if (charge.state !== 'planned') return { charge }
      const balance = await take(query, charge)
      if (balance === undefined) {
        await change(query, charge, `state = 'cancelled', due = true`)
        return { short: await readBalance(query, userId) }
      }
      const changes =
        charge.operation === 'reserve'
          ? `state = 'held', expires_at = now() + ttl_ms * interval '1 millisecond'`
          : `state = 'settled', used_count = count, used_free = free, used_charged = charged, balance = $3, due = free > 0`
      return { charge: await change(query, charge, changes, charge.operation === 'reserve' ? [] : [balance]) }
    })
  }

  /** Takes what was used of a reservation, and gives the rest of the money back. */
  settle(key: Key, count: number): Promise<Charge> {
    return this.#database.transaction(async (query) => {
      const charge = await findReservation(query, key, count)
      if (count > charge.count) throw beyond(charge, count)
      if (charge.state !== 'held') return charge
      const free = Math.min(count, charge.free)
      const charged = (count - free) * charge.price
      const account =
        charge.charged === 0
          ? await readBalance(query, key.userId)
          : await changeAccount(query, key.userId, 'balance = balance - $2, held = held - $3', [
              charged,
              charge.charged,
            ])
      const changes = `state = 'settled', used_count = $3, used_free = $4, used_charged = $5, balance = $6, due = free > 0`
      return change(query, charge, changes, [count, free, charged, account.balance])
    })
  }

  /** Gives the money of a reservation back. */
  release(key: ReleaseRequest): Promise<Charge> {
    return this.#database.transaction(async (query) => {
      const charge = await findReservation(query, key)
      if (charge.state !== 'held') return charge
      if (charge.charged > 0) await changeAccount(query, key.userId, 'held = held - $2', [charge.charged])
      return change(query, charge, `state = 'released', due = free > 0`)
    })
  }

  /** Drops a plan that can't be carried out. */
  async cancel({ userId, requestId, hold }: Charge): Promise<void> {
    await this.#database.query(
      `UPDATE billing_requests SET state = 'cancelled', due = true, changed_at = now()
      WHERE user_id = $1 AND request_id = $2 AND hold = $3 AND state = 'planned'`,
      [userId, requestId, hold],
    )
  }

  /** Notes that the free quota has what a charge came to; what was cancelled is forgotten then. */
  async finish({ userId, requestId, hold, state }: Charge): Promise<void> {
    const action =
      state === 'cancelled'
        ? 'DELETE FROM billing_requests'
        : 'UPDATE billing_requests SET due = false, changed_at = now()'
    await this.#database.query(`${action} WHERE user_id = $1 AND request_id = $2 AND hold = $3 AND state = $4`, [
      userId,
      requestId,
      hold,
      state,
    ])
  }

  /** Gives back the money of reservations whose time is over, the oldest first. */
  expire(limit: number): Promise<Charge[]> {
    return this.#database.transaction(async (query) => {
      const rows = await query<Row>(
        `UPDATE billing_requests SET state = 'expired', due = free > 0, changed_at = now()
        WHERE (user_id, request_id) IN (
          SELECT user_id, request_id FROM billing_requests WHERE state = 'held' AND expires_at <= now()
          ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
        ) RETURNING ${columns}`,
        [limit],
      )
      const expired = rows.map(chargeOf)
      const sums = new Map<string, number>()
      for (const { userId, charged } of expired) sums.set(userId, (sums.get(userId) ?? 0) + charged)
      // In one order everywhere, so that two who do this at the same time never wait for each other.
      for (const [userId, sum] of [...sums].sort(([a], [b]) => (a < b ? -1 : 1))) {
        if (sum > 0) await changeAccount(query, userId, 'held = held - $2', [sum])
      }
      return expired
    })
  }

  /** Drops plans that nobody has carried out in time. */
  async cancelStale(staleMs: number, limit: number): Promise<void> {
    await this.#database.query(
      `UPDATE billing_requests SET state = 'cancelled', due = true, changed_at = now()
      WHERE (user_id, request_id) IN (
        SELECT user_id, request_id FROM billing_requests
        WHERE state = 'planned' AND created_at <= now() - $1 * interval '1 millisecond'
        ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
      )`,
      [staleMs, limit],
    )
  }

  /** Charges whose free quota isn't settled or released yet, though that is long enough ago for somebody to have done it. */
  async due({ afterMs, limit }: { afterMs: number; limit: number }): Promise<Charge[]> {
    const rows = await this.#database.query<Row>(
      `SELECT ${columns} FROM billing_requests WHERE due AND changed_at <= now() - $1 * interval '1 millisecond'
      ORDER BY changed_at LIMIT $2`,
      [afterMs, limit],
    )
    return rows.map(chargeOf)
  }
}

const columns = `user_id, request_id, operation, service, count, ttl_ms, state, hold, due, free, price, charged, used_count, used_free,
  used_charged, balance, (extract(epoch FROM expires_at) * 1000)::bigint AS expires_ms, expires_at <= now() AS over`

/** A row as it is read: big integers are text, or numbers. */
interface Row {
  readonly user_id: string
  readonly request_id: string
  readonly operation: 'recharge' | 'deduct' | 'reserve'
  readonly service: string
  readonly count: unknown
  readonly state: Charge['state']
  readonly hold: string
  readonly due: boolean
  /** Whether a reservation's time is over. */
  readonly over: boolean | null
  readonly [column: string]: unknown
}

function chargeOf(row: Row): Charge {
  if (row.operation === 'recharge') throw conflict(row)
  return {
    userId: row.user_id,
    requestId: row.request_id,
    operation: row.operation,
    service: row.service,
    count: Number(row.count),
    ttlMs: Number(row['ttl_ms']),
    state: row.state === 'held' && row.over === true ? 'expired' : row.state,
    hold: row.hold,
    due: row.due,
    free: Number(row['free']),
    price: Number(row['price']),
    charged: Number(row['charged']),
    usedCount: Number(row['used_count']),
    usedFree: Number(row['used_free']),
    usedCharged: Number(row['used_charged']),
    balance: Number(row['balance']),
    expiresAt: Number(row['expires_ms']),
  }
}

async function findRow(query: Query, { userId, requestId }: Key, lock = ''): Promise<Row | undefined> {
  const statement = `SELECT ${columns} FROM billing_requests WHERE user_id = $1 AND request_id = $2 ${lock}`
  return (await query<Row>(statement, [userId, requestId]))[0]
}

async function findReservation(query: Query, key: Key, count?: number): Promise<Charge> {
  const row = await findRow(query, key, 'FOR UPDATE')
  if (row?.operation === 'reserve' && row.state !== 'planned' && row.state !== 'cancelled') return chargeOf(row)
  const { userId, requestId } = key
  throw new BillingProblem('unknown_reservation', `${userId} has no reservation ${requestId}`, {
    user_id: userId,
    request_id: requestId,
    count,
  })
}

function beyond({ userId, requestId, service, count }: Charge, used: number): BillingProblem {
  const message = `count must be at most the ${count} uses of ${service} that ${requestId} of ${userId} reserves, got ${used}`
  return new BillingProblem('invalid_request', message, {
    ...{ field: 'count', user_id: userId, request_id: requestId, service, count: used },
  })
}

/** Takes a charge off the balance, or holds it there; returns the balance, or undefined where it is too small. */
async function take(query: Query, { userId, operation, charged }: Charge): Promise<number | undefined> {
  if (charged === 0) return (await readBalance(query, userId)).balance
  const changes = operation === 'reserve' ? 'held = held + $2' : 'balance = balance - $2'
  const [account] = await query<{ balance: unknown }>(
    `UPDATE billing_accounts SET ${changes} WHERE user_id = $1 AND balance - held >= $2 RETURNING balance`,
    [userId, charged],
  )
  return account === undefined ? undefined : Number(account.balance)
}

async function changeAccount(
  query: Query,
  userId: string,
  changes: string,
  values: readonly number[],
): Promise<{ balance: number }> {
  const statement = `UPDATE billing_accounts SET ${changes} WHERE user_id = $1 RETURNING balance`
  const [account] = await query<{ balance: unknown }>(statement, [userId, ...values])
  if (account === undefined) throw new Error(`the account of ${userId} is gone`)
  return { balance: Number(account.balance) }
}

async function change(query: Query, key: Key, changes: string, values: readonly unknown[] = []): Promise<Charge> {
  const [row] = await query<Row>(
    `UPDATE billing_requests SET ${changes}, changed_at = now() WHERE user_id = $1 AND request_id = $2
    RETURNING ${columns}`,
    [key.userId, key.requestId, ...values],
  )
  return chargeOf(row as Row)
}

async function readBalance(query: Query, userId: string): Promise<Balance> {
  const statement = 'SELECT balance, held FROM billing_accounts WHERE user_id = $1'
  const [row] = await query<{ balance: unknown; held: unknown }>(statement, [userId])
  return { userId, balance: Number(row?.balance ?? 0), held: Number(row?.held ?? 0) }
}

async function repeatedRecharge(query: Query, { userId, requestId, amount }: RechargeRequest): Promise<RechargeReply> {
  // The one that was there first has committed by now, or was refused and is being forgotten: then the caller may come again.
  const row = await findRow(query, { userId, requestId })
  if (row === undefined || row.state === 'cancelled')
    throw new Error(`request ${requestId} of ${userId} is being given up`)
  if (row.operation !== 'recharge' || Number(row.count) !== amount) throw conflict(row)
  return { userId, requestId, amount, balance: Number(row['balance']) }
}

/** A request id that belongs to another request. */
export function conflict(
  earlier: Pick<Row, 'user_id' | 'request_id' | 'operation' | 'service' | 'count'>,
): BillingProblem {
  const { user_id, request_id, operation, service, count } = earlier
  const what = operation === 'recharge' ? `to recharge ${count}` : `to ${operation} ${count} uses of ${service}`
  return new BillingProblem('request_conflict', `request ${request_id} of ${user_id} was ${what}`, {
    user_id,
    request_id,
    ...(operation === 'recharge' ? {} : { service, count: Number(count) }),
  })
}
