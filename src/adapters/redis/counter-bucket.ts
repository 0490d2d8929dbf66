/**
 * The bucket of a counter: FNV-1a of 32 bits over the key's UTF-16 code units, its upper half folded into the lower, modulo the
 * number of buckets. It decides where data lies, so it never changes.
 *
 * Source: the FNV hash, G. Fowler, L. C. Noll, K.-P. Vo.
 */
export function bucketOf(key: string, buckets: number): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < key.length; i++) hash = Math.imul(hash ^ key.charCodeAt(i), 0x01000193)
  return ((hash ^ (hash >>> 16)) >>> 0) % buckets
}
