import { isSpillwayError, TokenCache, type TokenCacheEvents, type TokenCacheOptions } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { minutes, stateOf } from './support/identity.js'
import { setUp as setUpTokens } from './support/scenes.js'

const start = 1_767_225_600_000

function setUp(options?: TokenCacheOptions<string>) {
  const made = setUpTokens(options)
  const refreshed: TokenCacheEvents<string>['refreshed'][] = []
  made.tokens.on('refreshed', (event) => refreshed.push(event))
  return { ...made, refreshed }
}

/** Whether a token is served at once, and whether it needs no refresh. */
async function ageOf({ identity, tokens }: ReturnType<typeof setUp>): Promise<string> {
  const before = identity.count
  const served = (await stateOf(tokens.get())) !== 'waiting'
  return served ? (identity.count === before ? 'fresh' : 'old') : 'gone'
}

describe('expiresAt and expiresInMs', () => {
  test('expiresInMs counts from the start of the request, not from its answer', async () => {
    const made = setUp()
    const answer = made.tokens.get()
    await made.clock.advance(5000)
    await made.identity.last.give('t', { expiresInMs: minutes(60) })
    await answer

    expect(made.refreshed).toEqual([
      {
        key: '',
        background: false,
        durationMs: 5000,
        expiresAt: start + minutes(60),
        refreshAt: start + minutes(50),
      },
    ])
    await made.clock.advance(minutes(50) - 5001)
    expect(await ageOf(made)).toBe('fresh')
    await made.clock.advance(1)
    expect(await ageOf(made)).toBe('old')
    await made.identity.last.give('t2')
  })

  test.each([
    ['a date', new Date(start + minutes(60))],
    ['milliseconds since the epoch', start + minutes(60)],
  ])('expiresAt may be %s', async (_name, expiresAt) => {
    const made = setUp()
    const answer = made.tokens.get()
    await made.clock.advance(5000)
    await made.identity.last.give('t', { expiresAt })
    await answer

    expect(made.refreshed).toMatchObject([{ expiresAt: start + minutes(60), refreshAt: start + minutes(50) }])
    await made.clock.advance(minutes(50) - 5001)
    expect(await ageOf(made)).toBe('fresh')
    await made.clock.advance(1)
    expect(await ageOf(made)).toBe('old')
    await made.identity.last.give('t2')
  })

  test.each([
    ['expiresAt', { expiresAt: start + minutes(20), expiresInMs: minutes(60) }],
    ['expiresInMs', { expiresAt: start + minutes(60), expiresInMs: minutes(20) }],
  ])('of both the earlier counts: %s', async (_name, rest) => {
    const made = setUp()
    const answer = made.tokens.get()
    await made.identity.last.give('t', rest)
    await answer

    expect(made.refreshed).toMatchObject([{ expiresAt: start + minutes(20), refreshAt: start + minutes(10) }])
  })

  test('without either a token lives for defaultTtlMs; null is as good as nothing', async () => {
    const made = setUp({ defaultTtlMs: minutes(30) })
    const answer = made.tokens.get()
    await made.clock.advance(1000)
    await made.identity.last.give('t', { expiresAt: null, expiresInMs: null })
    await answer

    expect(made.refreshed).toMatchObject([{ expiresAt: start + minutes(30) }])
  })

  test('a life may be longer than a timer can wait, or have no end', async () => {
    const year = minutes(60 * 24 * 365)
    for (const [defaultTtlMs, grant] of [
      [1000, { expiresInMs: year }],
      [1000, { expiresInMs: Number.POSITIVE_INFINITY }],
      [year, {}],
      [Number.POSITIVE_INFINITY, {}],
    ] as const) {
      const made = setUp({ defaultTtlMs })
      const answer = made.tokens.get()
      await made.identity.last.give('t', grant)
      await answer

      await made.clock.advance(minutes(60 * 24 * 300))
      expect(await ageOf(made)).toBe('fresh')
      expect(made.clock.pending).toBe(0)
    }
  })
})

