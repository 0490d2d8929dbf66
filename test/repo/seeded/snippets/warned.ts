// Seeded: its listener throws, which changes no result and is reported as a warning.
import assert from 'node:assert/strict'
import { AsyncBatcher } from 'spillway'

const square = new AsyncBatcher<number, number>(async (numbers) => numbers.map((n) => n * n))
square.on('settled', () => {
  throw new Error('a listener of the snippet')
})
const four = await square.add(2)
console.log(four)
assert.equal(four, 4)
