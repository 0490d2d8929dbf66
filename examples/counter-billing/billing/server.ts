import type { UsageSink } from 'spillway'
import { contextOf, type GrpcService, signalOfCall, unary } from '../grpc-server.ts'
import type { Billing } from './billing.ts'
import { BillingProblem, billingStatusOf } from './problem.ts'
import {
  billingService,
  type CheckQuotaRequest,
  type DeductQuotaRequest,
  type RechargeRequest,
  type RecordUsageRequest,
  type ReleaseRequest,
  type ReserveRequest,
  type ServiceRequest,
  type SettleRequest,
} from './protocol.ts'
import { maxTtlMs, minTtlMs } from './schemas.ts'
import { recordUsage } from './usage.ts'

/** Answers the calls of gateways. They have checked the requests that came by HTTP; others are checked here. */
export function billingHandlers(billing: Billing, usage: UsageSink): GrpcService {
  const answer = <Request extends object, Reply>(
    handle: (request: Request, signalOf: () => AbortSignal) => Promise<Reply>,
    fieldRules = rules,
  ) =>
    unary<Request, Reply>((call) => {
      check(call.request, fieldRules)
      return handle(call.request, signalOfCall(call))
    }, billingStatusOf)
  const handlers = {
    getBalance: answer(({ userId }: { userId: string }) => billing.balance(userId)),
    getFreeQuota: answer((request: ServiceRequest) => billing.freeQuota(request)),
    checkQuota: answer((request: CheckQuotaRequest) => billing.check(request)),
    deductQuota: answer((request: DeductQuotaRequest) => billing.deduct(request)),
    recharge: answer((request: RechargeRequest) => billing.recharge(request)),
    reserve: answer((request: ReserveRequest) => billing.reserve(request)),
    settle: answer((request: SettleRequest) => billing.settle(request), { ...rules, count: usedCount }),
    release: answer((request: ReleaseRequest) => billing.release(request)),
    recordUsage: answer((request: RecordUsageRequest, signalOf) =>
      recordUsage(usage, request, contextOf(request.batchId, signalOf)),
    ),
  }
  return { definition: billingService(), handlers }
}

type Rule = readonly [holds: (value: unknown) => boolean, rule: string]

const isText = (value: unknown): boolean =>
  typeof value === 'string' && value.length <= 256 && /^[^\p{Cc}\p{Cs}]+$/u.test(value)
const isWhole = (value: unknown, min: number, max = Number.MAX_SAFE_INTEGER): boolean =>
  Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max

const text: Rule = [isText, 'a string of 1 to 256 characters, none of them a control character']
const amount: Rule = [(value) => isWhole(value, 1), `a whole number from 1 to ${Number.MAX_SAFE_INTEGER}`]
const usedCount: Rule = [(value) => isWhole(value, 0), `a whole number from 0 to ${Number.MAX_SAFE_INTEGER}`]
const sums: Rule = [
  (value) =>
    (value as RecordUsageRequest['totals']).every(
      ({ userId, quotaType, period, value }) => [userId, quotaType, period].every(isText) && isWhole(value, 0),
    ),
  'a list of whole numbers, each with a user, a quota type and a period',
]
const ttl: Rule = [(value) => isWhole(value, minTtlMs, maxTtlMs), `a whole number from ${minTtlMs} to ${maxTtlMs}`]

const rules: Readonly<Record<string, Rule>> = {
  ...{ userId: text, requestId: text, batchId: text, service: text },
  ...{ amount, count: amount, pending: usedCount, ttlMs: ttl, totals: sums },
}

function check(request: object, fieldRules: Readonly<Record<string, Rule>>): void {
  for (const [field, value] of Object.entries(request)) {
    const [holds, rule] = fieldRules[field] ?? [() => true, '']
    if (holds(value)) continue
    const name = field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
    const message = `${name} must be ${rule}, got ${JSON.stringify(value)} (${typeof value})`
    throw new BillingProblem('invalid_request', message, { field: name })
  }
}
