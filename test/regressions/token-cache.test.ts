import { TokenCache, type TokenContext, type TokenGrant } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'

const hourMs = 3_600_000

/** A cache whose second fetch fails, within the time in which callers wait for it. */
async function failingSoon() {
  const clock = new FakeClock()
  let fetches = 0
  const tokens = new TokenCache(
    async (): Promise<TokenGrant> => {
      if (++fetches === 2) throw new Error('down')
      return { token: `t${fetches}`, expiresInMs: hourMs }
    },
    { clock },
  )
  await tokens.get()
  await clock.advance(hourMs - 30_000)
  return { clock, tokens }
}

describe('a listener that calls the cache', () => {
  test('of a refresh that failed, and has the valid token invalidated, leaves nobody with undefined', async () => {
    const { clock, tokens } = await failingSoon()
    const served: boolean[] = []
    tokens.on('refreshFailed', (event) => {
      served.push(event.served)
      tokens.invalidate('t1')
    })

    const waiting = [tokens.get(), tokens.get('', { signal: new AbortController().signal })]
    await clock.advance(0)

    expect(await Promise.all(waiting)).toEqual(['t1', 't1'])
    expect(served).toEqual([true])
    expect(await tokens.get()).toBe('t3')
  })

  test('of a refresh, and has its token invalidated or closes the cache, takes it from nobody who waited', async () => {
    const clock = new FakeClock()
    let fetches = 0
    const tokens = new TokenCache(async () => ({ token: `t${++fetches}` }), { clock })
    const off = tokens.on('refreshed', () => {
      off()
      tokens.invalidate('t1')
    })

    expect(await Promise.all([tokens.get(), tokens.get()])).toEqual(['t1', 't1'])
    tokens.on('refreshed', () => void tokens.close())
    expect(await tokens.get()).toBe('t2')

    await expect(tokens.get()).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    expect(tokens.stats()).toMatchObject({ offered: 4, succeeded: 3, rejected: 1, keys: 0, fetching: 0 })
    expect(clock.pending).toBe(0)
  })
})

test('a fetch that is given up for want of room, and asks for the key that needs it, costs no second fetch and no room', async () => {
  const clock = new FakeClock()
  const fetched: string[] = []
  const tokens: TokenCache = new TokenCache(
    (key: string, { previous, signal }: TokenContext): TokenGrant | Promise<TokenGrant> => {
      fetched.push(key)
      if (previous === undefined) return { token: `of ${key}`, expiresInMs: hourMs }
      return new Promise(() => signal.addEventListener('abort', () => void tokens.get('b')))
    },
    { clock, capacity: 1 },
  )
  await tokens.get('a')
  await clock.advance(hourMs - 300_000)
  await tokens.get('a')
  expect(tokens.stats().fetching).toBe(1)

  expect(await tokens.get('b')).toBe('of b')

  expect(fetched).toEqual(['a', 'a', 'b'])
  expect(tokens.stats()).toMatchObject({ keys: 1, evicted: 1, fetching: 0, fetchesAborted: 1 })
  expect(clock.pending).toBe(0)
})
