import { randomUUID } from 'node:crypto'
import { isSpillwayError, type QuotaService, type QuotaStatus } from 'spillway'
import { type Log, text } from '../counters.ts'
import { type Charge, type CommitOutcome, conflict, type Ledger, type Plan } from './ledger.ts'
import { BillingProblem } from './problem.ts'
import type {
  Balance,
  CheckQuotaReply,
  CheckQuotaRequest,
  Deduction,
  DeductQuotaRequest,
  FreeQuota,
  RechargeReply,
  RechargeRequest,
  ReleaseReply,
  ReleaseRequest,
  Reservation,
  ReserveRequest,
  ServiceRequest,
  SettleRequest,
} from './protocol.ts'
import { freeQuotaOf, type ServiceTariff, type Tariff } from './tariff.ts'

export interface BillingParts {
  readonly ledger: Ledger
  /** Counts the free uses. */
  readonly quota: QuotaService
  readonly tariff: Tariff
  readonly log: Log
}

type ChargeRequest = Pick<Plan, keyof ReserveRequest | 'operation'>
type Cost = Pick<Charge, 'free' | 'charged'>

/** How long a free quota is held beyond the time of its request: until then somebody has settled or released it. */
const graceMs = 3_600_000
/** How long a request takes at the most from its plan to its commit. */
const staleMs = 30_000
/** After how long others finish what a request left behind. */
const leftBehindMs = 5_000
const healEveryMs = 1_000
const healLimit = 200
/** How often a request is planned anew because others took what it counted on. */
const maxPlans = 100

/**
 * Free quotas and balances under one roof. The free uses are counted by the package's QuotaService, the money by a ledger; what makes
 * a request one step over both is the ledger's commit:
 *
 *     plan     how many uses are free, and what the others cost, is written down under the request's id
 *     hold     the free ones are held in the quota store, under an id of the plan
 *     commit   one transaction: the money is taken, and the request is settled. Before it nothing was taken, after it everything is
 *     finish   the hold is settled, or released
 *
 * A crash before the commit leaves a hold that nobody uses, one after it a hold that is yet to be settled. Either way the next
 * request of the same id goes on from there, and so does `heal`, in whatever billing service, long before the hold ends by itself.
 */
export class Billing {
  readonly #ledger: Ledger
  readonly #quota: QuotaService
  readonly #tariff: Tariff
  readonly #log: Log
  readonly #healing = { timer: undefined as NodeJS.Timeout | undefined, run: Promise.resolve() }
  #failing = false

  constructor({ ledger, quota, tariff, log }: BillingParts) {
    this.#ledger = ledger
    this.#quota = quota
    this.#tariff = tariff
    this.#log = log
  }

