/** A key that the simulated services read and write. */
export interface SimulatedKey {
  /** Its name in the database: namespace and key. */
  readonly id: string
  readonly namespace: '' | 'users'
  readonly key: string
  readonly tags: readonly string[]
}

function keyOf(namespace: '' | 'users', key: string, ...tags: string[]): SimulatedKey {
  return { id: `${namespace}/${key}`, namespace, key, tags }
}

/** The key of what is wrapped, as `cacheKey` makes it. */
export const wrappedKey: SimulatedKey = keyOf('', 'wrapped("x")', 'red')

/** All keys, in two namespaces, with no tag, one, and two. */
export const keys: readonly SimulatedKey[] = [
  keyOf('', 'a', 'red'),
  keyOf('', 'b', 'red', 'blue'),
  keyOf('', 'c'),
  wrappedKey,
  keyOf('users', 'a', 'blue'),
  keyOf('users', 'd'),
]

export const tags: readonly string[] = ['red', 'blue']

/** Which keys an invalidation is about. */
export function idsWith(tag: string): string[] {
  return keys.filter((key) => key.tags.includes(tag)).map(({ id }) => id)
}

/** Which keys a `clear` is about: the root's includes its namespaces'. */
export function idsIn(namespace: '' | 'users'): string[] {
  return keys.filter((key) => namespace === '' || key.namespace === namespace).map(({ id }) => id)
}
