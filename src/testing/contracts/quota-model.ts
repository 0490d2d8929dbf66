import type { QuotaClaim, QuotaKey, QuotaUsage } from '../../core/ports.js'
import { keyText, maxUsage } from '../../internal/usage.js'
import { seededRandom } from '../seeded-random.js'
import { expectEqual } from './contract.js'
import { longMs, type QuotaTest, type QuotaWorld } from './quota-world.js'

/** Random operations, one after the other from two processes, each compared with what a model of the port does. */
export function randomCases(test: QuotaTest): void {
  for (let seed = 1; seed <= 3; seed++) {
    test(`random operations do what the model does (seed ${seed})`, (world) => compare(world, seed))
  }
}

async function compare(world: QuotaWorld, seed: number): Promise<void> {
  const random = seededRandom(seed)
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T
  const model = new QuotaModel()
  const stores = await world.openStores(2)
  const ids = Array.from({ length: 12 }, (_, i) => world.name(`r${i}`))
  for (let step = 0; step < 120; step++) {
    const user = pick(['a', 'a', 'b'])
    const key = world.key(user)
    // Quarters: a double sums them exactly, and a store that rounds fractions shows.
    const value = Math.floor(random() * 24) / 4
    const limit = pick([0, 5, 20, 20, Number.POSITIVE_INFINITY])
    const store = pick(stores)
    const id = pick(ids)
    const claim: QuotaClaim = { ...key, value, limit, id }
    const what = (action: string): string => `step ${step}, ${action} of ${value} with a limit of ${limit}`
    const action = random()
    if (action < 0.15) {
      await world.write([world.use(value, { user })], { sink: store })
      model.write(key, value)
    } else if (action < 0.4) {
      const { status, used, held } = await store.consume(claim)
      expectEqual({ status, used, held }, model.consume(claim), what('consume'))
    } else if (action < 0.7) {
      const { status, used, held } = await store.reserve({ ...claim, ttlMs: longMs })
      expectEqual({ status, used, held }, model.reserve(claim), what('reserve'))
    } else if (action < 0.9) {
      const { status, usage } = await store.settle(id, value)
      const expected = model.settle(id, value)
      expectEqual(status, expected.status, what('settle'))
      if (usage !== undefined) expectEqual([usage.used, usage.held], expected.usage, what('settle'))
    } else {
      await store.release(id)
      model.release(id)
    }
    await world.expectUsage(model.usage(key), key)
  }
}

interface Hold {
  readonly claim: QuotaClaim
  state: 'held' | 'settled' | 'released'
}

/** What the port says, in as few words as possible. */
class QuotaModel {
  readonly #used = new Map<string, number>()
  readonly #ids = new Set<string>()
  readonly #holds = new Map<string, Hold>()

  usage(key: QuotaKey): QuotaUsage {
    let held = 0
    for (const { claim, state } of this.#holds.values()) if (state === 'held' && same(claim, key)) held += claim.value
    return { used: this.#used.get(text(key)) ?? 0, held }
  }

  write(key: QuotaKey, value: number): void {
    this.#used.set(text(key), this.usage(key).used + value)
  }

  consume(claim: QuotaClaim): QuotaUsage & { readonly status: string } {
    const id = `${claim.userId}\0${claim.quotaType}\0${claim.id}`
    let status = 'repeated'
    if (!this.#ids.has(id)) {
      status = this.#fits(claim, claim.value) ? 'applied' : 'exceeded'
      if (status === 'applied') {
        this.#ids.add(id)
        this.write(claim, claim.value)
      }
    }
    return { status, ...this.usage(claim) }
  }

  reserve(claim: QuotaClaim): QuotaUsage & { readonly status: string } {
    const earlier = this.#holds.get(claim.id)
    let status: string
    if (earlier !== undefined) {
      const isSame = same(earlier.claim, claim) && earlier.claim.value === claim.value
      status = isSame && earlier.state === 'held' ? 'repeated' : 'conflict'
    } else {
      status = this.#fits(claim, claim.value) ? 'held' : 'exceeded'
      if (status === 'held') this.#holds.set(claim.id, { claim, state: 'held' })
    }
    return { status, ...this.usage(claim) }
  }

  settle(id: string, actual: number): { readonly status: string; readonly usage?: readonly number[] } {
    const hold = this.#holds.get(id)
    if (hold === undefined) return { status: 'unknown' }
    const { claim, state } = hold
    let status: string = state === 'settled' ? 'repeated' : 'released'
    if (state === 'held') {
      status = actual <= claim.value || this.#fits(claim, actual - claim.value) ? 'settled' : 'exceeded'
      if (status === 'settled') {
        hold.state = 'settled'
        this.write(claim, actual)
      }
    }
    const { used, held } = this.usage(claim)
    return { status, usage: [used, held] }
  }

  release(id: string): void {
    const hold = this.#holds.get(id)
    if (hold?.state === 'held') hold.state = 'released'
  }

  #fits(claim: QuotaClaim, value: number): boolean {
    const { used, held } = this.usage(claim)
    return used + held + value <= Math.min(claim.limit, maxUsage)
  }
}

function same(a: QuotaKey, b: QuotaKey): boolean {
  return text(a) === text(b)
}

function text({ userId, quotaType, period }: QuotaKey): string {
  return keyText(userId, quotaType, period)
}
