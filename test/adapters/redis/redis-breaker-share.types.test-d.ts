import type { CircuitBreaker } from 'spillway'
import type { RedisBreakerShare, RedisBreakerShareEvents, ShareableBreaker } from 'spillway/redis'
import { expectTypeOf, test } from 'vitest'

test('a CircuitBreaker is what a share asks for', () => {
  expectTypeOf<CircuitBreaker>().toExtend<ShareableBreaker>()
  expectTypeOf<RedisBreakerShare['join']>().toBeCallableWith({} as CircuitBreaker)
})

test('a gate is what a CircuitBreaker takes', () => {
  expectTypeOf<ReturnType<RedisBreakerShare['probeGate']>>().toEqualTypeOf<() => boolean>()
})

test('events carry what happened', () => {
  expectTypeOf<RedisBreakerShareEvents['applied']['kind']>().toEqualTypeOf<'opened' | 'closed'>()
  expectTypeOf<RedisBreakerShareEvents['published']['verdict']>().toEqualTypeOf<'published' | 'joined' | 'outdated'>()
})
