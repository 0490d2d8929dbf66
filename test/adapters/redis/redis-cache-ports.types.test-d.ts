import type { InvalidationBus, InvalidationLink, LoadLease, LoadLock } from 'spillway'
import type {
  RedisInvalidationBus,
  RedisInvalidationBusEvents,
  RedisLease,
  RedisLock,
  RedisLockEvents,
} from 'spillway/redis'
import { expectTypeOf, test } from 'vitest'

test('a RedisInvalidationBus is the bus that a cache asks for', () => {
  expectTypeOf<RedisInvalidationBus>().toExtend<InvalidationBus>()
  expectTypeOf<ReturnType<RedisInvalidationBus['connect']>>().toExtend<InvalidationLink>()
})

test('a RedisLock is the lock that a cache asks for, its leases are leases', () => {
  expectTypeOf<RedisLock>().toExtend<LoadLock>()
  expectTypeOf<RedisLease>().toExtend<LoadLease>()
})

test('a lease is disposable, and a token a number', () => {
  expectTypeOf<RedisLease>().toExtend<AsyncDisposable>()
  expectTypeOf<RedisLease['token']>().toEqualTypeOf<number>()
  expectTypeOf<ReturnType<RedisLease['release']>>().toEqualTypeOf<Promise<boolean>>()
})

test('run answers what its function does', () => {
  const lock = {} as RedisLock
  expectTypeOf(lock.run('a', () => 1)).toEqualTypeOf<Promise<number>>()
  expectTypeOf(lock.run('a', async ({ signal, token }) => [signal, token] as const)).toEqualTypeOf<
    Promise<readonly [AbortSignal, number]>
  >()
})

test('events carry what happened', () => {
  expectTypeOf<RedisInvalidationBusEvents['gap']['reason']>().toEqualTypeOf<'subscribed' | 'told' | 'missed'>()
  expectTypeOf<RedisLockEvents['lost']['reason']>().toEqualTypeOf<'gone' | 'expired'>()
})