  /** Finishes what an earlier process left behind, and then goes on looking after what others leave. */
  async start(): Promise<void> {
    await this.heal(0)
    const heal = async (): Promise<void> => {
      try {
        await this.heal()
        this.#failing = false
      } catch (error) {
        this.#failing = true
        this.#log('warn', `billing: what was left behind is still there: ${text(error)}`)
      }
      if (this.#healing.timer !== undefined) schedule()
    }
    const schedule = (): void => {
      this.#healing.timer = setTimeout(() => {
        this.#healing.run = heal()
      }, healEveryMs)
    }
    schedule()
  }

  async close(): Promise<void> {
    clearTimeout(this.#healing.timer)
    this.#healing.timer = undefined
    await this.#healing.run
  }

  /** Whether its stores failed it the last time it looked. */
  get failing(): boolean {
    return this.#failing
  }

  balance(userId: string): Promise<Balance> {
    return this.#ledger.balance(userId)
  }

  async freeQuota(request: ServiceRequest): Promise<FreeQuota> {
    const { period } = this.#termsOf(request)
    return freeQuotaFrom(request, period, await this.#free(request))
  }

  /** Whether a deduction would be accepted now: no promise that it will be. */
  async check(request: CheckQuotaRequest): Promise<CheckQuotaReply> {
    const { userId, count, pending } = request
    const { price, period } = this.#termsOf(request)
    const [quota, balance] = await Promise.all([this.#free(request), this.#ledger.balance(userId)])
    const free = Math.min(count, wholeOf(quota.remaining - pending))
    const charged = (count - free) * (price ?? 0)
    const allowed = price === undefined ? free === count : charged <= balance.balance - balance.held
    return { allowed, free, charged, price, quota: freeQuotaFrom(request, period, quota), balance }
  }

  recharge(request: RechargeRequest): Promise<RechargeReply> {
    return this.#ledger.recharge(request)
  }

  /** Takes uses off the free quota first, and the price of the others off the balance: all of it, or nothing. */
  async deduct(request: DeductQuotaRequest): Promise<Deduction> {
    return deductionOf(await this.#charge({ ...request, operation: 'deduct', ttlMs: 0 }))
  }

  /** Holds what a deduction would take. */
  async reserve(request: ReserveRequest): Promise<Reservation> {
    const charge = await this.#charge({ ...request, operation: 'reserve' })
    const { requestId, userId, service, count, free, charged, expiresAt } = charge
    return { requestId, userId, service, count, free, held: charged, expiresAt }
  }

  /** Takes what was used of a reservation, and gives the rest back. */
  async settle({ userId, requestId, count }: SettleRequest): Promise<Deduction> {
    const reserved = await this.#ledger.find({ userId, requestId })
    if (reserved?.operation === 'reserve' && count > reserved.count) throw beyond(reserved, count)
    const charge = await this.#ledger.settle({ userId, requestId }, count)
    if (charge.state !== 'settled' || charge.usedCount !== count) throw over(charge, count)
    await this.#finish(charge)
    return deductionOf(charge)
  }

  /** Gives a reservation back; what is settled or has expired stays so. */
  async release(request: ReleaseRequest): Promise<ReleaseReply> {
    const charge = await this.#ledger.release(request)
    const { userId, requestId, service, state } = charge
    await this.#finish(charge)
    return { requestId, userId, service, state: state as ReleaseReply['state'] }
  }

  /**
   * Gives back what has expired, and finishes what a crash left behind.
   *
   * @param afterMs - how long ago it must have been left: whoever began it may be about to finish it.
   */
  async heal(afterMs = leftBehindMs): Promise<void> {
    const expired = await this.#ledger.expire(healLimit)
    await Promise.all(expired.map((charge) => this.#finish(charge)))
    await this.#ledger.cancelStale(staleMs, healLimit)
    for (;;) {
      const left = await this.#ledger.due({ afterMs, limit: healLimit })
      const finished = await Promise.all(left.map((charge) => this.#finish(charge)))
      if (left.length < healLimit || finished.includes(false)) return
    }
  }

  /** Takes a request to its commit, however far an earlier attempt at it has come. */
  async #charge(request: ChargeRequest): Promise<Charge> {
    const terms = this.#termsOf(request)
    for (let plans = 0; plans < maxPlans; plans++) {
      const known = await this.#ledger.find(request)
      if (known === undefined) {
        await this.#plan(request, terms)
        continue
      }
      if (known.state === 'cancelled') {
        if (!(await this.#finish(known))) break
        continue
      }
      if (!isSame(known, request)) throw conflictWith(known)
      if (known.state !== 'planned') return this.#finished(known)
      if (!(await this.#hold(known))) {
        await this.#ledger.cancel(known)
        continue
      }
      const outcome = await this.#ledger.commit(known)
      if (outcome === 'gone') {
        // Nobody else knows of this plan's hold any more.
        await this.#quota.release(known.hold)
        continue
      }
      return this.#committed(known, outcome)
    }
    throw new Error(`others keep taking what request ${request.requestId} of ${request.userId} counts on`)
  }

  async #committed(plan: Charge, outcome: Exclude<CommitOutcome, 'gone'>): Promise<Charge> {
    if ('charge' in outcome) return this.#finished(outcome.charge)
    await this.#finish({ ...plan, state: 'cancelled', due: true })
    throw tooExpensive(plan, outcome.short, await this.#free(plan))
  }

  /** What was committed is so for good: whether the quota has it by now makes no difference to the answer. */
  async #finished(charge: Charge): Promise<Charge> {
    await this.#finish(charge)
    return charge
  }

  /** Decides how much of a request is free. What can't be had now is refused here, before it holds anything that others could use. */
  async #plan(request: ChargeRequest, terms: ServiceTariff): Promise<void> {
    const { requestId, userId, service, count, operation, ttlMs } = request
    const [quota, account] = await Promise.all([this.#free(request), this.#ledger.balance(userId)])
    const free = Math.min(count, wholeOf(quota.remaining))
    const { price = 0 } = terms
    // Beyond what a number holds exactly, the product is still more than any balance.
    const charged = (count - free) * price
    if (free < count && terms.price === undefined) throw usedUp(request, quota)
    if (charged > account.balance - account.held) throw tooExpensive({ ...request, free, charged }, account, quota)
    await this.#ledger.plan({
      ...{ operation, userId, requestId, service, count, ttlMs, free, price, charged },
      hold: randomUUID(),
    })
  }

  /** Holds a plan's free uses; false when others were faster, or somebody has given the plan up. */
  async #hold({ userId, service, free, hold, ttlMs }: Charge): Promise<boolean> {
    if (free === 0) return true
    try {
      await this.#quota.reserve(userId, freeQuotaOf(service), free, { id: hold, ttlMs: ttlMs + graceMs })
      return true
    } catch (error) {
      if (isSpillwayError(error, 'ERR_QUOTA_EXCEEDED') || isSpillwayError(error, 'ERR_RESERVATION')) return false
      throw error
    }
  }

  /** Settles or releases a charge's hold, if that is due; false when it has to be done later. */
  async #finish(charge: Charge): Promise<boolean> {
    if (!charge.due) return true
    try {
      if (charge.free > 0) await this.#settleHold(charge)
      await this.#ledger.finish(charge)
      return true
    } catch (error) {
      this.#log(
        'warn',
        `billing: request ${charge.requestId} of ${charge.userId} will be finished later: ${text(error)}`,
      )
      return false
    }
  }

  async #settleHold({ state, hold, usedFree, userId, service }: Charge): Promise<void> {
    if (state !== 'settled' || usedFree === 0) return this.#quota.release(hold)
    try {
      await this.#quota.settle(hold, usedFree)
    } catch (error) {
      if (!isSpillwayError(error, 'ERR_QUOTA_EXCEEDED') && !isSpillwayError(error, 'ERR_RESERVATION')) throw error
      // No billing service was there for an hour to settle it.
      this.#log('error', `billing: ${usedFree} free uses of ${service} by ${userId} aren't counted: ${text(error)}`)
    }
  }

  #free({ userId, service }: ServiceRequest): Promise<QuotaStatus> {
    return this.#quota.checkQuota(userId, freeQuotaOf(service), 0)
  }

  #termsOf({ userId, service, count, requestId }: ServiceRequest & Partial<DeductQuotaRequest>): ServiceTariff {
    const terms = this.#tariff.get(service)
    if (terms !== undefined) return terms
    const services = [...this.#tariff.keys()].join(', ')
    throw new BillingProblem('unknown_service', `there is no service ${service}; there are ${services}`, {
      ...{ field: 'service', user_id: userId, service },
      ...(count !== undefined && { count }),
      ...(requestId !== undefined && { request_id: requestId }),
    })
  }
}

function isSame(charge: Charge, request: Pick<Plan, 'operation' | 'service' | 'count' | 'ttlMs'>): boolean {
  const { operation, service, count, ttlMs } = request
  return (
    charge.operation === operation && charge.service === service && charge.count === count && charge.ttlMs === ttlMs
  )
}

function conflictWith({ userId, requestId, operation, service, count }: Charge): BillingProblem {
  return conflict({ user_id: userId, request_id: requestId, operation, service, count })
}

function deductionOf(charge: Charge): Deduction {
  const { requestId, userId, service, usedCount, usedFree, usedCharged, balance } = charge
  return { requestId, userId, service, count: usedCount, free: usedFree, charged: usedCharged, balance }
}

function freeQuotaFrom({ userId, service }: ServiceRequest, period: string, quota: QuotaStatus): FreeQuota {
  const { limit, used, held, resetsAt = 0 } = quota
  return { userId, service, limit, used, held, period, resetsAt }
}

function tooExpensive(
  request: DeductQuotaRequest & Cost,
  account: Balance,
  { limit, used }: QuotaStatus,
): BillingProblem {
  const { userId, requestId, service, count, free, charged } = request
  const { balance, held } = account
  const message =
    `${count} uses of ${service} by ${userId}, ${free} of them free, cost ${charged}, ` +
    `and the balance is ${balance}${held > 0 ? `, of which ${held} are reserved` : ''}`
  return new BillingProblem('insufficient_balance', message, {
    ...{ user_id: userId, service, count, request_id: requestId },
    ...{ charged, balance, held, limit, used },
  })
}

/** The free uses are used up, and there are no others. */
function usedUp({ userId, requestId, service, count }: DeductQuotaRequest, quota: QuotaStatus): BillingProblem {
  const { limit, used, held, resetsAt } = quota
  const message = `${userId} has used ${used} of ${limit} uses of ${service}${held > 0 ? ` and reserved ${held}` : ''}, so ${count} more are too many`
  return new BillingProblem('quota_exceeded', message, {
    ...{ user_id: userId, service, count, request_id: requestId, limit, used, held },
    ...(resetsAt !== undefined && { resets_at: new Date(resetsAt).toISOString() }),
  })
}

function beyond({ userId, requestId, service, count }: Charge, used: number): BillingProblem {
  const message = `count must be at most the ${count} uses of ${service} that ${requestId} of ${userId} reserves, got ${used}`
  return new BillingProblem('invalid_request', message, {
    ...{ field: 'count', user_id: userId, request_id: requestId, service, count: used },
  })
}

/** A reservation that is over, so that it can't be settled with this count. */
function over({ userId, requestId, service, state, usedCount }: Charge, count: number): BillingProblem {
  const code =
    state === 'settled' ? 'reservation_settled' : state === 'released' ? 'reservation_released' : 'reservation_expired'
  const fate =
    state === 'settled' ? `was settled with ${usedCount}` : state === 'released' ? 'was released' : 'has expired'
  return new BillingProblem(code, `reservation ${requestId} of ${userId} ${fate}`, {
    ...{ user_id: userId, request_id: requestId, service, count },
  })
}

/** Quotas are counted in whole uses; what another program has made of one may be none. */
function wholeOf(remaining: number): number {
  return Math.max(0, Math.floor(remaining))
}
