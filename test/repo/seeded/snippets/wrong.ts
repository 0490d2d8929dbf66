// Seeded: what it asserts is not so.
import assert from 'node:assert/strict'
import { AsyncBatcher } from 'spillway'

const square = new AsyncBatcher<number, number>(async (numbers) => numbers.map((n) => n * n))
const four = await square.add(2)
console.log(four)
assert.equal(four, 5)
