// Seeded: it expects nothing.
import { AsyncBatcher } from 'spillway'

const square = new AsyncBatcher<number, number>(async (numbers) => numbers.map((n) => n * n))
console.log(await square.add(2))
