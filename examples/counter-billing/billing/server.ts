import type { UsageSink } from 'spillway'
import type { Scope } from '../auth/permissions.ts'
import { contextOf, type GrpcService, signalOfCall, unary } from '../counter/grpc-server.ts'
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
import { maxCount } from './tariff.ts'
import { recordUsage } from './usage.ts'

/** What a caller's token must allow, where tokens are asked for. */
export const billingScopes: Readonly<Record<string, Scope>> = {
  getBalance: 'billing:read',
  getFreeQuota: 'billing:read',
  checkQuota: 'billing:read',
  deductQuota: 'billing:write',
  recharge: 'billing:write',
  reserve: 'billing:write',
  settle: 'billing:write',
  release: 'billing:write',
  recordUsage: 'usage:write',
}

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
    settle: answer((request: SettleRequest) => billing.settle(request), { ...rules, count: whole(0, maxCount) }),
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
const isWhole = (value: unknown, min: number, max: number): boolean =>
  Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max

const text: Rule = [isText, 'a string of 1 to 256 characters, none of them a control character']
const whole = (min: number, max = Number.MAX_SAFE_INTEGER): Rule => [
  (value) => isWhole(value, min, max),
  `a whole number from ${min} to ${max}`,
]
const sums: Rule = [
  (value) =>
    (value as RecordUsageRequest['totals']).every(
      ({ userId, quotaType, period, value }) =>
        [userId, quotaType, period].every(isText) && isWhole(value, 0, Number.MAX_SAFE_INTEGER),
    ),
  'a list of whole numbers, each with a user, a quota type and a period',
]

const rules: Readonly<Record<string, Rule>> = {
  ...{ userId: text, requestId: text, batchId: text, service: text },
  ...{ amount: whole(1), count: whole(1, maxCount), pending: whole(0), ttlMs: whole(minTtlMs, maxTtlMs), totals: sums },
}

function check(request: object, fieldRules: Readonly<Record<string, Rule>>): void {
  for (const [field, value] of Object.entries(request)) {
    const [holds, rule] = fieldRules[field] ?? [() => true, '']
    if (holds(value)) continue
    const name = field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
    const message = `${name} must be ${rule}, got ${JSON.stringify(value)} (${typeof value})`
    const { userId: user_id, service, count } = request as Partial<DeductQuotaRequest>
    throw new BillingProblem('invalid_request', message, { field: name, user_id, service, count })
  }
}
