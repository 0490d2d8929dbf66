import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { Answered } from '../../examples/counter-billing/counter/answered.ts'

/** What a gateway remembers, on a clock of the test's. */
function remember(capacity?: number): { answered: Answered; elapse(ms: number): void } {
  let now = 1_000
  const clock = vi.spyOn(performance, 'now').mockImplementation(() => now)
  onTestFinished(() => clock.mockRestore())
  const elapse = (ms: number): void => {
    now += ms
  }
  return { answered: new Answered('me', capacity), elapse }
}

describe('what a gateway remembers of its answers', () => {
  test('tells what was read before an answer from what was read since', () => {
    const { answered } = remember()
    const before = answered.moment
    answered.note('a')
    const since = answered.moment

    expect(answered.isSince(answered.last('a'), before)).toBe(false)
    expect(answered.isSince(answered.last('a'), since)).toBe(true)
    // Of another counter nothing was told.
    expect(answered.isSince(answered.last('b'), before)).toBe(true)
  })

  test('can’t tell when another gateway has read', () => {
    const { answered } = remember()
    const elsewhere = { by: 'other', after: 1_000_000 }

    expect(answered.isSince(answered.last('a'), elsewhere)).toBe(true)
    answered.note('a')
    expect(answered.isSince(answered.last('a'), elsewhere)).toBeUndefined()
  })

  test('lasts longer than what was read is kept, and no more than twice that long', () => {
    const { answered, elapse } = remember()
    answered.note('a')
    const first = answered.last('a')

    elapse(14_000)
    expect(answered.last('a')).toBe(first)
    elapse(2_000)
    // The generation ends with the first question after its time, and is remembered for one more.
    expect(answered.last('a')).toBe(first)
    elapse(16_000)
    expect(answered.last('a')).toBeUndefined()
  })

  test('is never too little where there was too much of it: what had to be forgotten counts as answered', () => {
    const { answered, elapse } = remember(10)
    const before = answered.moment
    answered.note('first')
    for (let n = 0; n < 40; n++) answered.note(`other-${n}`)
    const since = answered.moment

    for (const name of ['first', 'never told']) {
      expect(answered.isSince(answered.last(name), before)).toBe(false)
      expect(answered.isSince(answered.last(name), since)).toBe(true)
      expect(answered.isSince(answered.last(name), { by: 'other', after: 0 })).toBeUndefined()
    }
    // No longer than what was shared is kept: then another gateway's is good enough again.
    elapse(40_000)
    expect(answered.isSince(answered.last('never told'), { by: 'other', after: 0 })).toBe(true)
  })

  test('is not outlasted by a read that took longer', () => {
    const { answered, elapse } = remember()
    const slow = answered.moment
    answered.note('a')
    for (let n = 0; n < 4; n++) {
      elapse(16_000)
      answered.last('a')
    }

    expect(answered.last('a')).toBeUndefined()
    expect(answered.isSince(answered.last('a'), slow)).toBe(false)
    expect(answered.isSince(answered.last('a'), answered.moment)).toBe(true)
  })

  test('makes nothing too old that was read after what was forgotten', () => {
    const { answered } = remember(10)
    for (let n = 0; n < 20; n++) answered.note(`early-${n}`)
    const since = answered.moment
    for (let n = 0; n < 10; n++) answered.note(`late-${n}`)

    // The first two generations are gone, or about to go; it was read after both.
    expect(answered.isSince(answered.last('never told'), since)).toBe(true)
  })
})
