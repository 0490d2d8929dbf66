import { failOption } from '../core/options.js'
import { type BalancedInstance, InstanceSlot, type InstanceStatus } from './instance-slot.js'

/** What a new list changed. */
export interface ListChange<I> {
  /** Instances whose ids weren't in the list before. */
  readonly added: readonly InstanceSlot<I>[]
  /** Instances whose ids were in it and no longer are. */
  readonly removed: readonly InstanceSlot<I>[]
  /** Those that stayed and are another object with another field, or have another weight. */
  readonly changed: readonly InstanceSlot<I>[]
}

/**
 * Checks a list that came from outside.
 *
 * @returns the instances by id, each id once: the first of its kind.
 * @throws OptionError that names the place in the list.
 */
export function readInstances<I extends BalancedInstance>(list: readonly I[]): Map<string, I> {
  if (!Array.isArray(list)) failOption('instances', 'must be an array', list)
  const instances = new Map<string, I>()
  for (let index = 0; index < list.length; index++) {
    const instance = list[index] as I
    const field = `instances[${index}]`
    if (typeof instance !== 'object' || instance === null) failOption(field, 'must be an object', instance)
    const { id, weight } = instance
    if (typeof id !== 'string' || id === '') failOption(`${field}.id`, 'must be a string that is not empty', id)
    if (weight !== undefined && !(typeof weight === 'number' && weight >= 0 && weight < Number.POSITIVE_INFINITY)) {
      failOption(`${field}.weight`, 'must be a finite number of 0 or more', weight)
    }
    if (!instances.has(id)) instances.set(id, instance)
  }
  return instances
}

/**
 * The instances by id, in the order in which they first came: what a refresh does to the order of its list disturbs nobody's
 * turn. One that left the list stays until nothing of it is in flight, and is the same one if it comes back before.
 */
export class InstanceList<I extends BalancedInstance> {
  readonly #slots = new Map<string, InstanceSlot<I>>()
  /** Whether there has been a list at all. */
  loaded = false

  /** All of them, those that have left included. */
  get slots(): Iterable<InstanceSlot<I>> {
    return this.#slots.values()
  }

  get(id: string): InstanceSlot<I> | undefined {
    return this.#slots.get(id)
  }

  /** Takes a whole list, already checked. */
  apply(instances: ReadonlyMap<string, I>): ListChange<I> {
    const added: InstanceSlot<I>[] = []
    const removed: InstanceSlot<I>[] = []
    const changed: InstanceSlot<I>[] = []
    for (const slot of this.#slots.values()) {
      if (slot.removed || instances.has(slot.id)) continue
      slot.removed = true
      slot.told = false
      removed.push(slot)
    }
    for (const [id, instance] of instances) {
      const weight = instance.weight ?? 1
      let slot = this.#slots.get(id)
      if (slot === undefined) {
        slot = new InstanceSlot(id, instance, weight)
        this.#slots.set(id, slot)
        added.push(slot)
        continue
      }
      if (slot.removed) {
        slot.removed = false
        slot.told = false
        added.push(slot)
      } else if (slot.baseWeight !== weight || !alike(slot.instance, instance)) {
        changed.push(slot)
      }
      slot.instance = instance
      slot.baseWeight = weight
    }
    this.loaded = true
    return { added, removed, changed }
  }

  /** Forgets one that has left and has nothing in flight. */
  forget(slot: InstanceSlot<I>): void {
    if (this.#slots.get(slot.id) === slot) this.#slots.delete(slot.id)
  }

  /** The objects of those that are in the list. */
  instances(): I[] {
    return [...this.#slots.values()].filter((slot) => !slot.removed).map(({ instance }) => instance)
  }

  statuses(): InstanceStatus<I>[] {
    return Array.from(this.#slots.values(), ({ instance, state, inFlight, weight }) => ({
      instance,
      state,
      inFlight,
      weight,
    }))
  }
}

/** Whether two objects have the same values in the same fields. Fields that are objects must be the same ones. */
function alike(one: object, other: object): boolean {
  if (one === other) return true
  const keys = Object.keys(one) as (keyof typeof one)[]
  return keys.length === Object.keys(other).length && keys.every((key) => Object.is(one[key], other[key]))
}
