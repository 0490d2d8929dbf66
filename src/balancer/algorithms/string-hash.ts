/**
 * The 32-bit MurmurHash3 of a string's UTF-16 code units, two to a block, which is the hash of its UTF-16LE bytes. It is the
 * same in every process and on every platform; it is no defence against keys that are chosen to collide.
 *
 * @returns an unsigned 32-bit number.
 * @see https://github.com/aappleby/smhasher/blob/master/src/MurmurHash3.cpp
 */
export function hashOf(text: string, seed = 0): number {
  const { length } = text
  let h = seed
  for (let i = 1; i < length; i += 2) {
    h ^= scrambled(text.charCodeAt(i - 1) | (text.charCodeAt(i) << 16))
    h = (h << 13) | (h >>> 19)
    h = (Math.imul(h, 5) + 0xe6546b64) | 0
  }
  if ((length & 1) === 1) h ^= scrambled(text.charCodeAt(length - 1))
  return mixed(h ^ (2 * length))
}

/** The last step of MurmurHash3: every bit of the number changes about half of the result's bits, and no two give the same. */
export function mixed(number: number): number {
  let h = number
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

function scrambled(block: number): number {
  const k = Math.imul(block, 0xcc9e2d51)
  return Math.imul((k << 15) | (k >>> 17), 0x1b873593)
}