describe('a grant that is no use is a TokenError', () => {
  test.each<[string, unknown, Record<string, unknown>, string, boolean]>([
    ['token', undefined, {}, 'token must be a string, got undefined', false],
    ['token', null, {}, 'token must be a string, got null', false],
    ['token', 7, {}, 'token must be a string, got number', false],
    ['token', ['s3cret'], {}, 'token must be a string, got an array', false],
    ['token', '', {}, 'token must not be empty', false],
    ...['s3cret\n', 's3cret\r\nx-admin: 1', 's3\0cret', ' s3cret', 's3cret ', 's3crét', 's3cret😀'].map(
      (token): [string, unknown, Record<string, unknown>, string, boolean] => [
        'token',
        token,
        {},
        'token must be printable ASCII without a line break, and without a blank at either end',
        false,
      ],
    ),
    [
      'expiresAt',
      's3cret',
      { expiresAt: start / 1000 },
      `expiresAt must be in milliseconds since the epoch, got ${start / 1000}: are these seconds?`,
      false,
    ],
    [
      'expiresAt',
      's3cret',
      { expiresAt: new Date(start / 1000) },
      `expiresAt must be in milliseconds since the epoch, got ${start / 1000}: are these seconds?`,
      false,
    ],
    [
      'expiresAt',
      's3cret',
      { expiresAt: new Date('never') },
      'expiresAt must be a date or milliseconds since the epoch, got NaN',
      false,
    ],
    [
      'expiresAt',
      's3cret',
      { expiresAt: 's3cret' },
      'expiresAt must be a date or milliseconds since the epoch, got string',
      false,
    ],
    [
      'expiresAt',
      's3cret',
      { expiresAt: start * 1000_000 },
      `expiresAt must be a date or milliseconds since the epoch, got ${start * 1000_000}`,
      false,
    ],
    ['expiresAt', 's3cret', { expiresAt: start - 10 }, 'fetchToken gave a token that had expired 10 ms before', true],
    ['expiresAt', 's3cret', { expiresAt: start }, 'fetchToken gave a token that had expired 0 ms before', true],
    ['expiresInMs', 's3cret', { expiresInMs: 0 }, 'fetchToken gave a token that had expired 0 ms before', true],
    ['expiresInMs', 's3cret', { expiresInMs: -5 }, 'fetchToken gave a token that had expired 5 ms before', true],
    [
      'expiresInMs',
      's3cret',
      { expiresInMs: Number.NaN },
      'expiresInMs must be a number of milliseconds, got NaN',
      false,
    ],
    [
      'expiresInMs',
      's3cret',
      { expiresInMs: '3600' },
      'expiresInMs must be a number of milliseconds, got string',
      false,
    ],
  ])('%s of %j with %j', async (field, token, rest, message, retryable) => {
    const { identity, tokens } = setUp()
    const answers = [tokens.get(), tokens.get()]
    await identity.last.give(token, rest)

    const [error, other] = await Promise.all(answers.map((answer) => answer.catch((reason: unknown) => reason)))
    expect(isSpillwayError(error, 'ERR_TOKEN')).toBe(true)
    expect(error).toMatchObject({ name: 'TokenError', field, message, retryable })
    expect(other).toBe(error)
    expect(String(error)).not.toMatch(/s3c/)
  })

  test.each([undefined, null, 'token', 7])('%j is none at all', async (grant) => {
    const tokens = new TokenCache(async () => grant as never, { clock: new FakeClock() })

    const error = await tokens.get().catch((reason: unknown) => reason)

    expect(error).toMatchObject({ code: 'ERR_TOKEN', field: 'token' })
  })

  test('one that lived shorter than its request had expired already', async () => {
    const { identity, tokens, clock } = setUp()
    const answer = tokens.get()
    await clock.advance(2000)
    await identity.last.give('t', { expiresInMs: 1500 })

    await expect(answer).rejects.toMatchObject({ code: 'ERR_TOKEN', retryable: true })
  })

  test('in the background the token before is served on', async () => {
    const made = setUp()
    const answer = made.tokens.get()
    await made.identity.last.give('t1', { expiresInMs: minutes(60) })
    await answer
    await made.clock.advance(minutes(50))
    await made.tokens.get()

    await made.identity.last.give('t2\n')

    expect(await stateOf(made.tokens.get())).toBe('t1')
    expect(made.tokens.stats()).toMatchObject({ refreshFailures: 1, refreshed: 1 })
  })
})

describe('a token has expired as soon as either clock says so', () => {
  async function withToken(rest: { expiresAt?: number; expiresInMs?: number }) {
    const made = setUp()
    const answer = made.tokens.get()
    await made.identity.last.give('t1', rest)
    await answer
    await made.clock.advance(1000)
    return made
  }

  const lives = [
    ['expiresAt', { expiresAt: start + minutes(60) }],
    ['expiresInMs', { expiresInMs: minutes(60) }],
    ['neither', {}],
  ] as const

  test.each(lives)('a machine that slept: only the wall clock went on (%s)', async (_name, rest) => {
    const made = await withToken(rest)

    made.clock.setWall(start + minutes(55))
    await made.clock.advance(0)
    expect(await ageOf(made)).toBe('old')
    await made.identity.last.fail(new Error('no network yet'))
    made.clock.setWall(start + minutes(60))
    await made.clock.advance(0)
    expect(await ageOf(made)).toBe('gone')

    await made.identity.last.give('t2', { expiresInMs: minutes(60) })
    expect(await ageOf(made)).toBe('fresh')
  })

  test.each(lives)('a wall clock that is put back makes no token live longer (%s)', async (_name, rest) => {
    const made = await withToken(rest)

    made.clock.setWall(start - minutes(600))
    await made.clock.advance(minutes(50) - 1001)
    expect(await ageOf(made)).toBe('fresh')
    await made.clock.advance(1)
    expect(await ageOf(made)).toBe('old')
    await made.identity.last.fail(new Error('down'))
    await made.clock.advance(minutes(10))
    expect(await ageOf(made)).toBe('gone')

    await made.identity.last.give('t2', { expiresInMs: minutes(60) })
    expect(await ageOf(made)).toBe('fresh')
  })

  test('a wall clock that jumps while a token is fetched', async () => {
    const made = setUp()
    const answer = made.tokens.get()
    made.clock.setWall(start + minutes(100))
    await made.identity.last.give('t', { expiresAt: start + minutes(160) })
    await answer

    await made.clock.advance(minutes(50) - 1)
    expect(await ageOf(made)).toBe('fresh')
    await made.clock.advance(1)
    expect(await ageOf(made)).toBe('old')
    await made.identity.last.give('t2')
  })
})
