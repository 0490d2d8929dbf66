// A payment service fails, callers are turned away at once, a probe finds that it is back.
import assert from 'node:assert/strict'
import { CircuitBreaker, isSpillwayError, timeWindow } from 'spillway'
import { FakeClock } from 'spillway/testing'

const clock = new FakeClock() // thirty seconds pass in no time; leave it out in a service
let healthy = true
let calls = 0

async function pay(): Promise<string> {
  calls++
  if (!healthy) throw new Error('503 from payments')
  return 'paid'
}

const payments = new CircuitBreaker({
  name: 'payments',
  clock,
  // Half of the calls of the last 10 seconds failed, and there were at least 4 of them.
  trip: timeWindow({ windowMs: 10_000, failureRate: 0.5, minimumCalls: 4 }),
  recoveryTimeoutMs: 30_000,
})
payments.on('opened', ({ error, retryAfterMs }) => console.log('opened for', retryAfterMs, 'ms:', String(error)))
payments.on('closed', ({ reason }) => console.log('closed:', reason))

assert.equal(await payments.execute(pay), 'paid')
healthy = false
for (let i = 0; i < 3; i++) await assert.rejects(payments.execute(pay), /503/)
assert.equal(payments.state, 'open')

// Nobody waits for what is known to fail, and the message says when to come back.
const refusal: unknown = await payments.execute(pay).catch((error: unknown) => error)
assert.ok(isSpillwayError(refusal, 'ERR_CIRCUIT_OPEN'))
assert.equal(refusal.retryAfterMs, 30_000)
assert.equal(calls, 4)
console.log(refusal.message)

healthy = true
await clock.advance(30_000)
assert.equal(payments.state, 'half-open')
assert.equal(await payments.execute(pay), 'paid')
assert.equal(payments.state, 'closed')

// For what isn't one function call, a stream for instance, take a permit and tell its outcome.
const permit = payments.tryAcquire()
assert.ok(permit)
permit.success()
const { offered, succeeded, failed, rejected, pending } = payments.stats()
assert.equal(offered, succeeded + failed + rejected + pending)
console.log({ offered, succeeded, failed, rejected, pending })
