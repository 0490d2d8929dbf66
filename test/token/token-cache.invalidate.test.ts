import { TokenCache, type TokenCacheOptions, tokenAudienceKey } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { expect, test } from 'vitest'
import { minutes, stateOf } from './support/identity.js'
import { setUp, withHour } from './support/scenes.js'

async function withToken(options?: TokenCacheOptions<string>) {
  const made = setUp(options)
  const invalidated: string[] = []
  made.tokens.on('invalidated', ({ key }) => invalidated.push(key))
  return withHour({ ...made, invalidated })
}

test('a hundred requests that were refused with one token cost one fetch', async () => {
  const { identity, tokens, invalidated } = await withToken()

  for (let n = 0; n < 50; n++) tokens.invalidate('t1')
  const next = tokens.get()
  expect(identity.last.previous).toBe('t1')
  await identity.last.give('t2')
  for (let n = 0; n < 50; n++) tokens.invalidate('t1')

  expect(await next).toBe('t2')
  expect(await tokens.get()).toBe('t2')
  expect(identity.count).toBe(2)
  expect(invalidated).toEqual([''])
  expect(tokens.stats()).toMatchObject({ invalidated: 1, invalidationsIgnored: 99, invalidationsHeld: 0 })
})

test('a token is dropped for whichever keys hold it, and for no other', async () => {
  const clock = new FakeClock()
  const fetched: string[] = []
  const tokens = new TokenCache(
    async (key) => {
      fetched.push(key)
      return { token: key === 'other' ? 'own' : 'shared' }
    },
    { clock },
  )
  for (const key of ['a', 'b', 'other']) await tokens.get(key)

  tokens.invalidate('unknown')
  for (const key of ['a', 'b', 'other']) await tokens.get(key)
  expect(fetched).toEqual(['a', 'b', 'other'])
  tokens.invalidate('shared')
  for (const key of ['a', 'b', 'other']) await tokens.get(key)

  expect(fetched).toEqual(['a', 'b', 'other', 'a', 'b'])
  expect(tokens.stats()).toMatchObject({ invalidated: 2, invalidationsIgnored: 1 })
})

test('a token that was invalidated isn’t served in the same turn any more', async () => {
  const { identity, tokens } = await withToken()
  const before = tokens.get()
  tokens.invalidate('t1')
  const after = tokens.get()
  await identity.last.give('t2')

  expect(await before).toBe('t1')
  expect(await after).toBe('t2')
})

test('what a fetch begun before the invalidation brings goes to those who came before, and isn’t kept', async () => {
  const { identity, tokens, clock } = await withToken()
  await clock.advance(minutes(59))
  const before = tokens.get()
  const early = identity.last
  tokens.invalidate('t1')
  const after = tokens.get()
  const late = identity.last

  expect(late).not.toBe(early)
  await late.give('t3')
  await early.give('t2')

  expect(await before).toBe('t2')
  expect(await after).toBe('t3')
  expect(await tokens.get()).toBe('t3')
  tokens.invalidate('t2')
  expect(tokens.stats()).toMatchObject({ discarded: 1, refreshed: 2, invalidationsIgnored: 1 })
  expect(clock.pending).toBe(0)
})

test('a background refresh for which nobody waits is given up when its predecessor is invalidated', async () => {
  const { identity, tokens, clock } = await withToken()
  await clock.advance(minutes(50))
  await tokens.get()
  const behind = identity.last

  tokens.invalidate('t1')

  expect(behind.signal.aborted).toBe(true)
  await behind.give('t2')
  const next = tokens.get()
  expect(await stateOf(next)).toBe('waiting')
  await identity.last.give('t3')
  expect(await next).toBe('t3')
  expect(tokens.stats()).toMatchObject({ fetches: 3, fetchesAborted: 1, refreshed: 2, fetching: 0 })
})

test('a server that refuses every token costs one fetch in invalidateCooldownMs', async () => {
  const clock = new FakeClock()
  let fetches = 0
  const tokens = new TokenCache(async () => ({ token: `t${++fetches}` }), { clock })

  for (let second = 0; second < 20; second++) {
    for (let request = 0; request < 100; request++) tokens.invalidate(await tokens.get())
    await clock.advance(1000)
  }

  // The first one, its replacement, and one each time that a replacement was five seconds old.
  expect(fetches).toBe(1 + 4)
  expect(tokens.stats()).toMatchObject({ invalidated: 4, invalidationsHeld: 1996 })
})

