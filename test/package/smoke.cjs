// The built package, by its own name, as CommonJS. Needs `npm run build` first.
const assert = require('node:assert/strict')
const spillway = require('spillway')
const { closeOnExit } = require('spillway/process')
const { FakeClock, hanging, seededRandom } = require('spillway/testing')

assert.match(require.resolve('spillway'), /[\\/]dist[\\/]index\.cjs$/)
assert.equal(require('spillway/package.json').name, 'spillway')

async function main() {
  const { exercise } = await import('./exercise.mjs')
  console.log('cjs:', await exercise(spillway))

  const copy = await import('spillway')
  assert.notEqual(spillway.ClosedError, copy.ClosedError)
  const closed = new copy.AsyncBatcher(async (items) => items, { name: 'closed' })
  await closed.close()
  const error = await closed.add(1).catch((reason) => reason)
  assert.ok(!(error instanceof spillway.ClosedError) && spillway.isSpillwayError(error, 'ERR_CLOSED'))
  assert.ok(copy.isSpillwayError(new spillway.TimeoutError('too long', 5), 'ERR_TIMEOUT'))
  console.log('cjs and esm: each knows the errors of the other')

  assert.throws(
    () => closeOnExit([{}]),
    (wrong) => wrong instanceof spillway.OptionError,
  )
  const clock = new FakeClock()
  const buffer = new spillway.AsyncWriteBuffer(
    hanging(async () => {}, { random: seededRandom(1) }),
    { clock, merge: (_old, value) => value, maxWaitMs: 50 },
  )
  const off = closeOnExit([buffer])
  assert.ok(buffer.put('key', 1))
  await clock.advance(50)
  const closing = buffer.close({ timeoutMs: 1000 })
  await clock.advance(1000)
  assert.deepEqual(await closing, { drained: false, abandoned: 1 })
  off()
  console.log('cjs: spillway/process and spillway/testing work')
}

// Each adapter loads without its client library: that comes from the caller.
for (const [name, exported] of [
  ['redis', 'RedisCounterStore'],
  ['postgres', 'PostgresCounterStore'],
  ['grpc', 'GrpcChannelPool'],
  ['consul', 'ConsulRegistration'],
  ['http', 'HttpClient'],
]) {
  assert.equal(typeof require(`spillway/${name}`)[exported], 'function')
  assert.throws(
    () => new (require(`spillway/${name}`)[exported])({}),
    (wrong) => spillway.isSpillwayError(wrong, 'ERR_OPTION'),
  )
}

// Of spillway/metrics, neither OpenTelemetry nor prom-client is asked for.
const { batchTracer, instrument, prometheus } = require('spillway/metrics')
for (const call of [instrument, prometheus, batchTracer]) {
  assert.throws(
    () => call({}, {}),
    (wrong) => spillway.isSpillwayError(wrong, 'ERR_OPTION'),
  )
}

main().catch((error) => {
  console.error(error)
  process.exitCode = 1
})
