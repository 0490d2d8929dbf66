import type { Member } from './algorithm.js'

/**
 * Carries an order of turns over to a new list: those that stay keep their place in it, whatever place the new list gives
 * them, and the new ones wait at its end.
 *
 * @param order - the order so far.
 * @param next - the index in it of the one whose turn is next.
 * @returns the new order; the first one's turn is next.
 */
export function carryOver<M extends Member>(order: readonly M[], next: number, members: readonly M[]): M[] {
  const waiting = new Map<string, M>()
  for (const member of members) waiting.set(member.id, member)
  const carried: M[] = []
  for (let i = 0; i < order.length; i++) {
    const { id } = order[(next + i) % order.length] as M
    const member = waiting.get(id)
    if (member === undefined) continue
    carried.push(member)
    waiting.delete(id)
  }
  for (const member of waiting.values()) carried.push(member)
  return carried
}

/** Whether two lists hold the same members in the same order, so that at most weights have changed. */
export function sameList<M extends Member>(list: readonly M[], other: readonly M[]): boolean {
  if (list.length !== other.length) return false
  for (let i = 0; i < list.length; i++) if (list[i] !== other[i]) return false
  return true
}

/** Whether all weigh the same. */
export function equalWeights(members: readonly Member[]): boolean {
  for (let i = 1; i < members.length; i++) {
    if ((members[i] as Member).weight !== (members[0] as Member).weight) return false
  }
  return true
}
