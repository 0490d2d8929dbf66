import type {
  ConsumeOutcome,
  HoldClaim,
  QuotaClaim,
  QuotaKey,
  QuotaStore,
  QuotaUsage,
  ReserveOutcome,
  SettleOutcome,
} from '../../core/ports.js'
import { maxUsage } from '../../internal/usage.js'
import { expectEqual } from './contract.js'
import { type UsageData, UsageWorld, type UseOptions } from './usage-world.js'

/** How long a hold lasts that no case lets expire. */
export const longMs = 600_000

/** What there is of a key that nobody has touched. */
export const nothing: QuotaUsage = { used: 0, held: 0 }

/** The data that a case works on, and its time. */
export interface QuotaData extends UsageData {
  open(): QuotaStore | PromiseLike<QuotaStore>
  elapse(ms: number): void | PromiseLike<void>
}

/** How a case is named and run. */
export type QuotaTest = (name: string, body: (world: QuotaWorld) => Promise<void>) => void

/** What a claim in a case may have beside its value and limit. */
export interface ClaimOptions extends Pick<UseOptions, 'user' | 'type' | 'kind'> {
  readonly id?: string | undefined
  readonly store?: QuotaStore | undefined
}

/** One case's surroundings: a store, and users and ids that no other case uses. */
export class QuotaWorld extends UsageWorld {
  readonly store: QuotaStore
  readonly #data: QuotaData
  #reader: Promise<QuotaStore> | undefined

  constructor(data: QuotaData, store: QuotaStore) {
    super(data, store)
    this.#data = data
    this.store = store
  }

  /** Another store on the same data. */
  async openStore(): Promise<QuotaStore> {
    return this.#data.open()
  }

  openStores(count: number): Promise<QuotaStore[]> {
    return Promise.all(Array.from({ length: count }, () => this.openStore()))
  }

  /** Lets time pass on the store's clock. */
  async elapse(ms: number): Promise<void> {
    await this.#data.elapse(ms)
  }

  async consume(value: number, limit: number, options: ClaimOptions = {}): Promise<ConsumeOutcome> {
    return (options.store ?? this.store).consume(this.#claim(value, limit, options))
  }

  async reserve(
    value: number,
    options: ClaimOptions & { readonly limit?: number; readonly ttlMs?: number; readonly settleLimit?: number } = {},
  ): Promise<ReserveOutcome> {
    const { limit = maxUsage, ttlMs = longMs, settleLimit } = options
    const claim: HoldClaim = { ...this.#claim(value, limit, options), ttlMs, settleLimit }
    return (options.store ?? this.store).reserve(claim)
  }

  /** Demands what is used and held of a key, by default that of the case's user `u` of type `requests` by month. */
  async expectUsage(expected: QuotaUsage, key: QuotaKey = this.key()): Promise<void> {
    this.#reader ??= this.openStore()
    expectUsages(await (await this.#reader).readUsage([key]), [expected])
  }

  #claim(value: number, limit: number, { user, type, kind, id = crypto.randomUUID() }: ClaimOptions): QuotaClaim {
    return { ...this.key(user, type, kind), value, limit, id }
  }
}

export function expectOutcome(
  outcome: ConsumeOutcome | ReserveOutcome,
  status: string,
  { used, held }: QuotaUsage,
): void {
  const { status: actual } = outcome
  expectEqual(
    { status: actual, used: outcome.used, held: outcome.held },
    { status, used, held },
    'what became of the claim',
  )
}

export function expectSettled({ status, usage }: SettleOutcome, expected: string, { used, held }: QuotaUsage): void {
  const actual = { status, used: usage?.used, held: usage?.held }
  expectEqual(actual, { status: expected, used, held }, 'what became of the settle')
}

export function expectClaim(actual: QuotaClaim | undefined, expected: QuotaClaim): void {
  const parts = (claim: QuotaClaim | undefined): unknown[] => [
    claim?.userId,
    claim?.quotaType,
    claim?.period,
    claim?.value,
    claim?.limit,
    claim?.id,
  ]
  expectEqual(parts(actual), parts(expected), 'the claim as it was made')
}

export function expectUsages(actual: readonly QuotaUsage[], expected: readonly QuotaUsage[]): void {
  const parts = (usages: readonly QuotaUsage[]): unknown[] => usages.map(({ used, held }) => [used, held])
  expectEqual(parts(actual), parts(expected), 'what is used and held')
}

/** Demands how often each status came. */
export function expectTally(
  outcomes: readonly { readonly status: string }[],
  expected: Readonly<Record<string, number>>,
): void {
  const counts: Record<string, number> = {}
  for (const { status } of outcomes) counts[status] = (counts[status] ?? 0) + 1
  expectEqual(Object.entries(counts).sort(), Object.entries(expected).sort(), 'how often each status came')
}
