import { checkFunction, failOption, valueOr } from '../core/options.js'
import type { QuotaPeriod, QuotaStore } from '../core/ports.js'
import type { QuotaConsumer } from './quota-consumer.js'

/** Checks a store by its shape. */
export function checkStore(store: QuotaStore): QuotaStore {
  for (const method of ['write', 'readUsage', 'consume', 'reserve', 'settle', 'release'] as const) {
    if (typeof store?.[method] !== 'function') failOption('store', `must have a method ${method}`, store)
  }
  if (typeof store.idempotent !== 'boolean') failOption('store.idempotent', 'must be true or false', store.idempotent)
  return store
}

/** Checks a consumer by its shape, since it may come from another copy of the package, and that it writes to the store. */
export function checkConsumer(consumer: QuotaConsumer | undefined, store: QuotaStore): QuotaConsumer | undefined {
  if (consumer === undefined) return undefined
  for (const method of ['publish', 'pending', 'periodOf', 'on'] as const) {
    if (typeof consumer?.[method] !== 'function') failOption('consumer', `must have a method ${method}`, consumer)
  }
  if (consumer.sink !== store) failOption('consumer', 'must write to the very store that is given', consumer.sink)
  return consumer
}

/** The periods of a service: its consumer's, where there is one. */
export function choosePeriods(
  periodOf: ((quotaType: string) => QuotaPeriod) | undefined,
  consumer: QuotaConsumer | undefined,
): (quotaType: string) => QuotaPeriod {
  if (consumer === undefined)
    return checkFunction(
      'periodOf',
      valueOr(periodOf, () => 'month'),
    )
  if (periodOf !== undefined && periodOf !== consumer.periodOf) {
    failOption('periodOf', 'must be left out where there is a consumer, whose own counts', periodOf)
  }
  return consumer.periodOf
}
