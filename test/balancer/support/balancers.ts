import type { LoadBalancer, LoadBalancerEvents, LoadBalancerStats } from 'spillway'
import { expect } from 'vitest'

/** An instance as the tests have it. */
export interface Node {
  readonly id: string
  readonly weight?: number
  readonly zone?: string
}

/** Something for each id, of which the tests use these. */
export type ById<T> = Record<string, T> & { a?: T; b?: T; c?: T; slow?: T; fast?: T; broken?: T }

/** Nodes of these ids. */
export function nodes(...ids: string[]): Node[] {
  return ids.map((id) => ({ id }))
}

/** Picks so many times, giving each lease back at once. */
export function pickIds(balancer: LoadBalancer<Node>, times: number): string[] {
  return Array.from({ length: times }, () => {
    const lease = balancer.pick()
    lease.release()
    return lease.instance.id
  })
}

/** How often each id is among them. */
export function tally(ids: readonly string[]): ById<number> {
  const counts: ById<number> = {}
  for (const id of ids) counts[id] = (counts[id] ?? 0) + 1
  return counts
}

/** The states of all instances by id. */
export function statesOf(balancer: LoadBalancer<Node>): ById<string> {
  return Object.fromEntries(balancer.instances().map(({ instance, state }) => [instance.id, state]))
}

/** Writes down what happens, in order: `name` or `name id`. */
export function recordEvents(balancer: LoadBalancer<Node>, ...names: (keyof LoadBalancerEvents<Node>)[]): string[] {
  const seen: string[] = []
  for (const name of names) {
    balancer.on(name, (event) => {
      const instance = (event as { instance?: Node }).instance
      seen.push(instance === undefined ? name : `${name} ${instance.id}`)
    })
  }
  return seen
}

/** The books balance, and what is pending is what is in flight. */
export function expectBooks(balancer: LoadBalancer<Node>): LoadBalancerStats {
  const stats = balancer.stats()
  const { offered, succeeded, failed, ignored, rejected, pending } = stats
  expect(succeeded + failed + ignored + rejected + pending).toBe(offered)
  const inFlight = balancer.instances().reduce((sum, status) => sum + status.inFlight, 0)
  expect(inFlight).toBe(pending)
  return stats
}

/** What a promise rejects with. */
export async function reasonOf(promise: PromiseLike<unknown>): Promise<unknown> {
  try {
    await promise
  } catch (error) {
    return error
  }
  throw new Error('expected a rejection')
}

/** What a function throws. */
export function thrownBy(fn: () => unknown): unknown {
  try {
    fn()
  } catch (error) {
    return error
  }
  throw new Error('expected it to throw')
}

/** The code of an error of ours. */
export function codeOf(error: unknown): string | undefined {
  return (error as { code?: string }).code
}
