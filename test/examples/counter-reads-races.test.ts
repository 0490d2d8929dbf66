import type { CacheStore } from 'spillway'
import { MemoryCacheStore, MemoryCounterStore, MemoryInvalidationBus, seededRandom } from 'spillway/testing'
import { expect, onTestFinished, test } from 'vitest'
import { Counters } from '../../examples/counter-billing/counter/counters.ts'
import { CounterReads } from '../../examples/counter-billing/counter/reads.ts'

const resource = 'a'
const types = ['like', 'share', 'view']
const rounds = 150

/** Lets up to so many turns pass. */
async function linger(random: () => number, turns: number): Promise<void> {
  for (let left = Math.floor(random() * turns); left > 0; left--) await new Promise(setImmediate)
}

/** A store that takes its time before and after, and fails now and then: before it did anything, or after. */
function erratic<T extends object>(store: T, random: () => number, failing: number): T {
  return new Proxy(store, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function' || name === 'encode') return value
      return async (...values: unknown[]) => {
        await linger(random, 6)
        if (random() < failing / 2) throw new Error('lost on the way there')
        const answer = await Reflect.apply(value, target, values)
        await linger(random, 6)
        if (random() < failing / 2) throw new Error('lost on the way back')
        return answer
      }
    },
  })
}

interface World {
  readonly random: () => number
  readonly durable: MemoryCounterStore
  readonly cache: { readonly l2: CacheStore; readonly bus: MemoryInvalidationBus }
}

/** A gateway's counters and reads, which fails a test where a read is older than what it told before. */
class Gateway {
  readonly #random: () => number
  readonly #counters: Counters
  readonly #reads: CounterReads
  readonly #told = new Map<string, number>()
  readonly violations: string[] = []

  constructor({ random, durable, cache }: World) {
    this.#random = random
    const slow = erratic(durable, random, 0)
    this.#counters = new Counters({ live: slow, durable: slow }, () => undefined)
    const list = async (): Promise<readonly number[]> => slow.getMany(types.map((type) => `${resource}:${type}`))
    const listing = {
      list: async () => ({
        counters: (await list()).map((value, index) => ({ counterType: types[index] as string, value })),
        more: false,
      }),
    }
    this.#reads = new CounterReads(this.#counters, listing, cache)
    onTestFinished(async () => {
      await this.#reads.cache.close()
      await this.#counters.close()
    })
  }

  async increment(): Promise<void> {
    const key = this.#anyKey()
    const value = await this.#counters.commit({ key, delta: 1 })
    this.#reads.told(resource, key, 'durable')
    this.#tell(key, value)
  }

  async read(): Promise<void> {
    const key = this.#anyKey()
    const fresh = this.#random() < 0.2
    const least = this.#told.get(key) ?? 0
    const { value } = await this.#reads.value(resource, key, { source: 'durable', fresh })
    if (value < least) this.violations.push(`${key} was ${value} after ${least}`)
    if (fresh) this.#tell(key, value)
  }

  async list(): Promise<void> {
    const least = new Map(this.#told)
    const fresh = this.#random() < 0.2
    const { value } = await this.#reads.page({ resourceId: resource, after: '', limit: 10 }, fresh)
    for (const { counterType, value: read } of value.counters) {
      const key = `${resource}:${counterType}`
      if (read < (least.get(key) ?? 0)) this.violations.push(`${key} was listed as ${read} after ${least.get(key)}`)
      if (fresh) this.#tell(key, read)
    }
  }

  invalidate(): Promise<void> {
    return this.#reads.invalidate([resource])
  }

  get outdated(): number {
    return Number(this.#reads.stats()['outdated'])
  }

  #tell(key: string, value: number): void {
    this.#told.set(key, Math.max(value, this.#told.get(key) ?? 0))
  }

  #anyKey(): string {
    return `${resource}:${types[Math.floor(this.#random() * types.length)]}`
  }
}

test.each([
  ['works', 0],
  ['fails now and then', 0.3],
])('no read is older than what its gateway told before, while what two share %s', async (_title, failing) => {
  const random = seededRandom(failing + 1)
  const durable = new MemoryCounterStore()
  const l2 = erratic<CacheStore>(new MemoryCacheStore(), random, failing)
  const cache = { l2, bus: new MemoryInvalidationBus() }
  const gateways = [1, 2].map(() => new Gateway({ random, durable, cache }))
  const callers = gateways.flatMap((gateway) => new Array<Gateway>(6).fill(gateway))

  await Promise.all(
    callers.map(async (gateway) => {
      for (let round = 0; round < rounds; round++) {
        const choice = random()
        if (choice < 0.3) await gateway.increment()
        else if (choice < 0.85) await gateway.read()
        else if (choice < 0.98) await gateway.list()
        else await gateway.invalidate()
        await linger(random, 4)
      }
    }),
  )

  expect(gateways.flatMap(({ violations }) => violations)).toEqual([])
  // There was something to be too old.
  for (const { outdated } of gateways) expect(outdated).toBeGreaterThan(10)
})
