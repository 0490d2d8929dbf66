import { inspect } from 'node:util'
import { isSpillwayError, TokenCache, type TokenContext } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { always, Identity, minutes, stateOf } from './support/identity.js'
import { setUp, withToken } from './support/scenes.js'

/** With a refresh that was begun behind the callers and takes so long that one now waits for it. */
async function withWaiting() {
  const made = await withToken({ timeoutMs: minutes(20) })
  await made.clock.advance(minutes(50))
  await made.tokens.get()
  await made.clock.advance(minutes(9))
  const patience = new AbortController()
  return { ...made, patience, waiting: made.tokens.get('', { signal: patience.signal }) }
}

describe('a caller who gives up', () => {
  test('rejects alone, with the reason of its signal', async () => {
    const { identity, tokens, clock } = setUp()
    const patience = new AbortController()
    const impatient = tokens.get('a', { signal: patience.signal })
    const patient = tokens.get('a')

    patience.abort('enough')
    await expect(impatient).rejects.toBe('enough')
    expect(identity.last.signal.aborted).toBe(false)
    await identity.last.give('t')

    expect(await patient).toBe('t')
    expect(tokens.stats()).toMatchObject({ offered: 2, aborted: 1, succeeded: 1, pending: 0, fetchesAborted: 0 })
    expect(clock.pending).toBe(0)
  })

  test('ends the fetch when it was the last, and the next one begins another', async () => {
    const { identity, tokens, clock } = setUp()
    const [one, other] = [new AbortController(), new AbortController()]
    const answers = [tokens.get('a', { signal: one.signal }), tokens.get('a', { signal: other.signal })]
    const first = identity.last

    one.abort(new Error('one'))
    expect(first.signal.aborted).toBe(false)
    other.abort(new Error('other'))
    expect(first.signal.aborted).toBe(true)
    await expect(answers[0]).rejects.toThrow('one')
    await expect(answers[1]).rejects.toThrow('other')
    expect(clock.pending).toBe(0)
    // What nobody got a token of takes no room.
    expect(tokens.stats().keys).toBe(0)

    const next = tokens.get('a')
    expect(identity.count).toBe(2)
    await first.give('given up')
    expect(await stateOf(next)).toBe('waiting')
    await identity.last.give('t')
    expect(await next).toBe('t')
    expect(tokens.stats()).toMatchObject({ fetches: 2, fetchesAborted: 1, refreshed: 1, refreshFailures: 0 })
  })

  test('doesn’t end a refresh that was begun behind the callers', async () => {
    const { identity, tokens, patience, waiting } = await withWaiting()

    patience.abort('enough')
    await expect(waiting).rejects.toBe('enough')

    expect(identity.last.signal.aborted).toBe(false)
    await identity.last.give('t2')
    expect(await tokens.get()).toBe('t2')
  })

  test('ends a refresh whose token nobody would keep', async () => {
    const { identity, tokens, clock, patience, waiting } = await withWaiting()
    tokens.invalidate('t1')
    expect(identity.last.signal.aborted).toBe(false)

    patience.abort('enough')

    await expect(waiting).rejects.toBe('enough')
    expect(identity.last.signal.aborted).toBe(true)
    expect(clock.pending).toBe(0)
  })

  test('before it asked gets its reason and nothing is fetched', async () => {
    const { identity, tokens } = await withToken()

    await expect(tokens.get('', { signal: AbortSignal.abort('early') })).rejects.toBe('early')
    await expect(tokens.get('b', { signal: AbortSignal.abort('early') })).rejects.toBe('early')

    expect(identity.count).toBe(1)
    expect(tokens.stats()).toMatchObject({ offered: 3, rejected: 2, keys: 1 })
  })

  test('leaves no listener on its signal', async () => {
    const { identity, tokens } = setUp()
    const signal = new AbortController().signal
    let listeners = 0
    const add = signal.addEventListener.bind(signal)
    const remove = signal.removeEventListener.bind(signal)
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      listeners++
      add(...args)
    }
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      listeners--
      remove(...args)
    }

    const answer = tokens.get('a', { signal })
    expect(listeners).toBe(1)
    await identity.last.give('t')
    await answer
    expect(listeners).toBe(0)
    expect(await tokens.get('a', { signal })).toBe('t')
    expect(listeners).toBe(0)
  })
})

