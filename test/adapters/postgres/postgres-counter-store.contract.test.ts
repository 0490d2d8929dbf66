import { PostgresCounterStore } from 'spillway/postgres'
import { counterStoreContract } from 'spillway/testing'
import { afterAll, describe, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { connectors } from './databases.ts'

const server = await startPostgres()
const all = connectors(server)

afterAll(async () => {
  for (const one of all) await one.close()
  await server?.stop()
})

describe.each(all)('PostgresCounterStore on $name keeps the contract of counter stores', ({ open }) => {
  const harness = {
    open: async () => {
      const store = new PostgresCounterStore(open(server?.url ?? ''))
      await store.createSchema()
      return store
    },
  }
  for (const { name, run } of counterStoreContract(harness)) test(name, run)
})
