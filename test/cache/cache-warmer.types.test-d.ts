import {
  CacheWarmer,
  cacheKey,
  type LoadContext,
  type MultiLevelCache,
  type WarmReport,
  type WarmTask,
  type WarmTasks,
} from 'spillway'
import { expectTypeOf, test } from 'vitest'

interface User {
  readonly name: string
}

declare const users: MultiLevelCache<User>

test('tasks load what the cache holds, and know its context', () => {
  const task: WarmTask<User> = { key: 'ann', load: (key) => ({ name: key }) }
  expectTypeOf(users.warm([task])).resolves.toEqualTypeOf<WarmReport>()
  void users.warm([{ key: 'ann', load: (_key, context) => context.stale?.value ?? { name: 'ann' } }])
  expectTypeOf<Parameters<WarmTask<User>['load']>[1]>().toEqualTypeOf<LoadContext<User>>()
  // @ts-expect-error - a text is no User.
  void users.warm([{ key: 'ann', load: () => 'Ann' }])
})

test('a warmer takes its type from the cache or the namespace', () => {
  const warmer = new CacheWarmer(users)
  expectTypeOf(warmer).toEqualTypeOf<CacheWarmer<User>>()
  warmer.register('list', [{ key: 'ann', load: () => ({ name: 'Ann' }) }])
  warmer.register('later', async function* ({ signal }): AsyncGenerator<WarmTask<User>> {
    expectTypeOf(signal).toEqualTypeOf<AbortSignal>()
    yield { key: 'ann', load: () => undefined }
  })
  warmer.register('promised', (): Promise<WarmTasks<User>> => Promise.resolve([]))
  // @ts-expect-error - a number is no User.
  warmer.register('wrong', [{ key: 'ann', load: () => 5 }])
  expectTypeOf(new CacheWarmer(users.namespace<number>('counts'))).toEqualTypeOf<CacheWarmer<number>>()
})

test('a key is made of anything', () => {
  expectTypeOf(cacheKey('user', 1n, { page: 1 }, null)).toEqualTypeOf<string>()
})
