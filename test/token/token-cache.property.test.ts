import fc from 'fast-check'
import { TokenCache, type TokenContext, type TokenGrant } from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'
import { expect, test } from 'vitest'

const key = fc.constantFrom('a', 'b', 'c')

const step = fc.oneof(
  { weight: 8, arbitrary: fc.record({ do: fc.constant('get' as const), key, abortable: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('abort' as const), index: fc.nat(9) }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('settle' as const), index: fc.nat(9), how: fc.nat(6) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('invalidate' as const), index: fc.nat(9) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('wall' as const), ms: fc.integer({ min: -900, max: 900 }) }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('advance' as const), ms: fc.constantFrom(0, 1, 30, 200, 700) }) },
)

const scenario = fc.record({
  seed: fc.nat(),
  steps: fc.array(step, { minLength: 1, maxLength: 60 }),
  capacity: fc.constantFrom(1, 2, 5),
  jitter: fc.constantFrom(0, 0.5, 1),
  refreshAheadMs: fc.constantFrom(0, 300, 5000),
  mandatoryMs: fc.constantFrom(0, 50, 5000),
  cooldownMs: fc.constantFrom(0, 400),
  closeMs: fc.constantFrom(undefined, 20),
})

type Scenario = typeof scenario extends fc.Arbitrary<infer T> ? T : never

interface Request {
  readonly key: string
  readonly context: TokenContext
  readonly started: { now: number; wall: number }
  readonly resolve: (grant: TokenGrant) => void
  readonly reject: (error: unknown) => void
}

/** One world: a cache, what it has asked for, what it has given, and what must hold of all that. */
class World {
  readonly clock = new FakeClock()
  readonly requests: Request[] = []
  readonly tokens: TokenCache
  /** When each token expires, by the monotonic and by the wall clock. */
  readonly lives = new Map<string, { now: number; wall: number }>()
  readonly given: string[] = []
  readonly aborts: AbortController[] = []
  readonly answers: Promise<unknown>[] = []
  readonly broken: string[] = []
  #made = 0

  constructor({ seed, capacity, jitter, refreshAheadMs, mandatoryMs, cooldownMs }: Scenario) {
    this.tokens = new TokenCache((key, context) => this.#fetch(key, context), {
      clock: this.clock,
      random: seededRandom(seed),
      ...{ capacity, jitter, refreshAheadMs, mandatoryMs },
      invalidateCooldownMs: cooldownMs,
      terminalCooldownMs: 100,
      timeoutMs: 500,
      retry: { delayMs: 50, maxDelayMs: 400 },
    })
  }

  #fetch(key: string, context: TokenContext): Promise<TokenGrant> {
    return new Promise((resolve, reject) => {
      const started = { now: this.clock.now(), wall: this.clock.wallNow() }
      this.requests.push({ key, context, started, resolve, reject })
    })
  }

  get(key: string, abortable: boolean): void {
    const controller = new AbortController()
    if (abortable) this.aborts.push(controller)
    const asked = { now: this.clock.now(), wall: this.clock.wallNow() }
    const waited = this.tokens.stats().hits
    const answer = abortable ? this.tokens.get(key, { signal: controller.signal }) : this.tokens.get(key)
    const hit = this.tokens.stats().hits > waited
    this.answers.push(
      answer.then(
        (token) => {
          this.given.push(token)
          const life = this.lives.get(token)
          // Who waited may get it late; who was answered at once must not get what had expired when he asked.
          if (hit && (life === undefined || asked.now >= life.now || asked.wall >= life.wall)) {
            this.broken.push(`${token} was served after its end`)
          }
        },
        () => undefined,
      ),
    )
  }

  settle(index: number, how: number): void {
    const open = this.requests[index % Math.max(1, this.requests.length)]
    if (open === undefined) return
    const token = `t${++this.#made}`
    const lifeMs = 200 + how * 300
    this.lives.set(token, { now: open.started.now + lifeMs, wall: open.started.wall + lifeMs })
    if (how < 4) open.resolve({ token, expiresInMs: lifeMs })
    else if (how === 4) open.reject(new Error('down'))
    else if (how === 5) open.reject({ retryable: false })
    else open.reject({ retryAfterMs: 150 })
  }

  jump(ms: number): Promise<void> {
    this.clock.setWall(this.clock.wallNow() + ms)
    // The wall clock is read once a turn.
    return this.clock.advance(0)
  }

  check(): void {
    const stats = this.tokens.stats()
    const { offered, succeeded, failed, rejected, aborted, pending } = stats
    expect(offered).toBe(succeeded + failed + rejected + aborted + pending)
    expect(stats.fetches).toBe(
      stats.refreshed + stats.discarded + stats.refreshFailures + stats.fetchesAborted + stats.fetching,
    )
    expect(this.requests.length).toBe(stats.fetches)
    // A timer a fetch, and none else.
    expect(this.clock.pending).toBe(stats.fetching)
    expect(this.broken).toEqual([])
  }
}

test('the books balance at every moment, and no token is served after its end', async () => {
  await fc.assert(
    fc.asyncProperty(scenario, async (plan) => {
      const world = new World(plan)
      const { tokens, clock } = world

      for (const one of plan.steps) {
        if (one.do === 'get') world.get(one.key, one.abortable)
        else if (one.do === 'abort') world.aborts[one.index]?.abort('enough')
        else if (one.do === 'settle') world.settle(one.index, one.how)
        else if (one.do === 'invalidate') tokens.invalidate(world.given.at(-1 - one.index) ?? 'unknown')
        else if (one.do === 'wall') await world.jump(one.ms)
        else await clock.advance(one.ms)
        world.check()
        expect(tokens.stats().keys).toBeLessThanOrEqual(plan.capacity)
      }

      const closing = tokens.close({ timeoutMs: plan.closeMs })
      await clock.advance(500)
      const { abandoned, drained } = await closing
      await Promise.all(world.answers)

      expect(drained).toBe(abandoned === 0)
      const stats = tokens.stats()
      expect(stats).toMatchObject({ pending: 0, fetching: 0, keys: 0 })
      expect(stats.offered).toBe(world.answers.length)
      world.check()
      expect(clock.pending).toBe(0)
    }),
    { numRuns: 300 },
  )
}, 60_000)
