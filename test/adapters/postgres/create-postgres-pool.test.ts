import { readFileSync } from 'node:fs'
import pg from 'pg'
import { createPostgresPool, createPostgresPoolDefaults, postgresPoolPresets } from 'spillway/postgres'
import { afterAll, describe, expect, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { TcpProxy } from '../../servers/tcp-proxy.ts'
import { until } from './until.ts'

const server = await startPostgres()
afterAll(() => server?.stop())

const config = { connectionString: server?.url }
const settingsOf = (pool: pg.Pool) => {
  const { max, min, connectionTimeoutMillis, idleTimeoutMillis, maxLifetimeSeconds, keepAlive, pipeline } = pool.options
  return { max, min, connectionTimeoutMillis, idleTimeoutMillis, maxLifetimeSeconds, keepAlive, pipeline }
}

test('the presets are those of the docs', () => {
  const docs = readFileSync('docs/adapters/postgres.md', 'utf8')
  const plain = (value: number): string => String(value).replace(/\B(?=(\d{3})+$)/g, value > 9999 ? ' ' : '')

  for (const option of Object.keys(postgresPoolPresets.default) as (keyof typeof postgresPoolPresets.default)[]) {
    const { default: usual, highThroughput } = postgresPoolPresets
    const row = docs.split('\n').find((line) => line.startsWith(`| \`${option}\``))
    const cells = row?.split('|').map((cell) => cell.trim()) ?? []
    expect([option, cells[2], cells[3]]).toEqual([option, plain(usual[option]), plain(highThroughput[option])])
  }
})

test('it makes a pool of the preset, and options win over it and over config', async () => {
  const usual = createPostgresPool(pg)
  const high = createPostgresPool(pg.Pool, { preset: 'highThroughput' })
  const own = createPostgresPool(pg, {
    preset: 'highThroughput',
    maxConnections: 5,
    connectTimeoutMs: 100,
    idleTimeoutMs: 0,
    maxLifetimeMs: 1500,
    keepAlive: false,
    pipeline: false,
    config: { max: 50, application_name: 'test' },
  })
  const common = {
    connectionTimeoutMillis: createPostgresPoolDefaults.connectTimeoutMs,
    keepAlive: true,
    pipeline: true,
  }

  expect(usual).toBeInstanceOf(pg.Pool)
  expect(settingsOf(usual)).toEqual({ max: 10, min: 0, idleTimeoutMillis: 10_000, maxLifetimeSeconds: 0, ...common })
  expect(settingsOf(high)).toEqual({
    max: 100,
    min: 20,
    idleTimeoutMillis: 600_000,
    maxLifetimeSeconds: 3600,
    ...common,
  })
  expect(settingsOf(own)).toEqual({
    max: 5,
    min: 5,
    connectionTimeoutMillis: 100,
    idleTimeoutMillis: 0,
    maxLifetimeSeconds: 1.5,
    keepAlive: false,
    pipeline: false,
  })
  for (const pool of [usual, high, own]) expect(await pool.close()).toEqual({ drained: true, abandoned: 0 })
})

test.each([
  ['preset', 'huge'],
  ['maxConnections', 0],
  ['minConnections', 11],
  ['idleTimeoutMs', -1],
  ['maxLifetimeMs', '1h'],
  ['connectTimeoutMs', 0],
  ['keepAlive', 1],
  ['pipeline', null],
  ['onError', 'log'],
  ['config', 'postgres://localhost'],
])('a wrong %s throws', (option, value) => {
  expect(() => createPostgresPool(pg, { [option]: value })).toThrow(option)
})

test('a library that is none throws', () => {
  expect(() => createPostgresPool({} as never)).toThrow('library must be pg')
  expect(() => createPostgresPool(undefined as never)).toThrow('library must be pg')
})

describe.skipIf(server === undefined)('on a real server', () => {
  test('connections that break, idle or in use, end nobody, and are replaced', async () => {
    const proxy = await TcpProxy.start(Number(new URL(server?.url ?? '').port))
    const url = new URL(server?.url ?? '')
    url.port = String(proxy.port)
    const errors: Error[] = []
    const pool = createPostgresPool(pg, {
      config: { connectionString: url.href },
      onError: (error) => {
        errors.push(error)
        throw error
      },
    })
    const [idle, used] = [await pool.connect(), await pool.connect()]
    idle.release()

    proxy.cutAll()
    await until(() => errors.length === 1)
    used.release()

    expect((await pool.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }])
    await pool.close()
    await proxy.stop()
  })

  test('close serves those who wait, and waits for what is in use', async () => {
    const pool = createPostgresPool(pg, { maxConnections: 1, config })
    const queries = Array.from({ length: 5 }, (_, i) => pool.query('SELECT pg_sleep(0.02), $1::int AS n', [i]))

    const closing = pool.close({ timeoutMs: 10_000 })

    const answers = await Promise.all(queries)
    expect(answers.map(({ rows }) => rows[0].n)).toEqual([0, 1, 2, 3, 4])
    expect(await closing).toEqual({ drained: true, abandoned: 0 })
    expect(await pool.close()).toEqual({ drained: true, abandoned: 0 })
    await expect(pool.query('SELECT 1')).rejects.toThrow()
  })

  test('at the deadline connections in use are cut, whether they pipeline or not', async () => {
    for (const pipeline of [true, false]) {
      const pool = createPostgresPool(pg, { maxConnections: 2, pipeline, connectTimeoutMs: 3_000, config })
      const held = await pool.connect()
      const hanging = pool.query('SELECT pg_sleep(30)').catch((error: Error) => error)
      const waiting = pool.query('SELECT 1').catch((error: Error) => error)
      await until(() => pool.totalCount === 2)

      expect(await pool.close({ timeoutMs: 50 })).toEqual({ drained: false, abandoned: 3 })

      expect(await hanging).toBeInstanceOf(Error)
      expect(await waiting).toBeInstanceOf(Error)
      held.release()
      await until(() => pool.totalCount === 0)
    }
  })

  test('a wrong deadline rejects, and closes nothing', async () => {
    await using pool = createPostgresPool(pg, { config })

    await expect(pool.close({ timeoutMs: -1 })).rejects.toMatchObject({ code: 'ERR_OPTION' })

    expect((await pool.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }])
  })
})
