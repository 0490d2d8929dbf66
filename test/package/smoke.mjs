// The built package, by its own name, as ESM. Needs `npm run build` first.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import * as spillway from 'spillway'
import { ConsulRegistration } from 'spillway/consul'
import { FileJournal } from 'spillway/file'
import { GrpcChannelPool } from 'spillway/grpc'
import { HttpClient } from 'spillway/http'
import { batchTracer, instrument, metricsCatalog, prometheus } from 'spillway/metrics'
import { PostgresCounterStore } from 'spillway/postgres'
import { closeOnExit } from 'spillway/process'
import { RedisCounterStore } from 'spillway/redis'
import { commitThenDrop, FakeClock, seededRandom } from 'spillway/testing'
import { exercise } from './exercise.mjs'

const require = createRequire(import.meta.url)
const copy = require('spillway')

assert.match(import.meta.resolve('spillway'), /\/dist\/index\.js$/)
console.log('esm:', await exercise(spillway))

// Two copies of each class, one brand.
assert.notEqual(spillway.ClosedError, copy.ClosedError)
const ours = new spillway.FullError('jobs is full (capacity 1)', 1)
const theirs = new copy.FullError('jobs is full (capacity 1)', 1)
assert.ok(!(theirs instanceof spillway.FullError))
assert.ok(spillway.isSpillwayError(theirs, 'ERR_FULL') && copy.isSpillwayError(ours, 'ERR_FULL'))
assert.ok(!spillway.isSpillwayError(theirs, 'ERR_CLOSED') && !copy.isSpillwayError(new Error('another'), 'ERR_FULL'))
assert.equal(ours.name, 'FullError')
console.log('esm and cjs: each knows the errors of the other')

// One copy of each class within a format, whichever sub-path it comes from.
assert.throws(
  () => closeOnExit([{}]),
  (error) => error instanceof spillway.OptionError,
)
const lost = commitThenDrop(async () => 1, { failureRate: 1 })
await assert.rejects(lost, (error) => error instanceof spillway.StoreError && error.outcomeUnknown)

// Each adapter loads without its client library: that comes from the caller.
for (const Adapter of [
  ConsulRegistration,
  FileJournal,
  GrpcChannelPool,
  HttpClient,
  PostgresCounterStore,
  RedisCounterStore,
]) {
  assert.throws(
    () => new Adapter({}),
    (error) => error instanceof spillway.OptionError,
  )
}

// spillway/metrics imports neither of its peers: what they are comes as an argument.
for (const call of [instrument, prometheus, batchTracer]) {
  assert.throws(
    () => call({}, {}),
    (error) => error instanceof spillway.OptionError,
  )
}
const families = new Map()
const registry = {
  contentType: 'text/plain',
  getSingleMetric: (name) => families.get(name),
  registerMetric: (family) => families.set(family.name, family),
  removeSingleMetric: (name) => families.delete(name),
}
const measured = new copy.CircuitBreaker({ name: 'payments' })
const offMetrics = prometheus(registry, [measured], { eventLoop: false })
const { values } = await families.get('spillway_breaker_state').get()
assert.deepEqual(values[0], { labels: { component: 'payments', state: 'closed' }, value: 1 })
assert.ok(metricsCatalog().metrics.length > 100)
offMetrics()
assert.equal(families.size, 0)
console.log('esm: spillway/metrics works without its peers, and with components of the other copy')

const clock = new FakeClock()
const batcher = new spillway.AsyncBatcher(async (items) => items, {
  clock,
  random: seededRandom(1),
  eager: false,
  maxWaitMs: 50,
})
const before = process.listenerCount('SIGTERM')
const off = closeOnExit([batcher])
assert.equal(process.listenerCount('SIGTERM'), before + 1)
const answer = batcher.add('late')
await clock.advance(50)
assert.equal(await answer, 'late')
await batcher.close()
off()
assert.equal(process.listenerCount('SIGTERM'), before)
assert.equal(clock.pending, 0)
console.log('esm: spillway/process and spillway/testing work')
