import {
  type BatchLoadContext,
  type CacheNamespace,
  type CacheOperations,
  type CloseReport,
  type FlushReport,
  type LoadContext,
  MultiLevelCache,
  type MultiLevelCacheEvents,
  type MultiLevelCacheStats,
  type WarmReport,
} from 'spillway'
import { expectTypeOf } from 'vitest'

interface User {
  readonly name: string
}

const users = new MultiLevelCache<User | null>({ l1: { maxBytes: 1000, sizeOf: (user) => user?.name.length ?? 0 } })

expectTypeOf(users.peek('ann')).toEqualTypeOf<User | null | undefined>()
expectTypeOf(users.get('ann')).resolves.toEqualTypeOf<User | null | undefined>()
expectTypeOf(users.getMany(['ann'])).resolves.toEqualTypeOf<(User | null | undefined)[]>()
expectTypeOf(users.set('ann', null, { tags: ['staff'], ttlMs: undefined })).resolves.toEqualTypeOf<void>()
expectTypeOf(
  users.setMany([
    ['ann', { name: 'Ann' }],
    ['bob', null, { ttlMs: 1 }],
  ]),
).resolves.toEqualTypeOf<void>()
expectTypeOf(users.clear()).resolves.toEqualTypeOf<void>()
expectTypeOf(users.warm([{ key: 'ann', load: () => null }])).resolves.toEqualTypeOf<WarmReport>()
expectTypeOf(users.flush()).resolves.toEqualTypeOf<FlushReport>()
expectTypeOf(users.close()).resolves.toEqualTypeOf<CloseReport>()
expectTypeOf(users.stats()).toEqualTypeOf<MultiLevelCacheStats>()
expectTypeOf(users).toExtend<CacheOperations<User | null>>()

// What the loader may return is what may come; undefined only where it says so.
expectTypeOf(users.getOrLoad('ann', () => null)).resolves.toEqualTypeOf<User | null>()
expectTypeOf(users.getOrLoad('ann', async () => ({ name: 'Ann' }))).resolves.toEqualTypeOf<User | null>()
expectTypeOf(users.getOrLoad('ann', () => undefined)).resolves.toEqualTypeOf<User | null | undefined>()
expectTypeOf(
  users.getOrLoad('ann', async () => (Math.random() > 0.5 ? { name: 'Ann' } : undefined)),
).resolves.toEqualTypeOf<User | null | undefined>()
users.getOrLoad('ann', (key, context) => {
  expectTypeOf(key).toEqualTypeOf<string>()
  expectTypeOf(context).toEqualTypeOf<LoadContext<User | null>>()
  expectTypeOf(context.stale?.value).toEqualTypeOf<User | null | undefined>()
  return context.notModified()
})
expectTypeOf(
  users.getOrLoadMany(['ann'], (keys, context) => {
    expectTypeOf(keys).toEqualTypeOf<string[]>()
    expectTypeOf(context).toEqualTypeOf<BatchLoadContext<User | null>>()
    return keys.map(() => new Error('none'))
  }),
).resolves.toEqualTypeOf<(User | null | undefined)[]>()

const find = users.wrap(async (id: number, deep?: boolean) => (deep ? null : { name: String(id) }), { name: 'find' })
expectTypeOf(find).parameters.toEqualTypeOf<[id: number, deep?: boolean | undefined]>()
expectTypeOf(find(1)).resolves.toEqualTypeOf<User | null>()
expectTypeOf(find.invalidate).parameters.toEqualTypeOf<[id: number, deep?: boolean | undefined]>()
const seek = users.wrap((_id: number): User | undefined => undefined, { name: 'seek', key: (id) => id.toFixed() })
expectTypeOf(seek(1)).resolves.toEqualTypeOf<User | null | undefined>()

const counts = users.namespace<number>('counts', { ttlMs: 10 })
expectTypeOf(counts).toEqualTypeOf<CacheNamespace<number>>()
expectTypeOf(counts.peek('a')).toEqualTypeOf<number | undefined>()
expectTypeOf(users.namespace('more')).toEqualTypeOf<CacheNamespace<User | null>>()
expectTypeOf(counts).not.toHaveProperty('close')

users.on('hit', ({ tier }) => expectTypeOf(tier).toEqualTypeOf<'l1' | 'l2'>())
users.on('invalidated', (event) => {
  if (event.kind === 'tags') expectTypeOf(event.tags).toEqualTypeOf<readonly string[]>()
})
expectTypeOf<keyof MultiLevelCacheEvents>().toEqualTypeOf<
  'hit' | 'missed' | 'loaded' | 'loadFailed' | 'storeFailed' | 'invalidated'
>()

// @ts-expect-error Nothing is no value.
new MultiLevelCache<string | undefined>()
// @ts-expect-error A value has the cache's type.
users.set('ann', 'Ann')
// @ts-expect-error So has what is loaded.
users.getOrLoad('ann', () => 'Ann')
// @ts-expect-error A wrapped function needs a name.
users.wrap(() => null, {})
// @ts-expect-error Keys are strings.
users.get(42)
