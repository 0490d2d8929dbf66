import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Redis } from 'ioredis'
import pg from 'pg'
import { describe, expect, onTestFinished, test } from 'vitest'
import { findBinary } from '../../examples/counter-billing/binaries.ts'
import { findConsul, startConsul } from '../../examples/counter-billing/demo/consul.ts'
import { findPostgres, startPostgres } from '../../examples/counter-billing/demo/postgres.ts'
import { findRedis, startRedis } from '../../examples/counter-billing/demo/redis.ts'
import { freePort, startDemoServer } from '../../examples/counter-billing/demo/server.ts'

const [redis, postgres, consul] = [findRedis(), findPostgres(), findConsul()]

describe('a server that the demo starts', { timeout: 120_000 }, () => {
  test.skipIf(redis === undefined)('may be a Redis', async () => {
    const server = await startRedis(redis as NonNullable<typeof redis>)
    const client = new Redis(server.url, { lazyConnect: true, retryStrategy: () => null })
    client.on('error', () => undefined)
    await client.connect()

    expect(await client.incr('a')).toBe(1)
    client.disconnect()
    await server.close()
    const late = new Redis(server.url, { lazyConnect: true, retryStrategy: () => null })
    late.on('error', () => undefined)
    await expect(late.connect()).rejects.toThrow()
  })

  test.skipIf(postgres === undefined)('may be a PostgreSQL', async () => {
    const server = await startPostgres(postgres as NonNullable<typeof postgres>)
    const client = new pg.Client({ connectionString: server.url })
    client.on('error', () => undefined)
    await client.connect()

    expect((await client.query('SELECT 1 + 1 AS sum')).rows).toEqual([{ sum: 2 }])
    // It doesn't wait for those who are still there.
    await server.close()
    await expect(new pg.Client({ connectionString: server.url }).connect()).rejects.toThrow()
  })

  test.skipIf(consul === undefined)('may be a Consul', async () => {
    const server = await startConsul(consul as NonNullable<typeof consul>)
    const leader = await (await fetch(`${server.url}/v1/status/leader`)).json()

    expect(leader).toMatch(/^127\.0\.0\.1:\d+$/)
    await server.close()
    await expect(fetch(`${server.url}/v1/status/leader`)).rejects.toThrow()
  })

  test.skipIf(postgres === undefined)('leaves nothing behind, however the demo ends', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'counter-billing-left-'))
    chmodSync(folder, 0o777)
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const script = `
      import { findPostgres, startPostgres } from './examples/counter-billing/demo/postgres.ts'
      const { url } = await startPostgres(findPostgres())
      console.log(new URL(url).port)
      setTimeout(() => process.kill(process.pid, 'SIGKILL'), 100)`
    const args = ['--import', './examples/tsx.mjs', '--input-type=module', '-e', script]
    const { stdout, signal } = spawnSync(process.execPath, args, {
      cwd: fileURLToPath(new URL('../..', import.meta.url)),
      env: { ...process.env, NODE_OPTIONS: '', TMPDIR: folder },
      encoding: 'utf8',
    })
    const left = (): string[] => readdirSync(folder).filter((name) => name.startsWith('counter-billing'))

    expect(signal).toBe('SIGKILL')
    await expect.poll(left, { timeout: 20_000 }).toEqual([])
    const late = new pg.Client({ port: Number(stdout), host: '127.0.0.1' })
    await expect(late.connect()).rejects.toThrow('ECONNREFUSED')
  })

  test('that has ended is not killed later, when another process may have its number', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'counter-billing-ended-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const binary = { path: '/bin/sh', env: {} }
    const options = { name: 'Short', binary, args: ['-c', 'sleep 0.5'], url: '', signal: 'TERM', folder } as const
    const guards = (): number => {
      const { stdout } = spawnSync('ps', ['-A', '-o', 'args='], { encoding: 'utf8' })
      return stdout.split('\n').filter((args) => args.includes(folder)).length
    }
    const server = await startDemoServer({ ...options, isReady: async () => true })

    expect(guards()).toBe(1)
    await expect.poll(guards, { timeout: 20_000 }).toBe(0)
    await server.close()
    expect(existsSync(folder)).toBe(false)
  })

  test('that ends at once is told of with its own words', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'counter-billing-binary-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const path = join(folder, 'moody-server')
    writeFileSync(path, '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "not in the mood" >&2\nexit 3\n', {
      mode: 0o755,
    })
    const binary = findBinary('moody-server', '--version', { path: folder, cache: '/nowhere' })
    const url = `http://127.0.0.1:${await freePort()}`
    const options = { name: 'Moody', args: [], url, isReady: async () => false, signal: 'TERM' } as const

    expect(binary?.path).toBe(path)
    await expect(startDemoServer({ ...options, binary: binary as NonNullable<typeof binary> })).rejects.toThrow(
      "Moody doesn't start: not in the mood",
    )
  })

  test('is not found where it isn’t, or doesn’t run', () => {
    const folder = mkdtempSync(join(tmpdir(), 'counter-billing-binary-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    writeFileSync(join(folder, 'broken'), 'no program', { mode: 0o755 })

    expect(findBinary('redis-server', '--version', { path: '/nowhere', cache: '/nowhere' })).toBeUndefined()
    expect(findBinary('broken', '--version', { path: folder, cache: '/nowhere' })).toBeUndefined()
  })
})
