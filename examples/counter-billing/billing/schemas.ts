import { type Rule, name as service, text, whole } from '../http/rules.ts'
import { maxCount } from './tariff.ts'

/** How long a reservation may hold. */
export const minTtlMs = 100
export const maxTtlMs = 86_400_000
const defaultTtlMs = 60_000

/** The id of a user, or of a request: what is twice as long in UTF-16 is still an id for the quota stores. */
export const id: Rule = text(128)

const body = (properties: Readonly<Record<string, Rule>>): Rule => ({
  type: 'object',
  required: Object.keys(properties).filter((name) => !('default' in (properties[name] as Rule))),
  additionalProperties: false,
  properties,
  description: 'a JSON object',
})

const uses = whole(1, maxCount, 1)

export const balanceParams: Rule = body({ user_id: id })
export const freeQuotaParams: Rule = body({ user_id: id, service })
export const checkBody: Rule = body({ user_id: id, service, count: uses })
export const deductBody: Rule = body({ request_id: id, user_id: id, service, count: uses })
export const rechargeBody: Rule = body({ request_id: id, user_id: id, amount: whole(1, Number.MAX_SAFE_INTEGER) })
export const reserveBody: Rule = body({
  ...{ request_id: id, user_id: id, service, count: uses },
  ttl_ms: whole(minTtlMs, maxTtlMs, defaultTtlMs),
})
export const settleBody: Rule = body({ reservation_id: id, user_id: id, count: whole(0, maxCount) })
export const releaseBody: Rule = body({ reservation_id: id, user_id: id })

export interface UserParams {
  user_id: string
}

export interface ServiceParams extends UserParams {
  service: string
}

export interface CheckBody extends ServiceParams {
  count: number
}

export interface DeductBody extends CheckBody {
  request_id: string
}

export interface RechargeBody extends UserParams {
  request_id: string
  amount: number
}

export interface ReserveBody extends DeductBody {
  ttl_ms: number
}

export interface ReleaseBody extends UserParams {
  reservation_id: string
}

export interface SettleBody extends ReleaseBody {
  count: number
}
