import { isSpillwayError, TokenCache, type TokenCacheEvents, type TokenCacheOptions } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { expect, test } from 'vitest'
import { always, minutes, stateOf } from './support/identity.js'
import { setUp as setUpTokens, withHour } from './support/scenes.js'

function setUp(options: TokenCacheOptions<string> = {}) {
  const made = setUpTokens({ random: always(0.5), jitter: 0, ...options })
  const failures: TokenCacheEvents<string>['refreshFailed'][] = []
  made.tokens.on('refreshFailed', (failure) => failures.push(failure))
  return { ...made, failures }
}

/** With a token of an hour of which ten minutes are left. */
async function withOldToken(options?: TokenCacheOptions<string>) {
  const made = await withHour(setUp(options))
  await made.clock.advance(minutes(50))
  return made
}

const down = new Error('down')
const terminal = Object.assign(new Error('wrong secret'), { error: 'invalid_client' })

test('a failed first fetch rejects all its callers with its own error, and the next call tries at once', async () => {
  const { identity, tokens, failures, clock } = setUp()

  const answers = [tokens.get(), tokens.get(), tokens.get()]
  await identity.last.fail(down)

  for (const answer of answers) await expect(answer).rejects.toBe(down)
  expect(failures).toEqual([
    { key: '', background: false, durationMs: 0, error: down, terminal: false, served: false, retryInMs: 0 },
  ])
  const next = tokens.get()
  expect(identity.count).toBe(2)
  await identity.last.give('t')
  expect(await next).toBe('t')
  expect(tokens.stats()).toMatchObject({ offered: 4, failed: 3, succeeded: 1, refreshFailures: 1, refreshed: 1 })
  expect(clock.pending).toBe(0)
})

test('a key whose only fetch failed takes no room', async () => {
  const { identity, tokens } = setUp({ capacity: 1 })
  const good = tokens.get('good')
  await identity.last.give('t')
  await good

  const bad = tokens.get('bad')
  expect(tokens.stats().keys).toBe(1)
  await identity.last.fail(down)
  await expect(bad).rejects.toBe(down)

  expect(tokens.stats()).toMatchObject({ keys: 0, evicted: 1 })
})

test('a failed refresh serves the token on, and backs off from one second, doubling to a minute, with full jitter', async () => {
  const { identity, tokens, clock, failures } = await withOldToken({ refreshAheadMs: minutes(30) })

  const waits = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]
  for (const wait of waits) {
    const before = identity.count
    expect(await stateOf(tokens.get())).toBe('t1')
    expect(identity.count).toBe(before + 1)
    await identity.last.fail(down)
    await clock.advance(wait - 1)
    expect(await stateOf(tokens.get())).toBe('t1')
    expect(identity.count).toBe(before + 1)
    await clock.advance(1)
  }

  expect(failures.map(({ retryInMs }) => retryInMs)).toEqual(waits)
  expect(failures.every(({ served, background }) => served && background)).toBe(true)
})

test('a refresh that succeeds begins the back-off anew', async () => {
  const { identity, tokens, clock, failures } = await withOldToken()
  for (const wait of [500, 1000]) {
    await tokens.get()
    await identity.last.fail(down)
    await clock.advance(wait)
  }
  await tokens.get()
  await identity.last.give('t2', { expiresInMs: minutes(60) })

  await clock.advance(minutes(50))
  await tokens.get()
  await identity.last.fail(down)

  expect(failures.map(({ retryInMs }) => retryInMs)).toEqual([500, 1000, 500])
})

test('in the mandatory window callers wait, get the valid token when the refresh fails, and then are served at once', async () => {
  const { identity, tokens, clock } = await withOldToken()
  await clock.advance(minutes(9))

  const waiting = [tokens.get(), tokens.get()]
  expect(await stateOf(waiting[0] as Promise<string>)).toBe('waiting')
  await identity.last.fail(down)

  expect(await Promise.all(waiting)).toEqual(['t1', 't1'])
  expect(await stateOf(tokens.get())).toBe('t1')
  expect(identity.count).toBe(2)
  await clock.advance(500)
  expect(await stateOf(tokens.get())).toBe('waiting')
  expect(identity.count).toBe(3)
  await identity.last.give('t2')
})

