import { FakeClock } from 'spillway/testing'

/** One request at an identity provider that a test answers by hand. */
export interface TokenRequest<K> {
  readonly key: K
  readonly signal: AbortSignal
  readonly previous: string | undefined
  /** Answers with a token and what else a grant holds. */
  give(token: unknown, rest?: { expiresAt?: unknown; expiresInMs?: unknown }): Promise<void>
  /** Fails. */
  fail(error: unknown): Promise<void>
}

/** An identity provider whose requests wait until a test answers them. */
export class Identity<K = string> {
  readonly requests: TokenRequest<K>[] = []
  readonly clock: FakeClock

  constructor(clock: FakeClock = new FakeClock()) {
    this.clock = clock
  }

  readonly fetchToken = (
    key: K,
    context: { readonly signal: AbortSignal; readonly previous: string | undefined },
  ): Promise<{ token: string }> =>
    new Promise((resolve, reject) => {
      const settled = (): Promise<void> => this.clock.advance(0)
      this.requests.push({
        key,
        signal: context.signal,
        previous: context.previous,
        give: (token, rest) => {
          resolve({ token, ...rest } as { token: string })
          return settled()
        },
        fail: (error) => {
          reject(error)
          return settled()
        },
      })
    })

  get count(): number {
    return this.requests.length
  }

  /** The latest request. */
  get last(): TokenRequest<K> {
    const last = this.requests.at(-1)
    if (last === undefined) throw new Error('nothing was requested')
    return last
  }
}

/** What became of a promise by now. */
export async function stateOf(promise: Promise<unknown>): Promise<unknown> {
  const waiting = Symbol('waiting')
  try {
    const value = await Promise.race([promise, new Promise((resolve) => setImmediate(resolve, waiting))])
    return value === waiting ? 'waiting' : value
  } catch (error) {
    return { rejected: error }
  }
}

export const minutes = (n: number): number => n * 60_000

/** Chance that always comes out the same. */
export const always = (value: number) => (): number => value
