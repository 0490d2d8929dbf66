import type { CounterStore } from 'spillway'
import { openStores, type Stores, type StoresOptions } from '../../examples/counter-billing/counter/stores.ts'
import { startPostgres } from '../servers/postgres.ts'
import { startRedis } from '../servers/redis.ts'

/** Stores that a suite runs on. */
export interface TestStores {
  readonly title: string
  readonly stores: Stores
  /** Where they are. */
  readonly servers: StoresOptions
  stop(): Promise<void>
}

/** The embedded stores, and real servers where there are any: what holds on one must hold on the other. */
export async function openTestStores(): Promise<TestStores[]> {
  const embedded = await openStores()
  const all: TestStores[] = [{ title: embedded.title, stores: embedded, servers: {}, stop: () => embedded.close() }]
  const [postgres, redis] = [await startPostgres(), await startRedis()]
  if (postgres !== undefined && redis !== undefined) {
    const servers = { databaseUrl: postgres.url, redisUrl: redis.url }
    const real = await openStores(servers)
    const stop = async (): Promise<void> => {
      await real.close()
      await redis.stop()
      await postgres.stop()
    }
    all.push({ title: 'Redis and PostgreSQL', stores: real, servers, stop })
  } else {
    await postgres?.stop()
    await redis?.stop()
  }
  return all
}

/** A store whose methods pass through what a test puts in between. */
export function wrapped(
  store: CounterStore,
  around: <A extends unknown[], R>(method: (...args: A) => PromiseLike<R>) => (...args: A) => PromiseLike<R>,
): CounterStore {
  return {
    idempotent: store.idempotent,
    increment: around(store.increment.bind(store)),
    add: around(store.add.bind(store)),
    getMany: store.getMany.bind(store),
  }
}
