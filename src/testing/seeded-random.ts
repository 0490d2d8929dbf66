/**
 * Numbers from 0 up to, not including, 1 that are the same for the same seed: sfc32, a small fast generator of Chris
 * Doty-Humphrey's PractRand. Not for secrets.
 *
 * @param seed - any number or string.
 */
export function seededRandom(seed: number | string): () => number {
  let [a, b, c, counter] = hash(String(seed))
  const next = (): number => {
    const sum = (a + b + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (((c << 21) | (c >>> 11)) + sum) | 0
    return (sum >>> 0) / 2 ** 32
  }
  for (let i = 0; i < 12; i++) next()
  return next
}

/** Four 32-bit numbers of a text, each bit of the text in all of them: FNV-1a with four offsets, then mixed. */
function hash(text: string): [number, number, number, number] {
  const words: [number, number, number, number] = [0x811c9dc5, 0x9e3779b9, 0x85ebca6b, 0xc2b2ae35]
  for (let word = 0; word < words.length; word++) {
    let h = words[word] as number
    for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
    words[word] = h ^ (h >>> 13)
  }
  return words
}
