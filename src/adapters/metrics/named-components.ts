import { failOption } from '../../core/options.js'
import type { ComponentKind } from './component-kind.js'
import { kindOf } from './component-kinds.js'

/** A component of this package: what has `stats()`. */
export interface StatsComponent {
  /** What it is called where a list gives no other name. */
  readonly name?: string | undefined
  /** A snapshot of its counters and gauges. */
  stats(): object
}

/** A registry of circuit breakers. */
export interface BreakerRegistryLike {
  /** How many there are. */
  readonly size: number
  /** The breaker of a key. */
  get(key: string): object
  /** All breakers with their keys. */
  entries(): Iterable<readonly [string, StatsComponent]>
}

/** A Pool of `pg`. */
export interface PgPoolLike {
  /** Connections there are. */
  readonly totalCount: number
  /** Those that nobody uses. */
  readonly idleCount: number
  /** Who waits for one. */
  readonly waitingCount: number
}

/** A Pool of `generic-pool`. */
export interface GenericPoolLike {
  /** Resources there are. */
  readonly size: number
  /** Those that nobody uses. */
  readonly available: number
  /** Those that are used. */
  readonly borrowed: number
  /** Who waits for one. */
  readonly pending: number
}

/** An Agent of undici. */
export interface UndiciAgentLike {
  /** What its clients or pools are up to, by origin. */
  readonly stats: object
  /** Sends a request. */
  dispatch(...args: never[]): unknown
}

/** What can be instrumented. */
export type Instrumentable = StatsComponent | BreakerRegistryLike | PgPoolLike | GenericPoolLike | UndiciAgentLike

/** What to instrument: a record by name, or a list of components that bear their names. */
export type Components = readonly StatsComponent[] | Readonly<Record<string, Instrumentable>>

/** A component that is instrumented. */
export interface NamedComponent {
  readonly name: string
  readonly component: object
  readonly kind: ComponentKind
}

/**
 * Names the components and finds out what they are.
 *
 * @throws OptionError where one is nothing that is known, or has no name, or that of another one.
 */
export function nameComponents(components: Components): NamedComponent[] {
  if (typeof components !== 'object' || components === null || (!Array.isArray(components) && !isRecord(components))) {
    failOption('components', 'must be an array of components, or an object with one a name', components)
  }
  const isList = Array.isArray(components)
  const named = isList
    ? components.map((component: unknown, index) => ({ field: `components[${index}]`, component }))
    : Object.entries(components).map(([name, component]) => ({ field: `components.${name}`, name, component }))
  const found = new Map<string, NamedComponent>()
  for (const { field, component, ...given } of named) {
    if ((typeof component !== 'object' && typeof component !== 'function') || component === null) {
      failOption(field, 'must be a component', component)
    }
    const name: unknown = 'name' in given ? given.name : (component as { name?: unknown }).name
    if (typeof name !== 'string' || name === '') {
      failOption(field, 'must have a name of its own in a list; give an object with one a name instead', component)
    }
    if (found.has(name)) {
      failOption(field, 'must have another name than the ones before; give an object with one a name instead', name)
    }
    found.set(name, { name, component, kind: knownKind(field, component) })
  }
  return [...found.values()]
}

/** Whether its fields are the components: neither a collection of them nor one of them, whose fields are often private. */
function isRecord(components: object): boolean {
  if (Symbol.iterator in components) return false
  try {
    return kindOf(components) === undefined
  } catch {
    return false
  }
}

function knownKind(field: string, component: object): ComponentKind {
  let kind: ComponentKind | undefined
  try {
    kind = kindOf(component)
  } catch (error) {
    failOption(field, 'must have a stats() that works', error)
  }
  if (kind === undefined) failOption(field, 'must be a component that spillway/metrics knows', component)
  return kind
}
