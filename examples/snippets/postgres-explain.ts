// A slow query is caught, explained, and helped by the index that was suggested: here in PGlite, in a service on a pool.
import assert from 'node:assert/strict'
import { PGlite } from '@electric-sql/pglite'
import { explain, SlowQueryLog, suggestIndexes } from 'spillway/postgres'

const database = new PGlite()
await database.exec(`
  CREATE TABLE orders (id int PRIMARY KEY, customer_id int NOT NULL, note text NOT NULL);
  INSERT INTO orders SELECT n, n % 5000, repeat('x', 100) FROM generate_series(1, 50000) AS n;
  ANALYZE orders`)

// Slow is what takes 100 ms by default; here everything is, so that there is something to see.
const log = new SlowQueryLog(database, { thresholdMs: 0, values: true, explain: true })
const slow: { text: string; values: readonly unknown[] }[] = []
log.on('slow', ({ text, values = [], rows, valueTypes }) => {
  slow.push({ text, values })
  console.log(`slow: ${text} [${valueTypes}], ${rows} rows`)
})
log.on('explained', ({ plan }) => console.log('planned:', plan.worst.cost?.sentence))

await database.query('SELECT * FROM orders WHERE customer_id = $1', [17])
await log.flush()
await log.close()
assert.equal(slow.length, 1)
const [query] = slow
assert.ok(query)

// What the server really does: the statement is run, read only, and rolled back.
const before = await explain(database, query, { analyze: true })
console.log('before:', before.worst.filter?.sentence)
assert.equal(before.root.rowsRemovedByFilter, 49_990)

const { suggestions } = await suggestIndexes(database, { plans: [before] })
const [suggestion] = suggestions
console.log('suggested:', suggestion?.statement, 'confidence', suggestion?.confidence)
assert.equal(suggestion?.statement, 'CREATE INDEX CONCURRENTLY ON "public"."orders" ("customer_id")')

// Nothing was done so far. Whether an index is worth its writes is for people to say.
await database.query(suggestion.statement)
await database.query('ANALYZE orders')
const after = await explain(database, query, { analyze: true })
console.log('after:', after.root.label)
assert.equal(after.root.rows, 10)
assert.equal(after.worst.filter, undefined)
await database.close()
