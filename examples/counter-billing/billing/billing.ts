import { randomUUID } from 'node:crypto'
import { isSpillwayError, type QuotaService, type QuotaStatus } from 'spillway'
import { type Log, text } from '../counter/counters.ts'
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
 * request of the same id goes on from there, and so does whatever billing service looks for such requests, long before the hold ends by itself.
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

  /** Goes on looking after what reservations and other processes leave behind. */
  start(): void {
    this.#healing.timer = setTimeout(() => {
      this.#healing.run = this.#healAndGoOn()
    }, healEveryMs)
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
    const charge = await this.#ledger.settle({ userId, requestId }, count)
    if (charge.state !== 'settled' || charge.usedCount !== count) throw over(charge, count)
    return deductionOf(await this.#finished(charge))
  }

  /** Gives a reservation back; what is settled or has expired stays so. */
  async release(request: ReleaseRequest): Promise<ReleaseReply> {
    const { userId, requestId, service, state } = await this.#finished(await this.#ledger.release(request))
    return { requestId, userId, service, state: state as ReleaseReply['state'] }
  }

  async #healAndGoOn(): Promise<void> {
    try {
      await this.#heal()
      this.#failing = false
    } catch (error) {
      this.#failing = true
      this.#log('warn', `billing: what was left behind is still there: ${text(error)}`)
    }
    if (this.#healing.timer !== undefined) this.start()
  }

  /** Gives back what has expired, and finishes what a crash left behind. */
  async #heal(): Promise<void> {
    await this.#finishAll(() => this.#ledger.expire(healLimit))
    await this.#ledger.cancelStale(staleMs, healLimit)
    await this.#finishAll(() => this.#ledger.due({ afterMs: leftBehindMs, limit: healLimit }))
  }

  async #finishAll(read: () => Promise<Charge[]>): Promise<void> {
    for (;;) {
      const charges = await read()
      const outcomes = await Promise.allSettled(charges.map((charge) => this.#carryOut(charge)))
      const failed = outcomes.filter((outcome) => outcome.status === 'rejected')
      if (failed.length > 0) throw new Error(`${failed.length} requests can't be finished: ${text(failed[0]?.reason)}`)
      if (charges.length < healLimit) return
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
        await this.#carryOut(known)
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
    await this.#finished({ ...plan, state: 'cancelled', due: true })
    throw tooExpensive(plan, outcome.short, await this.#free(plan))
  }

  /** Decides how much of a request is free. What can't be had now is refused here, before it holds anything that others could use. */
  async #plan(request: ChargeRequest, terms: ServiceTariff): Promise<void> {
    const { requestId, userId, service, count, operation, ttlMs } = request
    const [quota, account] = await Promise.all([this.#free(request), this.#ledger.balance(userId)])
    const free = Math.min(count, wholeOf(quota.remaining))
    const { price = 0 } = terms
    const charged = (count - free) * price
    if (free < count && terms.price === undefined) return this.#refuse(request, usedUp(request, quota))
    if (charged > account.balance - account.held) {
      return this.#refuse(request, tooExpensive({ ...request, free, charged }, account, quota))
    }
    await this.#ledger.plan({
      ...{ operation, userId, requestId, service, count, ttlMs, free, price, charged },
      hold: randomUUID(),
    })
  }

  /** Unless it is another attempt at the same request that has what is missing. */
  async #refuse(request: ChargeRequest, problem: BillingProblem): Promise<void> {
    if ((await this.#ledger.find(request)) === undefined) throw problem
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

  /** What the ledger has decided is so for good: whether the quota has it by now makes no difference to the answer. */
  async #finished(charge: Charge): Promise<Charge> {
    await this.#carryOut(charge).catch((error: unknown) => {
      const { requestId, userId } = charge
      this.#log('warn', `billing: request ${requestId} of ${userId} will be finished later: ${text(error)}`)
    })
    return charge
  }

  /** Settles or releases a charge's hold, if that is due. */
  async #carryOut(charge: Charge): Promise<void> {
    if (!charge.due) return
    if (charge.free > 0) await this.#settleHold(charge)
    await this.#ledger.finish(charge)
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
      ...{ field: 'service', user_id: userId, service, count, request_id: requestId },
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
