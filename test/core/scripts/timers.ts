/** Prints what happens to a process that has nothing left but timers; run by clock.test.ts. */
import { AsyncWriteBuffer, systemClock } from 'spillway'

const started = systemClock.now()
const say = (what: string): void => console.log(`${what} ${Math.round(systemClock.now() - started)}`)

switch (process.argv[2]) {
  case 'housekeeping':
    systemClock.setTimer(() => say('fired'), 60_000, { keepAlive: false })
    // The parts of a long delay don't keep it alive either.
    systemClock.setTimer(() => say('fired'), 2 ** 33, { keepAlive: false })
    break
  case 'guarding':
    systemClock.setTimer(() => say('fired'), 200)
    break
  case 'idle':
    // A thousand that once worked and now hold nothing, never closed.
    for (let i = 0; i < 1000; i++) {
      const buffer = new AsyncWriteBuffer<string, number>(() => undefined, { merge: (old) => old, maxWaitMs: 20 })
      buffer.put('a', 1)
    }
    break
  case 'holding': {
    const buffer = new AsyncWriteBuffer<string, number>(() => say('written'), { merge: (old) => old, maxWaitMs: 200 })
    buffer.put('a', 1)
    break
  }
  default:
    throw new Error(`no such case: ${process.argv[2]}`)
}
process.on('exit', () => say('exit'))