describe('close', () => {
  test('answers those who wait, refuses more, gives up refreshes, leaves no timer', async () => {
    const { identity, tokens, clock } = await withToken()
    await clock.advance(minutes(50))
    await tokens.get()
    const behind = identity.last
    const waiting = tokens.get('b')

    const closing = tokens.close()
    expect(behind.signal.aborted).toBe(true)
    await expect(tokens.get()).rejects.toMatchObject({ code: 'ERR_CLOSED', message: 'token-cache is closed' })
    tokens.invalidate('t1')
    expect(await stateOf(closing)).toBe('waiting')
    await identity.last.give('of b')

    expect(await waiting).toBe('of b')
    expect(await closing).toEqual({ drained: true, abandoned: 0 })
    expect(tokens.stats()).toMatchObject({ keys: 0, fetching: 0, rejected: 1, pending: 0, discarded: 1 })
    expect(clock.pending).toBe(0)
  })

  test('at its deadline rejects those who wait and aborts what is fetched', async () => {
    const { identity, tokens, clock } = setUp({ name: 'tokens of billing' })
    const answers = [tokens.get('a'), tokens.get('a'), tokens.get('b')]

    const closing = tokens.close({ timeoutMs: 50 })
    await clock.advance(50)

    expect(await closing).toEqual({ drained: false, abandoned: 3 })
    for (const answer of answers) {
      const error = await answer.catch((reason: unknown) => reason)
      expect(isSpillwayError(error, 'ERR_CLOSED')).toBe(true)
      expect(String(error)).toBe('ClosedError: tokens of billing is closed')
    }
    expect(identity.requests.every(({ signal }) => signal.aborted)).toBe(true)
    expect(tokens.stats()).toMatchObject({ offered: 3, failed: 3, fetchesAborted: 2, fetching: 0 })
    expect(clock.pending).toBe(0)
  })

  test('of an idle cache is over at once', async () => {
    const clock = new FakeClock()
    {
      await using tokens = new TokenCache(async () => ({ token: 't' }), { clock })
      await tokens.get()
    }
    expect(clock.pending).toBe(0)
  })
})

test('only the time of a fetch that somebody waits for keeps the process alive', async () => {
  const kept: (boolean | undefined)[] = []
  class NotingClock extends FakeClock {
    override setTimer(callback: () => void, delayMs: number, options?: { keepAlive?: boolean }): () => void {
      kept.push(options?.keepAlive)
      return super.setTimer(callback, delayMs)
    }
  }
  const identity = new Identity(new NotingClock())
  const { clock } = identity
  const tokens = new TokenCache(identity.fetchToken, { clock, random: always(0), timeoutMs: minutes(20) })

  const first = [tokens.get(), tokens.get()]
  expect(kept).toEqual([true])
  await identity.last.give('t1', { expiresInMs: minutes(60) })
  await Promise.all(first)
  await clock.advance(minutes(50))
  await tokens.get()
  expect(kept).toEqual([true, false])

  // Now that somebody waits for it, it ends when it would have ended.
  await clock.advance(minutes(9))
  const waiting = tokens.get()
  expect(kept).toEqual([true, false, true])
  expect(clock.pending).toBe(1)
  await clock.advance(minutes(11) - 1)
  expect(await stateOf(waiting)).toBe('waiting')
  await clock.advance(1)
  await expect(waiting).rejects.toMatchObject({ code: 'ERR_TIMEOUT' })
  expect(clock.pending).toBe(0)
})

describe('flush', () => {
  test('waits for all that is fetched now, and for nothing that comes later', async () => {
    const { identity, tokens, clock } = await withToken()
    await clock.advance(minutes(50))
    await tokens.get()
    const behind = identity.last
    const a = tokens.get('a')
    const ofA = identity.last
    const b = tokens.get('b')
    const ofB = identity.last

    const flushed = tokens.flush()
    const later = tokens.get('c')
    await ofA.give('a')
    await ofB.fail(new Error('down'))
    expect(await stateOf(flushed)).toBe('waiting')
    await behind.give('t2')

    expect(await flushed).toEqual({ succeeded: 1, failed: 1, dropped: 0 })
    expect(await stateOf(later)).toBe('waiting')
    await identity.last.give('c')
    await Promise.allSettled([a, b, later])
    expect(await tokens.flush()).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
  })

  test('reports on those who came before it, and not on who waits for the same fetch since', async () => {
    const { identity, tokens } = setUp()
    const before = [tokens.get(), tokens.get(), tokens.get('', { signal: new AbortController().signal })]

    const flushed = tokens.flush()
    const after = [tokens.get(), tokens.get()]
    const all = tokens.flush()
    await identity.last.give('t')

    expect(identity.count).toBe(1)
    expect(await flushed).toEqual({ succeeded: 3, failed: 0, dropped: 0 })
    expect(await all).toEqual({ succeeded: 5, failed: 0, dropped: 0 })
    expect(await Promise.all([...before, ...after])).toEqual(['t', 't', 't', 't', 't'])
  })
})

