import { readFileSync } from 'node:fs'
import { namePattern } from '../http/rules.ts'

/** What a service costs. */
export interface ServiceTariff {
  /** How many uses are free in each period. */
  readonly free: number
  /** In UTC. */
  readonly period: 'day' | 'month'
  /** What each use beyond costs, in minor units; without it, there is nothing beyond the free ones. */
  readonly price?: number | undefined
}

/** What services there are, and what each of them costs. */
export type Tariff = ReadonlyMap<string, ServiceTariff>

/** The service that the counter's writes are metered as. */
export const meteredService = 'counter-writes'

export const defaultTariff: Tariff = new Map([
  [meteredService, { free: 1_000_000, period: 'month' }],
  ['thumbnail', { free: 100, period: 'month', price: 2 }],
  ['search', { free: 1_000, period: 'day', price: 1 }],
  ['export', { free: 5, period: 'day' }],
])

/** The most uses in a request, and the highest price of a use: what the one costs at the other is an exact number still. */
export const maxCount = 1_000_000_000
const maxPrice = Math.floor(Number.MAX_SAFE_INTEGER / maxCount)

/** The quota under which the free uses of a service are counted. */
export function freeQuotaOf(service: string): string {
  return `free:${service}`
}

/** How many uses of a quota are free. */
export function limitOf(tariff: Tariff, quotaType: string): number {
  return termsOf(tariff, quotaType)?.free ?? 0
}

/** Over which span a quota counts. */
export function periodOf(tariff: Tariff, quotaType: string): ServiceTariff['period'] {
  return termsOf(tariff, quotaType)?.period ?? 'month'
}

function termsOf(tariff: Tariff, quotaType: string): ServiceTariff | undefined {
  return quotaType.startsWith('free:') ? tariff.get(quotaType.slice('free:'.length)) : undefined
}

/**
 * Reads a tariff: `{ "thumbnail": { "free": 100, "period": "month", "price": 2 } }`.
 *
 * @throws Error when the file can't be read, or says what can't be meant.
 */
export function readTariff(path: string): Tariff {
  const services = JSON.parse(readFileSync(path, 'utf8')) as Record<string, ServiceTariff>
  const tariff = new Map(Object.entries(isObject(services) ? services : {}))
  if (tariff.size === 0) throw new Error(`${path} must be a JSON object with a member for each service`)
  for (const [service, terms] of tariff) {
    const problem = problemOfTerms(service, terms)
    if (problem !== undefined) throw new Error(`${path}: ${problem}`)
  }
  return tariff
}

function problemOfTerms(service: string, terms: ServiceTariff): string | undefined {
  if (!new RegExp(namePattern).test(service)) {
    return `"${service}" is no name of a service: 1 to 64 letters, digits and _ . -`
  }
  if (!isObject(terms)) return `${service} must be an object`
  const { free, period, price, ...others } = terms
  if (!isWhole(free)) return `${service}.free must be a whole number from 0 to ${Number.MAX_SAFE_INTEGER}`
  if (period !== 'day' && period !== 'month') return `${service}.period must be "day" or "month"`
  if (price !== undefined && !isWhole(price, maxPrice)) {
    return `${service}.price must be a whole number from 0 to ${maxPrice}, in minor units`
  }
  const [unknown] = Object.keys(others)
  return unknown === undefined ? undefined : `${service}.${unknown} is unknown; there are free, period, price`
}

function isWhole(value: unknown, max = Number.MAX_SAFE_INTEGER): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= max
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
