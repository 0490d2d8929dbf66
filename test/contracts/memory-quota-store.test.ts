import { type HoldClaim, MemoryQuotaStore, type QuotaClaim, type QuotaKey, type UsageBatch } from 'spillway'
import { FakeClock, quotaStoreContract, usageSinkContract } from 'spillway/testing'
import { describe, expect, test } from 'vitest'

for (const dedupe of ['batch', 'event', 'request'] as const) {
  describe(`MemoryQuotaStore that tells ${dedupe} ids apart keeps the contract of quota stores`, () => {
    const clock = new FakeClock({ wallMs: Date.now() })
    const store = new MemoryQuotaStore({ dedupe, clock })
    const harness = { open: () => store, dedupe, elapse: (ms: number) => clock.advance(ms) }
    for (const { name, run } of quotaStoreContract(harness)) test(name, run)
  })
}

describe('the contract of usage sinks', () => {
  test('has no cases of exactly once for a sink that does not claim it', () => {
    const names = (dedupe: 'batch' | null): string[] =>
      usageSinkContract({ open: () => new MemoryQuotaStore(), read: () => [], dedupe }).map(({ name }) => name)

    const without = names(null)

    expect(without).not.toHaveLength(0)
    expect(names('batch').filter((name) => !without.includes(name))).toHaveLength(5)
  })
})

describe('the contract of quota stores', () => {
  /** Runs the contract against a broken store, and says which cases fail. */
  const failures = async (
    make: (options: { clock: FakeClock; dedupe: 'request' }) => MemoryQuotaStore,
  ): Promise<string[]> => {
    const clock = new FakeClock({ wallMs: Date.now() })
    const store = make({ clock, dedupe: 'request' })
    const elapse = (ms: number): Promise<void> => clock.advance(ms)
    const failed: string[] = []
    for (const { name, run } of quotaStoreContract({ open: () => store, dedupe: 'request', elapse })) {
      await run().catch(() => failed.push(name))
    }
    return failed
  }

  test('fails a store that says something else of itself', async () => {
    const failed = await failures(({ clock }) => new MemoryQuotaStore({ clock, dedupe: 'batch' }))

    expect(failed).toContain('says what it tells apart')
    expect(failed).toContain('a request counts once through 12 concurrent shuffled redeliveries')
  })

  test('fails a store that forgets batches', async () => {
    const failed = await failures((options) => new MemoryQuotaStore({ ...options, rememberBatches: 0 }))

    expect(failed).toContain('a batch id that comes again changes nothing, and gets the same refusals')
    expect(failed).toContain('attempts at one batch that run at the same time apply it once, with one answer')
  })

  test('fails a store that forgets requests', async () => {
    const failed = await failures((options) => new MemoryQuotaStore({ ...options, rememberRequests: 0 }))

    expect(failed).toContain('a request that comes again in other batches counts once')
    expect(failed).toContain('an id that is consumed 20 times at once counts once')
  })

  test('fails a store that forgets reservations', async () => {
    const failed = await failures((options) => new MemoryQuotaStore({ ...options, rememberReservations: 0 }))

    expect(failed).toContain('a settle that comes again changes nothing, whatever it says')
    expect(failed).toContain("a reservation's id that has expired is a conflict")
  })

  test('fails a store that forgets what expired, and one whose holds can be prolonged', async () => {
    class Forgetting extends MemoryQuotaStore {
      readonly #seen = new Map<string, number>()
      readonly #clock: FakeClock
      constructor(options: { clock: FakeClock; dedupe: 'request' }) {
        super(options)
        this.#clock = options.clock
      }
      override async reserve(claim: HoldClaim) {
        const outcome = await super.reserve(claim)
        if (outcome.status === 'held') this.#seen.set(claim.id, outcome.expiresAt)
        return outcome
      }
      override async release(id: string) {
        if (this.#clock.wallNow() < (this.#seen.get(id) ?? 0)) await super.release(id)
      }
    }
    class Prolonging extends MemoryQuotaStore {
      override async reserve(claim: HoldClaim) {
        const outcome = await super.reserve(claim)
        if (outcome.status !== 'repeated') return outcome
        await super.reserve({ ...claim, id: `${claim.id}+` })
        return outcome
      }
    }

    expect(await failures((options) => new Forgetting(options))).toContain(
      'release after an expiry that was seen gives nothing back twice, and rules a later settle out',
    )
    expect(await failures((options) => new Prolonging(options))).toContain(
      'a reservation that is made again with more time ends no later',
    )
  })

  test('fails a store that reads before it counts', async () => {
    class Racing extends MemoryQuotaStore {
      override async consume(claim: QuotaClaim) {
        const [usage = { used: 0, held: 0 }] = await this.readUsage([claim])
        const { used, held } = usage
        if (used + held + claim.value > claim.limit) return { status: 'exceeded' as const, ...usage }
        return super.consume({ ...claim, limit: Number.POSITIVE_INFINITY })
      }
    }

    const failed = await failures((options) => new Racing(options))

    expect(failed).toContain('100 parallel consumes with a limit of 10 count exactly 10')
  })

  test('fails a store that joins ids with a separator that they may have', async () => {
    const joined = <Key extends QuotaKey>(key: Key): Key => ({
      ...key,
      userId: `${key.userId}:${key.quotaType}`,
      quotaType: 'x',
    })
    class Joining extends MemoryQuotaStore {
      override write(batch: UsageBatch, context: Parameters<MemoryQuotaStore['write']>[1]) {
        const events = batch.events.map((event) => joined({ ...event, userId: String(event.userId) }))
        return super.write({ ...batch, events }, context)
      }
      override readUsage(keys: readonly QuotaKey[]) {
        return super.readUsage(keys.map(joined))
      }
    }

    expect(await failures((options) => new Joining(options))).toContain(
      'ids are any text, and none is taken for another',
    )
  })

  test('fails a store that rounds, and one that knows no fractions', async () => {
    class Rounding extends MemoryQuotaStore {
      override async readUsage(keys: readonly QuotaKey[]) {
        // What `%.14g` leaves of a number.
        const rounded = (value: number): number => Number(value.toPrecision(14))
        return (await super.readUsage(keys)).map(({ used, held }) => ({ used: rounded(used), held: rounded(held) }))
      }
    }
    class Whole extends MemoryQuotaStore {
      override reserve(claim: HoldClaim) {
        return super.reserve({ ...claim, value: Math.trunc(claim.value) })
      }
    }

    expect(await failures((options) => new Rounding(options))).toEqual(
      expect.arrayContaining(['sums are exact up to 2^53 - 1', 'fractions add up as doubles do']),
    )
    expect(await failures((options) => new Whole(options))).toContain(
      'random operations do what the model does (seed 1)',
    )
  })
})
