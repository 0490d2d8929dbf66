import { OAuth2Client } from 'google-auth-library'
import { TokenCache } from 'spillway'
import type { Aim, Contender, Contest, Turns } from './harness/contest.ts'
import { serveSuite } from './harness/suite-process.ts'

// What a request pays for a token that is there: 1000 calls awaited one after the other, of one key and of a hundred. Then what
// a thousand callers pay who come when there is none. Each contender has a loop of its own, and shows before it is measured that it
// replaces a token that has expired.

const calls = 1000
const hourMs = 3_600_000
const slower: Aim = { atMost: 1 }

/** Gives another token each time, and knows how many it gave. */
class Issuer {
  given = 0

  issue(key = ''): string {
    return `token-${key}-${++this.given}`
  }
}

/** How many of a turn's calls got the token that they should have, and the check that all did. */
class Tally {
  readonly #issuer: Issuer
  readonly #fetches: () => number
  #right = 0

  /** @param fetches - how many tokens may have been fetched by the end of a turn. */
  constructor(issuer: Issuer, fetches: () => number) {
    this.#issuer = issuer
    this.#fetches = fetches
  }

  take(right: number): void {
    this.#right = right
  }

  check(): void {
    if (this.#right !== calls) throw new Error(`wrong answer: ${this.#right} of ${calls} got the token`)
    const expected = this.#fetches()
    if (this.#issuer.given !== expected) throw new Error(`wrong answer: ${this.#issuer.given} fetches, not ${expected}`)
    this.#right = 0
  }
}

const turns = (tally: Tally, turn: () => Promise<void>): Turns => ({ async: true, turn, check: () => tally.check() })

/** Throws unless the second call, made when the first one's token has expired, gets another token. */
async function proveExpiry(get: () => Promise<string | null | undefined>, lifeMs: number): Promise<void> {
  const first = await get()
  await new Promise((resolve) => setTimeout(resolve, lifeMs + 20))
  if ((await get()) === first) throw new Error('wrong answer: a token was served after its end')
}

/** What one writes oneself at first: one fetch at a time, no refresh ahead, no failures, no events, no stats, one clock. */
class HandCache {
  readonly #fetch: () => Promise<{ token: string; expiresInMs: number }>
  #token = ''
  #expiresAt = 0
  #running: Promise<string> | undefined

  constructor(fetch: () => Promise<{ token: string; expiresInMs: number }>) {
    this.#fetch = fetch
  }

  async get(): Promise<string> {
    if (Date.now() < this.#expiresAt) return this.#token
    this.#running ??= this.#refresh().finally(() => {
      this.#running = undefined
    })
    return this.#running
  }

  forget(): void {
    this.#expiresAt = 0
  }

  async #refresh(): Promise<string> {
    const { token, expiresInMs } = await this.#fetch()
    this.#token = token
    this.#expiresAt = Date.now() + expiresInMs
    return token
  }
}

const makeSpillway = (issuer: Issuer, expiresInMs: number): TokenCache =>
  new TokenCache(async (key) => ({ token: issuer.issue(key), expiresInMs }), { invalidateCooldownMs: 0 })

const makeHand = (issuer: Issuer, expiresInMs: number): HandCache =>
  new HandCache(async () => ({ token: issuer.issue(), expiresInMs }))

const makeGoogle = (issuer: Issuer, expiresInMs: number): OAuth2Client => {
  const client = new OAuth2Client({ eagerRefreshThresholdMillis: 0 })
  client.refreshHandler = async () => ({ access_token: issuer.issue(), expiry_date: Date.now() + expiresInMs })
  return client
}

// --- one key

/** Proves that expired tokens are replaced, then makes the same with tokens of an hour, and counts the right ones of a turn with `count`. */
async function hits<T>(
  make: (issuer: Issuer, expiresInMs: number) => T,
  get: (from: T) => Promise<string | null | undefined>,
  count: (from: T, expected: string | null | undefined) => Promise<number>,
): Promise<Turns> {
  const proof = make(new Issuer(), 20)
  await proveExpiry(() => get(proof), 20)
  const issuer = new Issuer()
  const from = make(issuer, hourMs)
  const expected = await get(from)
  const tally = new Tally(issuer, () => 1)
  return turns(tally, async () => tally.take(await count(from, expected)))
}

const getGoogle = async (client: OAuth2Client): Promise<string | null | undefined> =>
  (await client.getAccessToken()).token

