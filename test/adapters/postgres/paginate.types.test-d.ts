import type { PGlite } from '@electric-sql/pglite'
import type pg from 'pg'
import { CursorError } from 'spillway'
import { type Page, Paginator, paginate } from 'spillway/postgres'
import { expectTypeOf } from 'vitest'

declare const pool: pg.Pool
declare const pglite: PGlite

interface Post {
  id: number
  title: string
}

const posts = new Paginator<Post>(pool, {
  from: 'posts',
  schema: undefined,
  orderBy: ['id', { column: 'title', direction: 'desc', nulls: 'last' }],
  secret: ['a', new Uint8Array(16)],
})
expectTypeOf(posts.page()).resolves.toEqualTypeOf<Page<Post>>()
expectTypeOf(posts.pages({ limit: 5 })).toEqualTypeOf<AsyncGenerator<Page<Post>, void, undefined>>()
expectTypeOf(posts.stats().refused).toEqualTypeOf<number>()
posts.on('refused', ({ error }) => expectTypeOf(error).toEqualTypeOf<CursorError>())

// What a page gives, the next request takes, be it there or not.
declare const page: Page<Post>
posts.page({ after: page.next })
posts.page({ before: page.previous, where: { id: { gte: 1n }, title: ['a', 'b'], at: new Date(), gone: null } })

expectTypeOf(paginate(pglite, { from: 'posts', orderBy: ['id'] })).resolves.toEqualTypeOf<
  Page<Record<string, unknown>>
>()
paginate<Post>(pool, { from: 'posts', orderBy: ['id'], where: { id: 1 }, after: undefined, limit: 5 })

// @ts-expect-error an order there must be
new Paginator(pool, { from: 'posts' })
// @ts-expect-error a condition is no SQL
posts.page({ where: 'id = 1' })
// @ts-expect-error a value that isn't there is no condition that isn't there
posts.page({ where: { id: undefined as number | undefined } })
// @ts-expect-error NULL is greater than nothing
posts.page({ where: { id: { gt: null } } })
// @ts-expect-error an operator that there isn't
posts.page({ where: { id: { between: [1, 2] } } })
// @ts-expect-error a direction that there isn't
paginate(pool, { from: 'posts', orderBy: [{ column: 'id', direction: 'up' }] })
// @ts-expect-error which page isn't part of what is listed
new Paginator(pool, { from: 'posts', orderBy: ['id'], after: 'x' })

expectTypeOf(new CursorError('x', 'after', 'listing').reason).toEqualTypeOf<
  'malformed' | 'signature' | 'listing' | 'value'
>()
