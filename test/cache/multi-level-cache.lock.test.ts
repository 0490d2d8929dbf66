import type { LoadLease, LoadLock } from 'spillway'
import { describe, expect } from 'vitest'
import { reasonOf, watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { neverLoad } from './support/caches.js'
import { sharedScene } from './support/staged-store.js'

/** A lock that grants when the test says so. */
class StagedLock implements LoadLock {
  readonly asked: { key: string; waitMs: number; signal: AbortSignal; grant: (lease?: LoadLease) => void }[] = []
  released = 0
  fails = false

  acquire(key: string, options: { waitMs: number; signal: AbortSignal }): Promise<LoadLease | undefined> {
    if (this.fails) throw new Error('the lock is broken')
    return new Promise((resolve) => {
      this.asked.push({ key, ...options, grant: resolve })
    })
  }

  lease(waited: boolean): LoadLease {
    return { waited, release: () => void this.released++ }
  }

  at(index: number): StagedLock['asked'][number] {
    const asked = this.asked[index]
    if (asked === undefined) throw new Error(`the lock was asked ${this.asked.length} times`)
    return asked
  }
}

describe('a load lock', () => {
  inVirtualTime('is held while the key is loaded and stored, and then released', async (clock) => {
    const loadLock = new StagedLock()
    const { cache, store } = sharedScene(clock, { loadLock })
    const answer = watch(cache.getOrLoad('key', () => 'value'))
    await clock.advance(0)
    expect(answer.status).toBe('pending')
    expect(loadLock.at(0)).toMatchObject({ key: 'cache:key', waitMs: 5000 })

    loadLock.at(0).grant(loadLock.lease(false))
    await clock.advance(0)

    expect(answer.value).toBe('value')
    expect(store.log('getMany', 'setMany')).toEqual(['getMany key', 'setMany key'])
    expect(loadLock.released).toBe(1)
  })

  inVirtualTime('that somebody else had first spares the load, if the value is there by then', async (clock) => {
    const loadLock = new StagedLock()
    const { cache, open } = sharedScene(clock, { loadLock })
    const answer = watch(cache.getOrLoad('key', neverLoad))
    await clock.advance(100)
    await open().set('key', 'theirs')

    loadLock.at(0).grant(loadLock.lease(true))
    await clock.advance(0)

    expect(answer.value).toBe('theirs')
    expect(loadLock.released).toBe(1)
    expect(cache.peek('key')).toBe('theirs')
  })

  inVirtualTime('that does not come, or fails, is done without; one that comes late is given back', async (clock) => {
    const loadLock = new StagedLock()
    const { cache, failures } = sharedScene(clock, { loadLock, loadLockWaitMs: 200 })
    const answer = watch(cache.getOrLoad('hanging', () => 'value'))
    await clock.advance(199)
    expect(answer.status).toBe('pending')
    await clock.advance(1)
    expect(answer.value).toBe('value')
    loadLock.at(0).grant(loadLock.lease(true))
    await clock.advance(0)
    expect(loadLock.released).toBe(1)

    loadLock.fails = true
    expect(await cache.getOrLoad('failing', () => 'value')).toBe('value')
    expect(failures).toMatchObject([{ operation: 'lock', keys: ['cache:failing'] }])
  })

  inVirtualTime('that does not come spares the load all the same, if the value is there by then', async (clock) => {
    const loadLock = new StagedLock()
    const { cache, open } = sharedScene(clock, { loadLock, loadLockWaitMs: 200 })
    const answer = watch(cache.getOrLoad('key', neverLoad))
    await clock.advance(100)
    await open().set('key', 'theirs')

    await clock.advance(100)

    expect(answer.value).toBe('theirs')
    expect(clock.pending).toBe(0)
  })

  inVirtualTime('is not asked for while the shared tier cannot be asked', async (clock) => {
    const loadLock = new StagedLock()
    const { cache, store } = sharedScene(clock, { loadLock })
    store.stage = () => Promise.reject(new Error('away'))

    expect(await cache.getOrLoad('key', () => 'value')).toBe('value')

    expect(loadLock.asked).toEqual([])
  })

  inVirtualTime('is waited for no longer once all callers have gone', async (clock) => {
    const loadLock = new StagedLock()
    const { cache } = sharedScene(clock, { loadLock })
    const controller = new AbortController()
    const answer = cache.getOrLoad('key', neverLoad, { signal: controller.signal })
    await clock.advance(0)

    controller.abort('gone')

    expect(await reasonOf(answer)).toBe('gone')
    expect(loadLock.at(0).signal.aborted).toBe(true)
    await clock.advance(0)
    expect(clock.pending).toBe(0)
    loadLock.at(0).grant(loadLock.lease(false))
    await clock.advance(0)
    expect(loadLock.released).toBe(1)
  })

  inVirtualTime('is released when the loader fails, and not asked for by loads of several keys', async (clock) => {
    const loadLock = new StagedLock()
    const { cache } = sharedScene(clock, { loadLock })
    const failing = watch(cache.getOrLoad('key', () => Promise.reject(new Error('down'))))
    await clock.advance(0)
    loadLock.at(0).grant(loadLock.lease(false))
    await clock.advance(0)

    expect(failing.status).toBe('rejected')
    expect(loadLock.released).toBe(1)
    expect(await cache.getOrLoadMany(['a', 'b'], (keys) => keys)).toEqual(['a', 'b'])
    expect(loadLock.asked).toHaveLength(1)
  })
})