test('the books count every caller who waits, with a signal or without, and how long each did', async () => {
  const { identity, tokens, clock } = setUp()
  const patience = new AbortController()
  const early = [tokens.get(), tokens.get('', { signal: patience.signal }), tokens.get()]
  await clock.advance(300)
  const late = Array.from({ length: 97 }, () => tokens.get())
  expect(tokens.stats()).toMatchObject({ offered: 100, pending: 100, fetching: 1 })

  patience.abort('enough')
  expect(tokens.stats()).toMatchObject({ offered: 100, pending: 99, aborted: 1 })
  await clock.advance(10)
  await identity.last.give('t')

  expect(await Promise.all([early[0], early[2], ...late])).toEqual(Array.from({ length: 99 }, () => 't'))
  await expect(early[1]).rejects.toBe('enough')
  const { latencyMs, ...stats } = tokens.stats()
  expect(stats).toMatchObject({ offered: 100, succeeded: 99, aborted: 1, pending: 0, hits: 0 })
  expect(latencyMs).toMatchObject({ p50: 10, p95: 10, max: 310 })
})

describe('secrets', () => {
  test('are in no event, stat, error of ours, inspection or JSON of the cache', async () => {
    const identity = new Identity()
    const { clock } = identity
    const contexts: TokenContext[] = []
    const tokens = new TokenCache(
      (key, context) => {
        contexts.push(context)
        return identity.fetchToken(key, context)
      },
      { clock, capacity: 2, timeoutMs: 100 },
    )
    const events: unknown[] = []
    for (const event of ['refreshed', 'refreshFailed', 'invalidated'] as const) {
      tokens.on(event, (payload) => events.push(payload))
    }
    const errors: unknown[] = []
    const failed = (answer: Promise<string>): Promise<unknown> => answer.catch((error: unknown) => errors.push(error))
    const open = async (key: string, token: unknown, rest?: object): Promise<void> => {
      const answer = failed(tokens.get(key))
      await identity.last.give(token, rest)
      await answer
    }

    await open('a', 's3cret-1', { expiresInMs: minutes(60) })
    await clock.advance(minutes(50))
    await tokens.get('a')
    await identity.last.give('s3cret-2\n')
    await open('b', 's3cret-3', { expiresAt: 5 })
    tokens.invalidate('s3cret-1')
    await open('a', ['s3cret-4'])
    await clock.advance(1000)
    await open('a', 's3cret-5')
    const slow = failed(tokens.get('c'))
    await clock.advance(100)
    await slow
    for (const wrong of [{ token: 's3cret-6' }, ['s3cret-7'], undefined]) {
      try {
        tokens.invalidate(wrong as never)
      } catch (error) {
        errors.push(error)
      }
    }

    expect(errors).toHaveLength(6)
    expect(events.length).toBeGreaterThan(5)
    const source = tokens.forKey('a')
    const deep = { depth: Number.POSITIVE_INFINITY, showHidden: true, getters: false }
    for (const thing of [tokens, source, tokens.stats(), events, errors, contexts]) {
      expect(inspect(thing, deep)).not.toContain('s3cret')
      expect(String(thing)).not.toContain('s3cret')
      expect(JSON.stringify(thing)).not.toContain('s3cret')
    }
    // It is not that there are none.
    expect(contexts.some(({ previous }) => previous === 's3cret-1')).toBe(true)
    expect(await tokens.get('a')).toBe('s3cret-5')
  })

  test('that fetchToken puts into its own error are the caller’s own: the error is passed on as it is', async () => {
    const { identity, tokens } = setUp()
    const own = new Error('refused: s3cret')
    const answer = tokens.get()
    await identity.last.fail(own)

    await expect(answer).rejects.toBe(own)
  })
})
