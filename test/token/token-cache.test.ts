import { TokenCache } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { expect, test } from 'vitest'
import { always, minutes, stateOf } from './support/identity.js'
import { setUp, withToken } from './support/scenes.js'

test('a thousand callers who come while a token is fetched get the same one from one fetch', async () => {
  const { identity, tokens, clock } = setUp()

  const answers = Array.from({ length: 1000 }, () => tokens.get())
  await clock.advance(300)
  expect(identity.count).toBe(1)
  expect(tokens.stats()).toMatchObject({ pending: 1000, fetching: 1 })
  await identity.last.give('t1')

  expect(new Set(await Promise.all(answers))).toEqual(new Set(['t1']))
  expect(await tokens.get()).toBe('t1')
  expect(tokens.stats()).toMatchObject({ offered: 1001, succeeded: 1001, hits: 1, pending: 0, fetches: 1 })
  expect(tokens.stats().latencyMs.max).toBe(300)
  expect(clock.pending).toBe(0)
})

test('a token of 60 minutes is served for 50 and then refreshed behind its callers', async () => {
  const { identity, tokens, clock } = await withToken()

  await clock.advance(minutes(50) - 1)
  expect(await tokens.get()).toBe('t1')
  expect(identity.count).toBe(1)

  await clock.advance(1)
  expect(await stateOf(tokens.get())).toBe('t1')
  expect(await stateOf(tokens.get())).toBe('t1')
  expect(identity.count).toBe(2)
  expect(identity.last.previous).toBe('t1')

  await identity.last.give('t2', { expiresInMs: minutes(60) })
  expect(await tokens.get()).toBe('t2')
  expect(identity.count).toBe(2)
  expect(clock.pending).toBe(0)
})

test('nothing is fetched for a key that nobody asks for, and no timer waits', async () => {
  const { identity, clock } = await withToken()

  expect(clock.pending).toBe(0)
  await clock.advance(minutes(600))

  expect(identity.count).toBe(1)
})

test('callers wait for the one refresh when the token is about to expire', async () => {
  const { identity, tokens, clock } = await withToken()

  await clock.advance(minutes(59))
  const waiting = [tokens.get(), tokens.get()]
  expect(await stateOf(waiting[0] as Promise<string>)).toBe('waiting')
  expect(identity.count).toBe(2)

  await identity.last.give('t2')
  expect(await Promise.all(waiting)).toEqual(['t2', 't2'])
})

test('who comes when the token is about to expire joins the refresh that began before', async () => {
  const { identity, tokens, clock } = await withToken({ timeoutMs: minutes(20) })

  await clock.advance(minutes(50))
  expect(await tokens.get()).toBe('t1')
  await clock.advance(minutes(9))
  const waiting = tokens.get()
  expect(await stateOf(waiting)).toBe('waiting')
  expect(identity.count).toBe(2)

  await identity.last.give('t2')
  expect(await waiting).toBe('t2')
})

test('a caller may wait for a refresh past the end of the token', async () => {
  const { identity, tokens, clock } = await withToken({ timeoutMs: minutes(20) })

  await clock.advance(minutes(50))
  await tokens.get()
  await clock.advance(minutes(11))
  const waiting = tokens.get()
  expect(await stateOf(waiting)).toBe('waiting')
  await identity.last.fail(new Error('down'))

  await expect(waiting).rejects.toThrow('down')
})

test('the windows are never more than a half and a tenth of a life', async () => {
  const { identity, tokens, clock } = setUp()
  const first = tokens.get()
  await identity.last.give('t1', { expiresInMs: 60_000 })
  await first

  await clock.advance(29_999)
  await tokens.get()
  expect(identity.count).toBe(1)
  await clock.advance(1)
  expect(await stateOf(tokens.get())).toBe('t1')
  expect(identity.count).toBe(2)
  await identity.last.fail(new Error('down'))

  await clock.advance(23_999)
  expect(await stateOf(tokens.get())).toBe('t1')
  await identity.last.fail(new Error('down'))
  await clock.advance(1)
  expect(await stateOf(tokens.get())).toBe('waiting')
  await identity.last.give('t2')
})

