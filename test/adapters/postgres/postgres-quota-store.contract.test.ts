import { setTimeout as delay } from 'node:timers/promises'
import type { UsageDedupe } from 'spillway'
import { PostgresQuotaStore } from 'spillway/postgres'
import { quotaStoreContract } from 'spillway/testing'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { type Connector, connectors } from './databases.ts'
import { inTurn } from './usage-databases.ts'

const server = await startPostgres()
const all = connectors(server)
/**
 * Both that mean something to claims on one database, on the others the one that has most to it. Events are told apart by what a sink
 * and a store have in common, and the sink is held to it.
 */
const waysOn = (connector: Connector): readonly UsageDedupe[] =>
  connector === all[0] ? ['batch', 'request'] : ['request']

afterAll(async () => {
  await server?.stop()
})

describe.each(all)('PostgresQuotaStore on $name keeps the contract of quota stores', (connector) => {
  const { open, close } = connector
  const database = inTurn(() => open(server?.url ?? ''))
  afterAll(close)

  describe.each(waysOn(connector))('telling apart by %s', (dedupe) => {
    const tables = {
      table: `usage_${dedupe}`,
      batchTable: `batches_${dedupe}`,
      requestTable: `requests_${dedupe}`,
      holdTable: `holds_${dedupe}`,
    }
    const harness = {
      open: async () => {
        const store = new PostgresQuotaStore(database(), { ...tables, dedupe })
        await store.createSchema()
        return store
      },
      dedupe,
      elapse: async (ms: number) => void (await delay(ms)),
    }
    // PGlite starts with its first call.
    beforeAll(async () => void (await harness.open()))
    for (const { name, run } of quotaStoreContract(harness)) test(name, run)
  })
})
