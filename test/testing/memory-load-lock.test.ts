import { getEventListeners } from 'node:events'
import { MultiLevelCache } from 'spillway'
import { FakeClock, MemoryCacheStore, MemoryLoadLock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'

const signal = new AbortController().signal

describe('MemoryLoadLock', () => {
  test('serves who waits in the order of coming, and says who has and who waits', async () => {
    const clock = new FakeClock()
    const lock = new MemoryLoadLock({ clock })
    const order: string[] = []
    const first = await lock.acquire('k', { waitMs: 0, signal })
    for (const name of ['a', 'b']) {
      void lock.acquire('k', { waitMs: 100, signal }).then((lease) => {
        order.push(`${name} ${lease?.waited}`)
        lease?.release()
      })
    }
    expect([lock.held, lock.waiting('k'), lock.waiting('other')]).toEqual([['k'], 2, 0])

    first?.release()
    await clock.advance(0)

    expect(order).toEqual(['a true', 'b true'])
    expect([lock.held, clock.pending]).toEqual([[], 0])
  })

  test('lets go of the signal of who waited, however that ended', async () => {
    const clock = new FakeClock()
    const lock = new MemoryLoadLock({ clock })
    const lease = await lock.acquire('k', { waitMs: 0, signal })
    const own = new AbortController().signal
    const waits = lock.acquire('k', { waitMs: 10, signal: own })
    await clock.advance(10)

    expect(await waits).toBeUndefined()
    expect(getEventListeners(own, 'abort')).toHaveLength(0)
    lease?.release()
  })

  test('lets one of several caches load, and the others find what it loaded', async () => {
    const clock = new FakeClock()
    const parts = { clock, l2: new MemoryCacheStore({ clock }), loadLock: new MemoryLoadLock({ clock }) }
    const caches = [1, 2, 3].map(() => new MultiLevelCache<string>(parts))
    let loads = 0
    const load = async (): Promise<string> => {
      loads++
      await new Promise<void>((resolve) => void clock.setTimer(resolve, 50))
      return 'loaded'
    }

    const values = await clock.until(Promise.all(caches.map((cache) => cache.getOrLoad('k', load))))

    expect([values, loads]).toEqual([['loaded', 'loaded', 'loaded'], 1])
    await clock.until(Promise.all(caches.map((cache) => cache.close())))
    expect(parts.loadLock.held).toEqual([])
  })

  test.each([
    ['options', () => new MemoryLoadLock(7 as never), 'options must be an object'],
    ['leaseMs', () => new MemoryLoadLock({ leaseMs: 0 }), 'leaseMs must be a number'],
  ])('refuses a wrong %s at once', (field, make, message) => {
    expect(make).toThrow(expect.objectContaining({ code: 'ERR_OPTION', field }))
    expect(make).toThrow(message)
  })

  test.each([
    ['key', [7, { waitMs: 0, signal }]],
    ['options', ['k']],
    ['waitMs', ['k', { waitMs: -1, signal }]],
    ['signal', ['k', { waitMs: 0, signal: 1 }]],
  ])('rejects a wrong %s', async (field, args) => {
    const refused = new MemoryLoadLock().acquire(...(args as Parameters<MemoryLoadLock['acquire']>))

    await expect(refused).rejects.toMatchObject({ code: 'ERR_OPTION', field })
  })
})
