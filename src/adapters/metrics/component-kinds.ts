import type { ComponentKind } from './component-kind.js'
import { adapterKinds } from './kinds-of-adapters.js'
import { batcherKind, batchingKinds } from './kinds-of-batching.js'
import { primitiveKinds } from './kinds-of-primitives.js'
import { storeKinds } from './kinds-of-stores.js'
import { isObject } from './stats-rule.js'

/** Every kind of component that there is, special ones before general ones. */
export const componentKinds: readonly ComponentKind[] = [
  ...batchingKinds,
  ...primitiveKinds,
  ...storeKinds,
  ...adapterKinds,
  batcherKind,
]

/** The kind of a component, by its shape; undefined for what is none. What its `stats()` throws, it throws. */
export function kindOf(component: object): ComponentKind | undefined {
  const { stats: method } = component as { stats?: unknown }
  const stats: unknown = typeof method === 'function' ? method.call(component) : undefined
  return componentKinds.find(({ knownBy }) =>
    typeof knownBy === 'function' ? knownBy(component) : isObject(stats) && knownBy.every((field) => field in stats),
  )
}
