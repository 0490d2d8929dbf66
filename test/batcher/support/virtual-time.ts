import { FakeClock } from 'spillway/testing'
import { expect, test } from 'vitest'
import { unhandledDuring } from './process-events.js'

/**
 * A test in virtual time. Whatever it does, at its end no timer may be pending and no rejection may have been left
 * unhandled.
 */
export function inVirtualTime(sentence: string, body: (clock: FakeClock) => Promise<void>): void {
  test(sentence, async () => {
    const clock = new FakeClock()

    const unhandled = await unhandledDuring(async () => {
      await body(clock)
      await clock.advance(0)
    })

    expect(unhandled).toEqual([])
    expect(clock.pending).toBe(0)
  })
}
