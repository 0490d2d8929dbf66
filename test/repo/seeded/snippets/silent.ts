// Seeded: it shows nothing.
import assert from 'node:assert/strict'
import { AsyncBatcher } from 'spillway'

const square = new AsyncBatcher<number, number>(async (numbers) => numbers.map((n) => n * n))
assert.equal(await square.add(2), 4)
