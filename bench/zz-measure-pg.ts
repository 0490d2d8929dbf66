import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { createPostgresPool, PostgresCounterStore } from 'spillway/postgres'
import { startPostgres } from '/work/main/test/servers/postgres.ts'

const server = await startPostgres(undefined, { own: true })
if (!server) throw new Error('none')
const pool = createPostgresPool(pg, { maxConnections: 4, config: { connectionString: server.url } })
const store = new PostgresCounterStore(pool)
await store.createSchema()
await pool.query('CREATE TABLE naive (key text PRIMARY KEY, value bigint NOT NULL)')
const keys = Array.from({ length: 1000 }, (_, i) => `post:${i}:like`)
const signal = new AbortController().signal
const ctx = () => ({ batchId: randomUUID(), attempt: 1, signal })
const rate = async (name: string, n: number, f: (i: number) => Promise<number>) => {
  for (let i = 0; i < 20; i++) await f(i)
  const t = performance.now()
  let c = 0
  for (let i = 0; i < n; i++) c += await f(i)
  const r = (c / (performance.now() - t)) * 1000
  console.log(name, Math.round(r), '/s')
  return r
}
for (let k = 0; k < 3; k++) {
  const conn = await pool.connect()
  const naive = await rate('naive prepared', 4000, async (i) => {
    await conn.query({
      name: 'n',
      text: 'INSERT INTO naive VALUES ($1, 1) ON CONFLICT (key) DO UPDATE SET value = naive.value + 1 RETURNING value',
      values: [keys[i % 1000]],
    })
    return 1
  })
  // several in flight, as a service would: 20 at a time over the pool
  conn.release()
  const par = await rate('naive prepared, 40 at once on the pool', 200, async (j) => {
    await Promise.all(
      Array.from({ length: 40 }, (_, i) =>
        pool.query({
          name: 'n',
          text: 'INSERT INTO naive VALUES ($1, 1) ON CONFLICT (key) DO UPDATE SET value = naive.value + 1 RETURNING value',
          values: [keys[(i + j * 40) % 1000]],
        }),
      ),
    )
    return 40
  })
  for (const size of [100, 1000]) {
    const inc = await rate(`increment ${size}`, 40_000 / size, async (j) => {
      await store.increment(
        Array.from({ length: size }, (_, i) => ({ key: keys[(i * 7 + j * 13) % 1000]!, delta: 1 })),
        ctx(),
      )
      return size
    })
    const add = await rate(`add ${size}`, 40_000 / size, async (j) => {
      await store.add(new Map(Array.from({ length: size }, (_, i) => [keys[(i * 7 + j * 13) % 1000]!, 1])), ctx())
      return size
    })
    console.log(
      size,
      'ratio inc',
      (inc / naive).toFixed(1),
      'add',
      (add / naive).toFixed(1),
      'vs par inc',
      (inc / par).toFixed(1),
    )
  }
}
const c = await pool.connect()
console.log((await c.query('SELECT count(*) FROM spillway_counter_batches')).rows)
c.release()
await pool.close()
await server.stop()
