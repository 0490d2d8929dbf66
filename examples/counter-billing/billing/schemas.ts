import type { Rule } from '../schemas.ts'
import { servicePattern } from './tariff.ts'

/** How long a reservation may hold. */
export const minTtlMs = 100
export const maxTtlMs = 86_400_000
const defaultTtlMs = 60_000

/** How long the ids of users and requests may be: what is twice as long in UTF-16 is still an id for the quota stores. */
export const maxIdLength = 128

/** The id of a user, or of a request. */
export const id: Rule = {
  type: 'string',
  minLength: 1,
  maxLength: maxIdLength,
  pattern: '^[^\\p{Cc}\\p{Cs}]*$',
  description: `a string of 1 to ${maxIdLength} characters, none of them a control character`,
}

const service: Rule = {
  type: 'string',
  pattern: servicePattern,
  description: 'a string of 1 to 64 letters, digits and _ . -',
}

const whole = (minimum: number, maximum: number, fallback?: number): Rule => ({
  type: 'integer',
  minimum,
  maximum,
  ...(fallback !== undefined && { default: fallback }),
  description: `a whole number from ${minimum} to ${maximum}`,
})

const body = (properties: Readonly<Record<string, Rule>>): Rule => ({
  type: 'object',
  required: Object.keys(properties).filter((name) => !('default' in (properties[name] as Rule))),
  additionalProperties: false,
  properties,
  description: 'a JSON object',
})

const uses = whole(1, Number.MAX_SAFE_INTEGER, 1)

export const balanceParams: Rule = body({ user_id: id })
export const freeQuotaParams: Rule = body({ user_id: id, service })
export const checkBody: Rule = body({ user_id: id, service, count: uses })
export const deductBody: Rule = body({ request_id: id, user_id: id, service, count: uses })
export const rechargeBody: Rule = body({ request_id: id, user_id: id, amount: whole(1, Number.MAX_SAFE_INTEGER) })
export const reserveBody: Rule = body({
  ...{ request_id: id, user_id: id, service, count: uses },
  ttl_ms: whole(minTtlMs, maxTtlMs, defaultTtlMs),
})
export const settleBody: Rule = body({ reservation_id: id, user_id: id, count: whole(0, Number.MAX_SAFE_INTEGER) })
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