test('an expired token is served by nobody, however long the back-off', async () => {
  const { identity, tokens, clock } = await withOldToken({ retry: { delayMs: minutes(60), maxDelayMs: minutes(60) } })
  await tokens.get()
  await identity.last.fail(down)

  await clock.advance(minutes(10))
  const waiting = tokens.get()
  expect(await stateOf(waiting)).toBe('waiting')
  await identity.last.fail(down)

  await expect(waiting).rejects.toBe(down)
})

test('retryAfterMs puts off a refresh, and callers without a token get the same error until it has passed', async () => {
  const busy = Object.assign(new Error('busy'), { retryAfterMs: 5000 })
  const old = await withOldToken()
  await old.tokens.get()
  await old.identity.last.fail(new Error('wrapped', { cause: busy }))
  await old.clock.advance(4999)
  await old.tokens.get()
  expect(old.identity.count).toBe(2)
  await old.clock.advance(1)
  await old.tokens.get()
  expect(old.identity.count).toBe(3)
  await old.identity.last.give('t2')

  const { identity, tokens, clock } = setUp()
  const first = tokens.get()
  await identity.last.fail(busy)
  await expect(first).rejects.toBe(busy)
  await clock.advance(4999)
  await expect(tokens.get()).rejects.toBe(busy)
  expect(identity.count).toBe(1)
  expect(tokens.stats()).toMatchObject({ offered: 2, failed: 2 })
  await clock.advance(1)
  const next = tokens.get()
  expect(identity.count).toBe(2)
  await identity.last.give('t')
  expect(await next).toBe('t')
})

test('a terminal failure stops refreshes until the token expires', async () => {
  const { identity, tokens, clock, failures } = await withOldToken()
  await tokens.get()
  await identity.last.fail(terminal)
  expect(failures).toMatchObject([{ terminal: true, served: true, retryInMs: Number.POSITIVE_INFINITY }])

  await clock.advance(minutes(9.9))
  expect(await stateOf(tokens.get())).toBe('t1')
  expect(identity.count).toBe(2)

  await clock.advance(minutes(0.1))
  const waiting = tokens.get()
  expect(identity.count).toBe(3)
  await identity.last.give('t2')
  expect(await waiting).toBe('t2')
})

test('a terminal failure stops refreshes until the token is invalidated', async () => {
  const { identity, tokens } = await withOldToken()
  await tokens.get()
  await identity.last.fail(terminal)

  tokens.invalidate('t1')
  const waiting = tokens.get()

  expect(identity.count).toBe(3)
  await identity.last.give('t2')
  expect(await waiting).toBe('t2')
})

test('callers without a token get a terminal error for terminalCooldownMs, and then the next one tries', async () => {
  const { identity, tokens, clock, failures } = setUp()
  const first = tokens.get()
  await identity.last.fail(terminal)
  await expect(first).rejects.toBe(terminal)
  expect(failures).toMatchObject([{ terminal: true, served: false, retryInMs: 1000 }])

  await clock.advance(999)
  await expect(tokens.get()).rejects.toBe(terminal)
  expect(identity.count).toBe(1)
  await clock.advance(1)
  expect(await stateOf(tokens.get())).toBe('waiting')
  expect(identity.count).toBe(2)
  await identity.last.give('t')

  const eager = setUp({ terminalCooldownMs: 0 })
  const refused = eager.tokens.get()
  await eager.identity.last.fail(terminal)
  await expect(refused).rejects.toBe(terminal)
  expect(await stateOf(eager.tokens.get())).toBe('waiting')
  await eager.identity.last.give('t')
})

