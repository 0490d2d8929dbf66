// A batcher by hand loses what is added while it sends. Random runs find that, and name a seed that shows it.
import assert from 'node:assert/strict'
import { AsyncBatcher, type Clock } from 'spillway'
import { type Scenario, SimulationError, simulate } from 'spillway/testing'

type Send = (items: readonly number[]) => Promise<void>
type Add = (item: number) => unknown

/** Looks right: waits 50 ms for company, sends all, forgets what it sent. */
function naiveBatcher(send: Send, clock: Clock): Add {
  let items: number[] = []
  let isDue = false
  const flush = async (): Promise<void> => {
    isDue = false
    await send(items)
    items = [] // what came meanwhile, too
  }
  return (item) => {
    items.push(item)
    if (!isDue) clock.setTimer(() => void flush(), 50)
    isDue = true
  }
}

function soundBatcher(send: Send, clock: Clock): Add {
  const process = (items: number[]) => send(items).then(() => items)
  const batcher = new AsyncBatcher(process, { clock, maxWaitMs: 50 })
  return (item) => batcher.add(item)
}

/** Adds numbers at random moments, and expects that each is sent once. */
const eachIsSentOnce =
  (make: (send: Send, clock: Clock) => Add): Scenario<void> =>
  async ({ clock, below, sleep, log }) => {
    const sent: number[] = []
    const add = make(async (items) => {
      log('sends', items)
      sent.push(...items)
      await sleep(below(30))
    }, clock)
    for (let item = 1; item <= 4; item++) {
      log('adds', item)
      add(item)
      await sleep(below(100))
    }
    await sleep(1000)
    assert.equal(sent.join(), '1,2,3,4')
  }

const error = await simulate(eachIsSentOnce(naiveBatcher), { name: 'naive' }).catch((reason: unknown) => reason)
assert.ok(error instanceof SimulationError)
assert.match(error.message, /naive: seed \d+ failed at [\d.]+ ms: AssertionError/)
assert.ok(error.repeats, 'the seed alone shows it again')
console.log(error.message)

const { seeds, virtualMs } = await simulate(eachIsSentOnce(soundBatcher), { name: 'sound', seeds: 500 })
console.log(`AsyncBatcher: ${seeds} seeds, ${Math.round(virtualMs / 1000)} s of virtual time, none lost`)