test('jitter makes the refresh later by its share of the window, never earlier', async () => {
  const late = await withToken({ random: always(0.999_999), jitter: 0.5 })

  await late.clock.advance(minutes(54.9))
  await late.tokens.get()
  expect(late.identity.count).toBe(1)
  await late.clock.advance(minutes(0.1))
  await late.tokens.get()
  expect(late.identity.count).toBe(2)

  const whole = await withToken({ random: always(1), jitter: 1 })
  await whole.clock.advance(minutes(59) - 1)
  expect(await stateOf(whole.tokens.get())).toBe('t1')
  expect(whole.identity.count).toBe(1)
  await whole.clock.advance(1)
  expect(await stateOf(whole.tokens.get())).toBe('waiting')
  await whole.identity.last.give('t2')
  await late.identity.last.give('t2')
})

test('refreshAheadMs 0 and mandatoryMs 0 serve a token to its end', async () => {
  const { identity, tokens, clock } = await withToken({ refreshAheadMs: 0, mandatoryMs: 0 })

  await clock.advance(minutes(60) - 1)
  expect(await stateOf(tokens.get())).toBe('t1')
  expect(identity.count).toBe(1)
  await clock.advance(1)
  expect(await stateOf(tokens.get())).toBe('waiting')
  await identity.last.give('t2')
})

test('keys have tokens and fetches of their own', async () => {
  const { identity, tokens } = setUp()

  const [a, b, none] = [tokens.get('a'), tokens.get('b'), tokens.get()]
  expect(identity.requests.map(({ key }) => key)).toEqual(['a', 'b', ''])
  await identity.requests[1]?.give('of b')
  expect(await stateOf(a)).toBe('waiting')
  await identity.requests[0]?.fail(new Error('no a'))
  await identity.requests[2]?.give('of none')

  expect(await b).toBe('of b')
  expect(await none).toBe('of none')
  await expect(a).rejects.toThrow('no a')
  expect(await tokens.get('')).toBe('of none')
  expect(identity.count).toBe(3)
})

test('beyond its capacity the key that was asked for least recently goes', async () => {
  let fetched: string[] = []
  const clock = new FakeClock()
  const tokens = new TokenCache(
    async (key) => {
      fetched.push(key)
      return { token: `t-${key}` }
    },
    { clock, capacity: 3 },
  )
  for (const key of ['a', 'b', 'c', 'a', 'd', 'a']) expect(await tokens.get(key)).toBe(`t-${key}`)
  expect(fetched).toEqual(['a', 'b', 'c', 'd'])
  expect(tokens.stats()).toMatchObject({ keys: 3, evicted: 1 })

  fetched = []
  for (const key of ['a', 'c', 'd', 'b']) await tokens.get(key)
  expect(fetched).toEqual(['b'])
  // What had to go is nobody's any more.
  tokens.invalidate('t-a')
  expect(tokens.stats()).toMatchObject({ invalidated: 0, invalidationsIgnored: 1, keys: 3 })
})

test('a key that has to go while it is fetched answers those who wait and is not kept', async () => {
  const { identity, tokens } = setUp({ capacity: 1 })

  const a = tokens.get('a')
  const b = tokens.get('b')
  await identity.requests[0]?.give('of a')
  await identity.requests[1]?.give('of b')

  expect(await Promise.all([a, b])).toEqual(['of a', 'of b'])
  expect(tokens.stats()).toMatchObject({ keys: 1, discarded: 1, refreshed: 1 })
})

test('fetchToken runs in the context in which the cache was made', async () => {
  const { AsyncLocalStorage } = await import('node:async_hooks')
  const storage = new AsyncLocalStorage<string>()
  const seen: unknown[] = []
  const tokens = storage.run('maker', () => {
    return new TokenCache(async () => {
      seen.push(storage.getStore())
      return { token: 't' }
    })
  })

  await storage.run('caller', () => tokens.get())

  expect(seen).toEqual(['maker'])
})