test('invalidateCooldownMs 0 takes every invalidation at its word', async () => {
  const clock = new FakeClock()
  let fetches = 0
  const tokens = new TokenCache(async () => ({ token: `t${++fetches}` }), { clock, invalidateCooldownMs: 0 })

  for (let n = 0; n < 10; n++) tokens.invalidate(await tokens.get())

  expect(fetches).toBe(10)
})

test('the cooldown holds too when the fetch after an invalidation failed first', async () => {
  const { identity, tokens } = await withToken()
  tokens.invalidate('t1')
  const refused = tokens.get()
  await identity.last.fail(new Error('down'))
  await expect(refused).rejects.toThrow('down')
  const next = tokens.get()
  expect(identity.last.previous).toBe('t1')
  await identity.last.give('t2')
  await next

  tokens.invalidate('t2')

  expect(await tokens.get()).toBe('t2')
  expect(tokens.stats()).toMatchObject({ invalidated: 1, invalidationsHeld: 1 })
})

test('an ordinary refresh may be invalidated at once', async () => {
  const { identity, tokens, clock } = await withToken()
  await clock.advance(minutes(50))
  await tokens.get()
  await identity.last.give('t2')

  tokens.invalidate('t2')

  expect(await stateOf(tokens.get())).toBe('waiting')
  await identity.last.give('t3')
})

test('a token that was refreshed meanwhile isn’t dropped for the one before', async () => {
  const { identity, tokens, clock, invalidated } = await withToken()
  await clock.advance(minutes(50))
  await tokens.get()
  await identity.last.give('t2', { expiresInMs: minutes(60) })

  tokens.invalidate('t1')

  expect(await stateOf(tokens.get())).toBe('t2')
  expect(identity.count).toBe(2)
  expect(invalidated).toEqual([])
  expect(tokens.stats()).toMatchObject({ invalidated: 0, invalidationsIgnored: 1 })
})

test('the cooldown is that of the one token, and ends with it', async () => {
  const { identity, tokens, clock } = await withToken()
  tokens.invalidate('t1')
  const next = tokens.get()
  await identity.last.give('t2', { expiresInMs: 2000 })
  await next
  await clock.advance(1000)
  await tokens.get()
  await identity.last.give('t3')

  tokens.invalidate('t3')

  expect(await stateOf(tokens.get())).toBe('waiting')
  expect(tokens.stats()).toMatchObject({ invalidated: 2, invalidationsHeld: 0 })
  await identity.last.give('t4')
})

test('retryAfterMs is honoured after an invalidation too', async () => {
  const { identity, tokens, clock } = await withToken()
  const busy = Object.assign(new Error('busy'), { retryAfterMs: 3000 })
  await clock.advance(minutes(50))
  await tokens.get()
  await identity.last.fail(busy)
  tokens.invalidate('t1')

  await expect(tokens.get()).rejects.toBe(busy)
  await clock.advance(3000)
  expect(await stateOf(tokens.get())).toBe('waiting')
  await identity.last.give('t2')
})

test('keys of audience and scopes share a token whatever the order of the scopes', async () => {
  const clock = new FakeClock()
  let fetches = 0
  const tokens = new TokenCache(async () => ({ token: `t${++fetches}` }), { clock, keyOf: tokenAudienceKey })

  expect(await tokens.get({ audience: 'api', scopes: ['read', 'write'] })).toBe('t1')
  expect(await tokens.get({ audience: 'api', scopes: ['write', 'read', 'write'] })).toBe('t1')
  expect(await tokens.get({ audience: 'api', scopes: ['read'] })).toBe('t2')
  expect(await tokens.get({ scopes: ['read', 'write'] })).toBe('t3')
  expect(await tokens.get({ audience: 'api', scopes: [] })).toBe('t4')
  expect(await tokens.get({ audience: 'api' })).toBe('t4')
  expect(await tokens.get({ audience: 'api', scopes: ['read write'] })).toBe('t5')
})

test('forKey gives the tokens of one key to what asks without one', async () => {
  const clock = new FakeClock()
  const asked: unknown[] = []
  const tokens = new TokenCache(
    async (key) => {
      asked.push(key)
      return { token: `t${asked.length}` }
    },
    { clock, keyOf: tokenAudienceKey },
  )
  const key = { audience: 'api' }

  const source = tokens.forKey(key)
  expect(await source.get()).toBe('t1')
  expect(await source.get(undefined, { signal: new AbortController().signal })).toBe('t1')
  expect(await source.get()).toBe('t1')
  source.invalidate('t1')
  expect(await source.get()).toBe('t2')
  expect(await tokens.get(key)).toBe('t2')
  expect(asked).toEqual([key, key])

  const plain = new TokenCache(async (name) => ({ token: `of-${name}` }), { clock })
  expect(await plain.forKey('a').get()).toBe('of-a')
})