test.each<[string, unknown, boolean]>([
  ['a plain error', new Error('x'), false],
  ['nothing', undefined, false],
  ['a text', 'invalid_client', false],
  ['retryable: false', { retryable: false }, true],
  ['retryable: true beside a status', { retryable: true, status: 401 }, false],
  ['invalid_client', { error: 'invalid_client' }, true],
  ['invalid_grant as a code', { code: 'invalid_grant' }, true],
  ['unauthorized_client in a response', { response: { data: { error: 'unauthorized_client' } } }, true],
  ['invalid_scope', { error: 'invalid_scope', status: 500 }, true],
  ['temporarily_unavailable', { error: 'temporarily_unavailable', status: 503 }, false],
  ['400', { status: 400 }, true],
  ['401', { statusCode: 401 }, true],
  ['403', { response: { status: 403 } }, true],
  ['429', { status: 429 }, false],
  ['500', { status: 500, cause: { status: 400 } }, false],
  ['a cause', new Error('outer', { cause: { status: 401 } }), true],
  ['a lost connection', { code: 'ECONNRESET' }, false],
])('%s is terminal or not: %s %s', async (_name, error, expected) => {
  const { identity, tokens, failures } = setUp()
  const answer = tokens.get()
  await identity.last.fail(error)
  await expect(answer).rejects.toBe(error)

  expect(failures.map(({ terminal }) => terminal)).toEqual([expected])
})

test('an error that can’t be read is transient', async () => {
  const { identity, tokens, failures } = setUp()
  const error = Object.defineProperty({}, 'retryable', {
    get: () => {
      throw new Error('no')
    },
  })
  const answer = tokens.get()
  await identity.last.fail(error)

  await expect(answer).rejects.toBe(error)
  expect(failures).toMatchObject([{ terminal: false, retryInMs: 0 }])
})

test('isTerminal decides instead; one that throws is reported once, without what it threw, and the default applies', async () => {
  const own = setUp({ isTerminal: (error) => error === down })
  const answer = own.tokens.get()
  await own.identity.last.fail(down)
  await expect(answer).rejects.toBe(down)
  expect(own.failures).toMatchObject([{ terminal: true }])

  const warnings: string[] = []
  const note = (warning: Error): void => void warnings.push(warning.message)
  process.on('warning', note)
  const broken = setUp({
    isTerminal: () => {
      throw new Error('secret-token')
    },
  })
  for (const error of [terminal, down]) {
    const refused = broken.tokens.get()
    await broken.identity.last.fail(error)
    await expect(refused).rejects.toBe(error)
    await broken.clock.advance(1000)
  }
  process.off('warning', note)

  expect(broken.failures.map((failure) => failure.terminal)).toEqual([true, false])
  expect(warnings).toEqual(["token-cache's isTerminal threw, so that the default applies"])
})

test('a fetch that takes too long fails its callers, and what it brings later is not used', async () => {
  const { identity, tokens, clock } = setUp()
  const answer = tokens.get()
  const slow = identity.last
  await clock.advance(9999)
  expect(slow.signal.aborted).toBe(false)
  await clock.advance(1)

  const error = await answer.catch((reason: unknown) => reason)
  expect(isSpillwayError(error, 'ERR_TIMEOUT')).toBe(true)
  expect(error).toMatchObject({ message: 'token-cache: fetching a token took longer than 10000 ms', timeoutMs: 10_000 })
  expect(slow.signal.reason).toBe(error)
  await slow.give('late')
  const next = tokens.get()
  expect(identity.count).toBe(2)
  await identity.last.give('t')
  expect(await next).toBe('t')
  expect(tokens.stats()).toMatchObject({ timeouts: 1, refreshFailures: 1, refreshed: 1 })
  expect(clock.pending).toBe(0)
})

test('a refresh that takes too long in the background serves the token on', async () => {
  const { identity, tokens, clock, failures } = await withOldToken({ timeoutMs: 100 })
  await tokens.get()
  await clock.advance(100)

  expect(identity.last.signal.aborted).toBe(true)
  expect(failures).toMatchObject([{ background: true, served: true, durationMs: 100 }])
  expect(await stateOf(tokens.get())).toBe('t1')
})

test('fetchToken may throw at once, or call the cache that calls it', async () => {
  const clock = new FakeClock()
  const throwing = new TokenCache(
    () => {
      throw down
    },
    { clock },
  )
  await expect(throwing.get()).rejects.toBe(down)

  const closing: TokenCache = new TokenCache(
    async () => {
      void closing.close()
      closing.invalidate('t')
      return { token: 't' }
    },
    { clock },
  )
  expect(await closing.get()).toBe('t')
  expect(closing.stats()).toMatchObject({ discarded: 1, fetching: 0, keys: 0 })
})
