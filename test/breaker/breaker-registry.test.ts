import { BreakerRegistry, CircuitBreaker, isSpillwayError } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { fail, succeed } from './support/calls.js'

const keysOf = (registry: BreakerRegistry): string[] => [...registry.entries()].map(([key]) => key)

describe('get', () => {
  test('makes a breaker for each key, with the options, the key as its name and counts of its own', async () => {
    const registry = new BreakerRegistry({ failureThreshold: 2 })

    const [one, other] = [registry.get('10.0.0.1:80'), registry.get('')]

    expect(one).toBeInstanceOf(CircuitBreaker)
    expect(registry.get('10.0.0.1:80')).toBe(one)
    expect([one.name, other.name]).toEqual(['10.0.0.1:80', ''])
    await fail(one, 2)
    expect([one.state, other.state]).toEqual(['open', 'closed'])
    expect(registry.size).toBe(2)
  })

  test('keys of every kind are just strings', () => {
    const registry = new BreakerRegistry()

    for (const key of ['__proto__', 'constructor', 'toString']) expect(registry.get(key).name).toBe(key)

    expect(registry.size).toBe(3)
  })

  test('a name among the options names no breaker', () => {
    const registry = new BreakerRegistry({ name: 'all the same' } as object)

    expect(registry.get('a').name).toBe('a')
  })
})

describe('capacity', () => {
  test('is 1000 by default', () => {
    expect(BreakerRegistry.defaults).toEqual({ capacity: 1000 })
    const registry = new BreakerRegistry()

    for (let i = 0; i < 1500; i++) registry.get(`host ${i}`)

    expect(registry.size).toBe(1000)
    expect(keysOf(registry)[0]).toBe('host 500')
  })

  test('the one that was asked for least recently goes first', () => {
    const registry = new BreakerRegistry({ capacity: 3 })
    const a = registry.get('a')
    registry.get('b')
    registry.get('c')

    registry.get('a')
    registry.get('d')

    expect(keysOf(registry)).toEqual(['c', 'a', 'd'])
    expect(registry.get('a')).toBe(a)
    registry.get('b')
    expect(keysOf(registry)).toEqual(['d', 'a', 'b'])
  })

  test('asking again for one that is there evicts nobody', () => {
    const registry = new BreakerRegistry({ capacity: 2 })
    registry.get('a')
    registry.get('b')

    for (let i = 0; i < 10; i++) registry.get(i % 2 === 0 ? 'a' : 'b')

    expect(keysOf(registry).sort()).toEqual(['a', 'b'])
  })

  inVirtualTime('open, half-open and isolated ones stay, closed ones go before them', async (clock) => {
    const registry = new BreakerRegistry({ capacity: 4, clock, failureThreshold: 1, recoveryTimeoutMs: 100 })
    const halfOpen = registry.get('half-open')
    await fail(halfOpen)
    await clock.advance(100)
    expect(halfOpen.tryAcquire()).toBeDefined()
    const due = registry.get('due')
    await fail(due)
    registry.get('isolated').isolate()
    registry.get('closed')

    registry.get('e')
    registry.get('f')

    expect(keysOf(registry).sort()).toEqual(['due', 'f', 'half-open', 'isolated'])
  })

  inVirtualTime('when none is closed there are more than capacity, and fewer again once they close', async (clock) => {
    const registry = new BreakerRegistry({ capacity: 2, clock, failureThreshold: 1, recoveryTimeoutMs: 100 })
    for (const key of ['a', 'b', 'c', 'd']) await fail(registry.get(key))
    expect(registry.size).toBe(4)

    await clock.advance(100)
    for (const [, breaker] of registry.entries()) await succeed(breaker)
    for (const key of ['e', 'f', 'g', 'h']) registry.get(key)

    expect(registry.size).toBe(2)
    expect(keysOf(registry)).toEqual(['g', 'h'])
  })

  inVirtualTime('an evicted breaker goes on working for those who hold it', async (clock) => {
    const registry = new BreakerRegistry({ capacity: 1, clock, failureThreshold: 1 })
    const old = registry.get('a')
    registry.get('b')

    await fail(old)

    expect(old.state).toBe('open')
    expect(registry.get('a')).not.toBe(old)
  })
})

describe('misuse', () => {
  test('wrong options throw when it is made, those of the breakers too', () => {
    const field = (options: object | null): unknown => {
      try {
        new BreakerRegistry(options as object)
      } catch (error) {
        return isSpillwayError(error, 'ERR_OPTION') && (error as unknown as { field: string }).field
      }
      return undefined
    }

    expect(field({ capacity: 0 })).toBe('capacity')
    expect(field({ capacity: null })).toBe('capacity')
    expect(field({ capacity: '10' })).toBe('capacity')
    expect(field({ failureThreshold: 0 })).toBe('failureThreshold')
    expect(field({ recovery: { jitter: 2 } })).toBe('recovery.jitter')
    expect(field(null)).toBe('options')
    expect(field({ capacity: undefined })).toBe(undefined)
  })

  test('a key that is no string throws', () => {
    const registry = new BreakerRegistry()

    for (const key of [undefined, null, 7, {}, Symbol('key')]) {
      expect(() => registry.get(key as unknown as string)).toThrow(/^key must be a string, got/)
    }
    expect(registry.size).toBe(0)
  })

  test('what the caller does to the options afterwards changes nothing', async () => {
    const options = { clock: new FakeClock(), failureThreshold: 1 }
    const registry = new BreakerRegistry(options)
    options.failureThreshold = 0

    await fail(registry.get('a'))

    expect(registry.get('a').state).toBe('open')
  })
})
