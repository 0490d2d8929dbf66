import { cacheStoreContract, FakeClock, MemoryCacheStore } from 'spillway/testing'
import { describe, test } from 'vitest'

describe('MemoryCacheStore keeps the contract of cache stores', () => {
  const clock = new FakeClock()
  const store = new MemoryCacheStore({ clock })
  const values = [new Date(0), new Map([[1, 'one']]), new Set(['a']), 1n, Number.NaN, -0, [undefined]]
  const harness = { open: () => store, elapse: (ms: number) => clock.advance(ms), values }
  for (const { name, run } of cacheStoreContract(harness)) test(name, run)
})