const spillwayHits: Contender = {
  name: 'spillway',
  prepare: () =>
    hits(
      makeSpillway,
      (tokens) => tokens.get(),
      async (tokens, expected) => {
        let right = 0
        for (let i = 0; i < calls; i++) if ((await tokens.get()) === expected) right++
        return right
      },
    ),
}

const handHits: Contender = {
  name: 'a token and its time by hand',
  aim: { atMost: 1.5 },
  prepare: () =>
    hits(
      makeHand,
      (tokens) => tokens.get(),
      async (tokens, expected) => {
        let right = 0
        for (let i = 0; i < calls; i++) if ((await tokens.get()) === expected) right++
        return right
      },
    ),
}

const googleHits: Contender = {
  name: 'google-auth-library OAuth2Client.getAccessToken',
  aim: slower,
  prepare: () =>
    hits(makeGoogle, getGoogle, async (client, expected) => {
      let right = 0
      for (let i = 0; i < calls; i++) if ((await client.getAccessToken()).token === expected) right++
      return right
    }),
}

const googleHeaders: Contender = {
  name: 'google-auth-library OAuth2Client.getRequestHeaders, a Headers each time',
  aim: slower,
  prepare: () =>
    hits(makeGoogle, getGoogle, async (client, token) => {
      const expected = `Bearer ${token}`
      let right = 0
      for (let i = 0; i < calls; i++) if ((await client.getRequestHeaders()).get('authorization') === expected) right++
      return right
    }),
}

// --- a hundred keys

const keys = Array.from({ length: 100 }, (_, n) => `audience-${n}`)

const spillwayKeys: Contender = {
  name: 'spillway',
  prepare: async () => {
    const issuer = new Issuer()
    const tokens = makeSpillway(issuer, hourMs)
    const expected = await Promise.all(keys.map((key) => tokens.get(key)))
    const tally = new Tally(issuer, () => keys.length)
    return turns(tally, async () => {
      let right = 0
      for (let i = 0; i < calls; i++) {
        const n = (i * 37) % 100
        if ((await tokens.get(keys[n] as string)) === expected[n]) right++
      }
      tally.take(right)
    })
  },
}

const handKeys: Contender = {
  name: 'a Map of tokens by hand, without a bound',
  aim: { atMost: 1.5 },
  prepare: async () => {
    const issuer = new Issuer()
    const map = new Map<string, HandCache>()
    const get = async (key: string): Promise<string> => {
      let tokens = map.get(key)
      if (tokens === undefined) {
        tokens = makeHand(issuer, hourMs)
        map.set(key, tokens)
      }
      return tokens.get()
    }
    const expected = await Promise.all(keys.map(get))
    const tally = new Tally(issuer, () => keys.length)
    return turns(tally, async () => {
      let right = 0
      for (let i = 0; i < calls; i++) {
        const n = (i * 37) % 100
        if ((await get(keys[n] as string)) === expected[n]) right++
      }
      tally.take(right)
    })
  },
}

// --- no token: a thousand callers at once, one fetch

/** Checks that all got the token of this turn's one fetch. */
function together(issuer: Issuer, get: () => Promise<string>, forget: (token: string) => void): Turns {
  let fetches = 0
  const tally = new Tally(issuer, () => ++fetches)
  return turns(tally, async () => {
    const answers = await Promise.all(Array.from({ length: calls }, get))
    const token = `token--${issuer.given}`
    tally.take(answers.filter((answer) => answer === token).length)
    forget(token)
  })
}

const spillwayMisses: Contender = {
  name: 'spillway',
  prepare: () => {
    const issuer = new Issuer()
    const tokens = makeSpillway(issuer, hourMs)
    return together(
      issuer,
      () => tokens.get(),
      (token) => tokens.invalidate(token),
    )
  },
}

const handMisses: Contender = {
  name: 'one promise for all by hand',
  prepare: () => {
    const issuer = new Issuer()
    const tokens = makeHand(issuer, hourMs)
    return together(
      issuer,
      () => tokens.get(),
      () => tokens.forget(),
    )
  },
}

await serveSuite([
  {
    name: 'a token that is there, 1000 calls one after the other',
    operation: 'get',
    operations: calls,
    contenders: [spillwayHits, handHits, googleHits, googleHeaders],
  },
  {
    name: 'tokens of 100 keys, 1000 calls one after the other',
    operation: 'get',
    operations: calls,
    contenders: [spillwayKeys, handKeys],
  },
  {
    name: 'no token, 1000 callers at once, one fetch for all',
    operation: 'get',
    operations: calls,
    contenders: [spillwayMisses, handMisses],
  },
] satisfies readonly Contest[])
