import { afterAll, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { readConfig } from '../../examples/counter-billing/config/config.ts'
import { openDatabase } from '../../examples/counter-billing/counter/database.ts'
import { openStores } from '../../examples/counter-billing/counter/stores.ts'
import { startPostgres } from '../servers/postgres.ts'
import { startClient } from './counter-client.ts'
import { linesOf, temporaryFile } from './log-file.ts'
import { startProcess } from './processes.ts'

const postgres = await startPostgres()

afterAll(() => postgres?.stop())

const databases = [
  ['PGlite', {}],
  ...(postgres === undefined ? [] : [['PostgreSQL', { url: postgres.url }] as const]),
] as const

describe.each(databases)('a query on %s', async (_title, where) => {
  // Opened beforehand: what takes PGlite long on a busy machine is no test's time.
  const told: string[] = []
  // What is told of connections and plans comes when it comes.
  const onSlow = (message: string): void => {
    if (message.startsWith('a query took')) told.push(message)
  }
  const database = await openDatabase({ ...where, slowQueryMs: 0, onSlow })
  const patient = await openDatabase({ ...where, slowQueryMs: 600_000, onSlow })

  beforeEach(() => told.splice(0))
  afterAll(async () => {
    await database.close()
    await patient.close()
  })

  test('that is slow is told of: how long it took, its rows and its statement, and no value', async () => {
    await database.query('SELECT pg_sleep($1::float8),\n    $2::text AS secret', [0.06, 'hush'])
    await database.slowQueries.flush()

    const [message = ''] = told
    const statement = 'SELECT pg_sleep($1::float8), $2::text AS secret'
    expect(message).toMatch(/^a query took \d+ ms \(1 rows\): /)
    expect(message.endsWith(`: ${statement}`)).toBe(true)
    expect(Number(/took (\d+) ms/.exec(message)?.[1])).toBeGreaterThanOrEqual(60)
    expect(told.join()).not.toContain('hush')
  })

  test('that fails is told of by its code, and one in a transaction like any other', async () => {
    await expect(database.query('SELECT 1 / $1::int', [0])).rejects.toThrow(/division by zero/)
    await database.transaction((query) => query('SELECT 2 AS two'))

    expect(told).toContainEqual(expect.stringMatching(/\(error 22012\): SELECT 1 \/ \$1::int$/))
    expect(told).toContainEqual(expect.stringMatching(/\(1 rows\): SELECT 2 AS two$/))
  })

  test('that is long is cut', async () => {
    await database.query(`SELECT '${'x'.repeat(5_000)}'`)

    expect(told[0]?.length).toBeLessThan(600)
  })

  test('that is fast is not', async () => {
    const { offered } = patient.slowQueries.stats()

    await patient.query('SELECT 1')

    expect([told, patient.slowQueries.stats().slow]).toEqual([[], 0])
    expect(patient.slowQueries.stats().offered).toBe(offered + 1)
  })
})

describe('the queries of the counters', async () => {
  const told: string[] = []
  const stores = await openStores({ slowQueryMs: 0, onSlow: (message) => told.push(message) })
  afterAll(() => stores.close())

  test('are seen through their store and their listing', async () => {
    const client = await startClient(stores)

    await client.increment('post', 1, 'committed')
    await client.get('/api/v1/counter?resource_id=post')

    expect(told.some((message) => message.includes('spillway_counters'))).toBe(true)
    expect(told.some((message) => message.includes('counter_listing'))).toBe(true)
  })
})

describe('SLOW_QUERY_MS', () => {
  test.each([
    ['', 100],
    ['0', 0],
    ['250', 250],
  ])('%j is %s', (value, expected) => {
    onTestFinished(() => void vi.unstubAllEnvs())
    vi.stubEnv('SLOW_QUERY_MS', value)

    expect(readConfig().values['query.slowQueryMs']).toBe(expected)
  })

  test.each(['fast', '-1', '1.5', '9999999'])('%j is refused', (value) => {
    onTestFinished(() => void vi.unstubAllEnvs())
    vi.stubEnv('SLOW_QUERY_MS', value)

    expect(() => readConfig()).toThrow(/query.slowQueryMs must be a whole number from 0 to 3600000.*SLOW_QUERY_MS/)
  })

  test('has slow queries in the log of a process', { timeout: 120_000 }, async () => {
    const file = temporaryFile('service.log')
    const env = {
      DATABASE_URL: postgres?.url ?? '',
      REDIS_URL: '',
      CONSUL_HTTP_ADDR: '',
      AUTH_URL: '',
      SLOW_QUERY_MS: '0',
      LOG_FILE: file,
    }
    const service = await startProcess(['--role', 'counters', '--grpc-port', '0'], env)
    await service.end('SIGTERM')

    const slow = linesOf(file).filter(({ msg }) => msg.startsWith('a query took'))
    expect(slow.length).toBeGreaterThan(0)
    expect(slow[0]).toMatchObject({ level: 40, role: 'counters' })
  })
})
