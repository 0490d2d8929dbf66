// A minute of calls, failures and back-off in a few milliseconds, the same in every run.
import assert from 'node:assert/strict'
import { AsyncBatcher } from 'spillway'
import { FakeClock, flaky, seededRandom, slow } from 'spillway/testing'

const clock = new FakeClock()
const random = seededRandom('a run that can be repeated')
const log: string[] = []

const send = async (mails: string[]): Promise<string[]> => mails.map((mail) => `sent ${mail}`)

const mailer = new AsyncBatcher<string, string>(
  // Each call takes 200 ms of virtual time, and four of five fail.
  slow(flaky(send, { failureRate: 0.8, random }), { delayMs: 200, clock }),
  { name: 'mailer', clock, random, eager: false, maxWaitMs: 50, retry: { attempts: 10, delayMs: 1000 } },
)
mailer.on('dispatched', ({ size }) => log.push(`${clock.now()} ms: ${size} mails leave`))
mailer.on('retried', ({ attempt, delayMs }) =>
  log.push(`${clock.now().toFixed()} ms: attempt ${attempt} in ${delayMs.toFixed()} ms`),
)
mailer.on('settled', ({ attempts }) => log.push(`${clock.now().toFixed()} ms: settled after ${attempts} attempts`))

// `maxWaitMs` runs from the first item: the second one doesn't prolong it.
const first = mailer.add('a')
await clock.advance(30)
const second = mailer.add('b')
await clock.advance(19)
assert.deepEqual(log, [])
await clock.advance(1)
assert.deepEqual(log, ['50 ms: 2 mails leave'])

const before = performance.now()
await clock.advance(60_000)
assert.deepEqual(await Promise.all([first, second]), ['sent a', 'sent b'])
assert.equal(mailer.stats().pending, 0)
assert.equal(clock.pending, 0, 'no timer is left')

console.log(log.join('\n'))
console.log(`a minute passed in ${(performance.now() - before).toFixed()} ms`)
