import { type BalancedInstance, LoadBalancer, type LoadBalancerOptions } from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'

/** A balancer whose list a test changes, in virtual time and with chance from a seed. */
export class ChangingList {
  readonly clock: FakeClock = new FakeClock()
  readonly balancer: LoadBalancer<BalancedInstance>
  #list: readonly BalancedInstance[]

  constructor(list: readonly BalancedInstance[], options: LoadBalancerOptions<BalancedInstance>) {
    this.#list = list
    const { clock } = this
    this.balancer = new LoadBalancer(async () => this.#list, { clock, random: seededRandom(1), ...options })
  }

  async change(list: readonly BalancedInstance[]): Promise<void> {
    this.#list = list
    await this.balancer.refresh()
  }

  async close(): Promise<void> {
    await this.balancer.close({ timeoutMs: 0 })
    await this.clock.advance(0)
  }
}

/** The ids of so many picks, one released before the next. */
export function pickedIds<I extends BalancedInstance>(balancer: LoadBalancer<I>, count: number): string[] {
  return Array.from({ length: count }, () => {
    const lease = balancer.pick()
    lease.release()
    return lease.instance.id
  })
}

/** How often each id is there. */
export function countsOf(ids: Iterable<string>): Map<string, number> {
  const counts = new Map<string, number>()
  for (const id of ids) counts.set(id, (counts.get(id) ?? 0) + 1)
  return counts
}

/** Each key's instance. */
export function ownersOf<I extends BalancedInstance>(balancer: LoadBalancer<I>, keys: readonly string[]): string[] {
  return keys.map((key) => {
    const lease = balancer.pick({ key })
    lease.release()
    return lease.instance.id
  })
}

/** So many instances of equal weight. */
export function instances(count: number, prefix = 'instance-'): BalancedInstance[] {
  return Array.from({ length: count }, (_, i) => ({ id: `${prefix}${i}` }))
}
