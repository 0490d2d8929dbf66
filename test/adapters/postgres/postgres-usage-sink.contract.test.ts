import type { UsageDedupe } from 'spillway'
import { PostgresUsageSink } from 'spillway/postgres'
import { usageSinkContract } from 'spillway/testing'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { type Connector, connectors } from './databases.ts'
import { inTurn } from './usage-databases.ts'

const server = await startPostgres()
const all = connectors(server)
/** Each way on one database, on the others the one that has most to it. */
const waysOn = (connector: Connector): readonly UsageDedupe[] =>
  connector === all[0] ? ['batch', 'event', 'request'] : ['request']

afterAll(async () => {
  await server?.stop()
})

describe.each(all)('PostgresUsageSink on $name keeps the contract of usage sinks', (connector) => {
  const { open, close } = connector
  const database = inTurn(() => open(server?.url ?? ''))
  afterAll(close)

  describe.each(waysOn(connector))('telling apart by %s', (dedupe) => {
    const tables = {
      table: `usage_${dedupe}`,
      batchTable: `batches_${dedupe}`,
      requestTable: `requests_${dedupe}`,
    }
    const openSink = async (): Promise<PostgresUsageSink> => {
      const sink = new PostgresUsageSink(database(), { ...tables, dedupe })
      await sink.createSchema()
      return sink
    }
    // PGlite starts with its first call.
    beforeAll(async () => void (await openSink()))
    let reader: Promise<PostgresUsageSink> | undefined
    const harness = {
      open: openSink,
      read: async (keys: Parameters<PostgresUsageSink['readTotals']>[0]) => {
        reader ??= openSink()
        return (await (await reader).readTotals(keys)).map(({ value }) => value)
      },
      dedupe,
    }
    for (const { name, run } of usageSinkContract(harness)) test(name, run)
  })
})
